//! How this node is, for those who watch it: put together from what its parts know.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::listeners::Addresses;
use crate::cluster::Mesh;
use crate::config::Config;
use crate::hub::{Hub, NodeFigures, ScriptFigures, ServerFigures};
use crate::script::program::{Program, shown};
use crate::telemetry::metrics::{Metrics, Totals};

/// The versions of all scripts, by server, as their reloads tell.
pub(super) struct Scripts(Mutex<Vec<ScriptFigures>>);

impl Scripts {
    /// Those that run at the start.
    pub(super) fn new(programs: &[Arc<Program>]) -> Scripts {
        let first = |program: &Arc<Program>| ScriptFigures {
            entry: shown(&program.entry),
            version: 1,
            since: now(),
            error: String::new(),
        };
        Scripts(Mutex::new(programs.iter().map(first).collect()))
    }

    /// Another version runs.
    pub(super) fn taken(&self, server: usize, program: &Program) {
        if let Some(script) = self.lock().get_mut(server) {
            let version = script.version + 1;
            *script = ScriptFigures { entry: shown(&program.entry), version, since: now(), error: String::new() };
        }
    }

    /// Another version was not taken up.
    pub(super) fn refused(&self, server: usize, why: &str) {
        if let Some(script) = self.lock().get_mut(server) {
            script.error = why.to_owned();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ScriptFigures>> {
        // Nothing that holds it can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a node is asked for its figures.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) addresses: Addresses,
    pub(super) hub: Arc<Hub>,
    pub(super) mesh: Arc<Mesh>,
    /// Connections of each server.
    pub(super) clients: Vec<Arc<AtomicUsize>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) scripts: Arc<Scripts>,
}

/// Lets the node answer how it is.
pub(super) fn tell(parts: Parts) {
    let Parts { config, addresses, hub, mesh, clients, metrics, scripts } = parts;
    let (node, started) = (mesh.node(), millis(mesh.started()));
    let role = config.role;
    let api = if role.engine { addresses.api } else { addresses.center };
    // In a cluster, the node's own hello tells how others reach it.
    let (alone, others) = (api.to_string(), mesh.others().cloned());
    // Its gauges hold the mesh, which holds this.
    let metrics = Arc::downgrade(&metrics);
    let figures = move || {
        let totals = metrics.upgrade().map_or_else(Totals::default, |metrics| metrics.totals());
        let scripts = scripts.lock();
        let server = |at: usize| {
            let configured = &config.servers[at];
            ServerFigures {
                address: addresses.servers.get(at).map_or_else(String::new, ToString::to_string),
                protocol: configured.protocol.name().to_owned(),
                path: configured.option("path").unwrap_or_default().to_owned(),
                tls: !configured.tls.cert.is_empty(),
                clients: clients.get(at).map_or(0, |count| count.load(Relaxed) as u64),
                script: scripts.get(at).cloned().unwrap_or_default(),
            }
        };
        let members = others.as_ref().map(|others| others.members());
        let own = members.iter().flat_map(|members| members.iter()).find(|member| member.run.0 == node.0);
        let mut figures = NodeFigures {
            node: node.to_string(),
            api: own.map_or_else(|| alone.clone(), |member| member.api.clone()),
            engine: role.engine,
            center: role.center,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now(),
            started,
            clients: clients.iter().map(|count| count.load(Relaxed) as u64).sum(),
            channels: hub.channels() as u64,
            subscriptions: totals.subscriptions,
            read: totals.read,
            sent: totals.sent,
            delivered: totals.delivered,
            dropped: totals.dropped,
            published: totals.published,
            errors: totals.errors,
            handlers: totals.handlers.to_vec(),
            handlers_micros: totals.handlers_nanos / 1000,
            waiting: totals.waiting,
            memory: totals.memory,
            lua: totals.lua,
            cpu_micros: totals.cpu_micros,
            workers: hub.workers() as u64,
            stuck: hub.stuck().count() as u64,
            servers: (0..config.servers.len()).map(server).collect(),
        };
        figures.bound();
        figures
    };
    mesh.tell_figures(figures);
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn now() -> u64 {
    millis(SystemTime::now())
}
