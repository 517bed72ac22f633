//! Detects stuck workers, from a thread of its own. It tells the log, the hub (so that nobody waits for such a worker)
//! and the other workers (so that it gets no new connections). While all are stuck, it answers the APIs' callers.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::stand_in::{Doors, StandIn};
use crate::hub::Hub;
use crate::ids::WorkerId;
use crate::timers::Timers;
use crate::worker::Peers;
use crate::worker::pulse::{Pulse, State};

/// How often it looks, unless a worker counts as stuck sooner.
const LOOK: Duration = Duration::from_millis(100);

/// The thread, until it is dropped.
pub(super) struct Watcher {
    ended: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches from now on. A worker that has not gone on for `after` is stuck.
    pub(super) fn spawn(
        peers: Arc<Peers>,
        hub: Arc<Hub>,
        doors: Arc<Doors>,
        timers: Arc<Timers>,
        after: Duration,
    ) -> io::Result<Watcher> {
        let (ended, until) = mpsc::channel();
        let every = LOOK.min(after / 8);
        let watch = move || {
            let mut stills: Vec<Still> = peers.pulses.iter().map(|_| Still::default()).collect();
            let (mut last, mut stand_in) = (Instant::now(), StandIn::default());
            while until.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // A pause of the whole process, or of this thread, is not a worker's.
                let passed = last.elapsed().min(every * 2);
                last = Instant::now();
                for (at, (pulse, still)) in peers.pulses.iter().zip(&mut stills).enumerate() {
                    let before_look = still.since;
                    let (before, now) = (pulse.state(), still.look(pulse.progress(), passed, after));
                    if before != now {
                        let since = before_look.max(still.since);
                        pulse.set(now);
                        tell(WorkerId(at as u16), pulse, &hub, [before, now], since);
                    }
                    if now != State::Fine {
                        peers.take_back(at);
                    }
                    if now == State::Stuck
                        && let Some(to) = peers.liveliest()
                    {
                        timers.take_over(WorkerId(at as u16), WorkerId(to as u16));
                    }
                }
                stand_in.look(&doors, &hub.stuck().collect::<Vec<_>>(), hub.workers());
            }
        };
        let thread = std::thread::Builder::new().name("pulse".into()).spawn(watch)?;
        Ok(Watcher { ended: Some(ended), thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tell(worker: WorkerId, pulse: &Pulse, hub: &Hub, change: [State; 2], since: Duration) {
    match change {
        [_, State::Stuck] => {
            hub.stall(worker);
            let place = pulse.whereabouts();
            tracing::error!(
                "worker {} is stuck: for {:.1} s it has been {place}. Its clients are not served until it goes on",
                worker.0,
                since.as_secs_f64()
            );
        }
        [State::Stuck, _] => {
            hub.resume(worker);
            tracing::warn!("worker {} goes on; it was stuck for {:.1} s", worker.0, since.as_secs_f64());
        }
        _ => {}
    }
}

/// How long a worker has not gone on.
#[derive(Default)]
struct Still {
    progress: Option<(u64, u64)>,
    since: Duration,
}

impl Still {
    /// Checks a worker's progress, `passed` after the last check.
    fn look(&mut self, progress: Option<(u64, u64)>, passed: Duration, after: Duration) -> State {
        if progress.is_none() || progress != self.progress {
            *self = Still { progress, since: Duration::ZERO };
            return State::Fine;
        }
        self.since += passed;
        match self.since {
            since if since >= after => State::Stuck,
            since if since >= after / 3 => State::Late,
            _ => State::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_while_neither_number_moves() {
        let (mut still, second) = (Still::default(), Duration::from_secs(1));
        let mut look = |progress| still.look(progress, second, second * 3);
        assert_eq!(look(None), State::Fine, "it does not serve yet");
        assert_eq!(look(Some((1, 0))), State::Fine);
        assert_eq!(
            [look(Some((1, 0))), look(Some((1, 0))), look(Some((1, 0)))],
            [State::Late, State::Late, State::Stuck]
        );
        assert_eq!(look(Some((1, 1))), State::Fine, "it has entered Lua");
        assert_eq!([look(Some((1, 1))), look(Some((2, 1))), look(None)], [State::Late, State::Fine, State::Fine]);
        assert_eq!(look(None), State::Fine, "it has ended");
    }
}
