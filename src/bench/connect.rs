//! Measures connections that are opened, upgraded and closed.

use clap::Args;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::spawn_local;

use super::client::Client;
use super::common::Common;
use super::report::Report;
use super::target::Target;

/// Options of `connmix bench connect`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections in all
    /// zh: 连接总数
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: u64,
    /// Connections at once
    /// zh: 同时的连接数
    #[arg(long, value_name = "N", default_value_t = 64)]
    parallel: usize,
}

pub(super) async fn run(options: &Options, target: &Target) -> Result<Report, String> {
    let left = Rc::new(Cell::new(options.connections));
    let started = Instant::now();
    let mut running = Vec::with_capacity(options.parallel);
    for _ in 0..options.parallel {
        let (left, addr, path) = (left.clone(), target.ws, target.path.replace("{c}", "0"));
        let tls = target.ws_tls.clone();
        running.push(spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let client = Client::open(addr, tls.as_ref(), &path).await?;
                client.reset();
            }
            Ok::<_, io::Error>(())
        }));
    }
    for one in running {
        one.await.map_err(|e| e.to_string())?.map_err(|e| format!("{}: {e}", target.ws))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Report::new("connect")
        .figure("connections", options.connections as f64, "")
        .figure("parallel", options.parallel as f64, "")
        .figure("connections_per_second", options.connections as f64 / seconds, "/s"))
}

impl Client {
    /// Ends the connection at once, so that this side keeps no port busy.
    pub(super) fn reset(self) {
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }
}
