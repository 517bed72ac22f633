//! Measures the memory of a silent connection.

use clap::Args;
use std::time::Duration;

use super::client::{Counters, Crowd};
use super::common::Common;
use super::report::Report;
use super::target::Target;

/// How long the server is given to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Options of `connmix bench idle`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    /// zh: 连接数
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: usize,
    /// Channels that they are spread over
    /// zh: 它们分布在多少个频道里
    #[arg(long, value_name = "N", default_value_t = 1)]
    channels: usize,
    /// The server's process, on this machine [default: the engine that is started]
    /// zh: 服务器的进程，在本机上 [默认：所启动的引擎]
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
}

pub(super) async fn run(options: &Options, target: &Target) -> Result<Report, String> {
    let pid = options.pid.or(target.pid).ok_or("--pid must name the server's process, on this machine")?;
    let before = resident(pid)?;
    let counters = Counters::new();
    let crowd = Crowd {
        hello: &options.common.hello,
        count: options.connections,
        subscriptions: 1,
        channels: options.channels,
    };
    let clients = crowd.open_all(target, &counters).await?;
    tokio::time::sleep(SETTLE).await;
    let after = resident(pid)?;
    drop(clients);
    Ok(Report::new("idle")
        .figure("connections", options.connections as f64, "")
        .figure("resident_before", before as f64, "bytes")
        .figure("resident_after", after as f64, "bytes")
        .figure("bytes_per_connection", after.saturating_sub(before) as f64 / options.connections as f64, "bytes"))
}

/// A process's resident memory, in bytes (proc(5), `VmRSS`).
fn resident(pid: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("process {pid}: {e}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| format!("process {pid} tells no resident memory"))
}
