//! `mix.traceparent`: the trace of the handler that runs, for those whom the engine does not tell of it by itself.

use crate::script::current;
use crate::script::push::Table;
use crate::script::stack::{Args, Raise};

/// Adds `traceparent` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"traceparent", traceparent);
}

/// A `traceparent` (W3C Trace Context); nil where the handler is not traced.
fn traceparent(_: &Args) -> Result<Option<String>, Raise> {
    let running = current::host().and_then(|host| host.shard.traces.tracer.running());
    Ok(running.map(|context| context.traceparent()))
}
