//! Measures messages that a script answers, one reply each.

use clap::Args;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Instant;
use tokio::task::spawn_local;

use super::client::{Client, Counters, Crowd, text_frame};
use super::common::Common;
use super::report::Report;
use super::target::Target;

/// Options of `connmix bench handler`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    /// zh: 连接数
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Messages in all
    /// zh: 消息总数
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    messages: u64,
    /// Messages that each connection has under way
    /// zh: 每个连接同时在途的消息数
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: u64,
    /// The message; the server must answer each with one
    /// zh: 发送的消息；服务器必须对每条应答一条
    #[arg(long, value_name = "TEXT", default_value = r#"{"op":"subscribe","channel":"100001@video"}"#)]
    message: String,
}

pub(super) async fn run(options: &Options, target: &Target) -> Result<Report, String> {
    let counters = Counters::new();
    let crowd = Crowd { hello: &options.common.hello, count: options.connections, subscriptions: 1, channels: 1 };
    let clients = crowd.open_all(target, &counters).await?;
    let left = Rc::new(Cell::new(options.messages));
    let frame: Rc<[u8]> = text_frame(&options.message).into();
    let times: Rc<RefCell<Vec<u64>>> = Rc::default();
    let started = Instant::now();
    let mut running = Vec::with_capacity(clients.len());
    for client in clients {
        let (counters, left, frame, times) = (counters.clone(), left.clone(), frame.clone(), times.clone());
        let depth = options.depth;
        running.push(spawn_local(async move { ask(client, &counters, &left, &frame, depth, &times).await }));
    }
    for one in running {
        one.await.map_err(|e| e.to_string())?.map_err(|e| format!("{}: {e}", target.ws))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Report::new("handler")
        .figure("connections", options.connections as f64, "")
        .figure("depth", options.depth as f64, "")
        .figure("messages", options.messages as f64, "")
        .figure("messages_per_second", options.messages as f64 / seconds, "/s")
        .times(["round_trip_median", "round_trip_p99", "round_trip_max"], &mut times.borrow_mut()))
}

/// Keeps `depth` messages of one connection under way until none are left.
async fn ask(
    mut client: Client,
    counters: &Counters,
    left: &Cell<u64>,
    frame: &[u8],
    depth: u64,
    times: &RefCell<Vec<u64>>,
) -> io::Result<()> {
    let (mut under_way, mut wanted, mut frames) = (0, depth, Vec::new());
    loop {
        let now = wanted.min(left.get());
        left.set(left.get() - now);
        frames.clear();
        (0..now).for_each(|_| frames.extend_from_slice(frame));
        let sent = counters.now();
        client.send(&frames).await?;
        under_way += now;
        if under_way == 0 {
            return Ok(());
        }
        let came = client.read(counters).await?;
        if depth == 1 && came > 0 {
            times.borrow_mut().push(counters.now() - sent);
        }
        under_way -= came.min(under_way);
        wanted = came;
    }
}
