//! What the frames of other nodes say, and what is told to them.

use bytes::Bytes;
use std::collections::HashSet;
use std::task::Context;

use super::pace::Pace;
use super::peer::suspect;
use super::{AnswerReply, Clients, CommandReply, Delivery, Node, OnceReply, Payload, Telling};
use crate::cluster::link::Request;
use crate::cluster::protocol::{self, Message, Messages, Reply, Run, read_addresses, read_answer};
use crate::hub::{ChannelAction, CommandError, Counts, PendingCounts, Priority, Question};

/// A message as it stands in a frame; with who is left out, its key and its priority.
fn payload(frame: &Bytes, binary: bool, data: &[u8], (except, key, priority): (&[u8], Option<&str>, u8)) -> Payload {
    let (data, except) = (frame.slice_ref(data), frame.slice_ref(except));
    Payload { binary, data, except, key: key.map(str::to_owned), priority }
}

impl<C: Clients> Node<C> {
    /// Does what has come, as far as there is room, and tells what has changed.
    pub fn work(&mut self, cx: &mut Context<'_>, now: u64) {
        if self.pace == Pace::Still {
            return;
        }
        let runs: Vec<Run> = self.peers.iter().filter(|(_, peer)| peer.has_work()).map(|(run, _)| *run).collect();
        for run in runs {
            self.work_off(run, cx, now);
        }
        self.clients.poll(cx);
        self.tell(now);
        self.publish_members(now);
    }

    /// Works off the frames of a node.
    fn work_off(&mut self, run: Run, cx: &mut Context<'_>, now: u64) {
        loop {
            let Some(peer) = self.peers.get_mut(&run) else { return };
            let incoming = &mut peer.incoming;
            if let Some(waiting) = &mut incoming.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    return;
                }
                incoming.waiting = None;
            }
            let early = !incoming.early.is_empty();
            let queue = match (early, self.pace) {
                (true, _) => &mut incoming.early,
                (false, pace) if pace.serves() => &mut incoming.backlog,
                (false, _) => return,
            };
            let Some((frame, at)) = queue.front_mut() else { return };
            let frame = frame.clone();
            let mut messages = Messages::new(&frame[*at..]);
            let next = messages.next();
            *at = frame.len() - messages.rest().len();
            match next {
                Some(Ok((request, message))) => self.message(run, &frame, request, message, now),
                Some(Err(error)) => return self.expel(run, error),
                None if early => drop(incoming.early.pop_front()),
                None => {
                    incoming.backlog.pop_front();
                    incoming.bytes -= frame.len();
                    incoming.done += 1;
                    // A node that waits for room hears of it in time; one that idles, with the next heartbeat.
                    let soon = incoming.backlog.is_empty() || incoming.done - incoming.told > 16;
                    if soon {
                        incoming.told = incoming.done;
                    }
                    peer.link.has_read(incoming.epoch, incoming.done, soon);
                }
            }
        }
    }

    /// Does what a message of a node's stream says.
    fn message(&mut self, run: Run, frame: &Bytes, request: u64, message: Message<'_>, now: u64) {
        self.shared.stats.received.message();
        if self.is_too_much(run, &message) {
            return self.expel(run, "it has more channels than this node takes");
        }
        let Some(peer) = self.peers.get_mut(&run) else { return };
        let counts = || (request > 0).then(|| PendingCounts::of_request(peer.link.clone(), request));
        let delivery = match message {
            Message::Publish { channel, binary, data, except, key } => {
                let message = payload(frame, binary, data, (except, key, Priority::Normal as u8));
                Delivery::Publish { channel: channel.to_owned(), message, counts: counts() }
            }
            Message::Moved { channel, data, client, came } => {
                Delivery::Moved { channel: channel.to_owned(), data: frame.slice_ref(data), client, came }
            }
            Message::Count { channel } => {
                let action = ChannelAction::Count;
                Delivery::ChannelCommand { channel: channel.to_owned(), action, counts: counts() }
            }
            Message::Close { channel, code, reason } => {
                let action = ChannelAction::Close { code, reason: reason.into() };
                Delivery::ChannelCommand { channel: channel.to_owned(), action, counts: counts() }
            }
            Message::Send { client, binary, data } => {
                Delivery::Send { client, binary, data: frame.slice_ref(data), counts: counts() }
            }
            Message::Command { client, command } => {
                let reply = CommandReply::new(peer.link.clone(), request);
                Delivery::Command { client, command: frame.slice_ref(command), reply }
            }
            Message::PublishOnce { id, channels, list, binary, data, except, key, priority } => {
                let reply = OnceReply::new(peer.link.clone(), request);
                let channels = channels.into_iter().map(str::to_owned).collect();
                let message = payload(frame, binary, data, (except, key, priority));
                Delivery::Once { id: id.to_owned(), channels, list, message, reply }
            }
            Message::OnceReply { request, counts } => {
                if let Some(Request::Once(reply)) = peer.link.take_request(request) {
                    // One that waits no more needs no answer.
                    let _ = reply.send(counts.into_iter().map(Counts::from).collect());
                }
                return;
            }
            Message::Replies(bytes) => {
                for Reply { request, reached, failed } in Reply::read_all(bytes) {
                    if let Some(Request::Counts(ack) | Request::Ordered(ack)) = peer.link.take_request(request) {
                        self.shared.stats.replied(ack.age().1);
                        ack.settle(Counts { reached: reached.into(), failed: failed.into(), ..Counts::default() });
                    }
                }
                return;
            }
            Message::CommandReply { request, problem } => {
                if let Some(Request::Command(client, reply)) = peer.link.take_request(request) {
                    // One that waits no more needs no answer.
                    let _ = reply.send(match problem {
                        None => Ok(()),
                        Some(problem) => Err(CommandError::read(client, problem)),
                    });
                }
                return;
            }
            Message::Snapshot { version, hashes, last } => {
                peer.incoming.snapshot.extend(protocol::read_longs(hashes));
                if last {
                    let all = std::mem::take(&mut peer.incoming.snapshot);
                    if std::mem::replace(&mut peer.complete, true) {
                        self.shared.others.retain(peer.link.slot, &all.iter().copied().collect());
                    }
                    self.shared.others.come(peer.link.slot, all.into_iter());
                    peer.knows_ours(version, now);
                }
                return;
            }
            Message::Interest { version, gone, come } => {
                self.shared.others.gone(peer.link.slot, protocol::read_longs(gone));
                self.shared.others.come(peer.link.slot, protocol::read_longs(come));
                peer.knows_ours(version, now);
                return;
            }
            Message::InterestKnown { version } => {
                peer.knows = peer.knows.max(Some(version));
                if let Some(telling) = self.telling.as_mut().filter(|telling| version >= telling.version) {
                    telling.left.remove(&run);
                }
                return;
            }
            Message::Nodes { nodes } => {
                if peer.hello.center {
                    self.center_knows(run, &nodes, now);
                }
                return;
            }
            Message::Reached { at } => {
                let center = peer.hello.center;
                peer.reached = read_addresses(&at).map(str::to_owned).collect();
                self.dials.know(run, center, &at, now);
                self.changed = true;
                return;
            }
            Message::Stirred { channel, ago } => Delivery::Stirred { channel: channel.to_owned(), ago },
            Message::Online { channel, count } => Delivery::Online { channel: channel.to_owned(), count },
            Message::Ordered { channel, body } => Delivery::Ordered {
                channel: channel.to_owned(),
                body: frame.slice_ref(body),
                from: peer.link.clone(),
                epoch: peer.incoming.epoch,
                request,
            },
            Message::Ask { asking } => {
                // What is no question is not answered.
                let Some(question) = asking.question() else { return };
                Delivery::Ask { question, reply: AnswerReply::new(peer.link.clone(), request) }
            }
            Message::Figures => {
                Delivery::Ask { question: Question::Figures, reply: AnswerReply::new(peer.link.clone(), request) }
            }
            Message::Remember { id } => {
                let (question, reply) = (Question::Publish(id.into()), AnswerReply::new(peer.link.clone(), request));
                Delivery::Ask { question, reply }
            }
            Message::Answer { request, answer } => {
                if let Some(Request::Answer(reply)) = peer.link.take_request(request)
                    && let Some(answer) = read_answer(answer)
                {
                    // One that waits no more needs no answer.
                    let _ = reply.send(answer);
                }
                return;
            }
            Message::Begin { .. }
            | Message::Lost { .. }
            | Message::Leave
            | Message::Moving
            | Message::Back
            | Message::Probe { .. }
            | Message::Probed { .. } => return,
        };
        peer.incoming.waiting = self.clients.deliver(delivery);
    }

    /// Tells others which channels have come and gone, if they know of all before.
    pub(super) fn tell(&mut self, now: u64) {
        let own = &self.shared.own;
        if let Some(telling) = &self.telling {
            let late = now >= telling.since + self.settings.reply_timeout;
            // Who moves has longer.
            let is_patient = |run: &Run| self.peers.get(run).is_some_and(|peer| now < peer.patience);
            if !telling.left.is_empty() && (!late || telling.left.iter().any(is_patient)) {
                return;
            }
            for run in &telling.left {
                if let Some(peer) = self.peers.get(run)
                    && peer.link.set_suspect(true)
                {
                    suspect(peer);
                }
            }
            own.is_known(telling.version);
            self.telling = None;
        }
        if let Some(changes) = own.next() {
            let (gone, come) = (protocol::longs(changes.gone), protocol::longs(changes.come));
            let message = Message::Interest { version: changes.version, gone: &gone, come: &come }.to_bytes();
            let mut left = HashSet::new();
            for (run, peer) in self.peers.iter().filter(|(_, peer)| peer.hello.engine) {
                peer.link.force(&message, None, now);
                if !peer.link.is_suspect() {
                    left.insert(*run);
                }
            }
            if left.is_empty() {
                own.is_known(changes.version);
            } else {
                self.telling = Some(Telling { version: changes.version, since: now, left });
            }
        }
    }
}
