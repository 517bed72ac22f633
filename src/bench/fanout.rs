//! Publishing to subscribers.

use clap::Args;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::Common;
use super::client::{Counters, open_all};
use super::report::Report;
use super::target::Target;

/// Without any delivery for that long, a measurement has failed.
const STALLED: Duration = Duration::from_secs(10);

/// Options of `connmix bench fanout`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1000)]
    subscribers: usize,
    /// Channels that they are spread over
    #[arg(long, value_name = "N", default_value_t = 1)]
    channels: usize,
    /// Messages to publish
    #[arg(long, value_name = "N", default_value_t = 2000)]
    messages: u64,
    /// Messages under way at once: published, and not yet with all subscribers
    #[arg(long, value_name = "N", default_value_t = 1)]
    window: u64,
    /// Keep-alive connections that publish, each one request at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    publishers: usize,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    size: usize,
    /// The channel to publish to; {c} is its number
    #[arg(long, value_name = "NAME", default_value = "video:{c}")]
    channel: String,
}

/// What the publishers share.
struct Work {
    published: Cell<u64>,
    acknowledged: RefCell<Vec<u64>>,
    /// Frames that were received before the first publish.
    base: u64,
    receivers: u64,
}

impl Work {
    /// The number of the next message, once it may be sent; None when all are.
    async fn next(&self, options: &Options, counters: &Counters) -> Option<u64> {
        loop {
            let progress = counters.progress.notified();
            let number = self.published.get();
            if number >= options.messages {
                return None;
            }
            if number - (counters.frames.get() - self.base) / self.receivers < options.window {
                self.published.set(number + 1);
                return Some(number);
            }
            progress.await;
        }
    }
}

pub(super) async fn run(options: &Options, target: &Target) -> Result<Report, String> {
    let receivers = (options.subscribers / options.channels.max(1)) as u64;
    if receivers == 0 {
        return Err("there must be at least as many --subscribers as --channels".into());
    }
    if options.window == 0 || options.publishers == 0 {
        return Err("--window and --publishers must be at least 1".into());
    }
    let counters = Counters::new();
    let clients = open_all(target, &counters, &options.common.hello, options.subscribers, options.channels).await?;
    let failed: Rc<RefCell<Option<String>>> = Rc::default();
    for mut client in clients {
        let (counters, failed) = (counters.clone(), failed.clone());
        spawn_local(async move {
            let error = loop {
                if let Err(e) = client.read(&counters).await {
                    break e;
                }
            };
            failed.borrow_mut().get_or_insert(error.to_string());
        });
    }
    let base = counters.frames.get();
    counters.every.set(receivers);
    let work = Rc::new(Work { published: Cell::new(0), acknowledged: RefCell::default(), base, receivers });
    let started = Instant::now();
    let publishing = (0..options.publishers).map(|_| publish(options, target.api, &counters, &work));
    let all_published = async {
        for outcome in futures(publishing).await {
            outcome.map_err(|e| format!("publishing to {}: {e}", target.api))?;
        }
        Ok::<_, String>(())
    };
    let expected = options.messages * receivers;
    let all_received = async {
        let mut seen = (0, Instant::now());
        loop {
            let received = counters.frames.get() - base;
            if received >= expected {
                return Ok(());
            }
            if received != seen.0 {
                seen = (received, Instant::now());
            } else if seen.1.elapsed() > STALLED {
                let why = failed.borrow().clone().unwrap_or_else(|| "nothing comes any more".into());
                return Err(format!("{received} of {expected} deliveries: {why}"));
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), counters.progress.notified()).await;
        }
    };
    tokio::try_join!(all_published, all_received)?;
    let seconds = started.elapsed().as_secs_f64();
    let report = Report::new("fanout")
        .figure("subscribers", options.subscribers as f64, "")
        .figure("channels", options.channels as f64, "")
        .figure("window", options.window as f64, "")
        .figure("size", options.size as f64, "bytes")
        .figure("deliveries", expected as f64, "")
        .figure("deliveries_per_second", expected as f64 / seconds, "/s")
        .figure("publishes_per_second", options.messages as f64 / seconds, "/s");
    let delays = ["delay_median", "delay_p99", "delay_max"];
    let report = report.times(delays, &mut counters.delays.borrow_mut());
    Ok(report.times(["publish_median", "publish_p99", "publish_max"], &mut work.acknowledged.borrow_mut()))
}

/// Runs them all side by side.
async fn futures<F: Future<Output = io::Result<()>>>(all: impl Iterator<Item = F>) -> Vec<io::Result<()>> {
    let mut pending: Vec<_> = all.map(|f| (Some(Box::pin(f)), Ok(()))).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for (future, outcome) in &mut pending {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    std::task::Poll::Ready(result) => (*future, *outcome) = (None, result),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    pending.into_iter().map(|(_, outcome)| outcome).collect()
}

/// One keep-alive connection that publishes, one request at a time.
async fn publish(options: &Options, api: SocketAddr, counters: &Counters, work: &Work) -> io::Result<()> {
    let mut stream = TcpStream::connect(api).await?;
    stream.set_nodelay(true)?;
    let (mut request, mut reply) = (String::new(), Vec::new());
    while let Some(number) = work.next(options, counters).await {
        let channel = options.channel.replace("{c}", &(number % options.channels as u64).to_string());
        let stamp = counters.stamp();
        let padding = "x".repeat(options.size.saturating_sub(stamp.len()));
        let body = serde_json::json!({"c": channel, "d": format!("{stamp}{padding}")}).to_string();
        request.clear();
        use std::fmt::Write as _;
        let _ = write!(
            request,
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = counters.now();
        stream.write_all(request.as_bytes()).await?;
        read_reply(&mut stream, &mut reply).await?;
        work.acknowledged.borrow_mut().push(counters.now() - sent);
    }
    Ok(())
}

/// Reads one response with a Content-Length.
async fn read_reply(stream: &mut TcpStream, reply: &mut Vec<u8>) -> io::Result<()> {
    reply.clear();
    loop {
        if stream.read_buf(reply).await? == 0 {
            return Err(io::Error::other("the server ended the connection"));
        }
        let Some(end) = memchr::memmem::find(reply, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            return Err(io::Error::other(String::from_utf8_lossy(reply).into_owned()));
        }
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::Error::other("a response without Content-Length"))?;
        if reply.len() >= end + 4 + length {
            return Ok(());
        }
    }
}
