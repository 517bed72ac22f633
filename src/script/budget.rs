//! How long a hook may hold its worker between two waits. That is `handlerTimeout`; but a hook that has overrun it again and
//! again gets half of it, then a quarter and so on, since each overrun costs all other clients of the worker that time. The
//! budget grows back as long as the hook overruns no more. It belongs to one version of a script: a corrected one begins
//! with the whole.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::hook::Hook;

/// The shortest budget: the watchdog looks no more often.
const SHORTEST: Duration = Duration::from_millis(10);
/// For each time that passes without an overrun, one of them is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// More overruns than these are not remembered.
const MOST: u32 = 6;

/// The budgets of a VM's hooks.
#[derive(Default)]
pub(super) struct Budgets([Cell<Overruns>; Hook::COUNT]);

#[derive(Clone, Copy, Default)]
struct Overruns {
    count: u32,
    /// When the last one was, or one was forgotten.
    since: Option<Instant>,
}

impl Overruns {
    fn forget(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let forgotten = (now.saturating_duration_since(since).as_secs_f64() / FORGOTTEN.as_secs_f64()) as u32;
        if forgotten >= self.count {
            *self = Overruns::default();
        } else {
            self.count -= forgotten;
            self.since = Some(since + FORGOTTEN * forgotten);
        }
    }

    /// One overrun may happen to anybody: from the second on, half the time for each.
    fn budget(&self, whole: Duration) -> Duration {
        let shorter = whole / (1 << self.count.saturating_sub(1));
        shorter.max(SHORTEST).min(whole)
    }
}

impl Budgets {
    /// What a hook may take now, of so much at best. No look at the clock as long as it has not overrun.
    pub fn of(&self, hook: Hook, whole: Duration) -> Duration {
        let Some(cell) = self.0.get(hook as usize) else { return whole };
        let mut overruns = cell.get();
        if overruns.count == 0 {
            return whole;
        }
        overruns.forget(Instant::now());
        cell.set(overruns);
        overruns.budget(whole)
    }

    /// A hook has overrun its budget; what it may take from now on, if that is less than before.
    pub fn overrun(&self, hook: Hook, whole: Duration) -> Option<Duration> {
        let cell = self.0.get(hook as usize)?;
        let (mut overruns, now) = (cell.get(), Instant::now());
        overruns.forget(now);
        let before = overruns.budget(whole);
        overruns = Overruns { count: (overruns.count + 1).min(MOST), since: Some(now) };
        cell.set(overruns);
        Some(overruns.budget(whole)).filter(|budget| *budget < before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_millis(200);

    #[test]
    fn overruns_shorten_the_budget_of_that_hook_alone() {
        let budgets = Budgets::default();
        assert_eq!(budgets.of(Hook::Message, WHOLE), WHOLE);
        assert_eq!(budgets.overrun(Hook::Message, WHOLE), None, "once may happen");
        let shorter: Vec<_> = (0..8).map(|_| budgets.overrun(Hook::Message, WHOLE)).collect();
        let want = [100, 50, 25].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(shorter[..3], want);
        assert_eq!(budgets.of(Hook::Message, WHOLE), SHORTEST);
        assert_eq!(shorter.last(), Some(&None), "it is the shortest already");
        assert_eq!(budgets.of(Hook::Close, WHOLE), WHOLE);
        let short = Duration::from_millis(5);
        assert_eq!(budgets.of(Hook::Message, short), short, "never more than there was");
    }

    #[test]
    fn the_budget_grows_back() {
        let now = Instant::now();
        let mut overruns = Overruns { count: 3, since: Some(now) };
        overruns.forget(now + FORGOTTEN - Duration::from_millis(1));
        assert_eq!(overruns.budget(WHOLE), WHOLE / 4);
        overruns.forget(now + FORGOTTEN);
        assert_eq!(overruns.budget(WHOLE), WHOLE / 2);
        overruns.forget(now + FORGOTTEN * 2);
        assert_eq!((overruns.count, overruns.budget(WHOLE)), (1, WHOLE));
        overruns.forget(now + FORGOTTEN * 9);
        assert_eq!(overruns.count, 0);
    }
}
