//! How long a script holds its thread. Time in which the thread could have run, and the system let others run instead, hardly
//! counts: a handler of a millisecond is not to be stopped because the machine is busy.

use std::time::Duration;

/// The part of its time that counts while others run: a script that never ends is stopped in the end, however busy the machine is.
const OTHERS: u32 = 10;
/// A thread that is seen asleep is taken to have slept no longer. On a busy machine much more may pass between two looks.
const ASLEEP: Duration = Duration::from_millis(20);

/// One run of Lua on a thread, as it was seen at the last look.
#[derive(Default)]
pub(super) struct Held {
    epoch: u64,
    /// How long it has held the thread.
    time: Duration,
    /// The processor time that the thread had used by then.
    used: Option<Duration>,
}

impl Held {
    /// Looks again, after so long. Returns how long the run has held the thread.
    pub fn look(&mut self, epoch: u64, passed: Duration, thread: &impl Looked) -> Duration {
        let is_inside = epoch & 1 == 1;
        let is_new = self.epoch != epoch;
        let used = if is_inside { thread.used() } else { None };
        if !is_inside || is_new {
            *self = Held { epoch, time: Duration::ZERO, used };
            return Duration::ZERO;
        }
        let ran = used.zip(self.used).map_or(passed, |(used, before)| used.saturating_sub(before));
        self.time += match ran >= passed {
            true => passed,
            false if thread.is_ready() => ran.max(passed / OTHERS),
            false => ran.max(passed.min(ASLEEP)),
        };
        self.used = used;
        self.time
    }
}

/// What is looked at.
pub(super) trait Looked {
    /// The processor time that the thread has used; None: the system does not say.
    fn used(&self) -> Option<Duration>;
    /// Whether it runs, or would run if the system let it, and waits for nothing else.
    fn is_ready(&self) -> bool;
}

/// A thread of this process.
pub(super) struct Task {
    thread: libc::pthread_t,
    /// Its number.
    id: i32,
}

impl Task {
    /// The calling thread.
    pub fn this() -> Task {
        // SAFETY: the calls have no conditions.
        unsafe { Task { thread: libc::pthread_self(), id: libc::gettid() } }
    }

    /// The same for another thread to look at.
    ///
    /// # Safety
    /// The thread must not end as long as the result lives.
    pub unsafe fn alive(&self) -> Alive<'_> {
        Alive(self)
    }
}

/// A thread that has not ended.
pub(super) struct Alive<'a>(&'a Task);

impl Alive<'_> {
    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: it has not ended, as `Task::alive` was promised.
        unsafe { libc::pthread_kill(self.0.thread, signal) };
    }
}

impl Looked for Alive<'_> {
    fn used(&self) -> Option<Duration> {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the thread has not ended, as `Task::alive` was promised, and both take where to write.
        let is_known = unsafe {
            libc::pthread_getcpuclockid(self.0.thread, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0
        };
        is_known.then(|| Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
    }

    /// See proc_pid_stat(5): its state is `R` then. Where that can't be read, it is taken to be asleep.
    fn is_ready(&self) -> bool {
        let stat = std::fs::read(format!("/proc/self/task/{}/stat", self.0.id)).unwrap_or_default();
        // The name before it may hold any byte.
        let name_ends = stat.iter().rposition(|byte| *byte == b')').unwrap_or(stat.len());
        stat[name_ends..].get(2) == Some(&b'R')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thread(Option<Duration>, bool);

    impl Looked for Thread {
        fn used(&self) -> Option<Duration> {
            self.0
        }

        fn is_ready(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn what_others_run_hardly_counts() {
        let mut held = Held::default();
        let mut look = |epoch, passed, used: u64, is_ready| {
            let used = (used > 0).then(|| Duration::from_millis(used));
            held.look(epoch, Duration::from_millis(passed), &Thread(used, is_ready)).as_millis()
        };
        assert_eq!(look(1, 10, 70, true), 0, "it has just been seen");
        assert_eq!(look(1, 10, 80, true), 10, "it runs");
        assert_eq!(look(1, 10, 82, true), 12, "others run");
        assert_eq!(look(1, 50, 82, true), 17);
        assert_eq!(look(1, 10, 83, false), 27, "it sleeps");
        assert_eq!(look(1, 100, 84, false), 47, "it is asleep for once");
        assert_eq!(look(1, 10, 99, true), 57, "never more than has passed");
        assert_eq!(look(1, 10, 0, true), 67, "nothing is known");
        assert_eq!(look(1, 10, 99, true), 77);
        assert_eq!(look(2, 10, 99, true), 0, "it is outside");
        assert_eq!(look(3, 10, 99, true), 0);
        assert_eq!(look(3, 10, 109, true), 10);
        assert_eq!(look(5, 10, 119, true), 0, "another run");
    }
}
