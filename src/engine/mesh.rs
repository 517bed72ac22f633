//! This node among others: what it is to them, from the configuration, and its place on the bus.

#[cfg(feature = "cluster")]
use std::net::ToSocketAddrs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

use super::error::StartError;
use super::listeners::Addresses;
use crate::cluster::Mesh;
use crate::cluster::bus::memory::Network;
use crate::cluster::bus::{Bus, Event, WAITING};
use crate::cluster::clients::{LocalClients, PublishOnce};
use crate::cluster::drive::Driver;
use crate::cluster::members::Shared;
use crate::cluster::node::{HELLO, Node, Settings};
use crate::cluster::protocol::Run;
use crate::config::{Config, file};
use crate::hub::Hub;
use crate::ids::NodeNumber;

/// Where a center is looked for unless the configuration says it.
pub(super) const CENTER: &str = "localhost:6786";
/// Whether this program can be one node of several.
pub const HAS_CLUSTER: bool = cfg!(feature = "cluster");
/// What to do if it can't.
pub const WITHOUT_CLUSTER: &str =
    "this connmix was built without the cluster; build it with: cargo build --release --features cluster";
/// The longest file of a secret, in bytes.
const SECRET: u64 = 4096;

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
pub(super) fn join(parts: Parts<'_>, shared: Arc<Shared>, link: &Link) -> Result<Driver, StartError> {
    let Parts { config, addresses, hub, mesh, clients, once } = parts;
    let run = Run(mesh.node().0);
    let secret = secret(config)?;
    if secret.is_empty() && matches!(link, Link::Network) && listens_to_others(config) {
        tracing::warn!(
            "everybody who reaches {} can join the cluster: there is no cluster.secret",
            if config.role.center { config.registry.addr } else { config.mesh_point.addr }
        );
    }
    let (events, brought) = mpsc::channel::<Event>(WAITING);
    let (bus, listens_on): (Arc<dyn Bus>, Vec<String>) = match link {
        Link::Memory(network) => (Arc::new(network.join(run, events)), Vec::new()),
        Link::Network => network(config, run, &secret, events)?,
    };
    let hello = match link {
        Link::Memory(network) => network.hello().unwrap_or(HELLO),
        Link::Network => HELLO,
    };
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let settings = Settings {
        run,
        secret,
        nonce: uuid::Uuid::new_v4().into_bytes(),
        engine: config.role.engine,
        center: config.role.center,
        centers: if config.role.center { Vec::new() } else { centers(config) },
        number: hub.node().get(),
        started,
        api: config.cluster.advertise.clone().unwrap_or_else(|| own_api(config, addresses)),
        reached: config.cluster.advertise_mesh.clone().map_or(listens_on, |at| vec![at]),
        hello,
        reply_timeout: millis(config.cluster.reply_timeout),
        leave: millis(config.cluster.leave),
    };
    let (of_node, local) = (shared.clone(), LocalClients::new(mesh.clone(), clients, once));
    let hub = hub.clone();
    let renumbered = move |number| NodeNumber::new(number).into_iter().for_each(|number| hub.set_node(number));
    let make = move |now| Node::new(settings, of_node, local, now);
    Driver::start(make, shared, bus, brought, renumbered)
        .map_err(|error| StartError::System(format!("the mesh's thread could not start: {error}")))
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
    let listen = if config.role.center { &config.registry } else { &config.mesh_point };
    !listen.addr.ip().to_canonical().is_loopback()
}

fn secret(config: &Config) -> Result<Vec<u8>, StartError> {
    let (text, name) = (&config.cluster.secret, &config.cluster.secret_file);
    match (text.is_empty(), name.is_empty()) {
        (_, true) => Ok(text.clone().into_bytes()),
        (false, false) => {
            Err(StartError::System("cluster.secret and cluster.secretFile: only one may be given".into()))
        }
        (true, false) => {
            let bytes = file::read(name.as_ref(), SECRET)
                .map_err(|error| StartError::System(format!("cluster.secretFile: {name} cannot be read: {error}")))?;
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
            match line.is_empty() {
                true => Err(StartError::System(format!("cluster.secretFile: the first line of {name} is empty"))),
                false => Ok(line.to_vec()),
            }
        }
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
fn network(
    config: &Config,
    run: Run,
    secret: &[u8],
    events: mpsc::Sender<Event>,
) -> Result<(Arc<dyn Bus>, Vec<String>), StartError> {
    use crate::cluster::bus::zenoh::{Settings, Tls, ZenohBus};
    let listen = if config.role.center { &config.registry } else { &config.mesh_point };
    let (cert, key, ca) = (&config.cluster.tls_cert, &config.cluster.tls_key, &config.cluster.tls_ca);
    let tls = match (cert.is_empty(), key.is_empty()) {
        (true, true) if ca.is_empty() => None,
        (false, false) => Some(Tls { cert: cert.clone(), key: key.clone(), ca: (!ca.is_empty()).then(|| ca.clone()) }),
        _ => return Err(StartError::System("cluster.tls: cert and key are needed together".into())),
    };
    let settings = Settings {
        run,
        router: config.role.center,
        listen: vec![listen.addr.to_string()],
        connect: if config.role.center { other_centers(config) } else { centers(config) },
        lease: u64::try_from(config.cluster.leave.as_millis()).unwrap_or(u64::MAX),
        secret: secret.to_vec(),
        tls,
    };
    let bus = ZenohBus::open(&settings, events)
        .map_err(|error| StartError::System(format!("{}: the cluster can't be joined: {error}", listen.key)))?;
    let listens_on = bus.listens_on();
    Ok((Arc::new(bus), listens_on))
}

#[cfg(not(feature = "cluster"))]
fn network(_: &Config, _: Run, _: &[u8], _: mpsc::Sender<Event>) -> Result<(Arc<dyn Bus>, Vec<String>), StartError> {
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
