//! `connmix bench`: measures an engine from outside, over real sockets. Against any host with `--url`; without it, it
//! starts an engine of its own beside itself, so that one command measures this machine.
//!
//! The client is one thread, as lean as it can be made, so that what is measured is the server. Its figures hold for
//! the machine and the moment: compare only what was measured in one sitting.

mod client;
mod common;
mod connect;
mod fanout;
mod handler;
mod idle;
mod report;
mod target;

use clap::Subcommand;

use report::Report;
use target::Target;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Publish to subscribers: deliveries a second, and how late they arrive
    /// zh: 向订阅者发布：每秒投递多少，延迟多少
    Fanout(fanout::Options),
    /// Messages that a script answers, a second
    /// zh: 脚本每秒应答多少消息
    Handler(handler::Options),
    /// Connections opened and closed, a second
    /// zh: 每秒建立并关闭多少连接
    Connect(connect::Options),
    /// Memory of a silent connection
    /// zh: 静默连接占用的内存
    Idle(idle::Options),
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
