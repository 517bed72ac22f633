//! A span that has not ended.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::context::TraceContext;
use super::queue::SpanQueue;
use super::span::{Attribute, Event, Span, Value, cut};

/// A span that has not ended. It ends when it is dropped, and goes into the queue.
pub struct Recording(Box<Open>);

struct Open {
    span: Span,
    began: Instant,
    queue: Arc<SpanQueue>,
}

impl Recording {
    /// A span that begins now.
    pub(super) fn begin(span: Span, queue: Arc<SpanQueue>) -> Recording {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Recording(Box::new(Open { span: Span { time: (now, now), ..span }, began: Instant::now(), queue }))
    }

    /// Its trace, and its own id there.
    pub fn context(&self) -> &TraceContext {
        &self.0.span.context
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.span.attributes.push((name, value.into()));
    }

    /// Something has happened.
    pub fn event(&mut self, name: &'static str, attributes: Vec<Attribute>) {
        let at = self.now();
        self.0.span.events.push(Event { name, at, attributes });
    }

    /// It is a publish.
    pub fn publishes(&mut self) {
        self.set("messaging.system", "connmix");
        self.set("messaging.operation.name", "publish");
        self.set("messaging.operation.type", "send");
    }

    /// The messages of a publish have been put into outboxes: of so many connections, and not of so many; of so many nodes it
    /// is not known. So many publishes were over a limit, and so many of these were added to others.
    pub fn delivered(&mut self, (reached, failed): (u64, u64), unanswered: u64, (left_out, merged): (u64, u64)) {
        let mut attributes = vec![("connmix.reached", reached.into()), ("connmix.failed", failed.into())];
        let rare = [("connmix.unanswered", unanswered), ("connmix.left_out", left_out), ("connmix.merged", merged)];
        attributes.extend(rare.into_iter().filter(|(_, many)| *many > 0).map(|(name, many)| (name, many.into())));
        self.event("deliveries", attributes);
    }

    /// It has failed. The text must hold no secret.
    pub fn fail(&mut self, why: &str) {
        self.0.span.error = Some(cut(why).into());
    }

    /// Now, by a clock that is never set back meanwhile.
    fn now(&self) -> u64 {
        let passed = u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.span.time.0.saturating_add(passed)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let ended = self.now();
        let Open { span, queue, .. } = &mut *self.0;
        span.time.1 = ended;
        let taken = Span {
            context: span.context.clone(),
            name: std::mem::take(&mut span.name),
            attributes: std::mem::take(&mut span.attributes),
            events: std::mem::take(&mut span.events),
            error: span.error.take(),
            ..*span
        };
        queue.push(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::SpanKind;
    use super::super::tracer::Tracer;
    use super::*;

    #[test]
    fn a_span_ends_when_it_is_dropped_and_long_texts_are_cut() {
        let (tracer, queue) = (Tracer::default(), Arc::new(SpanQueue::default()));
        tracer.turn(Some(1.0), &queue);
        let (context, recording) = tracer.begin("publish", SpanKind::Server, None);
        let mut recording = recording.unwrap();
        assert_eq!(recording.context(), &context);
        recording.set("a", "弹".repeat(500).as_str());
        recording.set("b", u64::MAX);
        recording.event("deliveries", vec![("connmix.reached", 3.into())]);
        recording.fail(&"x".repeat(5000));
        assert!(queue.take().is_empty());
        drop(recording);
        let [span] = &queue.take()[..] else { panic!("one span") };
        assert_eq!(span.context, context);
        assert_eq!(span.attributes[0].1, Value::Text("弹".repeat(341).into()));
        assert_eq!(span.attributes[1].1, Value::Integer(i64::MAX));
        assert_eq!(span.error.as_deref(), Some(&*"x".repeat(1024)));
        let (began, ended) = span.time;
        assert!(began > 0 && began <= span.events[0].at && span.events[0].at <= ended);
    }
}
