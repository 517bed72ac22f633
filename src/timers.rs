//! The timers that scripts set (`mix.timer`): which function is due when, and in which worker. It runs nothing: a worker
//! asks for what is due, and leaves a waker for when that changes. Any thread may call it; one lock, held for a moment.
//!
//! A timer belongs to a server, and runs in the worker that has set it. Setting one again, with the same name and
//! arguments, is no second one, in whichever worker: so each runs once in the process, and a reload doubles none. Times are
//! those of the monotonic clock. A run of a repeated timer that is due while the one before has not ended is left out.

mod saved;

use foldhash::fast::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::ids::{ClientId, WorkerId};
use crate::value::Value;

/// The most timers of a process.
pub const MAX_TIMERS: usize = 100_000;
/// The most bytes of their names and arguments together.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most bytes of one timer's name and arguments.
pub const MAX_CALL: usize = 64 * 1024;
/// What a timer counts for besides its name and arguments.
const OVERHEAD: usize = 512;

/// Why a timer was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    /// There are too many.
    #[error("{MAX_TIMERS} timers are set already")]
    Many,
    /// Their arguments take too much.
    #[error("the arguments of all timers would take more than {MAX_BYTES} bytes")]
    Bytes,
    /// Those of this one do.
    #[error("its name and arguments take more than {MAX_CALL} bytes")]
    Call,
    /// No timer runs any more.
    #[error("the engine is stopping")]
    Closed,
}

/// What a timer calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// A global function's name.
    pub name: Box<str>,
    /// Its arguments, behind the connection if there is one.
    pub args: Box<[Value]>,
    /// The connection that the timer ends with, and its slot in its worker's shard.
    pub conn: Option<(ClientId, u32)>,
}

impl Call {
    fn weight(&self) -> usize {
        self.name.len() + self.args.iter().map(Value::weight).sum::<usize>()
    }

    /// Bytes that are the same for calls that are the same timer.
    pub fn identity(&self, server: usize, repeats: bool) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend((server as u64).to_le_bytes());
        bytes.push(repeats.into());
        bytes.extend(self.conn.map_or(0, |(client, _)| client.get()).to_le_bytes());
        Value::str(&*self.name).identify(&mut bytes);
        self.args.iter().for_each(|arg| arg.identify(&mut bytes));
        bytes.into()
    }
}

/// Who sets a timer.
#[derive(Debug, Clone, Copy)]
pub struct SetBy {
    /// The position of the server whose script does.
    pub server: usize,
    /// In that worker.
    pub worker: WorkerId,
    /// In `on_start`: of that version.
    pub starts: Option<NonZeroU64>,
}

/// What can be told of all timers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// That are set.
    pub set: usize,
    /// Runs that have begun and not ended.
    pub running: usize,
    /// Runs that have begun.
    pub runs: u64,
    /// Runs that were left out.
    pub skipped: u64,
}

/// The timers of a process.
pub struct Timers {
    state: Mutex<State>,
    /// Timers that end with a connection.
    tied: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    timers: HashMap<u64, Timer, RandomState>,
    by_identity: HashMap<Box<[u8]>, u64, RandomState>,
    by_client: HashMap<ClientId, Vec<u64>, RandomState>,
    /// By worker.
    schedules: Vec<Schedule>,
    last: u64,
    bytes: usize,
    running: usize,
    runs: u64,
    skipped: u64,
}

/// One worker's timers by when they are due.
#[derive(Default)]
struct Schedule {
    due: BTreeSet<(Instant, u64)>,
    waker: Option<Waker>,
}

struct Timer {
    server: usize,
    worker: usize,
    call: Arc<Call>,
    identity: Box<[u8]>,
    /// How long after it was set it is due.
    after: Duration,
    /// And so again and again.
    repeats: bool,
    due: Instant,
    runs: bool,
    /// The last version whose `on_start` has set it.
    starts: Option<NonZeroU64>,
}

/// What a worker has to do.
pub enum Due {
    /// Run that.
    Now(Run),
    /// Nothing before then.
    At(Instant),
    /// Nothing.
    Never,
}

/// A run of a timer, which has ended when this is dropped.
pub struct Run {
    timers: Arc<Timers>,
    id: u64,
    /// The position of its server.
    pub server: usize,
    /// What is called.
    pub call: Arc<Call>,
    /// It is not the last.
    pub repeats: bool,
    worker: WorkerId,
    starts: Option<NonZeroU64>,
}

impl Timers {
    /// None, of that many workers.
    pub fn new(workers: usize) -> Timers {
        let schedules = (0..workers).map(|_| Schedule::default()).collect();
        let state = Mutex::new(State { schedules, ..State::default() });
        Timers { state, tied: AtomicUsize::new(0), closed: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a timer, and returns its number. If it is set already, it goes on as it was; but with another `after` it is
    /// due that long from now.
    pub fn set(
        &self,
        SetBy { server, worker, starts }: SetBy,
        call: Call,
        after: Duration,
        repeats: bool,
        now: Instant,
    ) -> Result<u64, TimerError> {
        let (weight, identity) = (call.weight(), call.identity(server, repeats));
        if weight > MAX_CALL {
            return Err(TimerError::Call);
        }
        let due = now.checked_add(after).ok_or(TimerError::Call)?;
        let mut state = self.lock();
        if self.closed.load(Relaxed) {
            return Err(TimerError::Closed);
        }
        if let Some(&id) = state.by_identity.get(&identity) {
            let is_other = state.timers.get_mut(&id).is_some_and(|timer| {
                timer.starts = timer.starts.max(starts);
                timer.after != after
            });
            if is_other {
                state.reschedule(id, due, Some(after)).into_iter().for_each(Waker::wake);
            }
            return Ok(id);
        }
        if state.timers.len() >= MAX_TIMERS {
            return Err(TimerError::Many);
        } else if state.bytes + weight + OVERHEAD > MAX_BYTES {
            return Err(TimerError::Bytes);
        }
        state.bytes += weight + OVERHEAD;
        state.last += 1;
        let id = state.last;
        state.by_identity.insert(identity.clone(), id);
        if let Some((client, _)) = call.conn {
            self.tied.fetch_add(1, Relaxed);
            state.by_client.entry(client).or_default().push(id);
        }
        let (worker, call) = (usize::from(worker.0), Arc::new(call));
        let timer = Timer { server, worker, call, identity, after, repeats, due, runs: false, starts };
        state.timers.insert(id, timer);
        let waker = state.schedule(worker, due, id);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(id)
    }

    /// Ends a timer of that server; a run that has begun goes on. False: there is no such timer.
    pub fn cancel(&self, server: usize, id: u64) -> bool {
        let mut state = self.lock();
        if state.timers.get(&id).is_none_or(|timer| timer.server != server) {
            return false;
        }
        self.remove(&mut state, id);
        true
    }

    /// Ends the timers of that server which an `on_start` has set, and that of this version, which runs from now on, has not.
    pub fn keep_set(&self, server: usize, version: NonZeroU64) {
        let mut state = self.lock();
        let is_left = |timer: &Timer| timer.server == server && timer.starts.is_some_and(|by| by != version);
        let left: Vec<u64> = state.timers.iter().filter(|(_, timer)| is_left(timer)).map(|(id, _)| *id).collect();
        left.into_iter().for_each(|id| self.remove(&mut state, id));
    }

    /// Ends the timers of a connection that has ended.
    pub fn ended(&self, client: ClientId) {
        if self.tied.load(Relaxed) == 0 {
            return;
        }
        let mut state = self.lock();
        for id in state.by_client.remove(&client).unwrap_or_default() {
            self.remove(&mut state, id);
        }
    }

    /// What a worker has to do now; `waker` is woken when something is due sooner than this says.
    pub fn due(self: &Arc<Self>, worker: WorkerId, now: Instant, waker: &Waker) -> Due {
        let mut state = self.lock();
        let state = &mut *state;
        loop {
            let Some(schedule) = state.schedules.get_mut(usize::from(worker.0)) else { return Due::Never };
            let Some(&(due, id)) = schedule.due.first() else {
                schedule.waker = Some(waker.clone());
                return Due::Never;
            };
            if due > now {
                schedule.waker = Some(waker.clone());
                return Due::At(due);
            }
            let Some(timer) = state.timers.get_mut(&id) else {
                schedule.due.remove(&(due, id));
                continue;
            };
            let (server, starts) = (timer.server, timer.starts);
            let (call, repeats) = (timer.call.clone(), timer.repeats);
            if repeats {
                let was_running = std::mem::replace(&mut timer.runs, true);
                let (next, left_out) = following(due, timer.after, now);
                state.reschedule(id, next, None);
                state.skipped += left_out + u64::from(was_running);
                if was_running {
                    continue;
                }
            } else {
                self.remove(state, id);
            }
            state.runs += 1;
            state.running += 1;
            return Due::Now(Run { timers: self.clone(), id, server, call, repeats, worker, starts });
        }
    }

    /// Gives what a worker that is stuck has to do to another, but for what ends with a connection.
    pub fn take_over(&self, from: WorkerId, to: WorkerId) {
        let (from, to) = (usize::from(from.0), usize::from(to.0));
        let mut state = self.lock();
        let Some(schedule) = state.schedules.get(from).filter(|schedule| !schedule.due.is_empty() && from != to) else {
            return;
        };
        let free = |id: &u64| state.timers.get(id).is_some_and(|timer| timer.call.conn.is_none() && !timer.runs);
        let moved: Vec<(Instant, u64)> = schedule.due.iter().filter(|(_, id)| free(id)).copied().collect();
        for (due, id) in moved {
            state.schedules[from].due.remove(&(due, id));
            if let Some(timer) = state.timers.get_mut(&id) {
                timer.worker = to;
            }
            state.schedule(to, due, id).into_iter().for_each(Waker::wake);
        }
    }

    /// No timer runs any more.
    pub fn close(&self) {
        let mut state = self.lock();
        self.closed.store(true, Relaxed);
        let ids: Vec<u64> = state.timers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(&mut state, id));
    }

    /// How many there are, and what they did.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let State { running, runs, skipped, .. } = *state;
        Figures { set: state.timers.len(), running, runs, skipped }
    }

    fn remove(&self, state: &mut State, id: u64) {
        let Some(timer) = state.timers.remove(&id) else { return };
        state.bytes -= timer.call.weight() + OVERHEAD;
        state.by_identity.remove(&timer.identity);
        if let Some(schedule) = state.schedules.get_mut(timer.worker) {
            schedule.due.remove(&(timer.due, id));
        }
        if let Some((client, _)) = timer.call.conn {
            self.tied.fetch_sub(1, Relaxed);
            if let Some(own) = state.by_client.get_mut(&client) {
                own.retain(|other| *other != id);
                if own.is_empty() {
                    state.by_client.remove(&client);
                }
            }
        }
    }
}

impl State {
    /// Puts a timer on its worker's schedule. Returns whom to wake, if it is the first there.
    fn schedule(&mut self, worker: usize, due: Instant, id: u64) -> Option<Waker> {
        let schedule = self.schedules.get_mut(worker)?;
        schedule.due.insert((due, id));
        if schedule.due.first() == Some(&(due, id)) { schedule.waker.take() } else { None }
    }

    /// The same for one that is there, perhaps with another time from now on.
    fn reschedule(&mut self, id: u64, due: Instant, after: Option<Duration>) -> Option<Waker> {
        let timer = self.timers.get_mut(&id)?;
        let (worker, before) = (timer.worker, std::mem::replace(&mut timer.due, due));
        timer.after = after.unwrap_or(timer.after);
        self.schedules.get_mut(worker)?.due.remove(&(before, id));
        self.schedule(worker, due, id)
    }
}

/// When a repeated timer is due next, and how many of its times have passed in between.
fn following(due: Instant, after: Duration, now: Instant) -> (Instant, u64) {
    let late = now.saturating_duration_since(due).as_nanos() / after.as_nanos().max(1);
    let whole = u32::try_from(late).unwrap_or(u32::MAX);
    let next = after.checked_mul(whole).and_then(|passed| due.checked_add(passed)?.checked_add(after));
    (next.unwrap_or(now + after), whole.into())
}

impl Run {
    /// Puts off a run that can't begin now: what is not repeated comes again that long from now.
    pub fn put_off(self, by: Duration, now: Instant) {
        {
            let mut state = self.timers.lock();
            state.skipped += u64::from(self.repeats);
            state.runs -= 1;
        }
        if !self.repeats {
            let call = Call::clone(&self.call);
            // It fails only where the engine stops, or where its place has been taken meanwhile.
            let who = SetBy { server: self.server, worker: self.worker, starts: self.starts };
            let _ = self.timers.set(who, call, by, false, now);
        }
    }

    /// It has no function to call.
    pub fn leave_out(self) {
        let mut state = self.timers.lock();
        state.skipped += 1;
        state.runs -= 1;
        drop(state);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.timers.lock();
        state.running -= 1;
        if let Some(timer) = state.timers.get_mut(&self.id) {
            timer.runs = false;
        }
    }
}

#[cfg(test)]
mod tests;
