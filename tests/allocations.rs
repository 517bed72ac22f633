//! What the two hot paths allocate, counted exactly: a delivery, and a call of the shipped handler.

#[path = "common/heap.rs"]
#[allow(dead_code, reason = "another test counts what is held")]
mod heap;

use heap::{Counting, allocations};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use connmix::api::params::Params;
use connmix::cluster::{Behind, Mesh};
use connmix::config::{ChannelRule, Protocol, load};
use connmix::hub::{Delivery, Hub, PendingCounts, Publication};
use connmix::ids::{NodeId, NodeNumber, WorkerId};
use connmix::message::{Channel, Kind, Message};
use connmix::outbound::Outbound;
use connmix::queue::Queue;
use connmix::script::current::{self, ConnRef, Host};
use connmix::script::hooks::HookArgs;
use connmix::script::program::Program;
use connmix::script::vm::{Hook, Started, Vm, VmLimits};
use connmix::shard::conn::Conn;
use connmix::shard::framing::Framing;
use connmix::shard::server_context::ServerContext;
use connmix::shard::{Arrival, Shard};
use connmix::timers::Timers;
use connmix::wire::deflate::Window;
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static COUNTING: Counting = Counting;

fn channel(name: &str) -> Channel {
    Channel::parse(name.as_bytes()).unwrap()
}

/// One worker's shard with connections over real sockets.
struct TestEngine {
    hub: Arc<Hub>,
    shard: Rc<Shard>,
    conns: Vec<Rc<Conn>>,
    waiting: RefCell<VecDeque<Delivery>>,
    _clients: Vec<TcpStream>,
}

impl TestEngine {
    async fn new(connections: usize) -> TestEngine {
        TestEngine::with(connections, None).await
    }

    /// With connections that may have agreed on compression.
    async fn with(connections: usize, deflate: Option<Window>) -> TestEngine {
        let config = load::parse(
            Path::new("connmix.yaml"),
            "center: {apiServer: {port: 0}}\nengine:\n  apiServer: {port: 0}\n  servers: [{port: 0, entry: lua/entry.websocket.lua}]\n",
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let hub = Arc::new(Hub::new(NodeNumber::random(), 1));
        let shard = Rc::new(Shard::new(WorkerId(0), hub.clone()));
        let served = Rc::new(ServerContext::new(0, &config.servers[0], Arc::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut conns, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (socket, remote): (TcpStream, SocketAddr) = listener.accept().await.unwrap();
            socket.writable().await.unwrap();
            let framing = Framing::WebSocket(deflate);
            let conn = shard.insert(Arrival { served: served.clone(), transport: socket.into(), remote, framing });
            shard.open(&conn, Some(b"HTTP/1.1 101\r\n\r\n".to_vec().into()));
            conns.push(conn);
        }
        let waiting = RefCell::new(VecDeque::with_capacity(100));
        let engine = TestEngine { hub, shard, conns, waiting, _clients: clients };
        engine.write_all();
        engine
    }

    fn write_all(&self) {
        while self.shard.flush(64, Duration::MAX) {}
    }

    fn publish(&self, publication: &Arc<Publication>) {
        self.deliver([publication]);
        self.write_all();
    }

    /// Delivers these publishes, which wait one behind the other, as far as they go together.
    fn deliver<'a>(&self, publications: impl IntoIterator<Item = &'a Arc<Publication>>) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        for publication in publications {
            waiting.push_back(Delivery::Publish(publication.clone(), PendingCounts::ignored().ack()));
        }
        self.shard.deliver(&mut waiting).unwrap()
    }
}

#[tokio::test]
async fn a_publish_allocates_its_frame_and_nothing_for_a_delivery() {
    let engine = TestEngine::new(200).await;
    for conn in &engine.conns {
        assert!(engine.shard.subscribe(conn, &[channel("all")]).is_ok());
    }
    assert!(engine.shard.subscribe(&engine.conns[0], &[channel("one")]).is_ok());
    for (name, reached) in [("nobody", 0), ("one", 1), ("all", 200)] {
        let publication = Arc::new(Publication::new(channel(name), Message::text("hello")));
        // The first one makes room for all that are to be written.
        engine.publish(&publication);
        let frames = u64::from(reached > 0);
        assert_eq!(
            allocations(|| (0..10).for_each(|_| engine.publish(&publication))),
            10 * frames,
            "{reached} subscribers"
        );
    }
    assert!(engine.conns.iter().all(|conn| conn.waiting() == 0), "all was written");
}

#[tokio::test]
async fn a_publish_is_compressed_once_however_many_get_it() {
    let engine = TestEngine::with(200, Some(Window::Bits15)).await;
    for conn in &engine.conns {
        assert!(engine.shard.subscribe(conn, &[channel("all")]).is_ok());
    }
    let text = "a text that is long enough to be compressed, ".repeat(100);
    let publication = Arc::new(Publication::new(channel("all"), Message::text(text.as_str())));
    // The first one makes room for all that are to be written, and the compressor.
    engine.publish(&publication);
    // The frame, and the list of those that are compressed.
    assert_eq!(allocations(|| (0..10).for_each(|_| engine.publish(&publication))), 10 * 2);
    let counts = &engine.shard.counts.compressed;
    assert_eq!((counts.messages.get(), counts.plain.get()), (11, 11 * text.len() as u64));
    assert!(counts.compressed.get() < 11 * 200, "{}", counts.compressed.get());
    // Its price is told along with the connections.
    let work = engine.deliver([&publication]);
    assert!(work > 200 + text.len() / 10, "{work}");
}

/// What a frame that waits counts for besides its bytes.
const FRAME: usize = 32;

#[tokio::test]
async fn publishes_that_wait_one_behind_the_other_cost_a_connection_one_frame() {
    let mut allocated = Vec::new();
    for connections in [20, 200] {
        let engine = TestEngine::new(connections).await;
        for conn in &engine.conns {
            assert!(engine.shard.subscribe(conn, &[channel("all")]).is_ok());
        }
        let burst: Vec<_> = (10..50)
            .map(|n| Arc::new(Publication::new(channel("all"), Message::text(format!("message {n}").as_str()))))
            .collect();
        // Twice: the first one makes room for all that are to be written.
        for _ in 0..2 {
            let mut done = 0;
            let count = allocations(|| done = engine.deliver(&burst));
            assert!(engine.waiting.borrow().is_empty());
            assert_eq!(done, 40 * connections);
            for conn in &engine.conns {
                assert_eq!(conn.waiting(), 40 * "12message 10".len() + FRAME);
            }
            engine.write_all();
            allocated.push(count);
        }
        let sent = &engine.shard.counts.protocols[0].sent;
        assert_eq!(sent.get(), 2 * 40 * connections as u64);
    }
    assert_eq!(allocated[1], allocated[3], "{allocated:?}");
}

#[tokio::test]
async fn who_has_no_room_for_a_burst_gets_what_there_is_room_for() {
    let engine = TestEngine::new(20).await;
    for conn in &engine.conns {
        assert!(engine.shard.subscribe(conn, &[channel("all")]).is_ok());
    }
    // Its client does not read.
    let full = &engine.conns[7];
    while !full.is_blocked() {
        assert!(engine.shard.push(full, vec![0; 64 * 1024].into()));
        engine.write_all();
    }
    let mut limits = full.served.limits.get();
    limits.outbox_limit = full.waiting() + 5 * ("12message 10".len() + FRAME);
    full.served.limits.set(limits);
    let mut results = Vec::new();
    for n in 0..30 {
        let publication = Publication::new(channel("all"), Message::text(format!("message {}", 10 + n).as_str()));
        let (pending, counts) = PendingCounts::new();
        engine.waiting.borrow_mut().push_back(Delivery::Publish(Arc::new(publication), pending.ack()));
        results.push(counts);
    }
    assert_eq!(engine.deliver([]), 30 * 20);
    for (n, counts) in results.into_iter().enumerate() {
        let counts = counts.await.unwrap();
        assert_eq!((counts.reached, counts.failed), if n < 5 { (20, 0) } else { (19, 1) }, "{n}");
    }
    assert!(full.is_closing() && engine.conns.iter().filter(|conn| conn.is_closing()).count() == 1);
    assert_eq!(engine.conns[8].waiting(), 30 * "12message 10".len() + FRAME);
}

#[tokio::test]
async fn what_many_get_and_nobody_waits_for_is_written_last() {
    let engine = TestEngine::new(100).await;
    let frame = |text: &str| Rc::<[u8]>::from(text.as_bytes());
    for conn in &engine.conns {
        assert!(engine.shard.push_unhurried(conn, frame("ping")));
    }
    assert!(engine.shard.push(&engine.conns[99], frame("message")));
    assert!(engine.shard.flush(2, Duration::MAX));
    let written = |conn: &Rc<Conn>| conn.waiting() == 0;
    assert!(written(&engine.conns[99]) && written(&engine.conns[0]) && !written(&engine.conns[1]));
    engine.write_all();
    assert!(engine.conns.iter().all(written));
}

/// What the call of a back end that publishes to nobody allocates: the channel's name, the text, the publication, and
/// what its counts come through.
const CALL: u64 = 5;
/// What it allocates besides where the channel keeps its messages: what waits for the mailboxes, and what the message and its
/// data are shared by.
const KEPT: u64 = 2;
/// The bytes of a publish until it is in the mailboxes. It is moved several times.
const PUBLISH: usize = 320;

#[test]
fn a_call_that_publishes_one_message_allocates_no_more_than_that() {
    let hub = Arc::new(Hub::new(NodeNumber::random(), 1));
    let mut rule = ChannelRule::of("kept:");
    rule.history.size = 10;
    hub.history().set_rules(&[rule]);
    let mesh = Mesh::new(hub, NodeId(1));
    let publish = |body: &[u8]| {
        let params = Params::parse(body, "the body").unwrap();
        mesh.publish(params.publication().unwrap(), Behind::default())
    };
    let call = |body: &[u8]| {
        let mut call = pin!(async { publish(body).await.await });
        let done = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(done.is_ready());
    };
    let (plain, kept) =
        (br#"{"c":"news","d":"hello","t":"text","i":7}"#, br#"{"c":"kept:news","d":"hello","t":"text","i":7}"#);
    // The first ones make room for what is kept.
    (0..100).for_each(|_| (call(plain), call(kept)).0);
    assert_eq!(allocations(|| (0..10).for_each(|_| call(plain))), 10 * CALL);
    assert_eq!(allocations(|| (0..10).for_each(|_| call(kept))), 10 * (CALL + KEPT));
    let size = size_of_val(&publish(plain));
    assert!(size <= PUBLISH, "{size} bytes");
}

/// What a call of the shipped handler allocates, Lua's own objects included: tables and strings that are new with each
/// message, and on our side the channel's name and the frame. A mean, since LuaJIT compiles while it runs.
const HANDLER: f64 = 8.1;

#[tokio::test]
async fn a_call_of_the_shipped_handler_allocates_little() {
    let engine = TestEngine::new(1).await;
    let folder = tempfile::tempdir().unwrap();
    let entry = folder.path().join("entry.lua");
    fs::copy("lua/entry.websocket.lua", &entry).unwrap();
    current::install(Host {
        shard: engine.shard.clone(),
        mesh: Arc::new(Mesh::new(engine.hub.clone(), NodeId(1))),
        outbound: Arc::new(Outbound::new(&[], i32::MAX)),
        queue: Arc::new(Queue::new(1, 1)),
        timers: Arc::new(Timers::new(1)),
        worker: WorkerId(0),
    });
    let limits = VmLimits { memory: 64 << 20, waiting: 1, ..VmLimits::default() };
    let vm = Vm::new(Arc::new(Program::new(Protocol::Websocket, entry, Vec::new())), &limits).unwrap();
    let conn = &engine.conns[0];
    let call = || {
        let args = HookArgs::message(Kind::Text, br#"{"op":"subscribe","channel":"100001@video"}"#);
        match vm.start(Hook::Message, Some(ConnRef::of(conn)), args, Duration::from_secs(5)) {
            Started::Done(Ok(_)) => engine.write_all(),
            Started::Done(Err(e)) => panic!("{}", e.message),
            Started::Suspended(_) => panic!("it does not wait"),
        }
    };
    (0..2000).for_each(|_| call());
    let mean = allocations(|| (0..1000).for_each(|_| call())) as f64 / 1000.0;
    assert_eq!(engine.shard.channels_of(conn), ["video:100001"]);
    println!("a call of the handler: {mean} allocations");
    assert!(mean <= HANDLER, "{mean} allocations");
    current::uninstall();
}
