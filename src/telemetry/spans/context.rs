//! Which trace something belongs to, as programs tell it each other: the headers `traceparent` and `tracestate` (W3C Trace
//! Context, level 1). What a stranger sends is checked as the recommendation says; what is not valid is as if it had not come.

use std::sync::Arc;

/// The longest `tracestate` that is passed on, in bytes: what every program has to (section 3.3.1.5).
const MAX_STATE: usize = 512;
/// The most members that it may have (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// A place in a trace: the span that what is done next is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Its spans are recorded.
    pub sampled: bool,
    /// What other programs have added: valid, and passed on as it is.
    pub state: Option<Arc<str>>,
}

impl TraceContext {
    /// What the headers of a request say. None: they name no trace, or not as they should; then one begins here.
    pub fn of_headers<'h>(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Option<TraceContext> {
        let (mut parent, mut states) = (None, Vec::new());
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("traceparent") {
                // With two of them nobody knows which is right.
                if parent.replace(value).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("tracestate") {
                states.push(value);
            }
        }
        let context = TraceContext::parse(parent?)?;
        Some(TraceContext { state: read_state(states.into_iter()), ..context })
    }

    /// What the two texts say, where there are no headers.
    pub fn of_texts(parent: &str, state: Option<&str>) -> Option<TraceContext> {
        let context = TraceContext::parse(parent.as_bytes())?;
        Some(TraceContext { state: read_state(state.map(str::as_bytes).into_iter()), ..context })
    }

    /// Reads a `traceparent` (section 3.2).
    pub fn parse(text: &[u8]) -> Option<TraceContext> {
        let text = text.trim_ascii();
        let (version, rest) = (hex(text.get(..2)?)?, text.get(LENGTH..)?);
        // A later version may go on after a dash.
        let fits = rest.is_empty() || version != 0 && rest[0] == b'-';
        let has_dashes = [2, 35, 52].into_iter().all(|at| text[at] == b'-');
        if version == 0xff || !fits || !has_dashes {
            return None;
        }
        let (trace_id, span_id) = (hex(&text[3..35])?, hex(&text[36..52])? as u64);
        let flags = hex(&text[53..55])?;
        (trace_id != 0 && span_id != 0).then_some(TraceContext {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
            state: None,
        })
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<TraceContext>() + self.state.as_ref().map_or(0, |state| state.len())
    }

    /// The `traceparent` of a request that is part of it.
    pub fn traceparent(&self) -> String {
        let TraceContext { trace_id, span_id, sampled, .. } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*sampled))
    }
}

/// A number in lower-case hexadecimal digits alone, 32 at most.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// The members of all `tracestate` headers (section 3.3). One that is wrong, or too much, and none is passed on.
fn read_state<'h>(headers: impl Iterator<Item = &'h [u8]>) -> Option<Arc<str>> {
    let mut whole = String::new();
    let mut count = 0;
    for header in headers {
        for member in std::str::from_utf8(header).ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            count += 1;
            let separator = usize::from(!whole.is_empty());
            if !is_member(member) || count > MAX_MEMBERS || whole.len() + separator + member.len() > MAX_STATE {
                return None;
            }
            whole.extend((separator > 0).then_some(','));
            whole.push_str(member);
        }
    }
    (!whole.is_empty()).then(|| whole.into())
}

/// `key=value`; the key may be `tenant@system`.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let letters = |part: &str| {
        part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'*' | b'/'))
    };
    let begins_with_letter = |part: &str| part.starts_with(|c: char| c.is_ascii_lowercase());
    let is_key = match key.split_once('@') {
        None => begins_with_letter(key) && letters(key) && key.len() <= 256,
        Some((tenant, system)) => {
            let is_tenant = !tenant.is_empty() && !tenant.starts_with(['_', '-', '*', '/']) && tenant.len() <= 241;
            is_tenant && letters(tenant) && begins_with_letter(system) && letters(system) && system.len() <= 14
        }
    };
    let is_value = (1..=256).contains(&value.len()) && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=');
    is_key && is_value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(headers: &[(&str, &str)]) -> Option<TraceContext> {
        TraceContext::of_headers(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn a_valid_parent_is_read_and_written() {
        let context = of(&[("TraceParent", VALID), ("x", "y")]).unwrap();
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((context.span_id, context.sampled, &context.state), (0xb7ad_6b71_6920_3331, true, &None));
        assert_eq!(context.traceparent(), VALID);
        assert_eq!(TraceContext::of_texts(VALID, None), Some(context));
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let text = VALID.replace("-01", &format!("-{flags}"));
            assert_eq!(TraceContext::parse(text.as_bytes()).unwrap().sampled, sampled, "{flags}");
        }
        let padded = format!(" \t{VALID} ");
        assert!(TraceContext::parse(padded.as_bytes()).is_some());
    }

    #[test]
    fn one_that_is_not_valid_is_none() {
        let of_version = |version: &str, rest: &str| format!("{version}{}{rest}", &VALID[2..]);
        let (later, long) = (of_version("cc", ""), of_version("cc", "-what-the-future-brings"));
        for text in [&later, &long, &of_version("01", "-")] {
            assert!(TraceContext::parse(text.as_bytes()).is_some(), "{text}");
        }
        let bad = [
            "",
            "00",
            &VALID[..54],
            &of_version("ff", ""),
            &of_version("00", "-"),
            &of_version("00", "-x"),
            &of_version("cc", "x"),
            &of_version("0G", ""),
            &VALID.to_uppercase(),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
            &VALID.replace("-01", "-0x"),
            &VALID.replace("b7ad", "+7ad"),
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(of(&[("traceparent", VALID), ("traceparent", VALID)]), None, "twice");
        assert_eq!(of(&[("tracestate", "a=1")]), None);
    }

    #[test]
    fn what_others_have_added_is_passed_on_as_far_as_it_is_valid() {
        let state = |all: &[&str]| {
            let headers = std::iter::once(("traceparent", VALID)).chain(all.iter().map(|one| ("tracestate", *one)));
            of(&headers.collect::<Vec<_>>()).unwrap().state.map(|state| state.to_string())
        };
        assert_eq!(state(&["a=1, b = 2"]), None, "a space in a key");
        assert_eq!(state(&["a=1,\tb=2 3 ", "", "t-1@sys=x/y"]).as_deref(), Some("a=1,b=2 3,t-1@sys=x/y"));
        assert_eq!(state(&[]), None);
        let (many, long) = (vec!["a=1"; 33].join(","), format!("a={}", "x".repeat(256)));
        let too_long = [&*long, &*long].join(",");
        for bad in [&*many, &too_long, "a", "=1", "A=1", "1=1", "a=", "a=1=2", "a=\u{e9}", "@b=1", "a@=1", "a@1=1"] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        assert_eq!(state(&[&long]).as_deref(), Some(&*long));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            text in prop::collection::vec(any::<u8>(), 0..70),
            state in "[a-z@=, \t0-9]{0,40}",
            cut in 0..56usize,
        ) {
            let _ = TraceContext::parse(&text);
            let mixed = [&VALID.as_bytes()[..cut.min(VALID.len())], &text].concat();
            let _ = TraceContext::parse(&mixed);
            if let Some(context) = TraceContext::of_texts(VALID, Some(&state)) {
                let again = context.state.as_deref();
                prop_assert_eq!(&TraceContext::of_texts(VALID, again).unwrap().state, &context.state);
            }
        }

        #[test]
        fn what_is_written_is_read(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
            let context = TraceContext { trace_id, span_id, sampled, state: None };
            prop_assert_eq!(TraceContext::parse(context.traceparent().as_bytes()), Some(context));
        }
    }
}
