//! Logs the failures of hooks and of timers.

use crate::script::vm::{Failure, Hook};
use crate::shard::conn::Conn;
use crate::telemetry::rate_limited::rate_limited;

/// Logs a hook's failure once, with everything that its author needs; for failures at one place, once a second.
pub(super) fn report(hook: Hook, failure: &Failure, conn: &Conn) {
    let hook = failure.hook(hook).name();
    rate_limited!(ERROR, "handlers fail", &format!("{hook} {}", failure.place());
        target: "script",
        client_id = conn.client_id.get(),
        remote = %conn.remote(),
        hook,
        traceback = failure.traceback.join(" < "),
        "{}",
        failure.message
    );
}

/// The same for the function of a timer.
pub(super) fn report_timer(function: &str, failure: &Failure) {
    rate_limited!(ERROR, "timers fail", &format!("{function} {}", failure.place());
        target: "script",
        timer = function,
        traceback = failure.traceback.join(" < "),
        "{}",
        failure.message
    );
}
