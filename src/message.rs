//! Channel names, messages, and close reasons.

mod close;
mod counted;

use bytes::Bytes;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

pub use close::{CloseReason, SHUTDOWN, close_code};
pub use counted::Counted;

/// The text that bytes are; None if they are not UTF-8. As [`std::str::from_utf8`], but several times as fast for short ASCII texts,
/// which most messages and names are.
#[inline]
pub fn utf8(bytes: &[u8]) -> Option<&str> {
    match bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        true => Some(unsafe { std::str::from_utf8_unchecked(bytes) }),
        false => std::str::from_utf8(bytes).ok(),
    }
}

/// The longest channel name, in bytes.
pub const MAX_CHANNEL_LEN: usize = 255;

/// A channel's name: 1 to [`MAX_CHANNEL_LEN`] bytes of UTF-8 without spaces or control characters.
///
/// Cheap to clone; compares and hashes as its text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is no channel name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The name is the empty string.
    #[error("a channel name is empty")]
    Empty,
    /// The name is longer than [`MAX_CHANNEL_LEN`] bytes; holds its length.
    #[error("a channel name has {0} bytes, more than {MAX_CHANNEL_LEN}")]
    TooLong(usize),
    /// The name is not UTF-8.
    #[error("a channel name is not valid UTF-8")]
    NotUtf8,
    /// The name holds a space or a control character; holds the name, escaped.
    #[error("channel name \"{0}\" holds a space or control character")]
    Forbidden(String),
    /// The name ends in what Lua makes of a large number when it is concatenated: only 14 of its digits.
    #[error(
        "channel name \"{0}\" holds a number that lost digits when it was concatenated; write string.format(\"%d\", n)"
    )]
    MangledNumber(String),
}

impl Channel {
    /// Checks a name as it came from a back end or a script.
    pub fn parse(name: &[u8]) -> Result<Channel, ChannelError> {
        match utf8(name) {
            Some(name) => Channel::parse_text(name),
            None if name.len() > MAX_CHANNEL_LEN => Err(ChannelError::TooLong(name.len())),
            None => Err(ChannelError::NotUtf8),
        }
    }

    /// The same where the name is known to be UTF-8.
    pub fn parse_text(name: &str) -> Result<Channel, ChannelError> {
        if name.is_empty() {
            return Err(ChannelError::Empty);
        }
        if name.len() > MAX_CHANNEL_LEN {
            return Err(ChannelError::TooLong(name.len()));
        }
        // Nearly all names are ASCII, which is looked at faster.
        let is_plain = name.bytes().all(|b| b.is_ascii_graphic());
        if !is_plain && name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ChannelError::Forbidden(name.escape_debug().to_string()));
        }
        Ok(Channel(Arc::from(name)))
    }

    /// Checks a name that a Lua script built: besides [`Channel::parse`], it refuses a name in which a number was
    /// mangled by `..` (`user:1.2345678901234e+14`), since it would silently be another user's channel.
    pub fn from_script(name: &[u8]) -> Result<Channel, ChannelError> {
        if holds_mangled_number(name) {
            return Err(ChannelError::MangledNumber(String::from_utf8_lossy(name).escape_debug().to_string()));
        }
        Channel::parse(name)
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Finds what `%.14g` makes of a large whole number: `D.DDDDe+DD` or `De+DD` as a part between separators.
fn holds_mangled_number(name: &[u8]) -> bool {
    // Nearly no name does.
    if !name.contains(&b'+') {
        return false;
    }
    name.windows(2).enumerate().any(|(at, pair)| {
        if pair != b"e+" {
            return false;
        }
        let exponent = name[at + 2..].iter().take_while(|b| b.is_ascii_digit()).count();
        let after = name.get(at + 2 + exponent);
        let digits = name[..at].iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let rest = &name[..at - digits];
        let (fraction, before) = match rest.split_last() {
            Some((b'.', head)) if head.last().is_some_and(u8::is_ascii_digit) => (true, head.len() - 1),
            _ => (false, rest.len()),
        };
        let whole_ok = if fraction { digits > 0 } else { digits == 1 };
        let starts_clean = before == 0 || !name[before - 1].is_ascii_alphanumeric();
        exponent >= 2 && whole_ok && starts_clean && !after.is_some_and(u8::is_ascii_alphanumeric)
    })
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The longest [`Key`], in bytes.
pub const MAX_KEY_LEN: usize = 255;

/// What a published message is about, among the messages of its channel: a newer one with the same key makes an older one
/// worthless. 1 to [`MAX_KEY_LEN`] bytes of UTF-8. Cheap to clone; compares and hashes as its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

/// A text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 1 to {MAX_KEY_LEN} bytes of UTF-8")]
pub struct KeyError;

impl Key {
    /// Checks a key as it came from a back end, a script or another node.
    pub fn parse(key: &[u8]) -> Result<Key, KeyError> {
        match std::str::from_utf8(key) {
            Ok(text) if (1..=MAX_KEY_LEN).contains(&text.len()) => Ok(Key(Arc::from(text))),
            _ => Err(KeyError),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a message's bytes are (RFC 6455, section 5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// The word that scripts and back ends use.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Binary => "binary",
        }
    }

    /// Reads the word that scripts and back ends use.
    pub fn parse(word: &[u8]) -> Option<Kind> {
        match word {
            b"text" => Some(Kind::Text),
            b"binary" => Some(Kind::Binary),
            _ => None,
        }
    }
}

/// A whole message on its way to connections. The bytes of a text message are valid UTF-8: [`Message::new`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: Kind,
    data: Bytes,
}

/// A text message held bytes that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text message must be valid UTF-8; send it as \"binary\"")]
pub struct NotUtf8;

impl Message {
    /// A message of that kind; text is checked to be UTF-8.
    pub fn new(kind: Kind, data: Bytes) -> Result<Message, NotUtf8> {
        if kind == Kind::Text && utf8(&data).is_none() {
            return Err(NotUtf8);
        }
        Ok(Message { kind, data })
    }

    /// A text message.
    pub fn text(text: impl Into<String>) -> Message {
        Message { kind: Kind::Text, data: Bytes::from(text.into()) }
    }

    /// A binary message.
    pub fn binary(data: impl Into<Bytes>) -> Message {
        Message { kind: Kind::Binary, data: data.into() }
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_checked() {
        assert_eq!(Channel::parse(b"video:100001").unwrap().as_str(), "video:100001");
        assert_eq!(Channel::parse(b""), Err(ChannelError::Empty));
        assert_eq!(Channel::parse(&[b'x'; 256]), Err(ChannelError::TooLong(256)));
        assert!(Channel::parse(&[b'x'; 255]).is_ok());
        assert!(matches!(Channel::parse(b"a b"), Err(ChannelError::Forbidden(_))));
        assert!(matches!(Channel::parse(b"a\nb"), Err(ChannelError::Forbidden(_))));
        assert_eq!(Channel::parse(b"\xff"), Err(ChannelError::NotUtf8));
        assert!(Channel::parse("弹幕:1".as_bytes()).is_ok());
    }

    #[test]
    fn numbers_mangled_by_concatenation_are_refused() {
        for bad in ["user:1.2345678901234e+14", "1e+15", "a:1e+15:b", "x-9.9e+20"] {
            let err = Channel::from_script(bad.as_bytes()).unwrap_err();
            assert!(err.to_string().contains("string.format(\"%d\", n)"), "{bad}: {err}");
        }
        for good in ["user:123456789012345", "e+15", "name+e+15x", "abc1e+15", "a1e+1", "user:12e+15"] {
            assert!(Channel::from_script(good.as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn utf8_is_what_the_standard_library_says() {
        let long = "a".repeat(100);
        let texts: [&[u8]; 8] =
            [b"", b"a", "é".as_bytes(), long.as_bytes(), b"\x7f", b"\x80", b"a\xff", b"\xed\xa0\x80"];
        for bytes in texts {
            assert_eq!(utf8(bytes), std::str::from_utf8(bytes).ok(), "{bytes:?}");
        }
    }

    #[test]
    fn text_must_be_utf8() {
        assert!(Message::new(Kind::Text, Bytes::from_static(b"\xff")).is_err());
        assert!(Message::new(Kind::Binary, Bytes::from_static(b"\xff")).is_ok());
    }
}
