//! A connection on its way to a successor process: what of it is plain data, written here and taken up there.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::conn::{Conn, Hearing};
use super::framing::Framing;
use super::meter::Meter;
use super::outbox::saved::Saved;
use super::outbox::shelf::Shelved;
use super::posted::Posted;
use super::server_context::{ConnectionPermit, ServerContext};
use super::transport::{MovedTls, Transport};
use super::{Arrival, Shard};
use crate::handover::{Damaged, Decoder, Encoder};
use crate::hub::Joined;
use crate::hub::topics::Member;
use crate::ids::{ClientId, Lane};
use crate::message::{Channel, Message};
use crate::secret::token::Token;
use crate::value::Value;
use crate::wire::deflate::Window;

/// How a connection's messages are framed, as it is written.
const WEBSOCKET: u8 = 0;
const SCRIPT: u8 = 1;
const EVENT_STREAM: u8 = 2;

/// A connection that another process had, without its socket and what its protocol keeps of it.
pub struct Moved {
    /// Its client.
    pub client_id: ClientId,
    /// The server it came in by.
    pub server: usize,
    /// The client's address.
    pub remote: SocketAddr,
    /// How its messages are framed.
    pub framing: Framing,
    /// How long ago bytes last came, and the engine last pinged, in milliseconds.
    ages: (u32, u32),
    /// How long ago the message began that the client has not finished.
    unfinished: Option<u32>,
    sends_no_more: bool,
    /// Since when it is there, and its messages both ways.
    traffic: [u32; 3],
    context: Vec<(Box<str>, Value)>,
    channels: Vec<(Channel, Option<Arc<str>>)>,
    outbox: Saved,
    received: Option<Vec<u8>>,
    /// Of an event stream.
    posted: Option<(Token, Vec<Message>)>,
    /// What its client has used of its rates.
    pub account: Option<Meter>,
    tls: Option<MovedTls>,
}

impl Shard {
    /// The frames that wait for connections that were written, in parts. They are forgotten here.
    pub fn take_frames(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.moving.borrow_mut().shelf).into_parts()
    }

    /// The frames that wait for the connections that are taken up next; None: there are no more.
    pub fn use_frames(&self, frames: Option<&Arc<Shelved>>) {
        match frames {
            Some(frames) => self.moving.borrow_mut().copies.use_those(frames),
            None => drop(self.moving.take()),
        }
    }

    /// Writes a connection and its place, with the keys of its TLS. Nothing may be written to it, or read from it, until it
    /// is known who has it.
    pub fn save(&self, conn: &Conn, place: &ConnectionPermit, out: &mut Encoder) {
        let (now, topics) = (self.now(), self.topics.borrow());
        out.u64(conn.client_id.get());
        out.u32(conn.served.index as u32);
        out.data(conn.remote().to_string().as_bytes());
        let (framing, window) = match conn.framing {
            Framing::WebSocket(window) => (WEBSOCKET, window),
            Framing::EventStream => (EVENT_STREAM, None),
            Framing::Script => (SCRIPT, None),
        };
        out.byte(framing);
        out.option(window, |out, window| out.byte(window.bits()));
        [&conn.last_read, &conn.last_ping].into_iter().for_each(|at| out.u32(now.wrapping_sub(at.get())));
        out.option(conn.unfinished.get().then(|| conn.begun.get()), |out, since| out.u32(now.wrapping_sub(since)));
        out.byte((conn.hearing.get() == Hearing::Over).into());
        conn.traffic.save(out);
        let context = conn.context.borrow();
        out.count(context.len());
        for (key, value) in context.iter() {
            out.data(key.as_bytes());
            out.value(value);
        }
        out.count(topics.count_of(conn.slot));
        for channel in topics.channels_of(conn.slot) {
            out.data(channel.as_str().as_bytes());
            out.option(topics.info(conn.slot, channel.as_str()), |out, info| out.data(info.as_bytes()));
        }
        conn.save_outbox(&mut self.moving.borrow_mut().shelf, out);
        out.option(conn.received(), |out, received| out.data(&received.borrow()));
        out.option(conn.posted(), |out, posted| posted.save(out));
        place.save(out);
        conn.transport.offer(out);
    }

    /// Takes up a connection that another process had: it gets its id, and is where it was, without anybody being told. What
    /// waits for it is written once it is opened ([`Shard::open`]).
    pub fn take_up(&self, moved: Moved, served: Rc<ServerContext>, transport: Transport) -> Rc<Conn> {
        let Moved { client_id, remote, framing, .. } = moved;
        let conn = self.insert_as(client_id, Arrival { served, transport, remote, framing });
        let ago = |millis: u32| self.now().wrapping_sub(millis);
        conn.last_read.set(ago(moved.ages.0));
        conn.last_ping.set(ago(moved.ages.1));
        if let Some(millis) = moved.unfinished {
            conn.begin_message(ago(millis));
        }
        if moved.sends_no_more {
            conn.hearing.set(Hearing::Over);
        }
        conn.traffic.restore(moved.traffic);
        let mut context = conn.context.borrow_mut();
        for (key, value) in moved.context {
            // It was within the bounds.
            let _ = context.set(&key, value);
        }
        drop(context);
        conn.restore_outbox(moved.outbox, &mut self.moving.borrow_mut().copies);
        if let (Some(bytes), Some(received)) = (moved.received, conn.received()) {
            received.borrow_mut().extend_from_slice(&bytes);
        }
        if let (Some((token, messages)), Some(posted)) = (moved.posted, conn.posted()) {
            posted.restore(token, messages);
        }
        let mut topics = self.topics.borrow_mut();
        for (channel, info) in moved.channels {
            if topics.insert(conn.slot, &channel) == Joined::First {
                // The process before has counted it.
                self.hub.join(&channel, self.worker);
            }
            if let Some(rule) = topics.rule_of(channel.as_str()).filter(|rule| rule.is_counted()).cloned() {
                self.hub.rooms().begin(&channel, 1, &rule);
            }
            if let Some(info) = info {
                topics.set_info(conn.slot, channel.as_str(), &info);
            }
        }
        self.count_subscriptions(&topics);
        conn.clone()
    }

    /// The last step of each lane of this worker's client ids.
    pub fn last_ids(&self) -> Vec<(Lane, u64)> {
        self.ids.borrow().last().collect()
    }

    /// The process before has issued these ids.
    pub fn pass_ids(&self, last: &[(Lane, u64)]) {
        let mut ids = self.ids.borrow_mut();
        last.iter().for_each(|(lane, step)| ids.pass(*lane, *step));
    }

    /// Whether a connection is there that has not left.
    pub fn is_in(&self, slot: Member) -> bool {
        let (conns, here) = (self.conns.borrow(), self.by_client.borrow());
        conns.get(slot as usize).is_some_and(|conn| here.contains_key(&conn.client_id))
    }

    /// Connections that are ending, and have not left.
    pub fn closing(&self) -> usize {
        let here = self.by_client.borrow();
        let conns = self.conns.borrow();
        let closing = conns.iter().filter(|(_, conn)| conn.is_closing() && here.contains_key(&conn.client_id));
        closing.count()
    }
}

impl Moved {
    /// Reads what [`Shard::save`] has written. `frames`: those that wait for its worker's connections.
    pub fn read(from: &mut Decoder<'_>, frames: &Shelved) -> Result<Moved, Damaged> {
        let client_id = ClientId::new(from.u64()?).ok_or(Damaged("a client's id"))?;
        let server = from.u32()? as usize;
        let remote = from.text()?.parse::<SocketAddr>().map_err(|_| Damaged("an address"))?;
        let framing = from.byte()?;
        let deflate = from.option(|from| Window::of(from.byte()?).ok_or(Damaged("a window")))?;
        let framing = match framing {
            WEBSOCKET => Framing::WebSocket(deflate),
            EVENT_STREAM => Framing::EventStream,
            SCRIPT => Framing::Script,
            _ => return Err(Damaged("a framing")),
        };
        let ages = (from.u32()?, from.u32()?);
        let unfinished = from.option(Decoder::u32)?;
        let sends_no_more = from.flag()?;
        let traffic = [from.u32()?, from.u32()?, from.u32()?];
        let context = from.list(|from| Ok((from.text()?.into(), from.value()?)))?;
        let channels = from.list(|from| {
            let channel = Channel::parse(from.data()?).map_err(|_| Damaged("a channel's name"))?;
            Ok((channel, from.option(Decoder::text)?.map(Arc::from)))
        })?;
        let outbox = Saved::read(from, frames)?;
        let received = from.option(Decoder::data)?.map(<[u8]>::to_vec);
        let posted = from.option(Posted::read)?;
        let account = from.option(Meter::read)?;
        let tls = from.option(MovedTls::read)?;
        Ok(Moved {
            client_id,
            server,
            remote,
            framing,
            ages,
            unfinished,
            sends_no_more,
            traffic,
            context,
            channels,
            outbox,
            received,
            posted,
            account,
            tls,
        })
    }

    /// What its TLS was, once; the way to its transport.
    pub fn take_tls(&mut self) -> Option<MovedTls> {
        self.tls.take()
    }

    /// The client's address, without its port.
    pub fn ip(&self) -> IpAddr {
        self.remote.ip()
    }
}
