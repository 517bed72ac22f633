//! The spelling of rates.

use super::units::{Quantity, parse_duration};
use crate::config::types::Rate;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The most of something for each time: 1 TB.
pub const MAX_RATE: u64 = 1_000_000_000_000;
/// The times that a rate may be for.
pub const RATE_PER: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// A whole number.
pub fn parse_count(text: &str) -> Quantity<usize> {
    match text.trim().parse::<i128>() {
        Ok(count) => usize::try_from(count).map_or(Quantity::OutOfRange, Quantity::Is),
        Err(_) => Quantity::Unreadable,
    }
}

/// What `number` reads, for each duration: `10/s`, `40/200ms`; 0 alone is no limit.
pub fn parse_rate(text: &str, number: fn(&str) -> Quantity<usize>) -> Option<Rate> {
    let (count, per) = match text.split_once('/') {
        Some((count, per)) => (count, per.trim()),
        None if text.trim() == "0" => return Some(Rate::NONE),
        None => return None,
    };
    // "s" is one second.
    let per = if per.starts_with(|c: char| c.is_ascii_alphabetic()) { format!("1{per}") } else { per.to_owned() };
    match (number(count), parse_duration(&per)) {
        (Quantity::Is(0), Quantity::Is(_)) => Some(Rate::NONE),
        (Quantity::Is(count), Quantity::Is(per)) => Some(Rate { count: count as u64, per }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::parse_size;
    use super::*;

    #[test]
    fn rates_are_a_number_for_each_time() {
        let rate = |text| parse_rate(text, parse_count).map(|rate| (rate.count, rate.per.as_millis()));
        assert_eq!(rate("10/s"), Some((10, 1000)));
        assert_eq!(rate("40/200ms"), Some((40, 200)));
        assert_eq!(rate(" 5 / 1m "), Some((5, 60_000)));
        assert_eq!(rate("3/h"), Some((3, 3_600_000)));
        assert_eq!((rate("0"), rate("0/s"), rate("0/5m")), (Some((0, 1000)), Some((0, 1000)), Some((0, 1000))));
        assert_eq!(parse_rate("64KiB/s", parse_size).map(|rate| rate.count), Some(65536));
        for bad in ["", "10", "/s", "10/", "10/d", "x/s", "-1/s", "1.5/s", "10/s/s", "64KiB/s"] {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
    }
}
