//! Percent-encoding, part by part (RFC 3986, section 2), with the choices of Go's `net/url`.

use crate::script::mix::query::escaped;

/// A part of a URL: each has its own bytes that stand unescaped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part {
    Path,
    User,
    Host,
    Zone,
    Fragment,
}

/// Whether a byte needs no escape in that part.
fn plain(byte: u8, part: Part) -> bool {
    byte.is_ascii_alphanumeric()
        || b"-_.~".contains(&byte)
        || match part {
            Part::Path => b"$&+,/:;=@".contains(&byte),
            Part::User => b"$&+,;=".contains(&byte),
            // More than the RFC allows, since browsers and older programs send these.
            Part::Host | Part::Zone => b"!$&'()*+,;=:[]<>\"".contains(&byte),
            Part::Fragment => b"$&+,/:;=?@!()*".contains(&byte),
        }
}

/// The decoded part, and the part as written if encoding the decoded one gives something else.
pub(super) fn decoded(text: &[u8], part: Part) -> Result<(Vec<u8>, Vec<u8>), String> {
    let decoded = unescape(text, part)?;
    let raw = if escape(&decoded, part) == text { Vec::new() } else { text.into() };
    Ok((decoded, raw))
}

/// A part's bytes as they are written in a URL.
pub(super) fn escape(bytes: &[u8], part: Part) -> Vec<u8> {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let mut text = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if plain(*byte, part) {
            text.push(*byte);
        } else {
            text.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
    text
}

/// What a part as it is written in a URL stands for.
pub(super) fn unescape(text: &[u8], part: Part) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let byte = if *first == b'%' {
            let byte = escaped(tail).filter(|byte| may_be_escaped(*byte, part));
            let refused = || format!("invalid escape '{}'", rest[..rest.len().min(3)].escape_ascii());
            let byte = byte.ok_or_else(refused)?;
            rest = &tail[2..];
            byte
        } else {
            if matches!(part, Part::Host | Part::Zone) && first.is_ascii() && !plain(*first, part) {
                return Err(format!("invalid character '{}' in host name", first.escape_ascii()));
            }
            rest = tail;
            *first
        };
        bytes.push(byte);
    }
    Ok(bytes)
}

/// A host may escape only what is not ASCII (RFC 3986, section 3.2.2), and the `%25` before a zone. A zone may escape
/// only what a host could hold, and a space, which names of network interfaces can have.
fn may_be_escaped(byte: u8, part: Part) -> bool {
    match part {
        Part::Host => byte == b'%' || !byte.is_ascii(),
        Part::Zone => byte == b'%' || byte == b' ' || plain(byte, Part::Host),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_escaped_is_unescaped(bytes: Vec<u8>) {
            for part in [Part::Path, Part::User, Part::Fragment] {
                let text = escape(&bytes, part);
                prop_assert_eq!(unescape(&text, part), Ok(bytes.clone()));
            }
        }
    }
}
