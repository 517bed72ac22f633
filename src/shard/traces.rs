//! What the worker traces, and the traces that connections belong to by their handshakes. Most belong to none, so a connection
//! carries nothing for that.

use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::ids::ClientId;
use crate::telemetry::spans::{SpanQueue, TraceContext, Tracer};

/// The traces of a worker.
#[derive(Default)]
pub struct Traces {
    /// Decides which spans are recorded.
    pub tracer: Rc<Tracer>,
    /// One at most for each connection.
    parents: RefCell<HashMap<ClientId, TraceContext, RandomState>>,
}

impl Traces {
    /// Traces from now on, that part of the traces that begin here; None: nothing.
    pub fn turn(&self, ratio: Option<f64>, queue: &Arc<SpanQueue>) {
        self.tracer.turn(ratio, queue);
        if ratio.is_none() {
            self.parents.take();
        }
    }

    /// A client's messages belong to that trace.
    pub fn belongs(&self, client: ClientId, to: TraceContext) {
        self.parents.borrow_mut().insert(client, to);
    }

    /// The trace that a client's messages belong to.
    pub fn of(&self, client: ClientId) -> Option<TraceContext> {
        self.parents.borrow().get(&client).cloned()
    }

    /// A connection has ended.
    pub(super) fn ended(&self, client: ClientId) {
        let mut parents = self.parents.borrow_mut();
        if !parents.is_empty() && parents.remove(&client).is_some() && parents.is_empty() {
            *parents = HashMap::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_belongs_to_its_trace_until_it_ends() {
        let (traces, queue) = (Traces::default(), Arc::new(SpanQueue::default()));
        traces.turn(Some(1.0), &queue);
        let ids = [7, 8, 9].map(|id| ClientId::new(id).unwrap());
        let context = |trace_id| TraceContext { trace_id, span_id: 1, sampled: true, state: None };
        ids.iter().zip([70, 80, 90]).for_each(|(id, trace)| traces.belongs(*id, context(trace)));
        traces.ended(ids[0]);
        assert_eq!((traces.of(ids[0]), traces.of(ids[1])), (None, Some(context(80))));
        traces.ended(ids[1]);
        traces.ended(ids[1]);
        assert_eq!(traces.of(ids[2]), Some(context(90)));
        traces.turn(None, &queue);
        assert_eq!(traces.of(ids[2]), None);
    }
}
