//! Numbers as PHP's casts make them of numbers and strings: a string counts for the number that it begins with.

use memchr::memchr;

/// The bits of the 64-bit integer that a number becomes: its fraction is dropped, and what is beyond 64 bits too.
pub(super) fn integer_of_number(number: f64) -> u64 {
    if !number.is_finite() {
        return 0;
    }
    // The remainder is exact, and fits.
    (number.trunc() % 18_446_744_073_709_551_616.0) as i128 as u64
}

/// The bits of the 64-bit integer that a string becomes. The error tells of an integer that has more than 64 bits.
pub(super) fn integer_of_text(text: &[u8]) -> Result<u64, String> {
    match number_in_front(text) {
        None => Ok(0),
        Some((number, true)) => number.parse::<i64>().map(|i| i as u64).or_else(|_| number.parse()).map_err(|_| {
            let more = if number.len() > 40 { "..." } else { "" };
            format!("{}{more} has more than 64 bits", number.get(..40).unwrap_or(number))
        }),
        // Here the bounds of integers hold instead.
        Some((number, false)) => {
            Ok(number.parse::<f64>().ok().filter(|n| n.is_finite()).map_or(0, |n| n as i64 as u64))
        }
    }
}

/// The double that a string becomes.
pub(super) fn float_of_text(text: &[u8]) -> f64 {
    number_in_front(text).and_then(|(number, _)| number.parse().ok()).unwrap_or(0.0)
}

/// The decimal number that a string begins with, white space aside, and whether it is an integer.
fn number_in_front(text: &[u8]) -> Option<(&str, bool)> {
    let spaces = text.iter().take_while(|b| b.is_ascii_whitespace() || **b == 0x0B).count();
    let text = text.get(spaces..)?;
    let digits = |from: usize| text.iter().skip(from).take_while(|b| b.is_ascii_digit()).count();
    let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|b| memchr(*b, any).is_some());
    let start = usize::from(is(0, b"+-"));
    let mut end = start + digits(start);
    let mut integer = true;
    if is(end, b".") {
        let fraction = digits(end + 1);
        if end == start && fraction == 0 {
            return None;
        }
        end += 1 + fraction;
        integer = false;
    } else if end == start {
        return None;
    }
    if is(end, b"eE") {
        let exponent = end + 1 + usize::from(is(end + 1, b"+-"));
        if digits(exponent) > 0 {
            end = exponent + digits(exponent);
            integer = false;
        }
    }
    Some((std::str::from_utf8(text.get(..end)?).ok()?, integer))
}
