//! A sign of life of each worker: a number that a timer of the worker moves, and another that moves when it enters or
//! leaves Lua. A thread of the engine watches both. If neither moves, the worker is stuck: in a script that may hold it
//! that long, in a function that can't be interrupted, or outside Lua.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster;
use crate::hub::Hub;
use crate::script::watchdog::Thread;

/// How often an idle worker shows that it lives.
pub const BEAT: Duration = Duration::from_millis(250);

/// The state of a worker, for those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It makes progress.
    Fine,
    /// No progress for a while: it gets no new connections.
    Late,
    /// No progress for so long that nobody waits for it.
    Stuck,
}

/// One worker's sign of life.
#[derive(Default)]
pub struct Pulse {
    /// Set once the worker serves.
    thread: OnceLock<Thread>,
    /// The system's number of its thread; 0: it does not serve.
    id: AtomicI32,
    beats: AtomicU64,
    /// A [`State`], written by the watching thread.
    state: AtomicU8,
    /// How often it has been stuck, written by the watching thread.
    times: AtomicU64,
}

impl Pulse {
    /// The calling thread is the worker's, and serves from now on.
    fn begin(&self) {
        if let Some(thread) = Thread::this() {
            let _ = self.thread.set(thread);
        }
        // SAFETY: the call has no conditions.
        self.id.store(unsafe { libc::gettid() }, Relaxed);
    }

    /// Shows, until it is dropped, that the calling worker thread lives.
    pub(super) async fn beat(&self, hub: &Hub) {
        self.begin();
        let mut timer = interval(BEAT);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            self.beats.store(self.beats.load(Relaxed).wrapping_add(1), Relaxed);
            if hub.stuck().next().is_some() {
                cluster::look_again();
            }
        }
    }

    /// The worker has drained.
    pub(super) fn end(&self) {
        self.id.store(0, Relaxed);
    }

    /// A number that moves while the worker goes on; None: it does not serve.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let serves = self.id.load(Relaxed) != 0;
        serves.then(|| (self.beats.load(Relaxed), self.thread.get().map_or(0, Thread::steps)))
    }

    /// The worker's state.
    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::Fine,
            1 => State::Late,
            _ => State::Stuck,
        }
    }

    /// Sets the state; called by the watching thread.
    pub fn set(&self, state: State) {
        if state == State::Stuck {
            self.times.store(self.times.load(Relaxed) + 1, Relaxed);
        }
        self.state.store(state as u8, Relaxed);
    }

    /// How often it has been stuck.
    pub fn times(&self) -> u64 {
        self.times.load(Relaxed)
    }

    /// Where the worker is: "in on_message (entry.lua:3), waiting in the system (open), at store.lua:7, called at
    /// entry.lua:5".
    pub fn whereabouts(&self) -> String {
        let doing = self.thread.get().and_then(Thread::doing);
        let mut place = doing.map_or_else(|| "outside Lua".into(), |doing| format!("in {doing}"));
        if let Some(what) = on_the_system(self.id.load(Relaxed)) {
            place = format!("{place}, {what}");
        }
        let frames = self.thread.get().filter(|_| doing.is_some()).map(Thread::frames);
        match frames.filter(|frames| !frames.is_empty()) {
            Some(frames) => format!("{place}, at {}", frames.join(", called at ")),
            None => place,
        }
    }
}

/// The text for a thread that computes.
const COMPUTING: &str = "computing";

/// How often a thread is sampled before it is said to compute, and the pauses between samples: a waiting thread is
/// briefly woken by the watchdog's signals again and again.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(3);

/// What a thread of this process does, as the system reports it.
fn on_the_system(id: i32) -> Option<String> {
    settled(|| look(id))
}

/// What a thread does; it computes only if all samples say so.
fn settled(mut look: impl FnMut() -> Option<String>) -> Option<String> {
    for _ in 1..LOOKS {
        let seen = look()?;
        if seen != COMPUTING {
            return Some(seen);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    look()
}

/// One sample of what the thread does.
fn look(id: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
    Some(match stat.rsplit(") ").next()?.chars().next()? {
        'R' => COMPUTING.into(),
        'T' | 't' => "halted by a debugger".into(),
        'D' => "waiting for a disk".into(),
        'S' => {
            let call = std::fs::read_to_string(format!("/proc/self/task/{id}/syscall")).ok();
            match call.as_deref().and_then(|call| call.split(' ').next()?.parse().ok()) {
                // It has been woken since.
                None if call.as_deref().is_some_and(|call| call.starts_with("running")) => COMPUTING.into(),
                Some(number) => format!("waiting in the system ({})", call_name(number)),
                None => "waiting in the system".into(),
            }
        }
        _ => return None,
    })
}

/// The name of a system call that a worker may hang in.
fn call_name(number: i64) -> String {
    let known = [
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_openat, "open"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_clock_nanosleep, "sleep"),
        (libc::SYS_connect, "connect"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_epoll_pwait, "epoll_wait"),
    ];
    let name = known.iter().find(|(call, _)| *call == number);
    name.map_or_else(|| format!("call {number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_a_signal_has_woken_is_not_taken_to_compute() {
        let told = |looks: &[&str]| {
            let mut looks = looks.iter();
            settled(|| looks.next().map(|&said| said.to_owned()))
        };
        assert_eq!(told(&["waiting in the system (open)"]).unwrap(), "waiting in the system (open)");
        assert_eq!(
            told(&[COMPUTING, COMPUTING, "waiting in the system (open)"]).unwrap(),
            "waiting in the system (open)"
        );
        assert_eq!(told(&[COMPUTING; LOOKS as usize]).unwrap(), COMPUTING);
        // It has ended.
        assert_eq!(told(&[COMPUTING]), None);
    }
}
