//! `connmix bench`: measures an engine from outside, over real sockets. Against any host with `--url`; without it, it
//! starts an engine of its own beside itself, so that one command measures this machine.
//!
//! The client is one thread, as lean as it can be made, so that what is measured is the server. Its figures hold for
//! the machine and the moment: compare only what was measured in one sitting.

mod client;
mod connect;
mod fanout;
mod handler;
mod idle;
mod report;
mod target;

use clap::{Args, Subcommand};

use report::Report;
use target::Target;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Publish to subscribers: deliveries a second, and how late they arrive
    Fanout(fanout::Options),
    /// Messages that a script answers, a second
    Handler(handler::Options),
    /// Connections opened and closed, a second
    Connect(connect::Options),
    /// Memory of a silent connection
    Idle(idle::Options),
}

/// Where to measure, and how to tell.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The server to measure; without it, an engine is started for the measurement
    #[arg(long, value_name = "ws://HOST:PORT/PATH")]
    url: Option<String>,
    /// Where it is published to; {c} is the channel's number [default: /v1/mesh/publish on port 6789 of the same host]
    #[arg(long, value_name = "http://HOST:PORT/PATH", requires = "url")]
    publish: Option<String>,
    /// Workers of the engine that is started
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url")]
    workers: u16,
    /// The core the started engine is bound to
    #[arg(long, value_name = "CPU", conflicts_with = "url")]
    server_cpu: Option<usize>,
    /// The core this client is bound to
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    /// What a client sends first, to be answered once; {c} is its channel's number, {i} its own; "" = nothing
    #[arg(long, value_name = "TEXT", default_value = r#"{"op":"subscribe","channel":"{c}@video"}"#)]
    hello: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints; the error says what went wrong.
    pub fn run(&self) -> Result<(), String> {
        let common = match self {
            Bench::Fanout(o) => &o.common,
            Bench::Handler(o) => &o.common,
            Bench::Connect(o) => &o.common,
            Bench::Idle(o) => &o.common,
        };
        if let Some(cpu) = common.client_cpu {
            target::bind_to(cpu)?;
        }
        let target = Target::open(common)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .map_err(|e| format!("the runtime could not start: {e}"))?;
        let report: Report = runtime.block_on(async {
            match self {
                Bench::Fanout(o) => fanout::run(o, &target).await,
                Bench::Handler(o) => handler::run(o, &target).await,
                Bench::Connect(o) => connect::run(o, &target).await,
                Bench::Idle(o) => idle::run(o, &target).await,
            }
        })?;
        report.print(common.json);
        Ok(())
    }
}
