//! The matcher by itself; `strings` compares it with the original.

use super::*;
use std::cell::Cell;

type Found = Option<(Range<usize>, Vec<Capture>)>;

fn find(subject: &[u8], pattern: &[u8]) -> Result<Found, Error> {
    let mut matcher = Matcher::new(subject, pattern, Budget::new(STEPS_PER_CHECK, &|| false));
    if !matcher.find(0)? {
        return Ok(None);
    }
    let captures = (0..matcher.captures()).map(|i| matcher.capture(i)).collect::<Result<_, _>>()?;
    Ok(Some((matcher.whole(), captures)))
}

fn span(subject: &str, pattern: &str) -> Option<(usize, usize)> {
    find(subject.as_bytes(), pattern.as_bytes()).unwrap().map(|(whole, _)| (whole.start, whole.end))
}

#[test]
fn quantifiers() {
    assert_eq!(span("xaaab", "a*b"), Some((1, 5)));
    assert_eq!(span("xb", "a+b"), None);
    assert_eq!(span("xaaab", "a-b"), Some((1, 5)));
    assert_eq!(span("xab", "a?b"), Some((1, 3)));
    assert_eq!(span("<a><b>", "<.->"), Some((0, 3)));
    assert_eq!(span("<a><b>", "<.*>"), Some((0, 6)));
    assert_eq!(span("abc", "c$"), Some((2, 3)));
    assert_eq!(span("a$b", "a$b"), Some((0, 3)));
    assert_eq!(span("abc", ""), Some((0, 0)));
}

#[test]
fn classes_have_the_members_that_c_gives_them() {
    let members =
        |class: u8| -> Vec<u8> { (0..=255).filter(|&c| matches!(find(&[c], &[b'%', class]), Ok(Some(_)))).collect() };
    let all = |test: fn(&u8) -> bool| -> Vec<u8> { (0..=255).filter(test).collect() };
    for (class, expected) in [
        (b'a', all(u8::is_ascii_alphabetic)),
        (b'c', all(u8::is_ascii_control)),
        (b'd', all(u8::is_ascii_digit)),
        (b'g', all(u8::is_ascii_graphic)),
        (b'l', all(u8::is_ascii_lowercase)),
        (b'p', all(u8::is_ascii_punctuation)),
        (b's', vec![9, 10, 11, 12, 13, 32]),
        (b'u', all(u8::is_ascii_uppercase)),
        (b'w', all(u8::is_ascii_alphanumeric)),
        (b'x', all(u8::is_ascii_hexdigit)),
        (b'z', vec![0]),
        (b'.', vec![b'.']),
        (b'@', vec![b'@']),
    ] {
        assert_eq!(members(class), expected, "%{}", class as char);
        if class.is_ascii_alphabetic() {
            let complement = (0..=255).filter(|c| !expected.contains(c)).collect::<Vec<u8>>();
            assert_eq!(members(class.to_ascii_uppercase()), complement, "%{}", class as char);
        }
    }
}

#[test]
fn sets() {
    assert_eq!(span("x]y", "[]]"), Some((1, 2)));
    assert_eq!(span("]x", "[^]]"), Some((1, 2)));
    assert_eq!(span("a-z", "[a-]+"), Some((0, 2)));
    assert_eq!(span("--q9_", "[%w_]+"), Some((2, 5)));
    assert_eq!(span("b%]", "[%%%]]+"), Some((1, 3)));
    assert_eq!(span("hello", "[l-n]+"), Some((2, 4)));
    assert_eq!(span("a^", "[%^]"), Some((1, 2)));
}

#[test]
fn captures() {
    let (whole, captures) = find(b"key = value", b"(%w+)%s*()=%s*((%w)%w*)").unwrap().unwrap();
    assert_eq!(whole, 0..11);
    let expected = [Capture::Text(0..3), Capture::Position(4), Capture::Text(6..11), Capture::Text(6..7)];
    assert_eq!(captures, expected);
    assert_eq!(span("say 'x\" y' z", "(['\"]).-%1"), Some((4, 10)));
    assert_eq!(span("f(a(b)c)d", "%b()"), Some((1, 8)));
    assert_eq!(span("THE (quick) fox", "%f[%a]%a+%f[%A]"), Some((0, 3)));
    assert_eq!(find(b"a\0b", b"%z"), Ok(Some((1..2, vec![]))));
    assert_eq!(find(b"a\0b", b"\0b"), Ok(Some((1..3, vec![]))));
}

#[test]
fn faults() {
    for (pattern, error) in [
        (&b"%"[..], Error::EndsWithPercent),
        (b"[a", Error::MissingBracket),
        (b"[]", Error::MissingBracket),
        (b"[%", Error::MissingBracket),
        (b"[%]", Error::MissingBracket),
        (b"%f", Error::MissingFrontierSet),
        (b"%fa", Error::MissingFrontierSet),
        (b"%f[a", Error::MissingBracket),
        (b"%b", Error::MissingBalance),
        (b"%b(", Error::MissingBalance),
        (b"a)", Error::UnopenedCapture),
        (b"(a", Error::UnfinishedCapture),
        (b"%0", Error::CaptureIndex),
        (b"%1", Error::CaptureIndex),
        (b"(%1)", Error::CaptureIndex),
    ] {
        assert_eq!(find(b"aaa", pattern), Err(error), "{}", String::from_utf8_lossy(pattern));
    }
    // A fault that is never reached is none.
    assert_eq!(find(b"aaa", b"b["), Ok(None));
    assert!(find(b"", &b"()".repeat(MAX_CAPTURES)).is_ok());
    assert_eq!(find(b"", &b"()".repeat(MAX_CAPTURES + 1)), Err(Error::TooManyCaptures));
}

#[test]
fn recursion_is_bounded() {
    assert_eq!(find(&b"a".repeat(10_000), &b"a?".repeat(5_000)), Err(Error::TooComplex));
    // What needs no recursion may be as long as it likes.
    assert!(find(&b"a".repeat(100_000), &b"a".repeat(100_000)).unwrap().is_some());
}

/// Runs until the `allowed`th check says stop; returns whether it was stopped, and after how many checks.
fn checks(subject: &[u8], pattern: &[u8], allowed: u32) -> (bool, u32) {
    let asked = Cell::new(0);
    let check = || {
        asked.set(asked.get() + 1);
        asked.get() >= allowed
    };
    let found = Matcher::new(subject, pattern, Budget::new(STEPS_PER_CHECK, &check)).find(0);
    (found == Err(Error::OutOfTime), asked.get())
}

#[test]
fn an_exploding_pattern_is_stopped() {
    let pattern = [b"a?".repeat(30), b"a".repeat(30)].concat();
    assert_eq!(checks(&b"a".repeat(30), &pattern, 10), (true, 10));
    assert_eq!(checks(&b"a".repeat(50_000), b".-.-.-b", 10), (true, 10));
    assert_eq!(checks(&b"a".repeat(50_000), b"(.*)%1b", 10), (true, 10));
}

#[test]
fn long_scans_look_at_the_clock() {
    let long = b"(".repeat(1_000_000);
    assert_eq!(checks(&long, b".*", 10), (true, 10));
    assert_eq!(checks(&long, b".-x", 10), (true, 10));
    assert_eq!(checks(&long, b"%b()", 10), (true, 10));
    assert_eq!(checks(&long, b"[^x]*", 10), (true, 10));
    // A long set makes every comparison long.
    let set = [&b"["[..], &b"x".repeat(100_000), b"]+"].concat();
    assert_eq!(checks(&b"y".repeat(1000), &set, 10), (true, 10));
    // One pass over a megabyte is asked about at each few thousand characters, not at each.
    let (stopped, asked) = checks(&long, b".*", u32::MAX);
    assert!(!stopped && asked < 500, "{asked}");
}

#[test]
fn a_budget_carries_on() {
    let mut matcher = Matcher::new(b"ab", b".b", Budget::new(10, &|| true));
    assert_eq!(matcher.find(0), Ok(true));
    let left = matcher.steps_left();
    assert!(left < 10);
    assert_eq!(Matcher::new(b"aaaaaaaaaa", b".b", Budget::new(left, &|| true)).find(0), Err(Error::OutOfTime));
}
