//! The process's figures, put together: which servers there are, and what is read from elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::listeners::Addresses;
use crate::cluster::Mesh;
use crate::cluster::link::Link;
use crate::cluster::members::Shared;
use crate::cluster::protocol::Hello;
use crate::cluster::stats::Traffic;
use crate::config::{Config, Server};
use crate::hub::{Hub, history};
use crate::queue::Queue;
use crate::script::hook::Hook;
use crate::shared;
use crate::telemetry::metrics::{GaugeFunction, Kind, Metrics, Of, ServerInfo};
use crate::telemetry::spans::{Figures, SpanQueue};
use crate::timers::{self, Timers};
use crate::worker::Peers;
use crate::worker::pulse::{Pulse, State};

/// The figures of an engine. Each worker adds its own.
pub(super) fn metrics(
    config: &Config,
    at: &Addresses,
    hub: &Arc<Hub>,
    queue: &Arc<Queue>,
    clients: &[Arc<AtomicUsize>],
    peers: &Arc<Peers>,
    mesh: &Arc<Mesh>,
) -> Metrics {
    let servers = config.servers.iter().zip(&at.servers).map(|(server, at)| ServerInfo {
        label: at.to_string(),
        protocol: server.protocol.name(),
        hooks: Hook::of(server.protocol)
            .iter()
            .map(|(hook, _)| *hook)
            .chain([Hook::Timer])
            .map(|hook| (hook as usize, hook.name()))
            .collect(),
    });
    let metrics = Metrics::new(servers.collect(), config.summary.max_age, config.summary.age_buckets as usize);
    if config.servers.iter().any(Server::has_event_streams) {
        metrics.show_streams();
    }
    let gauge = |of, name, help, read: Box<dyn Fn() -> usize + Send + Sync>| {
        let read = Box::new(move || vec![(String::new(), read() as f64)]);
        metrics.watch(GaugeFunction { of, kind: Kind::Gauge, name, help, label: None, read });
    };
    let count = |clients: &[Arc<AtomicUsize>]| {
        let clients = clients.to_vec();
        Box::new(move || clients.iter().map(|count| count.load(Relaxed)).sum())
    };
    let of_engines = |read: fn(&mut dyn Iterator<Item = &Hello>) -> usize,
                      alone: Box<dyn Fn() -> usize + Send + Sync>| {
        let mesh = mesh.clone();
        let read = move || match mesh.others() {
            Some(others) => read(&mut others.members().iter().filter(|member| member.engine && member.serving)),
            None => alone(),
        };
        Box::new(read)
    };
    let (nodes, of_nodes) = ("connmix_center_registry_engine_nodes", "connmix_center_registry_clients");
    gauge(Of::Center, nodes, "Live engine nodes.", of_engines(|engines| engines.count(), Box::new(|| 1)));
    let sum: fn(&mut dyn Iterator<Item = &Hello>) -> usize =
        |engines| engines.fold(0, |sum, engine| sum.saturating_add(engine.clients as usize));
    gauge(Of::Center, of_nodes, "Clients of all nodes.", of_engines(sum, count(clients)));
    gauge(Of::Engine, "connmix_engine_servers_clients", "Clients of this node.", count(clients));
    if let Some(others) = mesh.others() {
        of_mesh(&metrics, others);
    }
    let (hub, hub_of_history) = (hub.clone(), hub.clone());
    let workers = hub.workers();
    gauge(Of::Engine, "connmix_engine_workers", "Worker threads.", Box::new(move || workers));
    gauge(Of::Engine, "connmix_engine_channels", "Channels that clients are in.", Box::new(move || hub.channels()));
    of_history(&metrics, &hub_of_history);
    of_limits(&metrics, &hub_of_history);
    let by_worker = |kind, name, help, read: fn(&Pulse) -> f64| {
        let peers = peers.clone();
        let read = move || peers.pulses.iter().enumerate().map(|(at, pulse)| (at.to_string(), read(pulse))).collect();
        metrics.watch(GaugeFunction { of: Of::Engine, kind, name, help, label: Some("worker"), read: Box::new(read) });
    };
    by_worker(Kind::Gauge, "connmix_engine_worker_stuck", "1 while a worker is stuck, else 0.", |pulse| {
        f64::from(u8::from(pulse.state() == State::Stuck))
    });
    by_worker(Kind::Counter, "connmix_engine_worker_stuck_total", "How often a worker has become stuck.", |pulse| {
        pulse.times() as f64
    });
    let queue = queue.clone();
    metrics.watch(GaugeFunction {
        of: Of::Engine,
        kind: Kind::Gauge,
        name: "connmix_engine_queue_messages",
        help: "Messages that wait in a topic of the queue.",
        label: Some("topic"),
        read: Box::new(move || queue.waiting().into_iter().map(|(topic, n)| (topic.to_string(), n as f64)).collect()),
    });
    metrics
}

/// The figures of what is kept of channels.
fn of_history(metrics: &Metrics, hub: &Arc<Hub>) {
    let one = |kind, name, help, read: fn(history::Figures) -> f64| {
        let hub = hub.clone();
        let read = Box::new(move || vec![(String::new(), read(hub.history().figures()))]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind, name, help, label: None, read });
    };
    one(Kind::Gauge, "connmix_engine_history_bytes", "Bytes that the messages kept of channels take.", |figures| {
        figures.bytes as f64
    });
    one(Kind::Gauge, "connmix_engine_history_channels", "Channels of which messages are kept.", |figures| {
        figures.channels as f64
    });
    let evicted = "connmix_engine_history_evictions_total";
    let help = "Channels that lost what was kept of them, since there was no room.";
    one(Kind::Counter, evicted, help, |figures| figures.evicted as f64);
}

/// The publishes that were over the limits of their channels.
fn of_limits(metrics: &Metrics, hub: &Arc<Hub>) {
    let counter = |name, help, read: fn((u64, u64)) -> u64| {
        let hub = hub.clone();
        let read = Box::new(move || vec![(String::new(), read(hub.limits().figures()) as f64)]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind: Kind::Counter, name, help, label: None, read });
    };
    let dropped = "connmix_engine_publishes_left_out_total";
    counter(dropped, "Publishes that were over the limits of their channels, and left out.", |(dropped, _)| dropped);
    let merged = "connmix_engine_publishes_merged_total";
    counter(merged, "Publishes that were over the limits of their channels, and added to others.", |(_, merged)| {
        merged
    });
}

/// The figures of what scripts share, and of their timers.
pub(super) fn of_scripts(metrics: &Metrics, shared: &Arc<shared::Shared>, timers: &Arc<Timers>) {
    let of_shared = |name, help, read: fn((usize, usize)) -> usize| {
        let shared = shared.clone();
        let read = Box::new(move || vec![(String::new(), read(shared.holds()) as f64)]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind: Kind::Gauge, name, help, label: None, read });
    };
    of_shared("connmix_engine_shared_bytes", "Bytes that mix.shared holds.", |(bytes, _)| bytes);
    of_shared("connmix_engine_shared_keys", "Keys that mix.shared holds.", |(_, keys)| keys);
    let of_timers = |kind, name, help, read: fn(timers::Figures) -> f64| {
        let timers = timers.clone();
        let read = Box::new(move || vec![(String::new(), read(timers.figures()))]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind, name, help, label: None, read });
    };
    let (set, running) = ("connmix_engine_timers", "connmix_engine_timers_running");
    of_timers(Kind::Gauge, set, "Timers that scripts have set.", |figures| figures.set as f64);
    of_timers(Kind::Gauge, running, "Runs of timers that have begun and not ended.", |figures| figures.running as f64);
    let (runs, skipped) = ("connmix_engine_timer_runs_total", "connmix_engine_timer_skips_total");
    of_timers(Kind::Counter, runs, "Runs of timers that have begun.", |figures| figures.runs as f64);
    let help = "Runs of timers that were left out.";
    of_timers(Kind::Counter, skipped, help, |figures| figures.skipped as f64);
}

/// What became of spans.
pub(super) fn of_spans(metrics: &Metrics, spans: &Arc<SpanQueue>) {
    let spans = spans.clone();
    let read = move || {
        let Figures { exported, rejected, failed, dropped } = &spans.figures;
        let all = [("exported", exported), ("rejected", rejected), ("failed", failed), ("dropped", dropped)];
        all.map(|(result, many)| (result.to_owned(), many.load(Relaxed) as f64)).into()
    };
    metrics.watch(GaugeFunction {
        of: Of::Engine,
        kind: Kind::Counter,
        name: "connmix_engine_spans_total",
        help: "Spans of traces, by what became of them.",
        label: Some("result"),
        read: Box::new(read),
    });
}

/// The figures of a node among others.
fn of_mesh(metrics: &Metrics, others: &Arc<Shared>) {
    let one = |kind, name, help, read: fn(&Shared) -> f64| {
        let others = others.clone();
        let read = Box::new(move || vec![(String::new(), read(&others))]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind, name, help, label: None, read });
    };
    one(
        Kind::Gauge,
        "connmix_engine_mesh_nodes",
        "Nodes of the mesh that this node knows, itself included.",
        |others| others.members().len() as f64,
    );
    one(Kind::Gauge, "connmix_engine_mesh_suspects", "Nodes that do not answer, and are not waited for.", |others| {
        others.all_links().iter().filter(|link| link.is_suspect()).count() as f64
    });
    one(
        Kind::Gauge,
        "connmix_engine_mesh_missed",
        "Engines that a center knows and this node has no link to.",
        |others| others.missed() as f64,
    );
    one(Kind::Gauge, "connmix_engine_mesh_waiting_bytes", "Bytes on their way to other nodes.", |others| {
        let holds = |link: &Arc<Link>| link.holds().0 + link.holds().1;
        others.all_links().iter().map(holds).sum::<usize>() as f64
    });
    let (replies, seconds) = ("connmix_engine_mesh_replies_total", "connmix_engine_mesh_reply_seconds_total");
    one(Kind::Counter, replies, "Replies of other nodes to what was published or sent.", |others| {
        others.stats.replies().0
    });
    one(Kind::Counter, seconds, "The time from a publish to each of these replies, summed up.", |others| {
        others.stats.replies().1
    });
    one(
        Kind::Counter,
        "connmix_engine_mesh_unanswered_total",
        "Requests that a node did not answer in time.",
        |others| others.stats.losses().0,
    );
    one(
        Kind::Counter,
        "connmix_engine_mesh_restarts_total",
        "How often a node was told all anew after a loss.",
        |others| others.stats.losses().1,
    );
    one(Kind::Counter, "connmix_engine_mesh_refused_total", "Links of other nodes that were refused.", |others| {
        others.stats.refusals() as f64
    });
    let two = |kind, name, help, label, read: fn(&Shared) -> [(&'static str, f64); 2]| {
        let others = others.clone();
        let read = move || read(&others).into_iter().map(|(label, value)| (label.to_owned(), value)).collect();
        metrics.watch(GaugeFunction { of: Of::Engine, kind, name, help, label: Some(label), read: Box::new(read) });
    };
    two(Kind::Gauge, "connmix_engine_mesh_channels", "Channels that nodes tell each other of.", "of", |others| {
        [("own", others.own.len() as f64), ("others", others.others.len() as f64)]
    });
    let messages = "connmix_engine_mesh_messages_total";
    two(Kind::Counter, messages, "Messages to and from other nodes.", "direction", |others| traffic(others, 1));
    let bytes = "connmix_engine_mesh_bytes_total";
    two(Kind::Counter, bytes, "Bytes of frames to and from other nodes.", "direction", |others| traffic(others, 2));
}

/// Both ways, of frames, messages and bytes that one.
fn traffic(others: &Shared, which: usize) -> [(&'static str, f64); 2] {
    let of = |traffic: &Traffic| traffic.get()[which] as f64;
    [("sent", of(&others.stats.sent)), ("received", of(&others.stats.received))]
}
