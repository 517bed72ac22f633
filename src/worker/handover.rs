//! Handing a worker's connections over to a successor process, and taking them there. The engine says when each step comes;
//! all workers do one before any does the next.

use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::arrivals::Arrival;
use super::event_stream::EventStream;
use super::load::LoadPermit;
use super::session::Opened;
use super::socket::Packets;
use super::step::{Arrived, ArrivedCaller, Offers, Step};
use super::task::Task;
use super::websocket::{Frames, Incoming};
use super::{Server, Worker, accept};
use crate::handover::{Damaged, Decoder};
use crate::ids::ClientId;
use crate::message::CloseReason;
use crate::shard::Moved;
use crate::shard::fair::Account;
use crate::shard::framing::Framing;
use crate::shard::hold::{Held, UnderWay};
use crate::shard::outbox::shelf::Shelved;
use crate::shard::transport::Transport;

/// How often a worker looks whether something is still under way.
const LOOK: Duration = Duration::from_millis(1);

/// How long a client that has connected may take to ask for something.
const ASKING: Duration = Duration::from_millis(30);
/// How long handlers may take to end once their waits do.
const ENDING: Duration = Duration::from_millis(500);

/// Carries out a step.
pub(super) async fn run(worker: &Rc<Worker>, step: Step) {
    match step {
        Step::Waiting(answer) => drop(answer.send(waiting(worker))),
        Step::Quiet { within, cut, calls_only, done } => {
            worker.hold.begin();
            hold(worker, if cut { Held::Cut } else { Held::Quiet });
            if cut {
                worker.shard.each(|conn| {
                    if conn.is_corked() {
                        // It has not been let in: its client is told to come back.
                        conn.close(CloseReason::shutdown(worker.retry_over.get()));
                    }
                });
            }
            let _ = done.send(quiet(worker, within, (cut, calls_only)).await);
        }
        Step::Offer(offers) => drop(offers.send(offer(worker).await)),
        Step::Moved(done) => {
            worker.retry_over.set(worker.config.load().drain_spread);
            leave(worker).await;
            let _ = done.send(());
        }
        Step::Arrive(arrived, frames, done) => {
            worker.shard.use_frames(Some(&frames));
            let places: Result<Vec<_>, Damaged> =
                arrived.into_iter().map(|arrived| arrive(worker, arrived, &frames)).collect();
            let places = places.map(|places| (worker.id, places.into_iter().flatten().collect()));
            let _ = done.send(places);
        }
        Step::Ids(last) => worker.shard.pass_ids(&last),
        Step::Callers(callers) => callers.into_iter().for_each(|caller| take_caller(worker, caller)),
        Step::Lift => {
            worker.shard.use_frames(None);
            hold(worker, Held::No);
        }
    }
}

/// Holds so still from now on.
fn hold(worker: &Worker, held: Held) {
    worker.hold.set(held);
    // Those that have something to do find out by themselves, and to wake the others takes time in which nobody is served.
    if held != Held::Quiet {
        worker.shard.each(|conn| {
            if held == Held::No {
                conn.transport.keep();
            }
            conn.wake();
        });
    }
}

/// Waits until nothing is under way. False: something still is after that time.
async fn quiet(worker: &Rc<Worker>, within: Duration, (cut, calls_only): (bool, bool)) -> bool {
    let began = Instant::now();
    let mut quiet = 0;
    loop {
        // Another worker may have accepted them before it held still.
        while let Some(Arrival { role, socket, peer, load }) = worker.peers.arrived(worker.id) {
            if let Ok(transport) = Transport::adopt(socket) {
                accept::adopt(worker, role, transport, peer, load);
            }
        }
        // All tasks that are ready run in between.
        yield_now().await;
        quiet = if is_quiet(worker, began.elapsed(), (cut, calls_only)) { quiet + 1 } else { 0 };
        if quiet == 3 {
            return true;
        }
        if began.elapsed() >= within {
            return false;
        }
        if quiet == 0 {
            sleep(LOOK).await;
        }
    }
}

/// Whether nothing is under way, when so much time of this step has passed. What can stay behind counts for a while only.
fn is_quiet(worker: &Worker, passed: Duration, (cut, calls_only): (bool, bool)) -> bool {
    let hold = &worker.hold;
    let delivers = || !hold.delivered.get() || !worker.hub.mailbox(worker.id).is_empty();
    let busy = hold.under_way(UnderWay::Call) > 0
        || (!calls_only && delivers())
        || Rc::strong_count(&worker.unbound_runs) > 1
        || worker.shard.has_moves();
    // A client that has connected and asked for nothing yet may never do so.
    let opens = hold.since() < ASKING && hold.under_way(UnderWay::Opening) > 0;
    let may_stay = || waiting(worker) > 0 || hold.under_way(UnderWay::Other) > 0 || worker.shard.closing() > 0;
    !busy && !opens && ((cut && passed >= ENDING) || !may_stay())
}

/// Handlers that wait.
fn waiting(worker: &Worker) -> usize {
    let of = |server: &Server| {
        let replaced = server.replaced.borrow();
        let replaced = replaced.iter().filter_map(std::rc::Weak::upgrade).map(|vm| vm.waiting()).sum::<usize>();
        let worn = server.worn.borrow().upgrade().map_or(0, |vm| vm.waiting());
        server.vm.borrow().waiting() + replaced + worn
    };
    worker.servers.iter().map(of).sum()
}

/// Has all connections offer themselves.
async fn offer(worker: &Rc<Worker>) -> Option<Offers> {
    // Others may have delivered something before they held still.
    if !quiet(worker, Duration::from_secs(1), (true, false)).await {
        return None;
    }
    hold(worker, Held::Offered);
    let mut before = usize::MAX;
    while before != worker.hold.offered() {
        before = worker.hold.offered();
        yield_now().await;
        yield_now().await;
    }
    let [clients, callers] = worker.hold.take_offers();
    Some(Offers { clients, frames: worker.shard.take_frames(), callers, ids: worker.shard.last_ids() })
}

/// Has those that the successor has leave: nothing may be written to them.
async fn leave(worker: &Worker) {
    hold(worker, Held::Moved);
    for slot in worker.hold.slots() {
        while worker.shard.is_in(slot) {
            yield_now().await;
        }
    }
    hold(worker, Held::Left);
}

/// Takes a connection up; says where it is. None: it is lost.
fn arrive(worker: &Rc<Worker>, arrived: Arrived, frames: &Shelved) -> Result<Option<(ClientId, u32)>, Damaged> {
    let mut from = Decoder::new(&arrived.bytes);
    let moved = Moved::read(&mut from, frames)?;
    let client = moved.client_id;
    match take_up(worker, moved, from, arrived.socket) {
        Ok(slot) => Ok(Some((client, slot))),
        Err(e) => {
            if let Some(conn) = worker.shard.get(client) {
                worker.remove(&conn);
            }
            tracing::error!(client_id = client.get(), "a connection was lost in the handover: {e}");
            Ok(None)
        }
    }
}

/// `protocol`: what its protocol keeps of it.
fn take_up(worker: &Rc<Worker>, mut moved: Moved, mut protocol: Decoder<'_>, socket: TcpStream) -> Result<u32, String> {
    let server = worker.servers.get(moved.server).ok_or("there is no such server")?;
    let served = server.served.clone();
    let transport = Transport::take_up(socket, moved.take_tls()).map_err(|e| e.to_string())?;
    let (most, address) = (served.limits.get().max_connections_per_address, moved.ip());
    // It had a place before.
    let permit = match worker.config.load().trusts(address) {
        true => None,
        false => server.admission.arrive(address, most),
    };
    let mut place = served.admit_moved().at(permit);
    place.go_on(&served, moved.account.take());
    let load = LoadPermit::take(&worker.peers.loads[usize::from(worker.id.0)]);
    let damaged = |e: Damaged| e.to_string();
    let account = Account::read(&mut protocol, worker.fair.now()).map_err(damaged)?;
    let conn = worker.shard.take_up(moved, served, transport);
    let slot = conn.slot;
    worker.shard.open(&conn, None);
    let opened = Opened { conn: conn.clone(), place, early: 0, moved: Some(account) };
    match conn.framing {
        Framing::WebSocket(_) => {
            let frames = Incoming::Frames(Frames::restore(conn.framing, &mut protocol).map_err(damaged)?);
            spawn_local(Task::open(worker.clone(), opened, frames, load));
        }
        Framing::EventStream => {
            let task = Task::open(worker.clone(), opened, Incoming::Posted(EventStream), load);
            spawn_local(task);
        }
        Framing::Script => {
            let packets = Packets::restore(&mut protocol).map_err(damaged)?;
            spawn_local(Task::open(worker.clone(), opened, packets, load));
        }
    }
    Ok(slot)
}

fn take_caller(worker: &Rc<Worker>, caller: ArrivedCaller) {
    let load = LoadPermit::take(&worker.peers.loads[usize::from(worker.id.0)]);
    let ArrivedCaller { socket, read, tls } = caller;
    let adopted = socket.peer_addr().and_then(|peer| Ok((Transport::take_up(socket, tls.map(|tls| *tls))?, peer)));
    match adopted {
        Ok((transport, peer)) => worker.api.adopt_with(transport, peer, read, load),
        Err(e) => tracing::debug!("a caller's connection was lost in the handover: {e}"),
    }
}
