//! What extensions a client offers, and the answer (RFC 6455, section 9.1). The only one spoken here is permessage-deflate
//! (RFC 7692, section 7.1).

use std::borrow::Cow;

use super::deflate::Window;

/// The name of the extension.
const DEFLATE: &str = "permessage-deflate";

/// An offer of permessage-deflate that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// How far back the server's messages refer.
    pub window: Window,
    /// The client asked for that window, so the answer names it.
    asked: bool,
}

impl Agreed {
    /// The value of `Sec-WebSocket-Extensions` in the response. Neither side takes over a context, whether the client
    /// asked for it or not.
    pub fn answer(&self) -> String {
        let always = format!("{DEFLATE}; server_no_context_takeover; client_no_context_takeover");
        match self.asked {
            true => format!("{always}; server_max_window_bits={}", self.window.bits()),
            false => always,
        }
    }
}

/// The header is not what RFC 6455, section 9.1, allows; there the connection must not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The first offer of permessage-deflate that can be taken, in the values of all `Sec-WebSocket-Extensions` headers.
pub fn deflate_of<'b>(values: impl IntoIterator<Item = &'b [u8]>) -> Result<Option<Agreed>, Malformed> {
    let mut agreed = None;
    for value in values {
        let mut rest = Rest(value);
        loop {
            rest.space();
            if rest.is_empty() {
                break;
            }
            // An element of a list may be empty (RFC 9110, section 5.6.1).
            if rest.take(b',') {
                continue;
            }
            let offer = offer(&mut rest)?;
            agreed = agreed.or(offer);
        }
    }
    Ok(agreed)
}

/// Reads one offer, and the comma after it. None: it is declined.
fn offer(rest: &mut Rest<'_>) -> Result<Option<Agreed>, Malformed> {
    let mut terms = (rest.token().ok_or(Malformed)? == DEFLATE.as_bytes()).then(Terms::default);
    loop {
        rest.space();
        if rest.is_empty() || rest.take(b',') {
            return Ok(terms.map(Terms::agreed));
        }
        if !rest.take(b';') {
            return Err(Malformed);
        }
        rest.space();
        let name = rest.token().ok_or(Malformed)?;
        rest.space();
        let value = match rest.take(b'=') {
            true => Some(rest.value().ok_or(Malformed)?),
            false => None,
        };
        terms = terms.and_then(|terms| terms.with(name, value.as_deref()));
    }
}

/// The parameters of an offer that can be taken so far.
#[derive(Default)]
struct Terms {
    seen: [bool; 4],
    server_window: Option<Window>,
}

impl Terms {
    /// With one more parameter. None: an offer with it has to be declined (RFC 7692, section 7.1), or it asks for a window
    /// that can't be had.
    fn with(mut self, name: &[u8], value: Option<&[u8]>) -> Option<Terms> {
        let (position, fits) = match (name, value) {
            (b"server_no_context_takeover", None) => (0, true),
            (b"client_no_context_takeover", None) => (1, true),
            (b"server_max_window_bits", Some(bits)) => {
                self.server_window = bits_of(bits).and_then(Window::of);
                (2, self.server_window.is_some())
            }
            // What the client can do. It may use any window, so it is asked for none.
            (b"client_max_window_bits", None) => (3, true),
            (b"client_max_window_bits", Some(bits)) => (3, bits_of(bits).is_some()),
            _ => return None,
        };
        let again = std::mem::replace(&mut self.seen[position], true);
        (fits && !again).then_some(self)
    }

    fn agreed(self) -> Agreed {
        Agreed { window: self.server_window.unwrap_or(Window::Bits15), asked: self.server_window.is_some() }
    }
}

/// A number from 8 to 15 without leading zeros.
fn bits_of(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// What is not read yet of a header's value.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Option<&'b [u8]> {
        let len = self.0.iter().take_while(|b| is_token(**b)).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        (len > 0).then_some(token)
    }

    /// A token, or one in quotes.
    fn value(&mut self) -> Option<Cow<'b, [u8]>> {
        self.space();
        if !self.take(b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut text = Vec::new();
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    text.push(*escaped);
                }
                other => text.push(*other),
            }
        }
        (!text.is_empty() && text.iter().all(|b| is_token(*b))).then_some(Cow::Owned(text))
    }
}

/// A character of a token (RFC 9110, section 5.6.2).
pub(super) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to offers, each the value of one header.
    fn answered(values: &[&str]) -> Result<Option<String>, Malformed> {
        Ok(deflate_of(values.iter().map(|value| value.as_bytes()))?.map(|agreed| agreed.answer()))
    }

    /// What is always answered, and `more`.
    fn taken(more: &str) -> Result<Option<String>, Malformed> {
        Ok(Some(format!("permessage-deflate; server_no_context_takeover; client_no_context_takeover{more}")))
    }

    #[test]
    fn an_offer_is_answered_as_the_rfc_allows() {
        for (offer, more) in [
            ("permessage-deflate", ""),
            ("permessage-deflate; client_max_window_bits", ""),
            ("permessage-deflate;client_max_window_bits=8", ""),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", ""),
            ("permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15"),
            ("permessage-deflate; server_max_window_bits=9", "; server_max_window_bits=9"),
            (" permessage-deflate ; server_max_window_bits = \"1\\0\" ", "; server_max_window_bits=10"),
            (", ,permessage-deflate,", ""),
        ] {
            assert_eq!(answered(&[offer]), taken(more), "{offer}");
        }
        assert_eq!(answered(&[]), Ok(None));
        assert_eq!(answered(&["", "x-other", "permessage-deflate"]), taken(""), "in one of several headers");
    }

    #[test]
    fn what_can_not_be_taken_is_declined() {
        for offer in [
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "Permessage-Deflate",
            "x-webkit-deflate-frame",
            "permessage-bzip2; level=\"9\"",
        ] {
            assert_eq!(answered(&[offer]), Ok(None), "{offer}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_taken_counts() {
        let offers = "x-other; a=\"b\", permessage-deflate; server_max_window_bits=8, \
                      permessage-deflate; server_max_window_bits=10, permessage-deflate";
        assert_eq!(answered(&[offers]), taken("; server_max_window_bits=10"));
        assert_eq!(answered(&["permessage-deflate; what, permessage-deflate"]), taken(""));
        assert_eq!(answered(&["permessage-deflate; what", "permessage-deflate"]), taken(""));
    }

    #[test]
    fn a_malformed_header_is_told_wherever_it_is() {
        for value in [
            ";",
            "=",
            "a b",
            "permessage-deflate;",
            "permessage-deflate; =9",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=\"9\\",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\"9 \"",
            "permessage-deflate, \u{e9}",
        ] {
            assert_eq!(answered(&[value]), Err(Malformed), "{value}");
            assert_eq!(answered(&["permessage-deflate", value]), Err(Malformed), "{value}");
        }
    }
}
