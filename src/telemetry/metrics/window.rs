//! Latency histograms, and quantiles over a sliding window of time.
//!
//! A worker counts each delay in one of many narrow steps and never resets them. The renderer takes differences between
//! counts at two moments. So the window costs the workers nothing, and its parts are kept once for the process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counter::{Counter, nanos};

/// Steps in each doubling of a delay: a quantile is told within 1/32 of itself.
const FINE: u32 = 16;
/// The narrowest step begins at 2^10 ns, about a microsecond; what is shorter is one step.
const SHORTEST: u32 = 10;
/// The last doubling: what is over 2^36 ns, 69 seconds, counts as that.
const LONGEST: u32 = 35;
/// All steps.
pub const STEPS: usize = 1 + ((LONGEST - SHORTEST + 1) * FINE) as usize;

/// A histogram of delays.
#[derive(Debug)]
pub struct LatencyHistogram {
    steps: [Counter; STEPS],
    /// Nanoseconds.
    sum: Counter,
}

impl Default for LatencyHistogram {
    fn default() -> LatencyHistogram {
        LatencyHistogram { steps: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl LatencyHistogram {
    /// Records one delay.
    pub fn record(&self, took: Duration) {
        let took = nanos(took);
        self.steps[step(took)].add(1);
        self.sum.add(took);
    }

    /// Adds what was recorded to sums, and the nanoseconds.
    pub(super) fn add_to(&self, sums: &mut Sums) {
        sums.steps.iter_mut().zip(&self.steps).for_each(|(sum, step)| *sum += step.get());
        sums.nanos += self.sum.get();
    }
}

/// The delays of several workers together, since they began.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    pub steps: [u64; STEPS],
    pub nanos: u64,
}

impl Default for Sums {
    fn default() -> Sums {
        Sums { steps: [0; STEPS], nanos: 0 }
    }
}

impl Sums {
    /// How many.
    pub fn count(&self) -> u64 {
        self.steps.iter().sum()
    }
}

/// The step of a delay.
fn step(nanos: u64) -> usize {
    let Some(doubling) = nanos.checked_ilog2().filter(|d| *d >= SHORTEST) else { return 0 };
    if doubling > LONGEST {
        return STEPS - 1;
    }
    let within = (nanos >> (doubling - FINE.ilog2())) as u32 % FINE;
    (1 + (doubling - SHORTEST) * FINE + within) as usize
}

/// The middle of a step, in nanoseconds.
fn middle(step: usize) -> u64 {
    let Some(at) = (step as u32).checked_sub(1) else { return 1 << (SHORTEST - 1) };
    let (doubling, within) = (SHORTEST + at / FINE, at % FINE);
    let width = 1 << (doubling - FINE.ilog2());
    u64::from(FINE + within) * width + width / 2
}

/// A sliding window over delays: some whole parts, and the one that is under way.
#[derive(Debug)]
pub(super) struct Window {
    part: Duration,
    /// How many whole parts are kept.
    kept: usize,
    /// What each whole part has counted: steps that are not zero. The oldest first.
    parts: VecDeque<Vec<(usize, u64)>>,
    /// When the part under way began, and what had been counted by then.
    began: Instant,
    before: [u64; STEPS],
}

impl Window {
    /// A window of that length, in that many parts.
    pub fn new(length: Duration, parts: usize, now: Instant) -> Window {
        let parts = parts.max(1);
        let part = (length / parts as u32).max(Duration::from_millis(1));
        Window { part, kept: parts - 1, parts: VecDeque::new(), began: now, before: [0; STEPS] }
    }

    /// Begins a new part if it is time.
    pub fn turn(&mut self, now: Instant, sums: &Sums) {
        let over = now.saturating_duration_since(self.began).as_nanos() / self.part.as_nanos();
        let over = u32::try_from(over).unwrap_or(u32::MAX);
        if over == 0 {
            return;
        }
        let counted = self.under_way(sums).filter(|(_, n)| *n > 0).collect();
        self.parts.push_back(counted);
        // Nobody looked for several parts, so the others can't be told apart.
        (1..over.min(self.kept as u32 + 1)).for_each(|_| self.parts.push_back(Vec::new()));
        let surplus = self.parts.len().saturating_sub(self.kept);
        self.parts.drain(..surplus);
        self.before = sums.steps;
        self.began += self.part * over;
    }

    /// Of the part under way, each step's count.
    fn under_way(&self, sums: &Sums) -> impl Iterator<Item = (usize, u64)> {
        sums.steps.iter().zip(self.before).map(|(now, before)| now.saturating_sub(before)).enumerate()
    }

    /// Quantiles of all that the window holds, in seconds; not a number while it holds nothing.
    pub fn quantiles<const N: usize>(&self, sums: &Sums, wanted: [f64; N]) -> [f64; N] {
        let mut steps = [0; STEPS];
        for (step, n) in self.under_way(sums).chain(self.parts.iter().flatten().copied()) {
            steps[step] += n;
        }
        let all: u64 = steps.iter().sum();
        wanted.map(|quantile| {
            let mut rank = ((quantile * all as f64).ceil() as u64).max(1);
            let found = steps.iter().position(|n| {
                let here = rank <= *n;
                rank = rank.saturating_sub(*n);
                here
            });
            found.map_or(f64::NAN, |step| middle(step) as f64 / 1e9)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(delays: &LatencyHistogram) -> Sums {
        let mut sums = Sums::default();
        delays.add_to(&mut sums);
        sums
    }

    proptest! {
        /// Steps are in order and narrow, and every delay has one.
        #[test]
        fn a_delay_is_told_within_a_thirty_second(nanos in 1024..(1u64 << 36)) {
            let told = middle(step(nanos));
            prop_assert!(told.abs_diff(nanos) <= nanos / 32 + 1, "{nanos} is told as {told}");
            prop_assert!(step(nanos) <= step(nanos + 1));
        }

        /// Quantiles against those of the sorted list.
        #[test]
        fn quantiles_are_those_of_the_sorted_delays(mut list in prop::collection::vec(1024..(1u64 << 34), 1..200)) {
            let delays = LatencyHistogram::default();
            list.iter().for_each(|nanos| delays.record(Duration::from_nanos(*nanos)));
            list.sort_unstable();
            let window = Window::new(Duration::from_secs(60), 5, Instant::now());
            let got = window.quantiles(&sums(&delays), [0.5, 0.99]);
            for (quantile, got) in [0.5, 0.99].into_iter().zip(got) {
                let rank = (quantile * list.len() as f64).ceil() as usize;
                let want = list[rank.max(1) - 1] as f64 / 1e9;
                prop_assert!((got - want).abs() <= want / 16.0, "{quantile}: {got}, not {want}");
            }
        }

        #[test]
        fn no_delay_is_too_long(nanos in any::<u64>()) {
            prop_assert!(step(nanos) < STEPS);
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (delays, start) = (LatencyHistogram::default(), Instant::now());
        let mut window = Window::new(Duration::from_secs(50), 5, start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(window.quantiles(&sums(&delays), [0.5])[0].is_nan());
        delays.record(Duration::from_secs(1));
        window.turn(at(10), &sums(&delays));
        delays.record(Duration::from_millis(1));
        window.turn(at(20), &sums(&delays));
        let (low, high) = (0.001, 1.0);
        let near = |got: f64, want: f64| (got - want).abs() < want / 16.0;
        let both = window.quantiles(&sums(&delays), [0.5, 1.0]);
        assert!(near(both[0], low) && near(both[1], high), "{both:?}");
        window.turn(at(51), &sums(&delays));
        let one = window.quantiles(&sums(&delays), [0.5, 1.0]);
        assert!(near(one[1], low), "the first has left: {one:?}");
        window.turn(at(1000), &sums(&delays));
        assert!(window.quantiles(&sums(&delays), [0.5])[0].is_nan(), "both have left");
        assert_eq!(sums(&delays).count(), 2, "but the sums stay");
    }
}
