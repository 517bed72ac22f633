//! Spans that have ended and wait for the exporter. Workers put them in and never wait: when the queue is full, a span is
//! dropped and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

use super::span::Span;

/// The most spans that wait.
pub const MAX_QUEUED: usize = 8192;
/// The most spans that are sent at once.
pub const MAX_BATCH: usize = 512;

/// The spans that wait, of all workers.
#[derive(Debug, Default)]
pub struct SpanQueue {
    spans: Mutex<VecDeque<Span>>,
    /// A whole batch waits.
    full_batch: Notify,
    /// What became of spans.
    pub figures: Figures,
}

/// How many spans came to what.
#[derive(Debug, Default)]
pub struct Figures {
    /// The collector has them.
    pub exported: AtomicU64,
    /// The collector does not want them.
    pub rejected: AtomicU64,
    /// They could not be sent.
    pub failed: AtomicU64,
    /// The queue was full, or tracing was turned off while they waited.
    pub dropped: AtomicU64,
}

impl SpanQueue {
    /// Puts a span in, unless it is full.
    pub fn push(&self, span: Span) {
        let mut spans = self.lock();
        if spans.len() >= MAX_QUEUED {
            drop(spans);
            self.figures.dropped.fetch_add(1, Relaxed);
            return;
        }
        spans.push_back(span);
        let count = spans.len();
        drop(spans);
        if count == MAX_BATCH {
            self.full_batch.notify_one();
        }
    }

    /// Takes a batch out, the oldest first.
    pub fn take(&self) -> Vec<Span> {
        let mut spans = self.lock();
        let count = spans.len().min(MAX_BATCH);
        spans.drain(..count).collect()
    }

    /// Waits until a whole batch waits. It may return once too early.
    pub async fn full_batch(&self) {
        self.full_batch.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
        // Nothing is done under the lock that could leave it half changed.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::SpanKind;
    use super::super::tracer::Tracer;
    use super::*;
    use futures_util::FutureExt;
    use std::sync::Arc;

    #[test]
    fn it_is_bounded_and_gives_batches_in_order() {
        let (tracer, queue) = (Tracer::default(), Arc::new(SpanQueue::default()));
        tracer.turn(Some(1.0), &queue);
        let ids: Vec<u64> =
            (0..MAX_QUEUED + 5).map(|_| tracer.begin("x", SpanKind::Internal, None).0.span_id).collect();
        assert_eq!(queue.figures.dropped.load(Relaxed), 5);
        assert!(queue.full_batch().now_or_never().is_some());
        let mut taken = Vec::new();
        loop {
            let batch = queue.take();
            if batch.is_empty() {
                break;
            }
            assert_eq!(batch.len(), MAX_BATCH);
            taken.extend(batch.iter().map(|span| span.context.span_id));
        }
        assert_eq!(taken, ids[..MAX_QUEUED]);
        assert!(queue.full_batch().now_or_never().is_none());
    }
}
