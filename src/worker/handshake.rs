//! A connection's handshake: the request that opens a WebSocket or an event stream is read and checked, the script is asked,
//! the response is prepared. Requests that send a message (`post`) may come before it on the same connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::admit::{admit, enter};
use super::failures::report;
use super::measure::Began;
use super::newcomers::close_unopened;
use super::refusal::{finish_refused, log_access, log_refusal, refusal_for, refuse, turn_away};
use super::request::{Coming, client_address, read_head, rules};
use super::session::Opened;
use super::trace::HandlerTrace;
use super::{Worker, post, proxy, tls};
use crate::api::Stage;
use crate::config::{Compression, Config};
use crate::message::{CloseReason, SHUTDOWN, close_code};
use crate::script::current::ConnRef;
use crate::script::hooks::{HandshakeRequest, HookArgs};
use crate::script::vm::{Handler, Hook, Returned, Started, Vm};
use crate::shard::Arrival;
use crate::shard::conn::Conn;
use crate::shard::framing::Framing;
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::server_context::ConnectionPermit;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::RefusalCause;
use crate::telemetry::spans::TraceContext;
use crate::wire::event_stream::{self, request as stream};
use crate::wire::handshake::{self as http, Parsed, Refusal, Request};
use crate::wire::reader::Reader;

/// The close reason when the client did not wait for the answer to its request.
const LEFT: &str = "the client ended the connection during its handshake";
/// The close reason when the script has not answered in time.
const LATE: &str = "on_handshake did not answer in time (handshakeTimeout)";
/// The bytes of frames that a client may send before its handshake is over.
const MAX_EARLY: usize = 64 * 1024;
/// The clients of event streams come back after that many milliseconds; not all after the same.
const RETRY: std::ops::Range<u32> = 1000..5000;
/// Without a `readTimeout`: the silence after which the machine of an event stream's client is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Runs the handshake. Bytes that the client sent right after its request come with the connection. None: there is no
/// connection, and the client has had its answer.
pub(super) async fn run(
    worker: &Rc<Worker>,
    server: usize,
    transport: Transport,
    peer: SocketAddr,
) -> Option<(Opened, Vec<u8>)> {
    let served = worker.servers[server].served.clone();
    let place = match admit(worker, server) {
        Ok(place) => Cell::new(Some(place)),
        Err(cause) => {
            // What is rare is boxed, here and below, so that no handshake carries it.
            Box::pin(turn_away(worker, server, transport, cause, peer)).await;
            return None;
        }
    };
    let deadline = Instant::now() + served.limits.get().handshake_timeout;
    let peer = if proxy::is_on(&worker.config.load(), server) {
        let mut stage = worker.stage.clone();
        let client = Box::pin(proxy::client(worker, server, &transport, peer, deadline));
        tokio::select! {
            biased;
            client = client => client?,
            _ = stage.wait_for(Stage::is_draining) => return None,
        }
    } else {
        peer
    };
    // A proxy's own address says nothing of the client, who is known by the request.
    let is_direct = !worker.config.load().trusts(peer.ip());
    if is_direct && let Err(cause) = enter(worker, server, &place, peer.ip()) {
        place.take();
        Box::pin(turn_away(worker, server, transport, cause, peer)).await;
        return None;
    }
    // The proxy's header comes in plain text, before TLS.
    let transport = match tls::is_on(worker, server) {
        true => Box::pin(tls::open(worker, server, transport, peer, deadline)).await?,
        false => transport,
    };
    let mut coming = Coming::first(transport, deadline);
    loop {
        match request(worker, server, coming, &place, peer, is_direct).await? {
            Ok(opened) => return Some(opened),
            Err(next) => coming = next,
        }
    }
}

/// Reads a request and does what it asks for. Err: it did not open the connection, and another one may follow. None: there
/// is no connection, and the client has had its answer.
async fn request(
    worker: &Rc<Worker>,
    server: usize,
    coming: Coming,
    place: &Cell<Option<ConnectionPermit>>,
    peer: SocketAddr,
    is_direct: bool,
) -> Option<Result<(Opened, Vec<u8>), Coming>> {
    let began = std::time::Instant::now();
    let Coming { mut transport, got, deadline, is_first } = coming;
    let served = worker.servers[server].served.clone();
    let mut stage = worker.stage.clone();
    let hello = |first: Option<&u8>| tls::look_for_hello(first, server, peer);
    let head = tokio::select! {
        biased;
        head = timeout_at(deadline, read_head(&mut transport, got, hello)) => head,
        // The client has sent nothing yet, so nothing is owed: a stop does not wait for it.
        _ = stage.wait_for(Stage::is_draining) => return None,
    };
    // What is asked for; empty while it is not known.
    let target = Cell::new("");
    let refuse = async |transport, refusal: &Refusal, cause, method: &str| {
        // The refusal needs no place.
        place.take();
        log_access(worker, (method, target.get()), peer, (refusal.status, None), began);
        Box::pin(refuse(worker, server, transport, refusal, cause, method, peer)).await;
        None
    };
    use RefusalCause::Request as Wrong;
    let head = match head {
        Ok(Ok(Some(head))) => head,
        Ok(Ok(None)) => return None,
        Ok(Err(refusal)) => return refuse(transport, &refusal, Wrong, "").await,
        Err(_) if !is_first => return None,
        Err(_) => {
            let refusal = Refusal { status: 408, text: "the upgrade request did not arrive in time".into() };
            return refuse(transport, &refusal, Wrong, "").await;
        }
    };
    let (request, len) = match http::parse(&head) {
        Ok(Parsed::Complete { request, len }) => (request, len),
        Ok(Parsed::Incomplete) => return None,
        Err(refusal) => return refuse(transport, &refusal, Wrong, "").await,
    };
    target.set(request.target);
    let config = worker.config.load_full();
    if config.servers[server].has_event_streams() && stream::sends(&request) {
        let next = Box::pin(post::serve(worker, server, transport, &request, head[len..].to_vec())).await?;
        return Some(Err(next));
    }
    let remote = client_address(&config, &request, peer);
    // A proxy that names nobody is not bounded: it would be all of its clients.
    if !is_direct
        && !config.trusts(remote.ip())
        && let Err(cause) = enter(worker, server, place, remote.ip())
    {
        return refuse(transport, &refusal_for(cause), cause, request.method).await;
    }
    let (mut response, framing) = match check(&config, server, &request) {
        Ok(agreed) => agreed,
        Err(refusal) => return refuse(transport, &refusal, Wrong, request.method).await,
    };
    if worker.memory.refuses() {
        let cause = RefusalCause::Memory;
        return refuse(transport, &refusal_for(cause), cause, request.method).await;
    }
    let _opening = Counted::new(&worker.hold, UnderWay::Other);
    let conn = worker.shard.insert(Arrival { served, transport, remote, framing });
    if worker.shard.traces.tracer.is_on()
        && config.tracing.from_clients
        && let Some(context) = TraceContext::of_headers(request.headers())
    {
        worker.shard.traces.belongs(conn.client_id, context);
    }
    let guard = Inserted { worker, conn: Some(conn.clone()) };
    let mut early = head[len..].to_vec();
    let (verdict, late) = {
        let asked = ask(worker, server, &conn, &request, &mut early);
        tokio::pin!(asked);
        tokio::select! {
            biased;
            verdict = &mut asked => (verdict, false),
            () = sleep_until(deadline) => {
                // Its handlers' waits end.
                conn.close(CloseReason::Violation { code: close_code::POLICY, what: LATE.into() });
                (asked.await, true)
            }
        }
    };
    if conn.is_closing() && !conn.is_closed() {
        // The system says that the client has gone.
        conn.close(CloseReason::Lost(LEFT.into()));
    }
    use RefusalCause::{Script, Shutdown};
    let (refusal, let_in) = match (verdict, conn.close_reason()) {
        (verdict, Some(CloseReason::Violation { .. })) if late => {
            (Some((Refusal { status: 503, text: LATE.into() }, Script)), verdict == Verdict::LetIn)
        }
        (Verdict::Refused(refusal), _) => (Some((refusal, Script)), false),
        (verdict, Some(CloseReason::Shutdown { .. })) => {
            (Some((Refusal { status: 503, text: SHUTDOWN.into() }, Shutdown)), verdict == Verdict::LetIn)
        }
        (verdict, Some(CloseReason::Lost(_) | CloseReason::ReadTimeout)) => (None, verdict == Verdict::LetIn),
        _ => {
            if let Some(posted) = conn.posted() {
                let retry = RETRY.start + (posted.token().to_bits() as u32 % (RETRY.end - RETRY.start));
                response.extend_from_slice(&event_stream::encode_connected(conn.client_id, posted.token(), retry));
                let read_timeout = conn.served.limits.get().read_timeout;
                conn.transport.keep_alive(if read_timeout.is_zero() { KEEP_ALIVE } else { read_timeout / 4 });
            }
            worker.shard.open(&conn, Some(response.into()));
            let let_in = (if conn.posted().is_some() { 200 } else { 101 }, Some(conn.client_id.get()));
            log_access(worker, (request.method, request.target), remote, let_in, began);
            let opened = Opened { conn: guard.keep()?, place: place.take()?, early: early.len(), moved: None };
            return Some(Ok((opened, early)));
        }
    };
    conn.discard_waiting();
    worker.shard.refuses(&conn, refusal.as_ref().map_or(LEFT, |(refusal, _)| &refusal.text));
    if !let_in {
        worker.remove(&conn);
    }
    if let Some((refusal, cause)) = &refusal {
        conn.served.counts.refused.one(*cause);
        log_access(worker, (request.method, request.target), remote, (refusal.status, None), began);
        let response = match conn.close_reason() {
            Some(CloseReason::Shutdown { retry }) if *cause == Shutdown => refusal.response_after(retry.div_ceil(1000)),
            _ => refusal.response(),
        };
        worker.shard.open(&conn, Some(response.into()));
        log_refusal(refusal, peer);
    }
    if let_in {
        // The script knows of the connection, so it is told of the end.
        Box::pin(close_unopened(worker, server, &conn)).await;
        worker.remove(&conn);
    }
    if refusal.is_some() {
        Box::pin(finish_refused(worker, &conn)).await;
    }
    None
}

/// The script's answer to a request.
#[derive(PartialEq, Eq)]
enum Verdict {
    /// None: it has no `on_handshake`, or was not asked because the connection ended first.
    NotAsked,
    /// It let the client in.
    LetIn,
    /// It refused, or failed.
    Refused(Refusal),
}

/// Removes a connection from the shard if its handshake is given up midway.
struct Inserted<'a> {
    worker: &'a Worker,
    conn: Option<Rc<Conn>>,
}

impl Inserted<'_> {
    fn keep(mut self) -> Option<Rc<Conn>> {
        self.conn.take()
    }
}

impl Drop for Inserted<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.worker.remove(&conn);
        }
    }
}

/// The engine's own checks of a request; the response if the script agrees, and how messages are framed then.
fn check(config: &Config, server: usize, request: &Request<'_>) -> Result<(Vec<u8>, Framing), Refusal> {
    let server = &config.servers[server];
    if server.has_event_streams() && stream::opens(request) {
        let origin = stream::check(request, &rules(server, None))?;
        return Ok((stream::accept_response(origin), Framing::EventStream));
    }
    let subprotocols: Option<Vec<String>> = server
        .option("subprotocols")
        .map(|list| list.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect());
    let mut upgrade = http::check(request, &rules(server, subprotocols.as_deref()))?;
    if server.compression == Compression::On {
        upgrade.agree(request)?;
    }
    let framing = Framing::WebSocket(upgrade.deflate.as_ref().map(|agreed| agreed.window));
    Ok((http::accept_response(&upgrade, upgrade.chosen), framing))
}

/// Runs `on_handshake`.
async fn ask(worker: &Worker, server: usize, conn: &Rc<Conn>, request: &Request<'_>, early: &mut Vec<u8>) -> Verdict {
    let (vm, turn) = loop {
        let Some(vm) = place_in_vm(worker, server, conn).await else { return Verdict::NotAsked };
        let turn = worker.shared_turn(&worker.newcomers).await;
        // Another handler may have taken the place meanwhile.
        if !conn.is_closing() && vm.may_start(Hook::Handshake, conn) {
            break (vm, turn);
        }
    };
    let head = HandshakeRequest {
        headers: request.headers().collect(),
        method: request.method,
        uri: request.target,
        protocol: if request.version == 0 { "HTTP/1.0" } else { "HTTP/1.1" },
        remote: conn.remote().to_string(),
        event_stream: conn.framing == Framing::EventStream,
        last_event_id: stream::last_event_id(request),
    };
    let args = HookArgs::handshake(ConnRef::of(conn), &head);
    let budget = conn.served.limits.get().handler_timeout;
    let began = Began::now(&vm, Hook::Handshake);
    let trace = worker.trace(Hook::Handshake, &vm, conn, None);
    let entered = worker.enter_trace(trace.as_deref());
    let started = vm.start(Hook::Handshake, Some(ConnRef::of(conn)), args, budget);
    drop(entered);
    worker.charge_shared(&worker.newcomers, began.so_far());
    drop(turn);
    let result = match started {
        Started::Done(result) => result,
        Started::Suspended(mut handler) => {
            let end = watch_for_end(worker, early, conn);
            let run = run_to_end(worker, &mut handler, trace.as_deref(), conn);
            tokio::pin!(run);
            tokio::select! {
                biased;
                result = &mut run => result,
                () = end => run.await,
            }
        }
    };
    began.ended(Hook::Handshake, &result, conn);
    if let Some(trace) = trace {
        trace.ended(&result);
    }
    match result {
        Ok(Returned::Refused { status, text }) => {
            let status = status.unwrap_or(403);
            Verdict::Refused(Refusal { status, text: text.unwrap_or_else(|| "refused".into()) })
        }
        Ok(_) => Verdict::LetIn,
        Err(failure) => {
            report(Hook::Handshake, &failure, conn, &worker.shard);
            Verdict::Refused(Refusal { status: 500, text: "the handshake handler failed".into() })
        }
    }
}

/// Waits until the server's VM may start another handler; None: the connection ended first, or the script has no such
/// hook.
async fn place_in_vm(worker: &Worker, server: usize, conn: &Conn) -> Option<Rc<Vm>> {
    let mut turn = None;
    poll_fn(|cx| {
        conn.register(cx.waker());
        if conn.is_closing() {
            return Poll::Ready(None);
        }
        // A reload may replace it meanwhile.
        let vm = worker.vm(server);
        if !vm.has(Hook::Handshake) {
            return Poll::Ready(None);
        }
        vm.poll_turn(Hook::Handshake, conn, &mut turn, cx).map(|()| Some(vm))
    })
    .await
}

async fn run_to_end(
    worker: &Worker,
    handler: &mut Handler,
    trace: Option<&HandlerTrace>,
    conn: &Conn,
) -> Result<Returned, crate::script::vm::Failure> {
    let mut ticket = None;
    poll_fn(|cx| {
        conn.register(cx.waker());
        let _entered = worker.enter_trace(trace);
        worker.poll_shared(&worker.newcomers, &mut ticket, handler, conn.is_closing(), cx)
    })
    .await
}

/// Ends when the client does, which it records on the connection, or when the client has sent too much too early. Then
/// the worker's timer goes on watching.
async fn watch_for_end(worker: &Worker, early: &mut Vec<u8>, conn: &Conn) {
    while early.len() < MAX_EARLY && conn.transport.readable().await.is_ok() {
        match read_early(conn, early) {
            Ok(0) => break,
            Ok(_) => {
                worker.shard.hold(conn, early.capacity());
                if Reader::new().closes_in(early) {
                    return conn.close(CloseReason::Lost(LEFT.into()));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => yield_now().await,
            Err(_) => break,
        }
    }
    if early.len() < MAX_EARLY {
        conn.close(CloseReason::Lost(LEFT.into()));
    }
}

/// Reads what has come. A function of its own, so that no handshake carries its buffer.
fn read_early(conn: &Conn, early: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let read = conn.transport.try_read(&mut bytes)?;
    early.extend_from_slice(&bytes[..read]);
    Ok(read)
}
