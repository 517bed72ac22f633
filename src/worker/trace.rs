//! The spans of handlers. While nothing is traced, starting a handler costs a look at one cell.

use super::Worker;
use crate::script::vm::{Failure, Hook, Returned, Vm};
use crate::shard::conn::Conn;
use crate::telemetry::spans::{Entered, Recording, SpanKind, TraceContext};

/// A handler that is traced. Dropped without [`HandlerTrace::ended`], its span ends all the same.
pub(super) struct HandlerTrace {
    /// For what the handler does, recorded or not.
    context: TraceContext,
    /// None: it is not recorded.
    span: Option<Recording>,
}

impl Worker {
    /// Begins the span of a hook of a connection, in the connection's trace unless another one is given. None: nothing is
    /// traced, or not this hook.
    pub(super) fn trace(
        &self,
        hook: Hook,
        vm: &Vm,
        conn: &Conn,
        parent: Option<Box<TraceContext>>,
    ) -> Option<Box<HandlerTrace>> {
        if !self.shard.traces.tracer.is_on() {
            return None;
        }
        let kind = match hook {
            Hook::Handshake => SpanKind::Server,
            Hook::Message => SpanKind::Consumer,
            Hook::Connect | Hook::Close => SpanKind::Internal,
            // Parts of a message, or of no connection.
            Hook::Input | Hook::Decode | Hook::Encode | Hook::Start | Hook::Timer => return None,
        };
        vm.has(hook).then(|| Box::new(self.begin_trace(hook, kind, conn, parent)))
    }

    #[cold]
    fn begin_trace(&self, hook: Hook, kind: SpanKind, conn: &Conn, parent: Option<Box<TraceContext>>) -> HandlerTrace {
        let traces = &self.shard.traces;
        let parent = parent.map(|parent| *parent).or_else(|| traces.of(conn.client_id));
        let (context, mut span) = traces.tracer.begin(hook.name(), kind, parent.as_ref());
        if let Some(span) = &mut span {
            span.set("connmix.client_id", conn.client_id.to_string().as_str());
        }
        HandlerTrace { context, span }
    }

    /// Until the result is dropped, what is done belongs to that handler, if it is traced.
    pub(super) fn enter_trace(&self, trace: Option<&HandlerTrace>) -> Option<Entered<'_>> {
        trace.map(|trace| self.shard.traces.tracer.enter(&trace.context))
    }
}

impl HandlerTrace {
    /// The handler has ended.
    pub(super) fn ended(self, result: &Result<Returned, Failure>) {
        if let (Some(mut span), Err(failure)) = (self.span, result) {
            span.fail(&failure.message);
        }
    }
}
