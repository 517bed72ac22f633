//! The publishes of one channel, window by window: which of them are within its limit. Reads no clock.
//!
//! A window begins with the first publish after a rest, or where the one before ended. Each has so many places; some of them
//! are kept for publishes of high priority. Those of low priority get only places that normal ones had left in the window
//! before: what will still come in this one, nobody knows. For the same reason a window is sampled evenly if there was too
//! much in the one before: then the places come one by one, each with its part of the window. Each priority has its share of them,
//! by what there was of each.

use std::time::{Duration, Instant};

use crate::config::{LimitRule, Over};
use crate::hub::delivery::Priority;

/// How many priorities there are.
const CLASSES: usize = 3;

/// The state of one channel's limit.
#[derive(Debug)]
pub(super) struct Window {
    /// When this window began.
    began: Instant,
    /// The publishes in it so far, by priority.
    offered: [u64; CLASSES],
    /// Those of them that had a place.
    passed: [u64; CLASSES],
    /// The publishes in the window before; none if there was a rest between.
    before: [u64; CLASSES],
}

impl Window {
    /// The first one, which begins now.
    pub(super) fn new(now: Instant) -> Window {
        Window { began: now, offered: [0; CLASSES], passed: [0; CLASSES], before: [0; CLASSES] }
    }

    /// Goes on to the window that it is now. True: it is another one.
    pub(super) fn advance(&mut self, now: Instant, per: Duration) -> bool {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < per {
            return false;
        }
        *self = match elapsed < per * 2 {
            true => Window { before: self.offered, ..Window::new(self.began + per) },
            false => Window::new(now),
        };
        true
    }

    /// When it ends.
    pub(super) fn end(&self, per: Duration) -> Instant {
        self.began + per
    }

    /// Whether nothing of it matters any more.
    pub(super) fn is_over(&self, now: Instant, per: Duration) -> bool {
        now.saturating_duration_since(self.began) >= per * 2
    }

    /// Takes places for publishes that come from the window before.
    pub(super) fn take(&mut self, places: u64) {
        self.passed[Priority::Normal as usize] += places;
    }

    /// A publish comes now, within this window: whether there is a place for it.
    pub(super) fn pass(&mut self, now: Instant, rule: &LimitRule, priority: Priority) -> bool {
        let class = priority as usize;
        self.offered[class] += 1;
        let (all, open) = (rule.rate.count, rule.open());
        let [low, normal, high] = self.passed;
        let most = match priority {
            Priority::High => all,
            Priority::Normal => open,
            Priority::Low => open.saturating_sub(self.before[Priority::Normal as usize]),
        };
        let share = if rule.over == Over::Sample { self.share(priority, all, open) } else { u64::MAX };
        let so_far = if self.before[class] > share { self.places(now, rule.rate.per, share) } else { most };
        let has_place = self.passed[class] < so_far
            && (priority == Priority::High || low + normal < open)
            && low + normal + high < all;
        self.passed[class] += u64::from(has_place);
        has_place
    }

    /// The places that a priority has in a window that is sampled: of those that are open to all, high priority has a part as large
    /// as its part of the publishes before, but for those that find the places kept for it.
    fn share(&self, priority: Priority, all: u64, open: u64) -> u64 {
        let [low, normal, high] = self.before;
        let kept = all.saturating_sub(open);
        let high = high.saturating_sub(kept);
        let of_high = u128::from(open) * u128::from(high) / u128::from(high + normal + low).max(1);
        let of_high = u64::try_from(of_high).unwrap_or(open);
        match priority {
            Priority::High => kept + of_high,
            Priority::Normal => open - of_high,
            Priority::Low => (open - of_high).saturating_sub(normal),
        }
    }

    /// Of that many places, those that have come so far if they come evenly.
    fn places(&self, now: Instant, per: Duration, most: u64) -> u64 {
        let elapsed = now.saturating_duration_since(self.began).as_nanos();
        let come = elapsed * u128::from(most) / per.as_nanos().max(1);
        u64::try_from(come).unwrap_or(u64::MAX).saturating_add(1).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rate;
    use proptest::prelude::*;

    const PER: Duration = Duration::from_millis(200);

    fn rule(count: u64, reserve: u64, over: Over) -> LimitRule {
        LimitRule { rate: Rate { count, per: PER }, reserve, over }
    }

    /// Publishes at these milliseconds; gives those that passed.
    fn passed(rule: &LimitRule, publishes: impl IntoIterator<Item = (u64, Priority)>) -> Vec<(u64, Priority)> {
        let began = Instant::now();
        let mut window = None;
        let pass = |(at, priority): &(u64, Priority)| {
            let now = began + Duration::from_millis(*at);
            let window = window.get_or_insert_with(|| Window::new(now));
            window.advance(now, PER);
            window.pass(now, rule, *priority)
        };
        publishes.into_iter().filter(pass).collect()
    }

    fn count(passed: &[(u64, Priority)], from: u64, priority: Priority) -> usize {
        passed.iter().filter(|(at, of)| (from..from + 200).contains(at) && *of == priority).count()
    }

    use Priority::{High, Low, Normal};

    #[test]
    fn what_is_within_the_limit_passes() {
        for over in [Over::Drop, Over::Sample, Over::Merge] {
            let burst = (0..40).map(|_| (5, Normal)).chain((0..30).map(|at| (300 + at, Normal)));
            assert_eq!(passed(&rule(40, 0, over), burst).len(), 70, "{over}");
        }
    }

    #[test]
    fn the_first_ones_pass_and_the_rest_is_over() {
        let flood = (0..1000u64).map(|at| (at, Normal));
        let got = passed(&rule(40, 0, Over::Drop), flood);
        let want = (0..5).flat_map(|window| (0..40).map(move |at| (window * 200 + at, Normal)));
        assert_eq!(got, want.collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_is_even_once_there_is_too_much() {
        let flood = (0..1000u64).flat_map(|at| [(at, Normal); 5]);
        let got = passed(&rule(40, 0, Over::Sample), flood);
        for window in 1..5 {
            let times: Vec<u64> = got.iter().map(|(at, _)| *at).filter(|at| at / 200 == window).collect();
            assert_eq!(times, (0..40).map(|n| window * 200 + n * 5).collect::<Vec<_>>(), "one each 5 ms");
        }
        // A place that was not used is there later in the window.
        let late = (0..400u64).map(|at| (at, Normal)).chain([(590, Normal); 60]).chain([(900, Normal); 60]);
        let got = passed(&rule(40, 0, Over::Sample), late);
        assert_eq!(
            (count(&got, 400, Normal), count(&got, 900, Normal)),
            (39, 40),
            "and there was a rest before the last"
        );
    }

    #[test]
    fn high_priority_has_places_of_its_own() {
        let flood = (0..1000u64).flat_map(|at| [(at, Normal), (at, Normal), (at, High)]);
        for over in [Over::Drop, Over::Sample] {
            let got = passed(&rule(40, 30, over), flood.clone());
            for window in 0..5 {
                let of = |priority| count(&got, window * 200, priority);
                // Of a sample, each has its part of the open ones: those of high priority are 170 of 570 there.
                let sampled = over == Over::Sample && window > 0;
                let want = if sampled { (8, 32) } else { (10, 30) };
                assert_eq!((of(Normal), of(High)), want, "{over}, window {window}");
                let last = got.iter().rfind(|(at, _)| at / 200 == window).map_or(0, |(at, _)| at % 200);
                assert!(!sampled || last > 190, "they come over the whole window: the last one after {last} ms");
            }
        }
        // And all others too, where nobody else wants them.
        let got = passed(&rule(40, 30, Over::Drop), (0..200u64).map(|at| (at, High)));
        assert_eq!(got.len(), 40);
        // Those that are kept for it are for nobody else.
        let got = passed(&rule(40, 30, Over::Drop), (0..200u64).map(|at| (at, Normal)));
        assert_eq!(got.len(), 10);
    }

    #[test]
    fn low_priority_gets_what_normal_ones_leave() {
        let alone = passed(&rule(40, 10, Over::Drop), (0..1000u64).map(|at| (at, Low)));
        assert_eq!(alone.len(), 5 * 30);
        for (normal, low) in [(30, 0), (20, 10), (1000, 0)] {
            let flood = (0..1000u64).flat_map(|at| {
                let normals = if at % 200 < normal { 1 } else { 0 };
                [(at, Low); 2].into_iter().chain((0..normals).map(move |_| (at, Normal)))
            });
            let got = passed(&rule(40, 10, Over::Drop), flood);
            for window in 1..5 {
                let of = |priority| count(&got, window * 200, priority);
                assert_eq!((of(Low), of(Normal)), (low, normal.min(30) as usize), "window {window}");
            }
        }
    }

    proptest! {
        /// No window has more than its places, and none of them is empty while something was left out.
        #[test]
        fn no_window_has_more_than_its_places(
            gaps in prop::collection::vec((0..30u64, 0..3usize), 1..500),
            (all, reserve) in (1..20u64, 0..20u64),
            which in 0..3usize,
        ) {
            let over = [Over::Drop, Over::Sample, Over::Merge][which];
            let (rule, began) = (rule(all, reserve.min(all), over), Instant::now());
            let (mut window, mut at, mut counts) = (Window::new(began), 0, [0u64; 3]);
            for (gap, class) in gaps {
                at += gap;
                let now = began + Duration::from_millis(at);
                if window.advance(now, PER) {
                    counts = [0; 3];
                }
                prop_assert!(now < window.end(PER) && !window.is_over(now, PER));
                let priority = [Low, Normal, High][class];
                let open = all - rule.reserve;
                match window.pass(now, &rule, priority) {
                    true => counts[class] += 1,
                    false if over != Over::Sample && priority == High => {
                        prop_assert_eq!(counts.iter().sum::<u64>(), all);
                    }
                    false if over != Over::Sample && priority == Normal => {
                        prop_assert!(counts[0] + counts[1] == open || counts.iter().sum::<u64>() == all);
                    }
                    false => {}
                }
                prop_assert!(counts[0] + counts[1] <= open && counts.iter().sum::<u64>() <= all);
            }
        }
    }
}
