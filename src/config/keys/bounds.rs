//! Bounds that several keys have.

use std::ops::RangeInclusive;
use std::time::Duration;

/// 1024 KiB.
pub const MIB: usize = 1 << 20;
/// 1024 MiB.
pub const GIB: usize = 1 << 30;

/// From 0, which mostly means "never", to a day: a longer one is a slip of the unit.
pub const TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=seconds(24 * 3600);
/// The same for what can't be zero.
pub const TIMEOUT_NOT_ZERO: RangeInclusive<Duration> = Duration::from_millis(1)..=seconds(24 * 3600);
/// How long something is kept.
pub const AGE: RangeInclusive<Duration> = Duration::ZERO..=seconds(365 * 24 * 3600);
/// A size that may be 0.
pub const BUFFER: RangeInclusive<usize> = 0..=GIB;
/// A size that bounds something.
pub const LIMIT: RangeInclusive<usize> = 1..=GIB;

/// So many seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
