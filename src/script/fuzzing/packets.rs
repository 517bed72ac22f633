//! What holds of any bytes for the shipped protocols of socket servers.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

use crate::cluster::Mesh;
use crate::config::{Protocol, load};
use crate::hub::Hub;
use crate::ids::{NodeId, NodeNumber, WorkerId};
use crate::message::CloseReason;
use crate::outbound::Outbound;
use crate::queue::Queue;
use crate::script::current::{self, ConnRef, Host};
use crate::script::hooks::HookArgs;
use crate::script::program::Program;
use crate::script::vm::{Hook, Returned, Started, Vm, VmLimits};
use crate::shard::conn::Conn;
use crate::shard::framing::Framing;
use crate::shard::server_context::ServerContext;
use crate::shard::transport::Transport;
use crate::shard::{Arrival, Shard};
use crate::timers::Timers;

/// The shipped protocols.
const MODULES: [&str; 3] = ["text", "jsonrpc", "websocket"];
/// The largest packet.
const LIMIT: usize = 4096;

/// A worker's part of socket servers, one for each of [`MODULES`].
struct Servers {
    runtime: Runtime,
    shard: Rc<Shard>,
    served: Rc<ServerContext>,
    vms: Vec<Rc<Vm>>,
}

thread_local! {
    static SERVERS: Servers = Servers::new();
}

/// Which protocol, in which pieces, and what a client sends: no hook of the shipped scripts fails.
pub fn packets(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    SERVERS.with(|servers| {
        let vm = &servers.vms[usize::from(first) % MODULES.len()];
        let conn = servers.connect();
        let mut packets = Packets { conn: &conn, vm, wanted: 0 };
        let pieces = bytes.chunks(usize::from(first >> 2) + 1);
        let _ = pieces.map(|piece| packets.take(piece)).find(|goes_on| !goes_on);
        let reason = CloseReason::Peer(None);
        packets.run(Hook::Close, HookArgs::close(ConnRef::of(&conn), &reason));
        conn.close(reason);
        servers.shard.flush(usize::MAX, Duration::MAX);
        servers.shard.remove(&conn);
    });
}

impl Servers {
    fn new() -> Servers {
        let made = || -> Result<Servers, String> {
            let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            let hub = Arc::new(Hub::new(NodeNumber::MIN, 1));
            let shard = Rc::new(Shard::new(WorkerId(0), hub.clone()));
            let mesh = Arc::new(Mesh::new(hub, NodeId(1)));
            let (outbound, queue) = (Arc::new(Outbound::new(&[], i32::MAX)), Arc::new(Queue::new(10, 10)));
            let (timers, worker) = (Arc::new(Timers::new(1)), WorkerId(0));
            current::install(Host { shard: shard.clone(), mesh, outbound, queue, timers, worker });
            let mut server = load::defaults().servers.remove(0);
            server.protocol = Protocol::Socket;
            let served = Rc::new(ServerContext::new(0, &server, Arc::default()));
            let entry = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/entry.socket.lua");
            let vm = |module: &&str| {
                let options = vec![("module".to_owned(), (*module).to_owned())];
                let program = Arc::new(Program::new(Protocol::Socket, entry.clone(), options));
                Vm::new(program, &VmLimits::default()).map_err(|e| e.to_string())
            };
            let vms = MODULES.iter().map(vm).collect::<Result<_, _>>()?;
            Ok(Servers { runtime, shard, served, vms })
        };
        made().unwrap_or_else(|e| panic!("{e}"))
    }

    /// A client whose other end nobody reads.
    fn connect(&self) -> Rc<Conn> {
        let _runtime = self.runtime.enter();
        let adopt = || {
            let (ours, _) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Transport::adopt(TcpStream::from(OwnedFd::from(ours)))
        };
        let transport = adopt().unwrap_or_else(|e: std::io::Error| panic!("{e}"));
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let conn =
            self.shard.insert(Arrival { served: self.served.clone(), transport, remote, framing: Framing::Script });
        self.shard.open(&conn, None);
        conn
    }
}

/// The packets of a client, as `worker/socket` finds them.
struct Packets<'a> {
    conn: &'a Conn,
    vm: &'a Rc<Vm>,
    wanted: usize,
}

impl Packets<'_> {
    /// More bytes have come. False: the connection ends.
    fn take(&mut self, piece: &[u8]) -> bool {
        let Some(received) = self.conn.received() else { panic!("not of a socket server") };
        received.borrow_mut().extend_from_slice(piece);
        loop {
            let here = received.borrow().len();
            if self.conn.is_closed() {
                return false;
            }
            if self.wanted == 0 {
                if here == 0 {
                    return true;
                }
                let returned = self.run(Hook::Input, HookArgs::input(ConnRef::of(self.conn)));
                let Returned::Length(length) = returned else { panic!("{returned:?}") };
                match usize::try_from(length) {
                    Ok(0) => return here < LIMIT,
                    Ok(length) if length <= LIMIT => self.wanted = length,
                    _ => return false,
                }
            }
            if here < self.wanted {
                return true;
            }
            let packet = received.borrow_mut().split_to(self.wanted);
            self.wanted = 0;
            self.run(Hook::Message, HookArgs::bytes(&packet));
        }
    }

    fn run(&self, hook: Hook, args: HookArgs<'_>) -> Returned {
        match self.vm.start(hook, Some(ConnRef::of(self.conn)), args, Duration::from_secs(60)) {
            Started::Done(Ok(returned)) => returned,
            Started::Done(Err(failure)) => panic!("{}: {failure}", hook.name()),
            Started::Suspended(_) => panic!("{} waits", hook.name()),
        }
    }
}
