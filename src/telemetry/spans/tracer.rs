//! A worker's tracer: whether anything is traced, which spans are recorded, and what runs on the worker now.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::context::TraceContext;
use super::queue::SpanQueue;
use super::recording::Recording;
use super::span::{Span, SpanKind};

/// Decides which spans are recorded, and gives them ids. It belongs to one thread.
#[derive(Default)]
pub struct Tracer {
    /// Whether anything is traced.
    on: Cell<bool>,
    traced: RefCell<Option<Traced>>,
    /// The handler that runs now: what it does is part of it.
    running: RefCell<Option<TraceContext>>,
    /// Random numbers come of hashing a count by a random key.
    random: RandomState,
    count: Cell<u64>,
}

/// What is traced.
struct Traced {
    /// Of traces that begin here, those with an id below it are recorded.
    below: u64,
    queue: Arc<SpanQueue>,
}

impl Tracer {
    /// Whether anything is traced.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Traces from now on: of traces that begin here, that part from 0 to 1. None: nothing.
    pub fn turn(&self, ratio: Option<f64>, queue: &Arc<SpanQueue>) {
        self.on.set(ratio.is_some());
        let below = |ratio: f64| (ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64;
        *self.traced.borrow_mut() = ratio.map(|ratio| Traced { below: below(ratio), queue: queue.clone() });
    }

    /// Begins a span. With a parent it is recorded if that is; otherwise a trace begins, which is recorded by the ratio. The
    /// context is for what is done in the span, recorded or not.
    pub fn begin(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<&TraceContext>,
    ) -> (TraceContext, Option<Recording>) {
        self.begin_of(name, kind, parent, true)
    }

    /// The same, as a part of the handler that runs now, if there is one.
    pub fn begin_here(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> (TraceContext, Option<Recording>) {
        let running = self.running();
        self.begin_of(name, kind, running.as_ref(), false)
    }

    /// The handler that runs now, if one is traced.
    pub fn running(&self) -> Option<TraceContext> {
        self.running.borrow().clone()
    }

    fn begin_of(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<&TraceContext>,
        is_remote: bool,
    ) -> (TraceContext, Option<Recording>) {
        let traced = self.traced.borrow();
        let span_id = self.random();
        let context = match parent {
            Some(parent) => TraceContext { span_id, ..parent.clone() },
            None => {
                let low = self.random();
                let trace_id = u128::from(self.random()) << 64 | u128::from(low);
                // As the usual sampler has it: so all programs with the same ratio choose the same traces.
                let sampled = traced.as_ref().is_some_and(|traced| low >> 1 < traced.below);
                TraceContext { trace_id, span_id, sampled, state: None }
            }
        };
        let recording = traced.as_ref().filter(|_| context.sampled).map(|traced| {
            let span = Span {
                context: context.clone(),
                parent: parent.map(|parent| parent.span_id),
                is_remote: is_remote && parent.is_some(),
                name: name.into(),
                kind,
                time: (0, 0),
                attributes: Vec::new(),
                events: Vec::new(),
                error: None,
            };
            Recording::begin(span, traced.queue.clone())
        });
        (context, recording)
    }

    /// Until the result is dropped, what is done on this thread is part of that handler.
    pub fn enter(&self, context: &TraceContext) -> Entered<'_> {
        Entered { tracer: self, before: self.running.replace(Some(context.clone())) }
    }

    /// A random number that is not 0.
    fn random(&self) -> u64 {
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        self.random.hash_one(count).max(1)
    }
}

/// A handler that runs. Dropped, the one before runs.
pub struct Entered<'a> {
    tracer: &'a Tracer,
    before: Option<TraceContext>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.tracer.running.borrow_mut() = self.before.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(ratio: f64) -> (Tracer, Arc<SpanQueue>) {
        let (tracer, queue) = (Tracer::default(), Arc::new(SpanQueue::default()));
        tracer.turn(Some(ratio), &queue);
        (tracer, queue)
    }

    #[test]
    fn a_parent_decides_and_its_trace_goes_on() {
        let (tracer, queue) = tracer(1.0);
        let state: Option<Arc<str>> = Some("a=1".into());
        let parent = TraceContext { trace_id: 7, span_id: 8, sampled: true, state: state.clone() };
        let (context, recording) = tracer.begin("x", SpanKind::Server, Some(&parent));
        assert!(recording.is_some());
        drop(recording);
        assert_eq!((context.trace_id, context.sampled, &context.state), (7, true, &state));
        assert_ne!(context.span_id, 8);
        let span = queue.take().remove(0);
        assert_eq!((span.parent, span.is_remote, &span.context), (Some(8), true, &context));
        let (context, recording) =
            tracer.begin("x", SpanKind::Server, Some(&TraceContext { sampled: false, ..parent }));
        assert!(recording.is_none() && !context.sampled && context.trace_id == 7);
    }

    #[test]
    fn without_a_parent_the_ratio_decides() {
        for (ratio, want) in [(0.0, 0..=0), (0.25, 800..=1200), (1.0, 4000..=4000)] {
            let (tracer, _) = tracer(ratio);
            let recorded = (0..4000).filter(|_| tracer.begin("x", SpanKind::Server, None).1.is_some()).count();
            assert!(want.contains(&recorded), "{recorded} of 4000 at {ratio}");
        }
        let (tracer, queue) = tracer(1.0);
        assert!(tracer.is_on());
        tracer.turn(None, &queue);
        assert!(!tracer.is_on() && tracer.begin("x", SpanKind::Server, None).1.is_none());
    }

    #[test]
    fn what_runs_is_the_parent_of_what_it_does() {
        let (tracer, queue) = tracer(1.0);
        let (outer, recording) = tracer.begin("on_message", SpanKind::Consumer, None);
        {
            let _running = tracer.enter(&outer);
            let (inner, publish) = tracer.begin_here("publish", SpanKind::Producer);
            assert_eq!(inner.trace_id, outer.trace_id);
            drop(publish);
            let _nested = tracer.enter(&inner);
            assert_eq!(tracer.begin_here("x", SpanKind::Internal).0.trace_id, outer.trace_id);
        }
        drop(recording);
        assert_ne!(tracer.begin_here("publish", SpanKind::Producer).0.trace_id, outer.trace_id);
        let parents: Vec<_> = queue.take().iter().map(|span| (span.parent, span.is_remote)).collect();
        let inner = parents[1].0;
        assert_eq!(parents, [(Some(outer.span_id), false), (inner, false), (None, false), (None, false)]);
    }
}
