//! Connections of socket servers: the script defines what bytes mean. `protocol_input` splits them into packets.

use bytes::BytesMut;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

use super::admit::{admit, enter};
use super::load::LoadPermit;
use super::protocol::ProtocolHandler;
use super::session::{Opened, State};
use super::task::Task;
use super::{Worker, proxy, tls};
use crate::api::Stage;
use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::{CloseReason, Kind, close_code};
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Hook, Returned};
use crate::shard::Arrival;
use crate::shard::framing::Framing;
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::server_context::ConnectionPermit;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::{Label, RefusalCause};
use crate::telemetry::rate_limited::rate_limited;

/// The bytes that may wait while a handler is running; at this limit the socket is not read.
const WAITING_BYTES: usize = 64 * 1024;

/// The task that serves one connection to its end. None: there is no place for it. This protocol has no words for that.
pub(super) fn task(
    worker: Rc<Worker>,
    server: usize,
    transport: Transport,
    peer: SocketAddr,
    load: LoadPermit,
) -> Option<Task<Packets>> {
    let place = match admit(&worker, server) {
        Ok(place) => Cell::new(Some(place)),
        Err(cause) => {
            refuse(&worker, server, &transport, cause, peer);
            return None;
        }
    };
    if !proxy::is_on(&worker.config.load(), server) && !tls::is_on(&worker, server) {
        if !is_let_in(&worker, server, &transport, peer, &place) {
            return None;
        }
        let opened = insert(&worker, server, transport, peer, place.take()?);
        return Some(Task::open(worker, opened, Packets::default(), load));
    }
    let opening = {
        let worker = worker.clone();
        async move {
            let _opening = Counted::new(&worker.hold, UnderWay::Opening);
            let deadline = Instant::now() + worker.servers[server].served.limits.get().handshake_timeout;
            let mut stage = worker.stage.clone();
            let client = tokio::select! {
                biased;
                client = proxy::client(&worker, server, &transport, peer, deadline) => client?,
                _ = stage.wait_for(Stage::is_draining) => return None,
            };
            if !is_let_in(&worker, server, &transport, client, &place) {
                return None;
            }
            // The proxy's header comes in plain text, before TLS.
            let transport = tls::open(&worker, server, transport, client, deadline).await?;
            Some((insert(&worker, server, transport, client, place.take()?), Packets::default()))
        }
    };
    Some(Task::opening(worker, Box::pin(opening), load))
}

/// Whether the client's address may have one more connection; if not, the client is refused.
fn is_let_in(
    worker: &Worker,
    server: usize,
    transport: &Transport,
    client: SocketAddr,
    place: &Cell<Option<ConnectionPermit>>,
) -> bool {
    let address = client.ip().to_canonical();
    // A proxy that names nobody is not bounded: it would be all of its clients.
    if worker.config.load().trusts(address) {
        return true;
    }
    match enter(worker, server, place, address) {
        Ok(()) => true,
        Err(cause) => {
            refuse(worker, server, transport, cause, client);
            false
        }
    }
}

/// Lets a client in.
fn insert(worker: &Worker, server: usize, transport: Transport, client: SocketAddr, place: ConnectionPermit) -> Opened {
    let remote = SocketAddr::new(client.ip().to_canonical(), client.port());
    let served = worker.servers[server].served.clone();
    let conn = worker.shard.insert(Arrival { served, transport, remote, framing: Framing::Script });
    worker.shard.open(&conn, None);
    Opened { conn, place, early: 0, moved: None }
}

/// This protocol has no words for a refusal; TLS has.
fn refuse(worker: &Worker, server: usize, transport: &Transport, cause: RefusalCause, peer: SocketAddr) {
    worker.servers[server].served.counts.refused.one(cause);
    if tls::is_on(worker, server) {
        transport.turn_away();
    }
    rate_limited!(DEBUG, "connections are refused", cause.word(); %peer, "a connection was refused: {}", cause.word());
}

/// The packets of a connection, and the state of the current one. Its bytes are with the connection, for scripts to
/// see.
#[derive(Default)]
pub(super) struct Packets {
    /// `on_connect` has been run.
    connected: bool,
    /// The length of the next packet, once `protocol_input` has told it; 0 before.
    wanted: usize,
    /// Bytes have come that `protocol_input` has not seen.
    fresh: bool,
    /// The client sends no more.
    ended: bool,
    /// How many bytes there were at the last call of `protocol_input`.
    asked: usize,
}

/// How many bytes wait.
fn waiting(state: &State) -> usize {
    state.conn.received().map_or(0, |received| received.borrow().len())
}

impl Packets {
    /// Of a connection that another process had.
    pub(super) fn restore(from: &mut Decoder<'_>) -> Result<Packets, Damaged> {
        let (connected, fresh, ended) = (from.flag()?, from.flag()?, from.flag()?);
        let (wanted, asked) = (from.u32()? as usize, from.u32()? as usize);
        Ok(Packets { connected, wanted, fresh, ended, asked })
    }

    /// `protocol_input` has told the length of the next packet.
    fn measured(&mut self, state: &mut State, length: i64) {
        let limit = state.conn.served.limits.get().max_message_size;
        let here = waiting(state);
        if here < self.asked {
            // The script has consumed something: that counts as a packet, too.
            state.conn.end_message();
        }
        if here > 0 {
            state.conn.begin_message(state.worker.shard.now());
        }
        let too_long = || CloseReason::Violation {
            code: close_code::TOO_BIG,
            what: format!("a package has more than {limit} bytes (maxMessageSize)").into(),
        };
        match usize::try_from(length) {
            Err(_) => state.conn.close(CloseReason::Violation {
                code: close_code::PROTOCOL,
                what: "protocol_input found the client's bytes wrong".into(),
            }),
            Ok(length) if length > limit => state.conn.close(too_long()),
            Ok(0) if here >= limit => state.conn.close(too_long()),
            Ok(0) if here == 0 => state.pinned = None,
            Ok(0) => {}
            Ok(length) => self.wanted = length,
        }
    }

    /// A packet is complete: it is taken out and handled.
    fn package(&mut self, state: &mut State) {
        let Some(received) = state.conn.received() else { return };
        let package = {
            let mut received = received.borrow_mut();
            let here = received.len();
            let package = received.split_to(self.wanted.min(here));
            self.fresh = here > self.wanted;
            if received.is_empty() {
                // An idle connection keeps no buffer.
                *received = BytesMut::new();
            }
            package
        };
        self.wanted = 0;
        state.conn.end_message();
        let shard = &state.worker.shard;
        shard.count_read(&state.conn);
        if shard.tap.is_on() {
            shard.see_message(&state.conn, Kind::Binary, &package);
        }
        state.took_messages(1);
        state.start(Hook::Message, HookArgs::bytes(&package));
        state.pinned = None;
    }
}

impl ProtocolHandler for Packets {
    fn take(&mut self, state: &mut State, bytes: &mut [u8]) {
        if let Some(received) = state.conn.received() {
            let mut received = received.borrow_mut();
            if received.is_empty() {
                // The script has cleared the beginning of the packet that it waited for, if there was one.
                self.wanted = 0;
            }
            self.fresh = true;
            // Room for the whole packet at once, as far as its length is known.
            let room = self.wanted.saturating_sub(received.len()).max(bytes.len());
            received.reserve(room);
            received.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, state: &mut State) {
        self.ended = true;
        // A client that sends no more counts as silent: a handler that waits without end must not hold its place as
        // long.
        state.conn.sends_no_more(state.worker.shard.now());
    }

    fn is_known(&self) -> bool {
        self.connected
    }

    fn has_work(&self, state: &State) -> bool {
        match (self.connected, self.wanted) {
            (false, _) => true,
            (true, 0) => self.fresh && waiting(state) > 0,
            (true, wanted) => waiting(state) >= wanted && state.messages_left() > 0,
        }
    }

    fn next_hook(&self) -> Hook {
        match (self.connected, self.wanted) {
            (false, _) => Hook::Connect,
            (true, 0) => Hook::Input,
            (true, _) => Hook::Message,
        }
    }

    fn work(&mut self, state: &mut State) {
        state.charge_frames(1);
        if !self.connected {
            self.connected = true;
            state.start(Hook::Connect, HookArgs::connect(ConnRef::of(&state.conn)));
        } else if self.wanted > 0 {
            self.package(state);
        } else {
            // A packet ends in the version of the script in which it began.
            let vm = state.vm();
            state.pinned = Some(vm);
            self.fresh = false;
            self.asked = waiting(state);
            if let Some(returned) = state.start(Hook::Input, HookArgs::input(ConnRef::of(&state.conn))) {
                self.returned(state, returned);
            }
        }
    }

    fn returned(&mut self, state: &mut State, returned: Returned) {
        if let Returned::Length(length) = returned {
            self.measured(state, length);
        }
    }

    fn resume_work(&mut self, state: &mut State, idle: bool) -> bool {
        // A client that only stopped sending still gets the answers to what it sent.
        let over = self.ended && idle && !state.conn.is_closed();
        if over {
            state.conn.close(state.conn.lost_by().unwrap_or(CloseReason::Peer(None)));
        }
        over
    }

    fn has_room(&self, state: &State) -> bool {
        !self.ended && (!self.has_work(state) || waiting(state) < WAITING_BYTES)
    }

    fn on_closing(&mut self, state: &State) {
        if let Some(received) = state.conn.received() {
            received.take();
        }
    }

    fn save(&self, out: &mut Encoder) {
        [self.connected, self.fresh, self.ended].into_iter().for_each(|flag| out.byte(flag.into()));
        [self.wanted, self.asked].into_iter().for_each(|many| out.u32(many as u32));
    }

    fn held(&self, state: &State) -> usize {
        state.conn.received().map_or(0, |received| received.borrow().capacity())
    }
}
