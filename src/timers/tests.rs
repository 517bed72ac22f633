//! When timers are due, and what becomes of them.

use super::*;
use std::sync::atomic::AtomicU64;

const SECOND: Duration = Duration::from_secs(1);
const ONE: WorkerId = WorkerId(0);
const OTHER: WorkerId = WorkerId(1);

fn call(name: &str) -> Call {
    Call { name: name.into(), args: Box::default(), conn: None }
}

fn by(server: usize, worker: WorkerId) -> SetBy {
    SetBy { server, worker, starts: None }
}

fn tied(name: &str, client: u64) -> Call {
    Call { conn: Some((ClientId::new(client).unwrap(), 7)), ..call(name) }
}

/// The names of what is due then, each of which ends at once.
fn due(timers: &Arc<Timers>, worker: WorkerId, now: Instant) -> Vec<String> {
    let mut names = Vec::new();
    while let Due::Now(run) = timers.due(worker, now, Waker::noop()) {
        names.push(run.call.name.to_string());
    }
    names
}

#[test]
fn a_timer_runs_when_it_is_due_and_once() {
    let (timers, now) = (Arc::new(Timers::new(2)), Instant::now());
    timers.set(by(0, ONE), call("late"), SECOND * 2, false, now).unwrap();
    timers.set(by(0, ONE), call("soon"), SECOND, false, now).unwrap();
    timers.set(by(0, ONE), call("again"), SECOND, true, now).unwrap();
    assert!(matches!(timers.due(ONE, now, Waker::noop()), Due::At(at) if at == now + SECOND));
    assert!(due(&timers, OTHER, now + SECOND * 9).is_empty());
    assert_eq!(due(&timers, ONE, now + SECOND), ["soon", "again"]);
    assert_eq!(due(&timers, ONE, now + SECOND * 2), ["late", "again"]);
    // The worker was held up for a while.
    assert_eq!(due(&timers, ONE, now + SECOND * 5), ["again"]);
    assert_eq!(timers.figures(), Figures { set: 1, running: 0, runs: 5, skipped: 2 });
    assert!(matches!(timers.due(ONE, now, Waker::noop()), Due::At(at) if at == now + SECOND * 6));
}

#[test]
fn the_same_timer_is_not_set_twice() {
    let (timers, now) = (Arc::new(Timers::new(2)), Instant::now());
    let set = |server, worker, call, after, at| timers.set(by(server, worker), call, after, true, at).unwrap();
    let first = set(0, ONE, call("tick"), SECOND, now);
    assert_eq!(set(0, OTHER, call("tick"), SECOND, now + SECOND / 2), first);
    assert!(matches!(timers.due(ONE, now, Waker::noop()), Due::At(at) if at == now + SECOND), "as it was");
    assert_eq!(set(0, OTHER, call("tick"), SECOND * 3, now), first);
    assert!(matches!(timers.due(ONE, now, Waker::noop()), Due::At(at) if at == now + SECOND * 3));
    let with = |n| Call { args: Box::new([Value::Number(n)]), ..call("tick") };
    let ids = [set(1, ONE, call("tick"), SECOND, now), set(0, ONE, with(1.0), SECOND, now)];
    let ids = [first, ids[0], ids[1], timers.set(by(0, ONE), call("tick"), SECOND, false, now).unwrap()];
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(set(0, ONE, with(1.0), SECOND, now), 3);
    assert!(!timers.cancel(0, 2), "another server's");
    assert!(timers.cancel(1, 2) && !timers.cancel(1, 2));
    assert_eq!(timers.figures().set, 3);
}

#[test]
fn what_has_not_ended_is_left_out() {
    let (timers, now) = (Arc::new(Timers::new(1)), Instant::now());
    let id = timers.set(by(0, ONE), call("slow"), SECOND, true, now).unwrap();
    let Due::Now(run) = timers.due(ONE, now + SECOND, Waker::noop()) else { panic!("it is due") };
    assert!(due(&timers, ONE, now + SECOND * 3).is_empty());
    assert_eq!(timers.figures(), Figures { set: 1, running: 1, runs: 1, skipped: 2 });
    drop(run);
    assert_eq!(due(&timers, ONE, now + SECOND * 4), ["slow"]);
    let Due::Now(run) = timers.due(ONE, now + SECOND * 5, Waker::noop()) else { panic!("it is due") };
    timers.cancel(0, id);
    drop(run);
    assert_eq!(timers.figures(), Figures { set: 0, running: 0, runs: 3, skipped: 2 });
}

#[test]
fn a_run_that_cant_begin_comes_later() {
    let (timers, now) = (Arc::new(Timers::new(1)), Instant::now());
    timers.set(by(0, ONE), call("once"), SECOND, false, now).unwrap();
    let Due::Now(run) = timers.due(ONE, now + SECOND, Waker::noop()) else { panic!("it is due") };
    run.put_off(SECOND, now + SECOND);
    assert_eq!(timers.figures(), Figures { set: 1, ..Figures::default() });
    assert_eq!(due(&timers, ONE, now + SECOND * 2), ["once"]);
}

#[test]
fn a_connections_timers_end_with_it() {
    let (timers, now) = (Arc::new(Timers::new(2)), Instant::now());
    for (name, client) in [("a", 1), ("b", 1), ("a", 2)] {
        timers.set(by(0, ONE), tied(name, client), SECOND, true, now).unwrap();
    }
    timers.set(by(0, ONE), call("c"), SECOND, true, now).unwrap();
    timers.ended(ClientId::new(1).unwrap());
    timers.ended(ClientId::new(3).unwrap());
    assert_eq!(timers.figures().set, 2);
    timers.take_over(ONE, OTHER);
    assert_eq!(due(&timers, ONE, now + SECOND), ["a"], "a connection stays with its worker");
    assert_eq!(due(&timers, OTHER, now + SECOND), ["c"]);
    timers.ended(ClientId::new(2).unwrap());
    assert_eq!((timers.figures().set, timers.tied.load(Relaxed)), (1, 0));
}

#[test]
fn what_the_next_version_does_not_set_at_its_start_ends() {
    let (timers, now) = (Arc::new(Timers::new(1)), Instant::now());
    let version = |n| NonZeroU64::new(n);
    let set = |name, starts| {
        let by = SetBy { server: 0, worker: ONE, starts };
        timers.set(by, call(name), SECOND, true, now).unwrap();
    };
    set("kept", version(1));
    set("left", version(1));
    set("by a handler", None);
    set("kept", version(3));
    // Of a version that was refused.
    set("new", version(2));
    timers.keep_set(1, version(3).unwrap());
    assert_eq!(timers.figures().set, 4, "another server's");
    timers.keep_set(0, version(3).unwrap());
    assert_eq!(due(&timers, ONE, now + SECOND), ["kept", "by a handler"]);
}

#[test]
fn they_are_bounded_and_end() {
    let (timers, now) = (Arc::new(Timers::new(1)), Instant::now());
    let with = |text: usize, n: usize| Call {
        args: Box::new([Value::Number(n as f64), Value::str(vec![0; text])]),
        ..call("x")
    };
    let set = |call| timers.set(by(0, ONE), call, SECOND, false, now);
    assert_eq!(set(with(MAX_CALL, 0)), Err(TimerError::Call));
    let refused = (0..MAX_TIMERS).find_map(|n| set(with(MAX_CALL / 2, n)).err());
    assert_eq!(refused, Some(TimerError::Bytes));
    let all = timers.figures().set;
    assert!(all > MAX_BYTES / MAX_CALL && all < MAX_BYTES / MAX_CALL * 2, "{all}");
    timers.close();
    assert_eq!((timers.figures().set, timers.lock().bytes), (0, 0));
    assert_eq!(set(call("x")), Err(TimerError::Closed));
}

#[test]
fn a_worker_is_woken_for_what_is_due_sooner() {
    struct Count(AtomicU64);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let (timers, now, count) = (Arc::new(Timers::new(1)), Instant::now(), Arc::new(Count(AtomicU64::new(0))));
    let waker = Waker::from(count.clone());
    let look = || timers.due(ONE, now, &waker);
    assert!(matches!(look(), Due::Never));
    timers.set(by(0, ONE), call("a"), SECOND * 5, false, now).unwrap();
    assert!(matches!(look(), Due::At(_)));
    timers.set(by(0, ONE), call("b"), SECOND * 9, false, now).unwrap();
    assert_eq!(count.0.load(Relaxed), 1, "only for the first");
    timers.set(by(0, ONE), call("c"), SECOND, false, now).unwrap();
    assert_eq!(count.0.load(Relaxed), 2);
}
