//! Logs the failures of hooks and of timers.

use crate::script::vm::{Failure, Hook};
use crate::shard::conn::Conn;
use crate::shard::{Failed, Shard};
use crate::telemetry::rate_limited::rate_limited;

/// Logs a hook's failure once, with everything that its author needs; for failures at one place, once a second.
pub(super) fn report(hook: Hook, failure: &Failure, conn: &Conn, shard: &Shard) {
    let hook = failure.hook(hook).name();
    show(shard, Some(conn), ("hook", hook), failure);
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
pub(super) fn report_timer(function: &str, failure: &Failure, shard: &Shard) {
    show(shard, None, ("timer", function), failure);
    rate_limited!(ERROR, "timers fail", &format!("{function} {}", failure.place());
        target: "script",
        timer = function,
        traceback = failure.traceback.join(" < "),
        "{}",
        failure.message
    );
}

/// Shows it to those who watch: each of them, however many there are.
fn show(shard: &Shard, conn: Option<&Conn>, (what, name): (&'static str, &str), failure: &Failure) {
    if shard.tap.is_on() {
        let (text, traceback) = (&failure.message, &failure.traceback.join(" < "));
        shard.see_failure(conn, &Failed { what, name, place: failure.place(), text, traceback });
    }
}
