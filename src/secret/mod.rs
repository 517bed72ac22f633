//! Passwords and other secrets: held so that nothing shows them, and overwritten when they are dropped.

pub mod password;
pub mod token;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::{self, Debug, Formatter};
use zeroize::Zeroizing;

/// A secret text. Empty: there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, for those who have to send or compare it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        text.to_owned().into()
    }
}

impl Debug for Secret {
    /// Not the text.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

/// The bytes of a SHA-256 in 64 hexadecimal digits.
pub fn digest(hash: &str) -> Option<[u8; 32]> {
    let digits = hash.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hash.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Compares in a time that depends neither on where the texts differ nor on the length of the secret (apart from
/// hashing it): both are hashed, and the hashes are compared in constant time.
pub fn is_same(given: &[u8], secret: &[u8]) -> bool {
    let digest = |text: &[u8]| {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&Default::default());
        mac.update(text);
        mac.finalize()
    };
    digest(given) == digest(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        assert_eq!(format!("{:?} {:?}", Secret::from("hunter2"), Some(Secret::default())), "*** Some(none)");
        assert!(is_same(b"a", b"a") && !is_same(b"a", b"b") && !is_same(b"", b"a"));
    }
}
