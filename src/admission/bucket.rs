//! Token buckets.

use std::time::Duration;

use crate::config::Rate;

/// A token bucket: full at first, with as many tokens as its rate's number, which come back at the rate. Kept as the
/// moment when it will be full again, so that a full one is like none. Moments are nanoseconds since any beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// How many tokens it has. Without a rate: any number.
    pub fn tokens(&self, rate: Rate, now: u64) -> u64 {
        if rate.is_none() {
            return u64::MAX;
        }
        let per = nanoseconds(rate.per);
        let left = per.saturating_sub(self.full_at.saturating_sub(now));
        narrow(u128::from(left) * u128::from(rate.count) / u128::from(per.max(1)))
    }

    /// Takes tokens, even ones that it does not have: then it has none for as much longer.
    pub fn take(&mut self, rate: Rate, tokens: u64, now: u64) {
        if !rate.is_none() {
            self.full_at = self.full_at.max(now).saturating_add(time_of(rate, tokens));
        }
    }

    /// Takes one token, if it has one.
    pub fn take_one(&mut self, rate: Rate, now: u64) -> bool {
        let has = self.tokens(rate, now) > 0;
        if has {
            self.take(rate, 1, now);
        }
        has
    }

    /// How long it is until it has so many tokens; at most as many as the rate's number.
    pub fn wait(&self, rate: Rate, tokens: u64, now: u64) -> Duration {
        let room = nanoseconds(rate.per).saturating_sub(time_of(rate, tokens));
        // A nanosecond more, since both divisions round down.
        let over = self.full_at.saturating_sub(now).saturating_sub(room);
        Duration::from_nanos(if over == 0 { 0 } else { over.saturating_add(1) })
    }

    /// How many nanoseconds it is until it is full: all that another process needs to know of it.
    pub fn until_full(&self, now: u64) -> u64 {
        self.full_at.saturating_sub(now)
    }

    /// One that will be full in so many nanoseconds.
    pub fn full_in(left: u64, now: u64) -> Bucket {
        Bucket { full_at: now.saturating_add(left) }
    }

    /// Whether it is full.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }
}

/// The time in which so many tokens come.
fn time_of(rate: Rate, tokens: u64) -> u64 {
    narrow(u128::from(tokens) * u128::from(nanoseconds(rate.per)) / u128::from(rate.count.max(1)))
}

fn nanoseconds(time: Duration) -> u64 {
    narrow(time.as_nanos())
}

fn narrow(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(count: u64, ms: u64) -> Rate {
        Rate { count, per: Duration::from_millis(ms) }
    }

    #[test]
    fn it_gives_its_number_at_once_and_then_at_its_rate() {
        for count in [1, 3, 7, 10, 1000] {
            let (rate, mut bucket) = (rate(count, 1000), Bucket::default());
            let taken = |bucket: &mut Bucket, now| (0..2 * count).filter(|_| bucket.take_one(rate, now)).count() as u64;
            assert_eq!(taken(&mut bucket, 5), count);
            assert_eq!(taken(&mut bucket, 5 + SECOND / count + 1), 1, "{count}");
            assert_eq!(taken(&mut bucket, 9 * SECOND), count, "no more than its number, however long it rested");
        }
    }

    #[test]
    fn what_was_taken_beyond_is_owed() {
        let (rate, mut bucket) = (rate(100, 1000), Bucket::default());
        bucket.take(rate, 250, 0);
        assert_eq!((bucket.tokens(rate, 0), bucket.tokens(rate, SECOND * 3 / 2)), (0, 0));
        assert_eq!(bucket.tokens(rate, 2 * SECOND), 50);
        assert!(!bucket.is_full(2 * SECOND) && bucket.is_full(5 * SECOND / 2));
    }

    #[test]
    fn without_a_rate_there_is_no_end() {
        let mut bucket = Bucket::default();
        bucket.take(Rate::NONE, u64::MAX, 0);
        assert!(bucket.take_one(Rate::NONE, 0) && bucket.is_full(0));
        assert_eq!(bucket.tokens(Rate::NONE, 0), u64::MAX);
    }

    proptest! {
        /// However it is asked, no more than the number and the rate let through; and after the wait there is enough.
        #[test]
        fn it_holds_its_rate(
            count in 1u64..100_000_000,
            ms in 1u64..3_600_000,
            steps in proptest::collection::vec((0u64..5_000_000_000, 1u64..1000), 1..50),
        ) {
            let (rate, mut bucket) = (rate(count, ms), Bucket::default());
            let (mut now, mut given) = (7, 0u128);
            for (pause, wanted) in steps {
                now += pause;
                let tokens = bucket.tokens(rate, now).min(wanted);
                bucket.take(rate, tokens, now);
                given += u128::from(tokens);
                let most = u128::from(count) + u128::from(now) * u128::from(count) / (u128::from(ms) * 1_000_000) + 1;
                // Each step may round a part of a token away.
                prop_assert!(given <= most + 50, "{given} of {most}");
                let wanted = wanted.min(count);
                let wait = bucket.wait(rate, wanted, now).as_nanos() as u64;
                prop_assert!(bucket.tokens(rate, now + wait) >= wanted.saturating_sub(1).max(1), "{wanted} {wait}");
            }
        }
    }
}
