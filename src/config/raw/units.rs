//! Durations and sizes as text, both ways. All arithmetic is on integers, so that 0.1 s is 100 ms and nothing
//! overflows.

use std::time::Duration;

const NANO: u128 = 1_000_000_000;

const DURATIONS: [(&str, u128); 4] = [("ms", 1_000_000), ("s", NANO), ("m", 60 * NANO), ("h", 3600 * NANO)];

const SIZES: [(&str, u128); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// What a text meant, when it meant a quantity at all.
#[derive(Debug, PartialEq, Eq)]
pub enum Quantity<T> {
    /// A value.
    Is(T),
    /// Below zero, or more than the type holds.
    OutOfRange,
    /// Not a quantity.
    Unreadable,
}

/// A number of seconds, or a number with ms, s, m or h.
pub fn parse_duration(text: &str) -> Quantity<Duration> {
    quantity(text, &DURATIONS, NANO).and_then(|nanos| {
        let (secs, rest) = (u64::try_from(nanos / NANO).ok()?, (nanos % NANO) as u32);
        Some(Duration::new(secs, rest))
    })
}

/// A number of bytes, or a number with B, KiB, MiB, GiB, KB, MB or GB in any case.
pub fn parse_size(text: &str) -> Quantity<usize> {
    quantity(text, &SIZES, 1).and_then(|bytes| usize::try_from(bytes).ok())
}

impl<T> Quantity<T> {
    fn and_then<U>(self, f: impl FnOnce(T) -> Option<U>) -> Quantity<U> {
        match self {
            Quantity::Is(value) => f(value).map_or(Quantity::OutOfRange, Quantity::Is),
            Quantity::OutOfRange => Quantity::OutOfRange,
            Quantity::Unreadable => Quantity::Unreadable,
        }
    }
}

/// A decimal number and a unit's name; without one it counts in `plain`. The result is in the units' own unit of 1.
fn quantity(text: &str, units: &[(&str, u128)], plain: u128) -> Quantity<u128> {
    let text = text.trim();
    let (text, negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let unit = match unit {
        "" => plain,
        _ => match units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some((_, factor)) => *factor,
            None => return Quantity::Unreadable,
        },
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Quantity::Unreadable;
    }
    // Both are digits only by now; what does not fit in 64 bits is far out of any range.
    let Ok(whole) = whole.parse::<u64>() else { return Quantity::OutOfRange };
    let digits = &fraction[..fraction.len().min(9)];
    let billionths = format!("{digits:0<9}").parse::<u64>().unwrap_or(0);
    // At most 2^64 * 2^42: fits.
    let value = u128::from(whole) * unit + u128::from(billionths) * unit / NANO;
    if negative && value > 0 { Quantity::OutOfRange } else { Quantity::Is(value) }
}

/// A duration as the file would spell it: `500ms`, `90s`, `5m`, `24h`.
pub fn duration(value: Duration) -> String {
    let ms = value.as_millis();
    match value.as_secs() {
        _ if !value.subsec_nanos().is_multiple_of(1_000_000) => format!("{}s", value.as_secs_f64()),
        0 if ms == 0 => "0s".to_owned(),
        _ if !ms.is_multiple_of(1000) => format!("{ms}ms"),
        secs if secs.is_multiple_of(3600) => format!("{}h", secs / 3600),
        secs if secs.is_multiple_of(60) && secs > 60 => format!("{}m", secs / 60),
        secs => format!("{secs}s"),
    }
}

/// A size as the file would spell it: `40096`, `64KiB`, `1MiB`.
pub fn size(bytes: usize) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, name)) => format!("{}{name}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Quantity::{Is, OutOfRange, Unreadable};

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        let ms = |n| Is(Duration::from_millis(n));
        for (text, want) in [
            ("10", ms(10_000)),
            ("0.5", ms(500)),
            ("0.1", ms(100)),
            ("500ms", ms(500)),
            ("1.5s", ms(1500)),
            ("5m", ms(300_000)),
            ("1 h", ms(3_600_000)),
            ("0", ms(0)),
            ("-0", ms(0)),
            ("-1", OutOfRange),
            ("99999999999999999999", OutOfRange),
            ("18446744073709551615h", OutOfRange),
            ("", Unreadable),
            ("s", Unreadable),
            ("10d", Unreadable),
            ("1.2.3", Unreadable),
            ("1.", Unreadable),
            (".5", Unreadable),
            ("1e3", Unreadable),
            ("+1", Unreadable),
        ] {
            assert_eq!(parse_duration(text), want, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        for (text, want) in [
            ("40096", Is(40096)),
            ("12B", Is(12)),
            ("64KiB", Is(64 << 10)),
            ("64kib", Is(64 << 10)),
            ("1.5 MiB", Is(3 << 19)),
            ("1GiB", Is(1 << 30)),
            ("10KB", Is(10_000)),
            ("1MB", Is(1_000_000)),
            ("-1", OutOfRange),
            ("18446744073709551615GiB", OutOfRange),
            ("1k", Unreadable),
            ("one", Unreadable),
        ] {
            assert_eq!(parse_size(text), want, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for (ms, want) in
            [(0, "0s"), (500, "500ms"), (1500, "1500ms"), (60_000, "60s"), (300_000, "5m"), (86_400_000, "24h")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), want);
            assert_eq!(parse_duration(want), Is(Duration::from_millis(ms)));
        }
        for (bytes, want) in [(0, "0"), (40096, "40096"), (65536, "64KiB"), (1 << 20, "1MiB"), (1 << 30, "1GiB")] {
            assert_eq!(size(bytes), want);
            assert_eq!(parse_size(want), Is(bytes));
        }
        assert_eq!(duration(Duration::from_micros(500)), "0.0005s");
    }
}
