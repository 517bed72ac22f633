//! What the engine itself reads from a certificate: how long it holds, and for which names (RFC 5280). Whether anybody
//! trusts it is not judged here.

use std::time::{Duration, SystemTime};

/// The tags of X.690 that a certificate has where it is read here.
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]` and `[3]` of a certificate: its version and its extensions.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// `[2]` of a general name: a name of the DNS.
const DNS_NAME: u8 = 0x82;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 17];

/// What is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// When it ends.
    pub expires: SystemTime,
    /// The names of the DNS that it is for, in lower case.
    pub names: Vec<String>,
}

/// Reads a certificate in DER; None: it is none.
pub(super) fn read(der: &[u8]) -> Option<Facts> {
    let mut certificate = Der(der).take(SEQUENCE)?;
    let mut body = certificate.take(SEQUENCE)?;
    if body.0.first() == Some(&VERSION) {
        body.item()?;
    }
    body.take(INTEGER)?;
    // The algorithm of the signature, and who signed.
    body.take(SEQUENCE)?;
    body.take(SEQUENCE)?;
    let mut validity = body.take(SEQUENCE)?;
    validity.item()?;
    let (tag, text) = validity.item()?;
    let expires = time(tag, text.0)?;
    let mut names = Vec::new();
    while let Some((tag, mut inside)) = body.item() {
        if tag == EXTENSIONS {
            let mut extensions = inside.take(SEQUENCE)?;
            while let Some((SEQUENCE, extension)) = extensions.item() {
                alternative_names(extension, &mut names)?;
            }
        }
    }
    Some(Facts { expires, names })
}

/// The names of one extension, if it is the one with names.
fn alternative_names(mut extension: Der<'_>, names: &mut Vec<String>) -> Option<()> {
    if extension.take(OBJECT)?.0 != SUBJECT_ALT_NAME {
        return Some(());
    }
    // In between there may be whether it is critical.
    while let Some((tag, mut value)) = extension.item() {
        if tag != OCTETS {
            continue;
        }
        let mut all = value.take(SEQUENCE)?;
        while let Some((tag, name)) = all.item() {
            if tag == DNS_NAME {
                names.push(std::str::from_utf8(name.0).ok()?.to_ascii_lowercase());
            }
        }
    }
    Some(())
}

/// The rest of a text in DER.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next item: its tag and what is in it.
    fn item(&mut self) -> Option<(u8, Der<'a>)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            // The number of bytes that the length has.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (inside, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, Der(inside)))
    }

    /// Takes the next item, which must have that tag.
    fn take(&mut self, tag: u8) -> Option<Der<'a>> {
        self.item().and_then(|(found, inside)| (found == tag).then_some(inside))
    }
}

/// `YYMMDDHHMMSSZ` or, as a generalized time, `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let digits = text.strip_suffix(b"Z")?;
    let two = |at: usize| -> Option<u64> { std::str::from_utf8(digits.get(at..at + 2)?).ok()?.parse().ok() };
    let (year, rest) = match (tag, digits.len()) {
        // RFC 5280, section 4.1.2.5.1.
        (UTC_TIME, 12) => (two(0).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        (GENERALIZED_TIME, 14) => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let [month, day, hour, minute, second] =
        [two(rest)?, two(rest + 2)?, two(rest + 4)?, two(rest + 6)?, two(rest + 8)?];
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    // Before 1970 it has ended in any case.
    let seconds = (days * 24 + hour) * 3600 + minute * 60 + second;
    let since = seconds.saturating_sub(days_before(1970, 1) * 24 * 3600);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since))
}

/// The days from the first of March of the year 0 to the first of a month, by the Gregorian calendar.
fn days_before(year: u64, month: u64) -> u64 {
    // Years begin in March here, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        let time = time(tag, text.as_bytes())?;
        time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    #[test]
    fn times_are_read_by_the_calendar() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(seconds(UTC_TIME, "000301000000Z"), Some(951_868_800));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(UTC_TIME, "500101000000Z"), Some(0), "1950");
        assert_eq!(seconds(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for wrong in ["", "Z", "7001010000Z", "701301000000Z", "70010100000xZ", "700101000000"] {
            assert_eq!(seconds(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_certificate_tells_its_names_and_its_end() {
        let names = vec!["Example.com".to_owned(), "*.example.org".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let want = Facts {
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(1_936_742_400),
            names: vec!["example.com".into(), "*.example.org".into()],
        };
        assert_eq!(read(&der), Some(want));
        for end in 0..der.len() {
            assert_eq!(read(&der[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(prop_oneof![Just(0x30u8), Just(0x82), any::<u8>()], 0..200)) {
            let _ = read(&bytes);
        }
    }
}
