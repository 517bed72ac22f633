//! Runs the timers that scripts have set in this worker. One task starts what is due, each as it gets its turn among the
//! connections; a function that waits goes on in a task of its own, so that it holds up no other.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::Worker;
use super::failures::report_timer;
use super::measure::Began;
use crate::api::Stage;
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::program::shown;
use crate::script::vm::{Failure, Handler, Hook, Returned, Started};
use crate::telemetry::rate_limited::rate_limited;
use crate::timers::{Due, Run};

/// When a function is tried again that found no place among those that wait.
const AGAIN: Duration = Duration::from_millis(100);

/// Runs what is due, until the worker ends.
pub(super) async fn run(worker: Rc<Worker>) {
    let mut timer = pin!(sleep(Duration::ZERO));
    loop {
        worker.hold.lifted().await;
        let due = poll_fn(|cx| {
            loop {
                if worker.hold.is_on() {
                    return Poll::Ready(None);
                }
                match worker.timers.due(worker.id, Instant::now(), cx.waker()) {
                    Due::Now(run) => return Poll::Ready(Some(run)),
                    Due::At(at) => timer.as_mut().reset(at.into()),
                    Due::Never => return Poll::Pending,
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        let Some(due) = due else { continue };
        let under_way = worker.unbound_runs.clone();
        // In a task of its own, so that a defect there does not end this one.
        let _ = spawn_local(begin(worker.clone(), due, under_way)).await;
    }
}

/// Starts a function, and returns when it has ended or waits.
async fn begin(worker: Rc<Worker>, run: Run, under_way: Rc<()>) {
    let turn = worker.shared_turn(&worker.unbound).await;
    let conn = match run.call.conn {
        None => None,
        Some((client_id, slot)) => match worker.shard.get_at(slot, client_id) {
            Some(conn) if !conn.is_closing() => Some(ConnRef::of(&conn)),
            _ => return,
        },
    };
    let (vm, server) = (worker.vm(run.server), &worker.servers[run.server]);
    let call = run.call.clone();
    if !vm.defines(&call.name) {
        let (entry, name) = (shown(&vm.program.entry), call.name.escape_debug());
        let stays = if run.repeats { "; the timer stays" } else { "; it will not run" };
        rate_limited!(ERROR, "timers have no function", &format!("{entry} {name}"); target: "script",
            "a timer is to run {name}, and {entry} defines no global function of that name{stays}");
        return run.leave_out();
    }
    if !vm.has_place(Hook::Timer) {
        let entry = shown(&vm.program.entry);
        rate_limited!(WARN, "timers wait for places", &entry; target: "script",
            "as many handlers of {entry} wait as may on a worker: its timers run later");
        return run.put_off(AGAIN, Instant::now());
    }
    let began = Began::now(&vm, Hook::Timer);
    let args = HookArgs::timer(&call.name, conn, &call.args);
    let started = vm.start(Hook::Timer, None, args, server.served.limits.get().handler_timeout);
    worker.charge_shared(&worker.unbound, began.so_far());
    drop(turn);
    match started {
        Started::Done(result) => ended(&worker, &run, began, result),
        Started::Suspended(handler) => drop(spawn_local(go_on(worker.clone(), run, began, handler, under_way))),
    }
}

/// Goes on with a function that waits, to its end. Once the engine stops, or the connection that the timer ends with has
/// ended, its waits end with an error.
async fn go_on(worker: Rc<Worker>, run: Run, began: Began, mut handler: Handler, _under_way: Rc<()>) {
    let mut stage = worker.stage.clone();
    let mut stop = pin!(async move { drop(stage.wait_for(Stage::is_draining).await) });
    let mut cut = pin!(worker.hold.cut());
    let tied = run.call.conn.map(|(client, slot)| (client, slot, worker.tied.end_of(client)));
    // It may have ended before this was polled first.
    let mut stops = tied.as_ref().is_some_and(|(client, slot, _)| worker.shard.get_at(*slot, *client).is_none());
    let (mut ticket, mut is_cut) = (None, false);
    let result = {
        let mut end = pin!(async {
            match &tied {
                Some((_, _, end)) => end.notified().await,
                None => pending().await,
            }
        });
        poll_fn(|cx| {
            stops = stops || stop.as_mut().poll(cx).is_ready() || end.as_mut().poll(cx).is_ready();
            if !is_cut && cut.as_mut().poll(cx).is_ready() {
                is_cut = true;
                handler.cut();
            }
            worker.poll_shared(&worker.unbound, &mut ticket, &mut handler, stops, cx)
        })
        .await
    };
    if let Some((client, _, end)) = tied {
        worker.tied.leave(client, end);
    }
    ended(&worker, &run, began, result);
}

fn ended(worker: &Worker, run: &Run, began: Began, result: Result<Returned, Failure>) {
    began.ended_of(Hook::Timer, &result, &worker.servers[run.server].served.counts);
    if let Err(failure) = result {
        report_timer(&run.call.name, &failure, &worker.shard);
    }
}
