//! What a client has sent lately, where its server bounds that (`rate.messages`, `rate.bytes`). A client that has sent
//! more is not read for a while: TCP makes it wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep};

use crate::admission::bucket::Bucket;
use crate::config::{Rate, Rates};
use crate::handover::{Damaged, Decoder, Encoder};
use crate::telemetry::metrics::labels::RateLimit;

/// The part of a rate's number that must be there before a client is read again: a pause is for more than one message.
const PART: u64 = 8;
/// The most bytes that must be there for a client to be read, if that part is more: reads are not to be tiny ones.
const READ: u64 = 16 * 1024;

/// The account of one client.
pub struct Meter {
    began: Instant,
    messages: Bucket,
    bytes: Bucket,
    /// The client is not read until then.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter { began: Instant::now(), messages: Bucket::default(), bytes: Bucket::default(), pause: None }
    }
}

impl Meter {
    /// Writes what has been used, for a successor process. A pause begins there anew, as long as it has to be yet.
    pub(super) fn save(&self, out: &mut Encoder) {
        let now = self.now();
        [self.messages, self.bytes].into_iter().for_each(|bucket| out.u64(bucket.until_full(now)));
    }

    /// Reads what another process had counted.
    pub(super) fn read(from: &mut Decoder<'_>) -> Result<Meter, Damaged> {
        let (messages, bytes) = (Bucket::full_in(from.u64()?, 0), Bucket::full_in(from.u64()?, 0));
        Ok(Meter { messages, bytes, ..Meter::default() })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ready when the client may be read; else the task is woken when it may. `paused` is told if a pause begins.
    pub fn poll(&mut self, rates: &Rates, cx: &mut Context<'_>, paused: impl FnOnce(RateLimit)) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        let now = self.now();
        let part = |rate: Rate| (rate.count / PART).max(1);
        let (bytes, messages) = (part(rates.bytes).min(READ), part(rates.messages));
        let (limit, wait) = if self.messages.tokens(rates.messages, now) == 0 {
            (RateLimit::Messages, self.messages.wait(rates.messages, messages, now))
        } else if self.bytes.tokens(rates.bytes, now) < bytes {
            (RateLimit::Bytes, self.bytes.wait(rates.bytes, bytes, now))
        } else {
            return Poll::Ready(());
        };
        paused(limit);
        let mut pause = Box::pin(sleep(wait));
        let polled = pause.as_mut().poll(cx);
        self.pause = polled.is_pending().then_some(pause);
        polled
    }

    /// How many messages it may send now.
    pub fn messages_left(&self, rates: &Rates) -> u64 {
        if self.pause.is_some() { 0 } else { self.messages.tokens(rates.messages, self.now()) }
    }

    /// How many bytes it may send now.
    pub fn bytes_left(&self, rates: &Rates) -> u64 {
        if self.pause.is_some() { 0 } else { self.bytes.tokens(rates.bytes, self.now()) }
    }

    /// It has sent so many messages.
    pub fn took_messages(&mut self, rates: &Rates, messages: u64) {
        let now = self.now();
        self.messages.take(rates.messages, messages, now);
    }

    /// It has sent so many bytes.
    pub fn took_bytes(&mut self, rates: &Rates, bytes: u64) {
        let now = self.now();
        self.bytes.take(rates.bytes, bytes, now);
    }
}
