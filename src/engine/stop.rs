//! The end of an engine: load balancers are told, then clients are closed a few at a time, then everything ends.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;

use super::Engine;
use crate::api::Stage;
use crate::worker::pulse::{BEAT, Pulse, State};
use crate::worker::{Control, Peers};

/// How often a stop looks whether it can go on.
const LOOK: Duration = Duration::from_millis(1);
/// No fewer clients are closed than one in this time: a stop with few of them is short.
const EACH: Duration = Duration::from_millis(10);

impl Engine {
    /// Stops. For `drainDelay` only `/readyz` tells; then nobody new is accepted, and clients are closed over
    /// `drainSpread`, with 1012, after they have got what they are owed; then everything ends. Waits until all have gone,
    /// at most `shutdownTimeout` after the delay. True: no client was cut off.
    pub fn shutdown(mut self) -> bool {
        let config = self.config.load_full();
        self.leave();
        thread::sleep(config.drain_delay);
        self.stop(config.shutdown_timeout, config.drain_spread)
    }

    /// How long handlers that wait are let finish when a successor takes over.
    pub fn upgrade_timeout(&self) -> Duration {
        self.config.load().upgrade_timeout
    }

    /// A successor serves: what is left here ends now, without `drainDelay` and `drainSpread`.
    pub fn give_way(mut self) -> bool {
        self.stop(self.config.load().shutdown_timeout, Duration::ZERO)
    }

    /// Nobody new should come here.
    fn leave(&self) {
        self.stage.send_replace(Stage::Leaving);
        self.nodes.others().into_iter().for_each(|others| others.drain());
    }

    fn stop(&mut self, within: Duration, spread: Duration) -> bool {
        // Its end is awaited last: it may be trying a script.
        let supervisor = self.supervisor.take().map(|(_, thread)| thread);
        let deadline = Instant::now() + within;
        self.leave();
        // Connects are refused once the workers do not accept any more.
        self.estate.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.close_clients(spread, within);
        self.stage.send_replace(Stage::Draining);
        self.doors.shut();
        // Its consumers end now.
        self.queue.close();
        self.timers.close();
        self.tell(|| Control::Drain, deadline);
        let ended = |thread: JoinHandle<()>| {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(LOOK);
            }
            // A thread that is not finished ends with the process.
            thread.is_finished() && thread.join().is_ok()
        };
        let mut clean = true;
        let mut left = Vec::new();
        for (i, thread) in self.workers.drain(..).enumerate() {
            let running = !thread.is_finished();
            let in_time = ended(thread);
            if running && !in_time {
                left.push(i);
            }
            clean &= in_time;
        }
        if !left.is_empty() {
            tell_left(&self.peers, &left);
        }
        supervisor.map(ended);
        self.exporter.stop(deadline);
        // After the clients, whose last messages may be for clients of other nodes.
        self.mesh.take();
        // Not before: until now a worker may be stuck.
        self.watcher.take();
        clean
    }

    /// Accepts no clients any more, and closes those that are there a few at a time: so those that come back do not all
    /// come at once. A client that is not closed yet is served meanwhile, and so are callers. Returns when all are closed, or
    /// after one and a half times as long as that should take: some worker is stuck, or very busy.
    fn close_clients(&self, spread: Duration, within: Duration) {
        let clients: usize = self.clients.iter().map(|clients| clients.load(Relaxed)).sum();
        let over = over(spread, within, clients);
        if over.is_zero() {
            return;
        }
        tracing::info!("closing {clients} clients over {over:?}");
        let deadline = Instant::now() + over * 3 / 2;
        let (done, all) = channel();
        self.tell(move || Control::CloseClients { over, done: done.clone() }, deadline);
        // It hears nothing: the last worker that is done disconnects it.
        let _ = all.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Puts that on the lanes of all workers. One whose lane is full may be stuck; it keeps no other from it.
    fn tell(&self, control: impl Fn() -> Control, deadline: Instant) {
        let mut untold: Vec<_> = self.workers.iter().zip(&self.peers.control).collect();
        while !untold.is_empty() && Instant::now() < deadline {
            untold.retain(|(thread, lane)| {
                !thread.is_finished() && matches!(lane.try_send(control()), Err(TrySendError::Full(_)))
            });
            if !untold.is_empty() {
                thread::sleep(LOOK);
            }
        }
    }
}

/// The time over which so many clients are closed in a stop that may take no longer than `within`.
fn over(spread: Duration, within: Duration, clients: usize) -> Duration {
    let few = EACH.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX));
    spread.min(within / 2).min(few)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.stop(Duration::from_secs(1), Duration::ZERO);
        }
    }
}

/// Logs why workers have not ended in time: their connections have not, or they are stuck.
fn tell_left(peers: &Peers, workers: &[usize]) {
    let pulses: Vec<&Pulse> = workers.iter().map(|&i| &peers.pulses[i]).collect();
    let before: Vec<_> = pulses.iter().map(|pulse| pulse.progress()).collect();
    if pulses.iter().any(|pulse| pulse.state() == State::Fine) {
        // They have not been watched for long enough.
        thread::sleep(BEAT * 2);
    }
    for ((i, pulse), before) in workers.iter().zip(pulses).zip(before) {
        let open = peers.loads[*i].load(Relaxed);
        if pulse.progress() != before {
            tracing::error!("worker {i} was cut off: {open} of its connections had not ended");
        } else {
            tracing::error!("worker {i} was cut off with {open} connections: it is stuck, {}", pulse.whereabouts());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_fits_into_the_stop_and_is_short_for_a_few() {
        let seconds = Duration::from_secs;
        assert_eq!(over(seconds(5), seconds(10), 100_000), seconds(5));
        assert_eq!(over(seconds(60), seconds(10), 100_000), seconds(5), "half of the stop");
        assert_eq!(over(seconds(5), seconds(10), 20), Duration::from_millis(200));
        for (spread, within, clients) in [(0, 10, 1000), (5, 0, 1000), (5, 10, 0)] {
            assert!(over(seconds(spread), seconds(within), clients).is_zero());
        }
        assert_eq!(over(Duration::MAX, Duration::MAX, usize::MAX), EACH * u32::MAX);
    }
}
