//! Measures publishing to subscribers.

use clap::Args;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::client::{Counters, Crowd, side_by_side};
use super::common::Common;
use super::report::Report;
use super::target::Target;
use crate::dial::stream::Stream;

/// A measurement fails after that long without any delivery.
const STALLED: Duration = Duration::from_secs(10);

/// The longest response to a publish, head and body, in bytes.
const MAX_REPLY: usize = 1024 * 1024;

/// Options of `connmix bench fanout`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Connections
    /// zh: 连接数
    #[arg(long, value_name = "N", default_value_t = 1000)]
    subscribers: usize,
    /// Channels that they are spread over
    /// zh: 它们分布在多少个频道里
    #[arg(long, value_name = "N", default_value_t = 1)]
    channels: usize,
    /// Channels that each connection is in
    /// zh: 每个连接所在的频道数
    #[arg(long, value_name = "N", default_value_t = 1)]
    subscriptions: usize,
    /// Further connections that come, subscribe and go all the time, as a share of the subscribers
    /// zh: 不断到来、订阅又离开的其他连接，占订阅者的百分比
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    churn: usize,
    /// Publish to channels that nobody is in
    /// zh: 向没有人的频道发布
    #[arg(long)]
    unheard: bool,
    /// Messages to publish
    /// zh: 要发布的消息数
    #[arg(long, value_name = "N", default_value_t = 2000)]
    messages: u64,
    /// Messages under way at once: published, and not yet with all subscribers
    /// zh: 同时在途的消息数：已经发布，但还没有到达所有订阅者
    #[arg(long, value_name = "N", default_value_t = 1)]
    window: u64,
    /// Keep-alive connections that publish, each one request at a time
    /// zh: 发布用的长连接数，每个连接同时只有一个请求
    #[arg(long, value_name = "N", default_value_t = 1)]
    publishers: usize,
    /// Bytes of a message
    /// zh: 一条消息的字节数
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    size: usize,
    /// What is published; {c} is the channel's number, {d} the message
    /// zh: 发布的内容；{c} 是频道的编号，{d} 是消息
    #[arg(long, value_name = "TEXT", default_value = r#"{"c":"video:{c}","d":"{d}"}"#)]
    body: String,
}

/// The state that the publishers share.
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
            let arrived = match self.receivers {
                // Nobody hears it: it has arrived when it is acknowledged.
                0 => self.acknowledged.borrow().len() as u64,
                receivers => (counters.frames.get() - self.base) / receivers,
            };
            if number - arrived.min(number) < options.window {
                self.published.set(number + 1);
                return Some(number);
            }
            progress.await;
        }
    }
}

pub(super) async fn run(options: &Options, target: &Target) -> Result<Report, String> {
    let places = options.subscribers * options.subscriptions;
    if options.channels == 0 || places == 0 || !places.is_multiple_of(options.channels) {
        return Err("--subscribers times --subscriptions must be a multiple of --channels".into());
    }
    if options.window == 0 || options.publishers == 0 {
        return Err("--window and --publishers must be at least 1".into());
    }
    let receivers = if options.unheard { 0 } else { (places / options.channels) as u64 };
    let counters = Counters::new();
    let crowd = Crowd {
        hello: &options.common.hello,
        count: options.subscribers,
        subscriptions: options.subscriptions,
        channels: options.channels,
    };
    let clients = crowd.open_all(target, &counters).await?;
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
    counters.every.set(receivers.max(1));
    let work = Rc::new(Work { published: Cell::new(0), acknowledged: RefCell::default(), base, receivers });
    let started = Instant::now();
    let publishing = (0..options.publishers).map(|_| publish(options, target, &counters, &work));
    let all_published =
        async { side_by_side(publishing).await.map_err(|e| format!("publishing to {}: {e}", target.api)) };
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
    let came_and_went = Cell::new(0);
    let measured = async { tokio::try_join!(all_published, all_received) };
    tokio::select! {
        done = measured => { done?; }
        gone = churn(options, &crowd, target, &came_and_went) => gone?,
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = Report::new("fanout")
        .figure("subscribers", options.subscribers as f64, "")
        .figure("channels", options.channels as f64, "")
        .figure("subscriptions", options.subscriptions as f64, "")
        .figure("window", options.window as f64, "")
        .figure("size", options.size as f64, "bytes")
        .figure("deliveries", expected as f64, "")
        .figure("deliveries_per_second", expected as f64 / seconds, "/s")
        .figure("publishes_per_second", options.messages as f64 / seconds, "/s")
        .figure("churned_per_second", came_and_went.get() as f64 / seconds, "/s");
    let delays = ["delay_median", "delay_p99", "delay_max"];
    let report = report.times(delays, &mut counters.delays.borrow_mut());
    Ok(report.times(["publish_median", "publish_p99", "publish_max"], &mut work.acknowledged.borrow_mut()))
}

/// Connections that come, subscribe and go, until dropped. What they receive is not counted.
async fn churn(options: &Options, crowd: &Crowd<'_>, target: &Target, came: &Cell<u64>) -> Result<(), String> {
    let at_once = options.subscribers * options.churn / 100;
    if at_once == 0 {
        return std::future::pending().await;
    }
    let uncounted = Counters::new();
    let going = (0..at_once).map(|i| {
        let uncounted = &uncounted;
        async move {
            loop {
                crowd.open(i, target, uncounted).await?.reset();
                came.set(came.get() + 1);
            }
        }
    });
    side_by_side(going).await.map_err(|e| format!("churn: {e}"))
}

/// One keep-alive connection that publishes, one request at a time.
async fn publish(options: &Options, target: &Target, counters: &Counters, work: &Work) -> io::Result<()> {
    let mut stream = Stream::connect(target.api, target.api_tls.as_ref()).await?;
    let (mut request, mut reply) = (String::new(), Vec::new());
    while let Some(number) = work.next(options, counters).await {
        // No subscriber is in a channel with a number above theirs.
        let unheard = if options.unheard { options.channels as u64 } else { 0 };
        let channel = (number % options.channels as u64 + unheard).to_string();
        let stamp = counters.stamp();
        let message = stamp.clone() + &"x".repeat(options.size.saturating_sub(stamp.len()));
        let body = options.body.replace("{c}", &channel).replace("{d}", &message);
        let path = target.publish.replace("{c}", &channel);
        request.clear();
        use std::fmt::Write as _;
        let _ = write!(
            request,
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            target.api,
            body.len()
        );
        let sent = counters.now();
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        read_reply(&mut stream, &mut reply).await?;
        work.acknowledged.borrow_mut().push(counters.now() - sent);
        if work.receivers == 0 {
            counters.progress.notify_waiters();
        }
    }
    Ok(())
}

/// Reads one response with a Content-Length.
async fn read_reply(stream: &mut Stream, reply: &mut Vec<u8>) -> io::Result<()> {
    reply.clear();
    loop {
        if stream.read_buf(reply).await? == 0 {
            return Err(io::Error::other("the server ended the connection"));
        }
        if reply.len() > MAX_REPLY {
            return Err(io::Error::other("the server's response is too long"));
        }
        let Some(end) = memchr::memmem::find(reply, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
        // Other servers answer 201 or 202.
        if !head.starts_with("http/1.1 20") {
            return Err(io::Error::other(String::from_utf8_lossy(reply).into_owned()));
        }
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::Error::other("a response without Content-Length"))?;
        if reply.len() - (end + 4) >= length {
            return Ok(());
        }
    }
}
