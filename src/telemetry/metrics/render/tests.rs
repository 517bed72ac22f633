//! The page of metrics: its form, and what stands on it.

use super::*;
use crate::telemetry::metrics::GaugeFunction;
use std::time::Duration;

#[test]
fn a_watch_is_on_the_pages_it_is_for() {
    let metrics = Metrics::new(Vec::new(), Duration::from_secs(60), 5);
    let watch = |of, name, label, read| GaugeFunction { of, kind: Kind::Gauge, name, help: "Help.", label, read };
    let two = || vec![("a\"b".to_owned(), 1.5), ("c".to_owned(), 2.0)];
    metrics.watch(watch(Of::Engine, "depth", Some("topic"), Box::new(two)));
    metrics.watch(watch(Of::Center, "nodes", None, Box::new(|| vec![(String::new(), 3.0)])));
    metrics.watch(watch(Of::Engine, "nothing", Some("x"), Box::new(Vec::new)));
    let engine = metrics.page(Of::Engine);
    let depth = "# HELP depth Help.\n# TYPE depth gauge\ndepth{topic=\"a\\\"b\"} 1.5\ndepth{topic=\"c\"} 2\n";
    assert!(engine.contains(depth), "{engine}");
    assert!(engine.contains("\nnodes 3\n") && !engine.contains("nothing"), "{engine}");
    let center = metrics.page(Of::Center);
    assert!(center.contains("\nnodes 3\n") && !center.contains("depth"), "{center}");
}

#[test]
fn a_successor_goes_on_from_what_was_counted() {
    let count = |metrics: &Metrics, name, label, n: f64| {
        let read = Box::new(move || vec![("a".to_owned(), n), ("b".to_owned(), 1.0)]);
        metrics.watch(GaugeFunction { of: Of::Engine, kind: Kind::Counter, name, help: "Help.", label, read });
    };
    let first = Metrics::new(Vec::new(), Duration::from_secs(60), 5);
    count(&first, "x_total", Some("kind"), 1.5);
    first.watch(GaugeFunction {
        of: Of::Engine,
        kind: Kind::Gauge,
        name: "level",
        help: "Help.",
        label: None,
        read: Box::new(|| vec![(String::new(), 7.0)]),
    });
    let all = first.counted();
    let has = |name: &str| all.iter().any(|counted| counted.name == name);
    assert!(has("x_total") && has("process_cpu_seconds_total") && !has("level"), "{all:?}");

    let second = Metrics::new(Vec::new(), Duration::from_secs(60), 5);
    all.into_iter().for_each(|counted| second.go_on(counted));
    let read = Box::new(|| vec![("a".to_owned(), 10.0)]);
    let (of, kind, name) = (Of::Engine, Kind::Counter, "x_total");
    second.watch(GaugeFunction { of, kind, name, help: "Help.", label: Some("kind"), read });
    let page = second.page(Of::Engine);
    assert!(page.contains("x_total{kind=\"a\"} 11.5\nx_total{kind=\"b\"} 1\n"), "{page}");
    let third = Metrics::new(Vec::new(), Duration::from_secs(60), 5);
    second.counted().into_iter().for_each(|counted| third.go_on(counted));
    count(&third, "x_total", Some("kind"), 0.5);
    assert!(third.page(Of::Engine).contains("x_total{kind=\"a\"} 12\nx_total{kind=\"b\"} 2\n"));
}

#[test]
fn histograms_and_summaries_go_on_too() {
    let worker = |metrics: &Metrics| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let counts = WorkerCounts {
            id: 0,
            shard: std::sync::Arc::default(),
            servers: vec![std::sync::Arc::default()],
            api: std::sync::Arc::default(),
            runtime: runtime.metrics(),
        };
        counts.servers[0].handlers[0].durations.record(Duration::from_millis(1));
        counts.shard.protocols[0].delays[0].record(Duration::from_millis(1));
        counts.shard.protocols[0].read.add(3);
        metrics.add(counts);
    };
    let servers = || vec![ServerInfo { label: "at".into(), protocol: "websocket", hooks: vec![(0, "on_x")] }];
    let first = Metrics::new(servers(), Duration::from_secs(60), 5);
    worker(&first);
    let second = Metrics::new(servers(), Duration::from_secs(60), 5);
    first.counted().into_iter().for_each(|counted| second.go_on(counted));
    second.go_on_totals(&first.totals());
    worker(&second);
    let page = second.page(Of::Engine);
    for line in [
        "connmix_engine_handler_duration_seconds_bucket{server=\"at\",hook=\"on_x\",le=\"0.001\"} 2\n",
        "connmix_engine_handler_duration_seconds_count{server=\"at\",hook=\"on_x\"} 2\n",
        "connmix_engine_servers_send_duration_seconds_count{protocol=\"websocket\",scenario=\"local\"} 2\n",
        "connmix_engine_servers_read_messages_total{protocol=\"websocket\"} 6\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    let totals = second.totals();
    assert_eq!((totals.read, totals.handlers.iter().sum::<u64>()), (6, 2));
}

#[test]
fn who_stayed_behind_counts_as_closed() {
    let servers = vec![ServerInfo { label: "at".into(), protocol: "websocket", hooks: Vec::new() }];
    let metrics = Metrics::new(servers, Duration::from_secs(60), 5);
    let one = |name: &str, reason: Option<&str>, n: f64| Counted {
        name: name.to_owned(),
        labels: std::iter::once(("server".to_owned(), "at".to_owned()))
            .chain(reason.map(|reason| ("reason".to_owned(), reason.to_owned())))
            .collect(),
        count: Count::Value(n),
    };
    metrics.go_on(one("connmix_engine_connections_opened_total", None, 10.0));
    metrics.go_on(one("connmix_engine_connections_closed_total", Some("peer"), 3.0));
    metrics.go_on(one("connmix_engine_connections_closed_total", Some("shutdown"), 1.0));
    metrics.arrived(&[4]);
    let page = metrics.page(Of::Engine);
    let closed = "connmix_engine_connections_closed_total{server=\"at\",reason=\"shutdown\"} 3\n";
    assert!(page.contains(closed), "{page}");
}
