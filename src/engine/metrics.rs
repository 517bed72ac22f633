//! The process's figures, put together: which servers there are, and what is read from elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::listeners::Addresses;
use crate::cluster::Mesh;
use crate::cluster::protocol::Hello;
use crate::config::Config;
use crate::hub::Hub;
use crate::queue::Queue;
use crate::script::hook::Hook;
use crate::telemetry::metrics::{Kind, Metrics, Of, ServerInfo, Watch};
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
        hooks: Hook::of(server.protocol).iter().map(|(hook, _)| (*hook as usize, hook.name())).collect(),
    });
    let metrics = Metrics::new(servers.collect(), config.summary.max_age, config.summary.age_buckets as usize);
    let gauge = |of, name, help, read: Box<dyn Fn() -> usize + Send + Sync>| {
        let read = Box::new(move || vec![(String::new(), read() as f64)]);
        metrics.watch(Watch { of, kind: Kind::Gauge, name, help, label: None, read });
    };
    let count = |clients: &[Arc<AtomicUsize>]| {
        let clients = clients.to_vec();
        Box::new(move || clients.iter().map(|count| count.load(Relaxed)).sum())
    };
    let of_engines = |read: fn(&mut dyn Iterator<Item = &Hello>) -> usize, alone: Box<dyn Fn() -> usize + Send + Sync>| {
        let mesh = mesh.clone();
        let read = move || match mesh.others() {
            Some(others) => read(&mut others.members().iter().filter(|member| member.engine && member.serving)),
            None => alone(),
        };
        Box::new(read)
    };
    let (nodes, of_nodes) = ("connmix_center_registry_engine_nodes", "connmix_center_registry_clients");
    gauge(Of::Center, nodes, "Live engine nodes.", of_engines(|engines| engines.count(), Box::new(|| 1)));
    let sum: fn(&mut dyn Iterator<Item = &Hello>) -> usize = |engines| engines.map(|engine| engine.clients as usize).sum();
    gauge(Of::Center, of_nodes, "Clients of all nodes.", of_engines(sum, count(clients)));
    gauge(Of::Engine, "connmix_engine_servers_clients", "Clients of this node.", count(clients));
    let hub = hub.clone();
    let workers = hub.workers();
    gauge(Of::Engine, "connmix_engine_workers", "Worker threads.", Box::new(move || workers));
    gauge(Of::Engine, "connmix_engine_channels", "Channels that clients are in.", Box::new(move || hub.channels()));
    let by_worker = |kind, name, help, read: fn(&Pulse) -> f64| {
        let peers = peers.clone();
        let read = move || peers.pulses.iter().enumerate().map(|(at, pulse)| (at.to_string(), read(pulse))).collect();
        metrics.watch(Watch { of: Of::Engine, kind, name, help, label: Some("worker"), read: Box::new(read) });
    };
    by_worker(Kind::Gauge, "connmix_engine_worker_stuck", "1 while a worker is stuck, else 0.", |pulse| {
        f64::from(u8::from(pulse.state() == State::Stuck))
    });
    by_worker(Kind::Counter, "connmix_engine_worker_stuck_total", "How often a worker has become stuck.", |pulse| {
        pulse.times() as f64
    });
    let queue = queue.clone();
    metrics.watch(Watch {
        of: Of::Engine,
        kind: Kind::Gauge,
        name: "connmix_engine_queue_messages",
        help: "Messages that wait in a topic of the queue.",
        label: Some("topic"),
        read: Box::new(move || queue.waiting().into_iter().map(|(topic, n)| (topic.to_string(), n as f64)).collect()),
    });
    metrics
}
