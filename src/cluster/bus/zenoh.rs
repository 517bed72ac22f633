//! The bus over Zenoh, an existing engine for distributed systems, embedded: so a cluster needs nothing else installed.
//!
//! A center is a Zenoh router, an engine a peer that knows the centers; peers link directly. Each node subscribes to one key of its own and one of all; nothing is declared for a channel.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;
use zenoh::Wait;
use zenoh::config::{Locator, ZenohId};
use zenoh::internal::runtime::{Runtime, RuntimeBuilder, ZRuntime};
use zenoh::key_expr::OwnedKeyExpr;
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::sample::SampleKind;

mod refusals;

use super::{Bus, Event};
use crate::cluster::protocol::{FRAME, MAX_MESSAGE, Run};
use crate::secret::Secret;

/// What all nodes hear.
const ALL: &str = "connmix/all";

/// How a node joins.
pub struct Settings {
    /// This run of the node.
    pub run: Run,
    /// How many processes have been this run before: a successor is on the bus beside the one before it, until that ends.
    pub generation: u32,
    /// Others find their way through it: a center.
    pub router: bool,
    /// `host:port` on which it listens.
    pub listen: Vec<String>,
    /// `host:port` of the centers.
    pub connect: Vec<String>,
    /// Milliseconds of silence after which a link has ended.
    pub lease: u64,
    /// Who does not know it can't link; empty: all can.
    pub secret: Secret,
    /// Links are enciphered.
    pub tls: Option<Tls>,
}

/// The certificates of links between nodes: paths of PEM files.
pub struct Tls {
    /// This node's certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// Who signs the nodes' certificates. With it, both ends of a link must show one that is signed by it.
    pub ca: Option<String>,
}

/// Why a node can't join.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

/// A node's place on the bus.
pub struct ZenohBus {
    session: zenoh::Session,
    all: Publisher<'static>,
    nodes: Mutex<HashMap<Run, Publisher<'static>>>,
    runtime: Runtime,
    /// What links speak: tcp or tls.
    protocol: &'static str,
}

impl Drop for ZenohBus {
    fn drop(&mut self) {
        if let Err(error) = self.session.close().wait().and_then(|()| self.runtime.close().wait()) {
            tracing::debug!(%error, "the bus did not end as it should");
        }
    }
}

/// How Zenoh knows a process of a node.
fn id(run: Run, generation: u32) -> String {
    format!("{:x}", u128::from(generation) << 64 | u128::from(run.0))
}

/// The node of a process that Zenoh knows by this.
fn run_of(id: ZenohId) -> Run {
    let bytes = id.to_le_bytes();
    Run(u64::from_le_bytes(std::array::from_fn(|i| bytes[i])))
}

/// An address with the generation of the process that listens there: `host:port`, or `host:port/N` for the Nth successor.
pub fn address_of(at: &str, generation: u32) -> String {
    if generation == 0 { at.to_owned() } else { format!("{at}/{generation}") }
}

/// The address, and the generation.
fn generation_of(at: &str) -> (&str, u32) {
    at.rsplit_once('/').and_then(|(at, generation)| Some((at, generation.parse().ok()?))).unwrap_or((at, 0))
}

fn key(run: Run) -> String {
    format!("connmix/node/{:016x}", run.0)
}

/// The user that nodes are to each other.
const USER: &str = "connmix";

/// What nodes show each other when they link. None: there is no secret.
fn password(secret: &[u8]) -> Option<String> {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).ok().filter(|_| !secret.is_empty())?;
    let mac = mac.chain_update(b"connmix link").finalize().into_bytes();
    Some(mac.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file of passwords that is nowhere on a disk.
struct Passwords(OwnedFd);

impl Passwords {
    fn new(password: &str) -> std::io::Result<Passwords> {
        // SAFETY: the name is a C string, and nothing else is passed.
        let fd = unsafe { libc::memfd_create(c"passwords".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else has it.
        let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.write_all(format!("{USER}:{password}\n").as_bytes())?;
        Ok(Passwords(file.into()))
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

fn failed(error: impl std::fmt::Display) -> OpenError {
    OpenError(error.to_string())
}

impl ZenohBus {
    /// Joins. What comes goes to `events`.
    pub fn open(settings: &Settings, events: mpsc::Sender<Event>) -> Result<ZenohBus, OpenError> {
        let protocol = if settings.tls.is_some() { "tls" } else { "tcp" };
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let endpoints = |addresses: &[String]| {
            let list: Vec<String> = addresses.iter().map(|address| format!("{protocol}/{address}")).collect();
            serde_json::Value::from(list).to_string()
        };
        let mut config = zenoh::Config::default();
        let lease = settings.lease;
        let mut keys = vec![
            ("mode", format!("\"{}\"", if settings.router { "router" } else { "peer" })),
            ("id", format!("\"{}\"", id(settings.run, settings.generation))),
            ("scouting/multicast/enabled", "false".into()),
            // The mesh says who dials whom, and where (`node/dials`): Zenoh would dial where another one listens, and once.
            ("scouting/gossip/autoconnect", "{router: [], peer: [], client: []}".into()),
            ("listen/endpoints", endpoints(&settings.listen)),
            ("connect/endpoints", endpoints(&settings.connect)),
            ("connect/timeout_ms", "-1".into()),
            ("connect/exit_on_failure", "false".into()),
            ("connect/retry", "{period_init_ms: 200, period_max_ms: 2000, period_increase_factor: 1.5}".into()),
            ("transport/link/tx/lease", lease.to_string()),
            ("transport/link/rx/max_message_size", (MAX_MESSAGE + FRAME).to_string()),
            ("transport/unicast/open_timeout", "3000".into()),
            ("transport/unicast/accept_timeout", "3000".into()),
        ];
        if settings.generation > 0 {
            // The process before still listens there.
            keys.extend([
                ("listen/timeout_ms", "-1".into()),
                ("listen/exit_on_failure", "false".into()),
                ("listen/retry", "{period_init_ms: 20, period_max_ms: 100, period_increase_factor: 1.5}".into()),
            ]);
        }
        if let Some(Tls { cert, key, ca }) = &settings.tls {
            keys.extend([
                ("transport/link/tls/listen_certificate", text(cert)),
                ("transport/link/tls/listen_private_key", text(key)),
                // Nodes are dialled by address, at ports that others tell of: the signature counts, not the name.
                ("transport/link/tls/verify_name_on_connect", "false".into()),
            ]);
            if let Some(ca) = ca {
                keys.extend([
                    ("transport/link/tls/root_ca_certificate", text(ca)),
                    ("transport/link/tls/enable_mtls", "true".into()),
                    ("transport/link/tls/connect_certificate", text(cert)),
                    ("transport/link/tls/connect_private_key", text(key)),
                ]);
            }
        }
        // Zenoh wants the passwords of others in a file; this one is in memory, and gone when it was read.
        let password = password(settings.secret.expose().as_bytes());
        let passwords = match &password {
            Some(password) => Some(Passwords::new(password).map_err(failed)?),
            None => None,
        };
        if let (Some(password), Some(passwords)) = (&password, &passwords) {
            keys.extend([
                ("transport/auth/usrpwd/user", text(USER)),
                ("transport/auth/usrpwd/password", text(password)),
                ("transport/auth/usrpwd/dictionary_file", text(&passwords.path())),
            ]);
        }
        for (name, value) in keys {
            config.insert_json5(name, &value).map_err(|error| OpenError(format!("{name}: {error}")))?;
        }
        let opened = ZRuntime::Application.block_in_place(async {
            let mut runtime = RuntimeBuilder::new(config).build().await?;
            let session = zenoh::session::init(runtime.clone().into()).await?;
            runtime.start().await?;
            Ok::<_, zenoh::Error>((runtime, session))
        });
        let (runtime, session) = opened.map_err(failed)?;
        let hear = |key: String, event: fn(Bytes) -> Event| {
            let events = events.clone();
            let callback = move |sample: zenoh::sample::Sample| {
                let bytes = Bytes::from(sample.payload().to_bytes().into_owned());
                if events.try_send(event(bytes)).is_err() {
                    crate::telemetry::rate_limited::rate_limited!(WARN, "the mesh is overrun", ""; "the mesh can't keep up; some of what came is asked for again");
                }
            };
            let own = OwnedKeyExpr::new(key).map_err(failed)?;
            session.declare_subscriber(own).callback(callback).background().wait().map_err(failed)
        };
        hear(key(settings.run), Event::Frame)?;
        hear(ALL.into(), Event::Hello)?;
        let closed = {
            let events = events.clone();
            // A node that hands over has two, until the first of its processes has ended.
            let links = Mutex::<HashMap<Run, Vec<ZenohId>>>::default();
            move |event: zenoh::session::TransportEvent| {
                let id = *event.transport().zid();
                let run = run_of(id);
                let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
                let ids = links.entry(run).or_default();
                ids.retain(|known| *known != id);
                if event.kind() == SampleKind::Put {
                    ids.push(id);
                } else if ids.is_empty() {
                    links.remove(&run);
                    // If it is lost, silence tells the same a little later.
                    let _ = events.try_send(Event::Closed(run));
                }
            }
        };
        session
            .info()
            .transport_events_listener()
            .history(true)
            .callback(closed)
            .background()
            .wait()
            .map_err(failed)?;
        let all = session
            .declare_publisher(ALL)
            .congestion_control(CongestionControl::Drop)
            .express(true)
            .wait()
            .map_err(failed)?;
        refusals::listen(events);
        Ok(ZenohBus { session, all, nodes: Mutex::default(), runtime, protocol })
    }

    /// Where this node listens, `host:port` each: on a listener of all addresses, those of the machine's interfaces.
    pub fn listens_on(&self) -> Vec<String> {
        let all = [self.runtime.get_locators_noloopback(), self.runtime.get_locators()];
        let some = all.into_iter().find(|locators| !locators.is_empty()).unwrap_or_default();
        some.iter().map(|locator| locator.address().to_string()).collect()
    }

    /// The publisher for a node: made once, since each declaration costs all nodes something.
    fn publisher(&self, to: Run) -> Result<Publisher<'static>, zenoh::Error> {
        let publisher = self.session.declare_publisher(key(to)).congestion_control(CongestionControl::Block);
        publisher.express(true).wait()
    }
}

impl Bus for ZenohBus {
    fn send(&self, to: Run, frame: Vec<u8>) {
        let mine = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
        let sent = mine.map_or_else(|| self.publisher(to), Ok).and_then(|publisher| {
            let sent = publisher.put(frame).wait();
            self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(to, publisher);
            sent
        });
        if let Err(error) = sent {
            tracing::debug!(%error, "a frame could not be sent");
        }
    }

    fn greet(&self, to: Run, frame: Vec<u8>) {
        let put = self.session.put(key(to), frame).congestion_control(CongestionControl::Drop).express(true);
        if let Err(error) = put.wait() {
            tracing::debug!(%error, "a greeting could not be sent");
        }
    }

    fn dial(&self, to: Run, at: &[String]) {
        // All name the same process: the newest, where somebody has not heard of it.
        let at: Vec<(&str, u32)> = at.iter().map(|at| generation_of(at)).collect();
        let generation = at.iter().map(|(_, generation)| *generation).max().unwrap_or_default();
        let Ok(zid) = id(to, generation).parse::<ZenohId>() else { return };
        let locators: Vec<Locator> =
            at.iter().filter_map(|(at, _)| format!("{}/{at}", self.protocol).parse().ok()).collect();
        let runtime = self.runtime.clone();
        // It takes a while where nobody answers. One at a time for each node: Zenoh knows what is under way.
        ZRuntime::Net.spawn(async move { runtime.connect_peer(&zid.into(), &locators).await });
    }

    fn forget(&self, to: Run) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
    }

    fn announce(&self, hello: Vec<u8>) {
        if let Err(error) = self.all.put(hello).wait() {
            tracing::debug!(%error, "a hello could not be sent");
        }
    }
}
