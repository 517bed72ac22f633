//! Sends spans to a collector, on a thread of its own: by OTLP over HTTP, in batches. Nobody waits for it: what does not fit
//! into the queue meanwhile is dropped and counted. The configuration is looked at for each batch, so that changes take effect
//! at once.

use arc_swap::ArcSwap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::{Config, Tracing};
use crate::outbound::Outbound;
use crate::outbound::http::{Request, Response};
use crate::telemetry::rate_limited::rate_limited;
use crate::telemetry::spans::otlp::{self, Resource};
use crate::telemetry::spans::{MAX_BATCH, Span, SpanQueue};

/// How long spans wait for others at most.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a batch is sent before it is given up.
const ATTEMPTS: u32 = 5;
/// The wait before the second attempt, unless the collector says another; it doubles each time.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait that a collector can ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long a stop waits for the spans that are left.
const LAST: Duration = Duration::from_secs(1);
/// The longest text of a collector that is logged, in bytes.
const MAX_TEXT: usize = 200;

/// The exporter of an engine. Its thread starts when tracing is first turned on.
pub(super) struct Exporter {
    parts: Arc<Parts>,
    /// Tells the thread to end.
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Parts {
    queue: Arc<SpanQueue>,
    outbound: Arc<Outbound>,
    config: Arc<ArcSwap<Config>>,
    /// The number of this node.
    instance: String,
}

/// What became of a batch.
enum Sent {
    /// The collector has it; it rejects so many of its spans, for that reason.
    Taken(u64, String),
    /// It did not get there, or the collector can't take it now. It may be sent again, after that time if it is known.
    Again(Option<Duration>, String),
    /// The collector does not take it.
    Refused(String),
}

impl Exporter {
    /// Nothing runs yet.
    pub(super) fn new(
        queue: Arc<SpanQueue>,
        outbound: Arc<Outbound>,
        config: Arc<ArcSwap<Config>>,
        instance: String,
    ) -> Arc<Exporter> {
        let parts = Arc::new(Parts { queue, outbound, config, instance });
        Arc::new(Exporter { parts, stop: watch::Sender::new(false), thread: Mutex::default() })
    }

    /// Starts the thread if there is something to do for it, unless it runs.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() && self.parts.config.load().tracing.endpoint.is_some() && !*self.stop.borrow() {
            let runtime = Builder::new_current_thread().enable_time().build()?;
            let (parts, stop) = (self.parts.clone(), self.stop.subscribe());
            let work = move || runtime.block_on(parts.run(stop));
            *thread = Some(std::thread::Builder::new().name("spans".to_owned()).spawn(work)?);
        }
        Ok(())
    }

    /// Ends the thread. What waits is tried once more; that is waited for until `deadline`, a second at most.
    pub(super) fn stop(&self, deadline: Instant) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let deadline = deadline.min(Instant::now() + LAST);
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Parts {
    async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            tokio::select! {
                biased;
                ended = stop.changed() => {
                    if ended.is_err() {
                        return;
                    }
                }
                () = self.queue.full_batch() => {}
                () = sleep(PAUSE) => {}
            }
            loop {
                let batch = self.queue.take();
                let is_full = batch.len() == MAX_BATCH;
                if !batch.is_empty() {
                    self.export(batch, &mut stop).await;
                }
                if !is_full || *stop.borrow() {
                    break;
                }
            }
        }
        let rest = async {
            loop {
                let batch = self.queue.take();
                if batch.is_empty() {
                    return;
                }
                self.export(batch, &mut stop).await;
            }
        };
        let _ = timeout(LAST, rest).await;
    }

    /// Sends a batch, again if the collector can't take it now. Once the engine stops, it is tried once.
    async fn export(&self, batch: Vec<Span>, stop: &mut watch::Receiver<bool>) {
        let count = batch.len() as u64;
        let figures = &self.queue.figures;
        let add = |figure: &AtomicU64, many: u64| {
            figure.fetch_add(many, Relaxed);
        };
        let mut body = None;
        let mut attempt = 1;
        let why = loop {
            let config = self.config.load_full();
            let tracing = &config.tracing;
            let Some(url) = tracing.url() else { return add(&figures.dropped, count) };
            let body = body.get_or_insert_with(|| {
                let resource = Resource { service: tracing.service_name.clone(), instance: self.instance.clone() };
                otlp::request(&resource, &batch)
            });
            let (wait, why) = match self.send(&url, tracing, body.clone()).await {
                Sent::Taken(rejected, why) => {
                    let rejected = rejected.min(count);
                    add(&figures.exported, count - rejected);
                    add(&figures.rejected, rejected);
                    if rejected > 0 || !why.is_empty() {
                        rate_limited!(WARN, "a collector rejects spans", ""; target: "connmix::spans",
                            "the collector rejects {rejected} of {count} spans: {}", shown(&why));
                    }
                    return;
                }
                Sent::Refused(why) => break why,
                Sent::Again(wait, why) => (wait, why),
            };
            if attempt == ATTEMPTS || *stop.borrow() {
                break why;
            }
            let wait = wait.unwrap_or_else(|| spread(BACKOFF * 2u32.pow(attempt - 1)));
            attempt += 1;
            tokio::select! {
                biased;
                // Then once more, at once.
                _ = stop.changed() => {}
                () = sleep(wait) => {}
            }
        };
        add(&figures.failed, count);
        rate_limited!(WARN, "spans are not sent", ""; target: "connmix::spans", "spans were not sent ({count}): {why}");
    }

    async fn send(&self, url: &str, tracing: &Tracing, body: Vec<u8>) -> Sent {
        match request(url, tracing, body) {
            Ok(request) => match self.outbound.request(request).await {
                Ok(response) => judge(&response),
                Err(why) => Sent::Again(None, why),
            },
            Err(why) => Sent::Refused(why),
        }
    }
}

fn request(url: &str, tracing: &Tracing, body: Vec<u8>) -> Result<Request, String> {
    let mut request = Request::new(b"POST", url.as_bytes())?;
    for header in &tracing.headers {
        request.set_header(header.name.as_bytes(), header.value.expose().as_bytes())?;
    }
    request.set_header(b"content-type", b"application/json")?;
    request.set_timeout(TIMEOUT);
    // The headers are for this collector alone.
    request.set_follow(0);
    request.set_body(body)?;
    Ok(request)
}

/// What a response means (OTLP 1.x, "OTLP/HTTP Response").
fn judge(response: &Response) -> Sent {
    let status = response.status;
    let why = || format!("the collector answered with status {status}");
    match status {
        200..=299 => {
            let (rejected, why) = otlp::rejected(&response.body);
            Sent::Taken(rejected, why)
        }
        429 | 502 | 503 | 504 => Sent::Again(retry_after(response), why()),
        _ => Sent::Refused(why()),
    }
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3), as far as that is waited. A date is left to the usual backoff.
fn retry_after(response: &Response) -> Option<Duration> {
    let (_, value) = response.headers.iter().find(|(name, _)| name == "Retry-After")?;
    let seconds: u64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

/// From half of a time to all of it, so that engines which failed together do not come back together.
fn spread(time: Duration) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    time / 2 + (time / 2).mul_f64(f64::from(nanos % 1000) / 1000.0)
}

fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
