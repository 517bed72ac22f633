//! This node among others: what it is to them, from the configuration, and its place on the bus.

#[cfg(feature = "cluster")]
use std::net::ToSocketAddrs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

use super::error::StartError;
use super::listeners::Addresses;
use super::member::Member;
use crate::cluster::Mesh;
use crate::cluster::bus::memory::Network;
use crate::cluster::bus::{Bus, Event, WAITING};
use crate::cluster::clients::{LocalClients, PublishOnce};
use crate::cluster::drive::{Driver, Successor};
use crate::cluster::members::Shared;
use crate::cluster::node::{HELLO, Node, Reach, Settings};
use crate::cluster::protocol::Run;
use crate::config::{Config, access};
use crate::handover::Damaged;
use crate::hub::Hub;
use crate::ids::NodeNumber;
use crate::secret::Secret;

/// Where a center is looked for unless the configuration says it.
pub(super) const CENTER: &str = "localhost:6786";
/// Whether this program can be one node of several.
pub const HAS_CLUSTER: bool = cfg!(feature = "cluster");
/// What to do if it can't.
pub const WITHOUT_CLUSTER: &str =
    "this connmix was built without the cluster; build it with: cargo build --release --features cluster";
/// What carries frames between nodes.
#[derive(Clone, Default)]
pub enum Link {
    /// The network.
    #[default]
    Network,
    /// Within this process: for tests with several nodes.
    Memory(Arc<Network>),
}

/// What of a node is there before its mesh is.
pub(super) struct Parts<'a> {
    pub config: &'a Config,
    pub addresses: &'a Addresses,
    pub hub: &'a Arc<Hub>,
    pub mesh: &'a Arc<Mesh>,
    pub clients: Vec<Arc<AtomicUsize>>,
    pub once: Arc<dyn PublishOnce>,
}

/// Joins: from now on there are other nodes.
pub(super) fn join(parts: Parts<'_>, shared: Arc<Shared>, link: &Link) -> Result<(Driver, Member), StartError> {
    let Parts { config, addresses, hub, mesh, clients, once } = parts;
    let run = Run(mesh.node().0);
    let secret = secret(config)?;
    if secret.is_empty() && matches!(link, Link::Network) && listens_to_others(config) {
        tracing::warn!(
            "everybody who reaches {} can join the cluster: there is no cluster.secret",
            config.listen().addr
        );
    }
    let (events, brought) = mpsc::channel::<Event>(WAITING);
    let (bus, listens_on): (Arc<dyn Bus>, Vec<String>) = match link {
        Link::Memory(network) => (Arc::new(network.join(run, events)), Vec::new()),
        Link::Network => network(config, (run, 0), &secret, config.listen().addr, events)?,
    };
    let member = Member::new(run, config, &secret, listens_on);
    let hello = match link {
        Link::Memory(network) => network.hello().unwrap_or(HELLO),
        Link::Network => HELLO,
    };
    let settings = settings(config, addresses, hub, &member, hello)?;
    let (of_node, local) = (shared.clone(), LocalClients::new(mesh.clone(), clients, once));
    let make = move |now| Node::new(settings, of_node, local, now);
    let driver = Driver::start(make, shared, bus, brought, renumbered(hub)).map_err(no_thread)?;
    Ok((driver, member))
}

fn settings(
    config: &Config,
    addresses: &Addresses,
    hub: &Hub,
    member: &Member,
    hello: u64,
) -> Result<Settings, StartError> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let reached = config.cluster.advertise_mesh.clone().map_or_else(|| member.listens_on.clone(), |at| vec![at]);
    Ok(Settings {
        run: member.run,
        secret: secret(config)?,
        nonce: uuid::Uuid::new_v4().into_bytes(),
        engine: config.role.engine,
        center: config.role.center,
        centers: if config.role.center { Vec::new() } else { centers(config) },
        number: hub.node().get(),
        started,
        api: config.cluster.advertise.clone().unwrap_or_else(|| own_api(config, addresses)),
        reached: reached.iter().map(|at| with_generation(at, member.generation)).collect(),
        hello,
        reply_timeout: millis(config.cluster.reply_timeout),
        leave: millis(config.cluster.leave),
    })
}

fn renumbered(hub: &Arc<Hub>) -> impl Fn(u16) + Send + 'static {
    let hub = hub.clone();
    move |number| NodeNumber::new(number).into_iter().for_each(|number| hub.set_node(number))
}

fn no_thread(error: std::io::Error) -> StartError {
    StartError::System(format!("the mesh's thread could not start: {error}"))
}

/// The mesh of a successor process, until it is the node.
pub(super) struct Following {
    successor: Successor<LocalClients>,
    member: Member,
    settings: Settings,
    shared: Arc<Shared>,
    local: LocalClients,
}

/// Joins beside the process before, and reaches the others within that time.
pub(super) fn follow(
    parts: Parts<'_>,
    shared: Arc<Shared>,
    before: &Member,
    (others, within): (Vec<Reach>, Duration),
) -> Result<Following, StartError> {
    let Parts { config, addresses, hub, mesh, clients, once } = parts;
    let member = before.next();
    let mut listen = config.listen().addr;
    if listen.port() == 0 {
        let port = |at: &String| at.rsplit_once(':')?.1.parse().ok();
        member.listens_on.iter().find_map(port).into_iter().for_each(|port| listen.set_port(port));
    }
    let (events, brought) = mpsc::channel::<Event>(WAITING);
    let (bus, _) = network(config, (member.run, member.generation), &secret(config)?, listen, events)?;
    let settings = settings(config, addresses, hub, &member, HELLO)?;
    let local = LocalClients::new(mesh.clone(), clients, once);
    let wanted = (member.run, others, within);
    let successor = Successor::start(wanted, shared.clone(), (bus, brought), renumbered(hub)).map_err(no_thread)?;
    Ok(Following { successor, member, settings, shared, local })
}

impl Following {
    /// The nodes that are not reached; waits until all are, or the time is over.
    pub(super) fn missing(&self) -> Vec<Run> {
        self.successor.missing()
    }

    /// The node, where the process before has left it. It does nothing yet.
    pub(super) fn restore(self, parts: &[Vec<u8>]) -> Result<Restored, Damaged> {
        let Following { successor, member, settings, shared, local } = self;
        let node = Node::restore(settings, shared, local, parts, successor.now())?;
        Ok(Restored { successor, member, node })
    }
}

/// The node of a successor process.
pub(super) struct Restored {
    successor: Successor<LocalClients>,
    member: Member,
    node: Node<LocalClients>,
}

impl Restored {
    /// It goes on.
    pub(super) fn begin(self) -> (Driver, Member) {
        (self.successor.begin(self.node), self.member)
    }
}

/// Whether a process with this configuration could be the successor of a member; None: of a process by itself.
pub(super) fn fits(before: Option<&Member>, config: &Config) -> Result<(), String> {
    match (before, config.is_of_mesh()) {
        (None, false) => Ok(()),
        (Some(before), true) => before.fits(config, &secret(config).map_err(|e| e.to_string())?),
        (None, true) => Err("cluster.engine: memory -> mesh: that needs a restart".to_owned()),
        (Some(_), false) => Err("cluster.engine: mesh -> memory: that needs a restart".to_owned()),
    }
}

fn centers(config: &Config) -> Vec<String> {
    if config.centers.is_empty() { vec![CENTER.to_owned()] } else { config.centers.clone() }
}

/// The centers that a center links to: those of the list without itself, so that all centers can have the same list. A name
/// that leads to several addresses, one of which is its own, stands for the others.
#[cfg(feature = "cluster")]
fn other_centers(config: &Config) -> Vec<String> {
    let is_own = |at: &SocketAddr| {
        let own = config.registry.addr;
        at.port() == own.port()
            && if own.ip().is_unspecified() { is_of_this_machine(at.ip()) } else { at.ip() == own.ip() }
    };
    let others = |center: &String| {
        if config.cluster.advertise_mesh.as_ref() == Some(center) {
            return Vec::new();
        }
        // A name that can't be resolved now may be later.
        let at: Vec<SocketAddr> = center.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        match at.iter().any(is_own) {
            true => at.iter().filter(|at| !is_own(at)).map(ToString::to_string).collect(),
            false => vec![center.clone()],
        }
    };
    config.centers.iter().flat_map(others).collect()
}

/// Whether that is an address of this machine: others can't be bound.
#[cfg(feature = "cluster")]
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether others than this machine reach the ports of the cluster.
fn listens_to_others(config: &Config) -> bool {
    !config.listen().addr.ip().to_canonical().is_loopback()
}

fn secret(config: &Config) -> Result<Secret, StartError> {
    let (secret, name) = (&config.cluster.secret, &config.cluster.secret_file);
    match (secret.is_empty(), name.is_empty()) {
        (_, true) => Ok(secret.clone()),
        (false, false) => {
            Err(StartError::System("cluster.secret and cluster.secretFile: only one may be given".into()))
        }
        (true, false) => access::read(name).map_err(|error| StartError::System(format!("cluster.secretFile: {error}"))),
    }
}

/// The API as others reach it where nothing is advertised: the address that this machine has towards the center.
fn own_api(config: &Config, addresses: &Addresses) -> String {
    let api = if config.role.engine { addresses.api } else { addresses.center };
    let ip = match api.ip() {
        ip if ip.is_unspecified() => own_address(centers(config).first()),
        ip => ip,
    };
    SocketAddr::new(ip, api.port()).to_string()
}

/// The address that packets to there would have as their source. None is sent.
fn own_address(center: Option<&String>) -> IpAddr {
    let towards = |to: &str| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
    };
    // An address of documentation (RFC 5737) stands for any other machine.
    let found = center.and_then(|center| towards(center)).or_else(|| towards("192.0.2.1:9"));
    found.unwrap_or(IpAddr::from(Ipv4Addr::LOCALHOST))
}

#[cfg(feature = "cluster")]
fn with_generation(at: &str, generation: u32) -> String {
    crate::cluster::bus::zenoh::address_of(at, generation)
}

#[cfg(not(feature = "cluster"))]
fn with_generation(at: &str, _: u32) -> String {
    at.to_owned()
}

#[cfg(feature = "cluster")]
fn network(
    config: &Config,
    (run, generation): (Run, u32),
    secret: &Secret,
    listen: SocketAddr,
    events: mpsc::Sender<Event>,
) -> Result<(Arc<dyn Bus>, Vec<String>), StartError> {
    use crate::cluster::bus::zenoh::{Settings, Tls, ZenohBus};
    let (cert, key, ca) = (&config.cluster.tls_cert, &config.cluster.tls_key, &config.cluster.tls_ca);
    let tls = match (cert.is_empty(), key.is_empty()) {
        (true, true) if ca.is_empty() => None,
        (false, false) => Some(Tls { cert: cert.clone(), key: key.clone(), ca: (!ca.is_empty()).then(|| ca.clone()) }),
        _ => return Err(StartError::System("cluster.tls: cert and key are needed together".into())),
    };
    let settings = Settings {
        run,
        generation,
        router: config.role.center,
        listen: vec![listen.to_string()],
        connect: if config.role.center { other_centers(config) } else { centers(config) },
        lease: u64::try_from(config.cluster.leave.as_millis()).unwrap_or(u64::MAX),
        secret: secret.clone(),
        tls,
    };
    let bus = ZenohBus::open(&settings, events).map_err(|error| {
        StartError::System(format!("{}: the cluster can't be joined: {error}", config.listen().key))
    })?;
    let listens_on = bus.listens_on();
    Ok((Arc::new(bus), listens_on))
}

#[cfg(not(feature = "cluster"))]
fn network(
    _: &Config,
    _: (Run, u32),
    _: &Secret,
    _: SocketAddr,
    _: mpsc::Sender<Event>,
) -> Result<(Arc<dyn Bus>, Vec<String>), StartError> {
    Err(StartError::System(WITHOUT_CLUSTER.into()))
}

#[cfg(all(test, feature = "cluster"))]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn a_center_does_not_link_to_itself() {
        let mut config = load::defaults();
        let others = |config: &Config, listed: &[&str]| {
            let mut config = config.clone();
            config.centers = listed.iter().map(|&center| center.to_owned()).collect();
            other_centers(&config)
        };
        config.registry.addr = ([0, 0, 0, 0], 6786).into();
        let same = ["127.0.0.1:6786", "192.0.2.1:6786", "127.0.0.1:7786"];
        assert_eq!(others(&config, &same), ["192.0.2.1:6786", "127.0.0.1:7786"]);
        // All addresses of the name, whatever there are.
        assert_eq!(others(&config, &["localhost:6786"]), Vec::<String>::new());
        config.registry.addr = ([127, 0, 0, 1], 6786).into();
        assert_eq!(others(&config, &["127.0.0.1:6786", "127.0.0.2:6786"]), ["127.0.0.2:6786"]);
        config.cluster.advertise_mesh = Some("center-1.invalid:6786".into());
        let listed = ["center-1.invalid:6786", "center-2.invalid:6786"];
        assert_eq!(others(&config, &listed), ["center-2.invalid:6786"]);
    }
}
