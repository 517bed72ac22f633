//! A node on its way to a successor process: who it is, what it knows of the others, and where the streams between them stand.
//! The successor is the same run of the same node. To the others nothing has happened, but that another process speaks.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::known::{FIRST_PAUSE, Known};
use super::peer::{Incoming, Peer};
use super::{Clients, Node, Output, Settings, Telling};
use crate::cluster::link::Link;
use crate::cluster::members::{Phase, Shared};
use crate::cluster::protocol::{Hello, Message, Run, longs, read_longs};
use crate::handover::{Damaged, Decoder, Encoder};

/// Hashes of channels in one part.
const PART: usize = 1 << 17;

/// What a part is.
const OWN: u8 = 0;
const PEER: u8 = 1;
const THEIRS: u8 = 2;

impl<C: Clients> Node<C> {
    /// All of it, in parts. It has to be still.
    pub fn save(&self) -> Vec<Vec<u8>> {
        let mut parts = vec![self.save_head()];
        let mut hashes = |kind: u8, run: Run, hashes: &[u64]| {
            for some in hashes.chunks(PART) {
                let mut out = Encoder::default();
                out.byte(kind);
                out.u64(run.0);
                out.data(&longs(some.iter().copied()));
                parts.push(out.bytes);
            }
        };
        hashes(OWN, self.settings.run, &self.shared.own.channels());
        let mut theirs = self.shared.others.by_node();
        let mut peers = Vec::new();
        for (run, peer) in &self.peers {
            peers.push(save_peer(peer));
            hashes(THEIRS, *run, &theirs.remove(&peer.link.slot).unwrap_or_default());
        }
        // A node before its channels.
        parts.splice(1..1, peers);
        parts
    }

    fn save_head(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        let Settings { number, started, nonce, .. } = &self.settings;
        out.u32((*number).into());
        out.u64(*started);
        out.data(nonce);
        out.u32(self.last_epoch);
        self.shared.own.save(&mut out);
        out.option(self.telling.as_ref(), |out, telling| {
            out.u64(telling.version);
            out.count(telling.left.len());
            telling.left.iter().for_each(|run| out.u64(run.0));
        });
        out.count(self.missing.seen.len());
        for (center, nodes) in &self.missing.seen {
            out.u64(center.0);
            out.count(nodes.len());
            for (run, serving) in nodes {
                out.u64(run.0);
                out.byte((*serving).into());
            }
        }
        out.count(self.dials.0.len());
        for (run, Known { center, at, .. }) in &self.dials.0 {
            out.u64(run.0);
            out.byte((*center).into());
            texts(at, &mut out);
        }
        out.count(self.dropped.len());
        for (run, epoch) in &self.dropped {
            out.u64(run.0);
            out.u32(*epoch);
        }
        out.bytes
    }

    /// The node of a successor, which goes on where that of the process before stood. `settings` says how it is from now on; who
    /// it is, it has been before.
    pub fn restore(
        settings: Settings,
        shared: Arc<Shared>,
        clients: C,
        parts: &[Vec<u8>],
        now: u64,
    ) -> Result<Node<C>, Damaged> {
        let (head, parts) = parts.split_first().ok_or(Damaged("the mesh"))?;
        let mut node = Node::new(settings, shared.clone(), clients, now);
        node.restore_head(&mut Decoder::new(head), now)?;
        let mut slots = HashMap::new();
        for part in parts {
            let mut from = Decoder::new(part);
            match from.byte()? {
                PEER => {
                    let (run, peer) = node.restore_peer(&mut from, now)?;
                    slots.insert(run, peer.link.slot);
                    node.output.push(Output::Send(peer.link.clone()));
                    node.peers.insert(run, peer);
                }
                OWN => {
                    from.u64()?;
                    shared.own.restore_channels(read_longs(from.data()?), now);
                }
                THEIRS => {
                    let slot = slots.get(&Run(from.u64()?)).ok_or(Damaged("a node"))?;
                    shared.others.come(*slot, read_longs(from.data()?));
                }
                _ => return Err(Damaged("the mesh")),
            }
        }
        node.phase = Phase::Serving;
        shared.set_phase(node.phase);
        // Where it is dialled may be another place now.
        let reached = node.reached_message();
        for peer in node.peers.values() {
            peer.link.aside(Some(&Message::Back));
            reached.iter().for_each(|message| peer.link.force(message, None, now));
        }
        node.publish_members(now);
        Ok(node)
    }

    fn restore_head(&mut self, from: &mut Decoder<'_>, now: u64) -> Result<(), Damaged> {
        self.settings.number = u16::try_from(from.u32()?).map_err(|_| Damaged("a node's number"))?;
        self.settings.started = from.u64()?;
        self.settings.nonce = from.data()?.try_into().map_err(|_| Damaged("a node"))?;
        self.last_epoch = from.u32()?;
        self.shared.own.restore(from)?;
        let run = |from: &mut Decoder<'_>| Ok::<_, Damaged>(Run(from.u64()?));
        self.telling = from.option(|from| {
            let (version, left) = (from.u64()?, from.list(run)?);
            Ok(Telling { version, since: now, left: left.into_iter().collect() })
        })?;
        let listed = |from: &mut Decoder<'_>| Ok::<_, Damaged>((run(from)?, from.flag()?));
        let seen = from.list(|from| Ok((run(from)?, BTreeMap::from_iter(from.list(listed)?))))?;
        self.missing.seen = seen.into_iter().collect();
        let known = from.list(|from| {
            let (run, center, at) = (run(from)?, from.flag()?, read_texts(from)?);
            Ok((run, Known { center, at, seen: now, unlinked: None, next: now, pause: FIRST_PAUSE }))
        })?;
        self.dials.0 = known.into_iter().collect();
        self.dropped = from.list(|from| Ok((run(from)?, from.u32()?)))?.into_iter().collect();
        Ok(())
    }

    fn restore_peer(&self, from: &mut Decoder<'_>, now: u64) -> Result<(Run, Peer), Damaged> {
        let hello = Hello::read(from.data()?).map_err(|_| Damaged("a node"))?;
        let (run, closed) = (hello.run, from.flag()?);
        let (reached, greeting) = (read_texts(from)?, from.u32()?);
        let (complete, version, knows) = (from.flag()?, from.u64()?, from.option(Decoder::u64)?);
        let incoming = read_incoming(from)?;
        let (me, stats) = (self.settings.run, self.shared.stats.clone());
        let mut damaged = None;
        let link = self.shared.open(|slot| {
            let link = Link::restore((me, run, slot), stats.clone(), from, now);
            link.unwrap_or_else(|e| {
                damaged = Some(e);
                Link::new(me, run, slot, 1, stats)
            })
        });
        let link = link.filter(|_| damaged.is_none()).ok_or(damaged.unwrap_or(Damaged("a node")))?;
        let peer = Peer {
            hello,
            heard: now,
            closed,
            patience: now + self.settings.reply_timeout,
            link,
            reached,
            restarted: now,
            greeting,
            incoming,
            complete,
            version,
            knows,
        };
        Ok((run, peer))
    }
}

fn save_peer(peer: &Peer) -> Vec<u8> {
    let mut out = Encoder::default();
    out.byte(PEER);
    let mut hello = Vec::new();
    peer.hello.write(&mut hello);
    out.data(&hello);
    out.byte(peer.closed.into());
    texts(&peer.reached, &mut out);
    out.u32(peer.greeting);
    out.byte(peer.complete.into());
    out.u64(peer.version);
    out.option(peer.knows, Encoder::u64);
    let Incoming { epoch, came, done, told, backlog, early, snapshot, .. } = &peer.incoming;
    out.u32(*epoch);
    [came, done, told].into_iter().for_each(|number| out.u64(*number));
    for frames in [backlog, early] {
        out.count(frames.len());
        for (frame, at) in frames {
            out.u32(u32::try_from(*at).unwrap_or(u32::MAX));
            out.data(frame);
        }
    }
    out.data(&longs(snapshot.iter().copied()));
    peer.link.save(&mut out);
    out.bytes
}

fn read_incoming(from: &mut Decoder<'_>) -> Result<Incoming, Damaged> {
    let (epoch, came, done, told) = (from.u32()?, from.u64()?, from.u64()?, from.u64()?);
    let frame = |from: &mut Decoder<'_>| {
        let (at, frame) = (from.u32()? as usize, Bytes::copy_from_slice(from.data()?));
        if at > frame.len() { Err(Damaged("a frame")) } else { Ok((frame, at)) }
    };
    let (backlog, early) = (VecDeque::from(from.list(frame)?), from.list(frame)?.into());
    let bytes = backlog.iter().map(|(frame, _)| frame.len()).sum();
    let snapshot = read_longs(from.data()?).collect();
    Ok(Incoming { epoch, came, done, told, backlog, early, bytes, snapshot, ..Incoming::default() })
}

fn texts(texts: &[String], out: &mut Encoder) {
    out.count(texts.len());
    texts.iter().for_each(|text| out.data(text.as_bytes()));
}

fn read_texts(from: &mut Decoder<'_>) -> Result<Vec<String>, Damaged> {
    from.list(|from| Ok(from.text()?.to_owned()))
}
