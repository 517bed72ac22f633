//! The page itself: every metric with its name, its help and where its values come from. `docs/metrics.md` is its
//! table.

use super::super::log::Output;
use super::counted::{Count, Counted};
use super::counter::BOUNDS;
use super::counters::{CompressionCounts, EVENT_STREAM, HandlerCounts, PROTOCOLS, SCENARIOS, ServerCounts};
use super::labels::{
    ApiCall, CallResult, CompressionForm, Direction, DropCause, EndReason, Handshake, Label, RateLimit, RefusalCause,
    ReloadResult,
};
use super::page::Page;
use super::process::Process;
use super::{Kind, Metrics, Of, ServerInfo, WorkerCounts, lock};
use std::sync::atomic::Ordering::Relaxed;

/// The quantiles of summaries: the least and the most, the quarters, and those behind which few are.
const QUANTILES: [f64; 8] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0];

const OPENED: &str = "connmix_engine_connections_opened_total";
const CLOSED: &str = "connmix_engine_connections_closed_total";

impl Metrics {
    /// So many connections of each server have arrived from the process before. Those that it had and that stayed behind end
    /// there, where nobody counts them any more: they count as closed here.
    pub fn arrived(&self, clients: &[usize]) {
        let mut before = lock(&self.before);
        let before = std::sync::Arc::make_mut(&mut before);
        for (server, came) in self.servers.iter().zip(clients) {
            let of = |counted: &&Counted| counted.labels.first().is_some_and(|(_, value)| *value == server.label);
            let sum = |name: &str| {
                let values = before.get(name).into_iter().flatten().filter(of).map(|counted| match counted.count {
                    Count::Value(n) => n,
                    _ => 0.0,
                });
                values.sum::<f64>()
            };
            let stayed = sum(OPENED) - sum(CLOSED) - *came as f64;
            let labels = [("server", &*server.label), ("reason", EndReason::Shutdown.word())];
            let closed = before.entry(CLOSED.to_owned()).or_default();
            if let Some(counted) = closed.iter_mut().find(|counted| counted.is_of(&labels)) {
                counted.count.add(&Count::Value(stayed.max(0.0)));
            }
        }
    }

    /// The page of the engine, which has all figures, or that of the center. It reads from the system: not to be called
    /// on a worker.
    pub fn page(&self, of: Of) -> String {
        let mut page = Page::after(lock(&self.before).clone());
        self.fill(&mut page, of, Process::now());
        page.text()
    }

    /// Everything that this process and those before it have counted.
    pub fn counted(&self) -> Vec<Counted> {
        let mut page = Page::counting(lock(&self.before).clone());
        // Its gauges take time to ask for.
        self.fill(&mut page, Of::Engine, Process { cpu: Process::usage().1, ..Process::default() });
        page.counted()
    }

    fn fill(&self, page: &mut Page, of: Of, system: Process) {
        self.center(page);
        if of == Of::Engine {
            {
                let workers = lock(&self.workers);
                self.messages(page, &workers);
                self.connections(page, &workers);
                self.handlers(page, &workers);
                runtime(page, &workers);
            }
            self.delays_summary(page);
            self.reloads(page);
        }
        self.watched(page, of);
        calls(page, &lock(&self.workers));
        handshakes(page, &lock(&self.workers));
        log(page);
        process(page, &system);
    }

    fn center(&self, page: &mut Page) {
        let opened = lock(&self.workers).iter().map(|w| w.shard.channels_opened.get()).sum::<u64>();
        page.counter("connmix_center_registry_channels_total", "Channels that were opened, on all nodes.")
            .value(&[], opened as f64);
    }

    /// The protocols that any server speaks, each with its position.
    fn protocols(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let streams = self.streams.load(Relaxed);
        let spoken = move |protocol: &str| {
            (protocol == EVENT_STREAM && streams) || self.servers.iter().any(|server| server.protocol == protocol)
        };
        PROTOCOLS.into_iter().enumerate().filter(move |(_, protocol)| spoken(protocol))
    }

    fn messages(&self, page: &mut Page, workers: &[WorkerCounts]) {
        let sum = |of: &dyn Fn(&WorkerCounts) -> u64| workers.iter().map(of).sum::<u64>() as f64;
        let mut family = page.counter("connmix_engine_servers_read_messages_total", "Whole messages from clients.");
        for (at, protocol) in self.protocols() {
            family = family.value(&[("protocol", protocol)], sum(&|w| w.shard.protocols[at].read.get()));
        }
        drop(family);
        let mut family = page
            .counter("connmix_engine_servers_send_messages_total", "Messages that were put into clients' outboxes.");
        for (at, protocol) in self.protocols() {
            family = family.value(&[("protocol", protocol)], sum(&|w| w.shard.protocols[at].sent.get()));
        }
        drop(family);
        let mut family =
            page.counter("connmix_engine_servers_send_errors_total", "Messages that clients could not be given.");
        for (at, protocol) in self.protocols() {
            let failed = |w: &WorkerCounts| {
                let causes = DropCause::ALL.iter().filter(|cause| !cause.is_by_rule());
                causes.map(|cause| w.shard.protocols[at].dropped.get(*cause)).sum()
            };
            family = family.value(&[("protocol", protocol)], sum(&failed));
        }
        drop(family);
        let mut family = page.counter(
            "connmix_engine_deliveries_total",
            "Messages of publishes and sends that were put into clients' outboxes.",
        );
        for (at, protocol) in self.protocols() {
            family = family.value(&[("protocol", protocol)], sum(&|w| w.shard.protocols[at].delivered.get()));
        }
        drop(family);
        let mut family =
            page.counter("connmix_engine_dropped_messages_total", "Messages that no client was given, by cause.");
        for cause in DropCause::ALL {
            let of = |w: &WorkerCounts| match cause {
                DropCause::NoClient => w.shard.no_client.get(),
                _ => w.shard.protocols.iter().map(|protocol| protocol.dropped.get(*cause)).sum(),
            };
            family = family.value(&[("cause", cause.word())], sum(&of));
        }
        drop(family);
        page.counter("connmix_engine_publishes_total", "Messages that were published on this node, by who did it.")
            .value(&[("origin", "script")], sum(&|w| w.shard.published.get()))
            .value(&[("origin", "api")], sum(&|w| w.api.published.get()));
        page.gauge("connmix_engine_subscriptions", "Subscriptions of this node's clients.")
            .value(&[], sum(&|w| w.shard.subscriptions.get()));
        compression(page, workers);
    }

    fn delays_summary(&self, page: &mut Page) {
        let sums = self.delays();
        let windows = self.turn(&sums);
        let mut family = page.summary(
            "connmix_engine_servers_send_duration_seconds",
            "From when a publish or send was accepted until one worker's outboxes had it.",
        );
        for (at, protocol) in self.protocols() {
            for (which, scenario) in SCENARIOS.into_iter().enumerate() {
                let sums = &sums[at][which];
                let values = windows[at][which].quantiles(sums, QUANTILES);
                let quantiles = std::array::from_fn::<_, { QUANTILES.len() }, _>(|i| (QUANTILES[i], values[i]));
                let labels = [("protocol", protocol), ("scenario", scenario)];
                family = family.quantiles(&labels, quantiles, sums.count(), sums.nanos);
            }
        }
    }

    /// Each server with its sum over all workers.
    fn by_server<'a>(
        &'a self,
        workers: &'a [WorkerCounts],
        of: impl Fn(&ServerCounts) -> u64 + 'a,
    ) -> impl Iterator<Item = (&'a ServerInfo, f64)> {
        self.servers.iter().enumerate().map(move |(at, server)| {
            let counts = workers.iter().filter_map(|w| w.servers.get(at));
            (server, counts.map(|c| of(c)).sum::<u64>() as f64)
        })
    }

    fn connections(&self, page: &mut Page, workers: &[WorkerCounts]) {
        let mut family = page.counter(OPENED, "Connections that were opened.");
        for (server, n) in self.by_server(workers, |c| c.opened.get()) {
            family = family.value(&[("server", &server.label)], n);
        }
        drop(family);
        let mut family = page.counter(CLOSED, "Connections that have ended, by reason.");
        for reason in EndReason::ALL {
            for (server, n) in self.by_server(workers, |counts| counts.closed.get(*reason)) {
                family = family.value(&[("server", &server.label), ("reason", reason.word())], n);
            }
        }
        drop(family);
        let mut family = page.counter(
            "connmix_engine_connections_refused_total",
            "Connections that were refused before they were open, by cause.",
        );
        for cause in RefusalCause::ALL {
            for (server, n) in self.by_server(workers, |c| c.refused.get(*cause)) {
                family = family.value(&[("server", &server.label), ("cause", cause.word())], n);
            }
        }
        drop(family);
        let mut family = page.counter(
            "connmix_engine_rate_pauses_total",
            "Times that a client was not read for a while, since it had sent more than its server's rate.",
        );
        for limit in RateLimit::ALL {
            for (server, n) in self.by_server(workers, |c| c.rate_pauses.get(*limit)) {
                family = family.value(&[("server", &server.label), ("limit", limit.word())], n);
            }
        }
    }

    fn handlers(&self, page: &mut Page, workers: &[WorkerCounts]) {
        let hooks = || {
            let servers = self.servers.iter().enumerate();
            servers.flat_map(|(at, server)| server.hooks.iter().map(move |(hook, name)| (at, server, *hook, *name)))
        };
        let counts = |at: usize, hook: usize| workers.iter().filter_map(move |w| w.servers.get(at)?.handlers.get(hook));
        let mut family = page.histogram(
            "connmix_engine_handler_duration_seconds",
            "How long calls of scripts' hooks took, their waits included.",
        );
        for (at, server, hook, name) in hooks() {
            let (mut sums, mut nanos) = ([0; BOUNDS.len() + 1], 0);
            counts(at, hook).for_each(|c| c.durations.add_to(&mut sums, &mut nanos));
            family = family.durations(&[("server", &server.label), ("hook", name)], sums, nanos);
        }
        drop(family);
        type Figure = fn(&HandlerCounts) -> u64;
        let counters: [(&str, &str, Figure); 3] = [
            ("connmix_engine_handler_errors_total", "Calls of scripts' hooks that failed.", |c| c.errors.get()),
            (
                "connmix_engine_handler_timeouts_total",
                "Calls of scripts' hooks that were stopped for holding their worker too long.",
                |c| c.timeouts.get(),
            ),
            (
                "connmix_engine_handler_budget_cuts_total",
                "Times that a hook which kept overrunning its time budget got a shorter one.",
                |c| c.budget_cuts.get(),
            ),
        ];
        for (name, help, figure) in counters {
            let mut family = page.counter(name, help);
            for (at, server, hook, name) in hooks() {
                let n = counts(at, hook).map(figure).sum::<u64>();
                family = family.value(&[("server", &server.label), ("hook", name)], n as f64);
            }
        }
    }

    fn reloads(&self, page: &mut Page) {
        let help = "Reloads of scripts, of the configuration and of certificates.";
        let mut family = page.counter("connmix_engine_reloads_total", help);
        let of = &self.reloads;
        for (what, results) in [("script", &of.scripts), ("config", &of.config), ("certificate", &of.certificates)] {
            for result in ReloadResult::ALL {
                family = family.value(&[("what", what), ("result", result.word())], results.get(*result) as f64);
            }
        }
    }

    fn watched(&self, page: &mut Page, of: Of) {
        for watch in lock(&self.watches).iter().filter(|watch| of == Of::Engine || watch.of == of) {
            let mut family = match watch.kind {
                Kind::Counter => page.counter(watch.name, watch.help),
                Kind::Gauge => page.gauge(watch.name, watch.help),
            };
            for (value, n) in (watch.read)() {
                let label = watch.label.map(|name| (name, value.as_str()));
                family = family.value(label.as_slice(), n);
            }
        }
    }
}

fn compression(page: &mut Page, workers: &[WorkerCounts]) {
    type Side = fn(&WorkerCounts) -> &CompressionCounts;
    let sides: [(Direction, Side); 2] =
        [(Direction::Out, |w| &w.shard.compressed), (Direction::In, |w| &w.shard.decompressed)];
    let sum = |of: &dyn Fn(&WorkerCounts) -> u64| workers.iter().map(of).sum::<u64>() as f64;
    let mut family = page.counter(
        "connmix_engine_compressed_messages_total",
        "Messages that were compressed for clients (out: a publish once in each worker) or came compressed (in).",
    );
    for (side, counts) in sides {
        family = family.value(&[("direction", side.word())], sum(&|w| counts(w).messages.get()));
    }
    drop(family);
    let mut family = page.counter(
        "connmix_engine_compression_bytes_total",
        "The bytes of these messages, as they are (plain) and on the wire (compressed).",
    );
    for (side, counts) in sides {
        for form in CompressionForm::ALL {
            let of = |w: &WorkerCounts| match form {
                CompressionForm::Plain => counts(w).plain.get(),
                CompressionForm::Compressed => counts(w).compressed.get(),
            };
            family = family.value(&[("direction", side.word()), ("form", form.word())], sum(&of));
        }
    }
}

fn runtime(page: &mut Page, workers: &[WorkerCounts]) {
    let mut family = page.gauge("connmix_engine_lua_memory_bytes", "Memory of the Lua VMs in use.");
    for worker in workers {
        family = family.value(&[("worker", &worker.id.to_string())], worker.shard.lua_memory.get() as f64);
    }
    drop(family);
    let mut family = page.gauge("connmix_engine_waiting_handlers", "Calls of scripts' hooks that wait.");
    for worker in workers {
        family = family.value(&[("worker", &worker.id.to_string())], worker.shard.waiting_handlers.get() as f64);
    }
    drop(family);
    let mut family = page.counter("connmix_engine_worker_busy_seconds_total", "How long workers had something to do.");
    for worker in workers {
        let busy: f64 =
            (0..worker.runtime.num_workers()).map(|i| worker.runtime.worker_total_busy_duration(i).as_secs_f64()).sum();
        family = family.value(&[("worker", &worker.id.to_string())], busy);
    }
}

fn calls(page: &mut Page, workers: &[WorkerCounts]) {
    let mut family = page.counter("connmix_api_calls_total", "Calls of both APIs, by what they came to.");
    for call in ApiCall::ALL {
        for result in CallResult::ALL {
            let n: u64 = workers.iter().map(|worker| worker.api.calls(*call, *result)).sum();
            if n > 0 || (*result == CallResult::Ok && *call != ApiCall::Other) {
                family = family.value(&[("call", call.word()), ("result", result.word())], n as f64);
            }
        }
    }
    drop(family);
    let sum = |of: &dyn Fn(&WorkerCounts) -> u64| workers.iter().map(of).sum::<u64>() as f64;
    page.counter("connmix_api_failed_logins_total", "Calls with wrong credentials.")
        .value(&[], sum(&|w| w.api.logins_failed.get()));
    page.counter("connmix_api_delayed_logins_total", "Calls with wrong credentials whose answer had to wait.")
        .value(&[], sum(&|w| w.api.logins_delayed.get()));
}

fn handshakes(page: &mut Page, workers: &[WorkerCounts]) {
    let help = "TLS handshakes of clients and of callers of the APIs, by what they came to.";
    let mut family = page.counter("connmix_tls_handshakes_total", help);
    type Figure = fn(&WorkerCounts, Handshake) -> u64;
    let figures: [(&str, Figure); 2] =
        [("server", |w, result| w.shard.handshakes.get(result)), ("api", |w, result| w.api.handshakes.get(result))];
    for (port, figure) in figures {
        for result in Handshake::ALL {
            let n: u64 = workers.iter().map(|worker| figure(worker, *result)).sum();
            if n > 0 || *result == Handshake::Ok {
                family = family.value(&[("port", port), ("result", result.word())], n as f64);
            }
        }
    }
}

fn log(page: &mut Page) {
    let mut family = page.counter("connmix_log_dropped_lines_total", "Lines of the log that an output was not given.");
    for output in Output::ALL {
        family = family.value(&[("output", output.name())], output.left_out() as f64);
    }
}

fn process(page: &mut Page, process: &Process) {
    page.gauge("connmix_build_info", "The version that runs; always 1.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    if let Some(cpu) = process.cpu {
        page.counter("process_cpu_seconds_total", "User and system CPU time.").value(&[], cpu);
    }
    let gauges = [
        ("process_resident_memory_bytes", "Memory in use.", process.resident),
        ("process_virtual_memory_bytes", "Address space.", process.virtual_memory),
        ("process_open_fds", "Open files, sockets among them.", process.open_files),
        ("process_max_fds", "As many files as may be open.", process.max_files),
        ("process_threads", "Threads.", process.threads),
        ("process_start_time_seconds", "When the process began, as Unix time.", process.started),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.gauge(name, help).value(&[], value);
        }
    }
}

#[cfg(test)]
mod tests;
