//! How long a hook may hold its worker between two waits. The budget is `handlerTimeout`. A hook that overruns it
//! repeatedly gets half of it, then a quarter and so on, since each overrun costs all other clients of the worker that
//! time. The budget grows back while the hook stays within it. It belongs to one version of a script: a corrected
//! script starts with the full budget.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::hook::Hook;

/// The shortest budget. The watchdog samples no more often than this.
const SHORTEST: Duration = Duration::from_millis(10);
/// One overrun is forgotten each time this passes without another.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// The most overruns that are remembered.
const MOST: u32 = 6;

/// The budgets of a VM's hooks.
#[derive(Default)]
pub(super) struct Budgets([Cell<Overruns>; Hook::COUNT]);

#[derive(Clone, Copy, Default)]
struct Overruns {
    count: u32,
    /// When the last overrun happened, or when one was last forgotten.
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

    /// A single overrun costs nothing. From the second on, each halves the budget.
    fn budget(&self, whole: Duration) -> Duration {
        let shorter = whole / (1 << self.count.saturating_sub(1));
        shorter.max(SHORTEST).min(whole)
    }
}

impl Budgets {
    /// The current budget of a hook whose full budget is `whole`. Reads the clock only for hooks that have overrun.
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

    /// Records an overrun. Returns the hook's new budget if it is shorter than before.
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
