//! Tokens: random numbers that prove that a client is the one that was told.

use std::fmt::{self, Debug, Formatter};

/// 122 random bits.
#[derive(Clone, Copy)]
pub struct Token(u128);

/// The length of a token's text.
const DIGITS: usize = 32;

impl Token {
    /// A new one.
    pub fn random() -> Token {
        Token(uuid::Uuid::new_v4().as_u128())
    }

    /// Reads the text that [`Token::expose`] writes.
    pub fn parse(text: &[u8]) -> Option<Token> {
        if text.len() != DIGITS || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Token)
    }

    /// The text, for the client: 32 hexadecimal digits.
    pub fn expose(self) -> String {
        format!("{:0DIGITS$x}", self.0)
    }

    /// The bits, for another node.
    pub fn to_bits(self) -> u128 {
        self.0
    }

    /// The token of these bits.
    pub fn from_bits(bits: u128) -> Token {
        Token(bits)
    }

    /// Whether it is the same. Takes the same time wherever they differ.
    pub fn is(self, other: Token) -> bool {
        let differ = |part: u32| (self.0 >> part) as u64 ^ (other.0 >> part) as u64;
        std::hint::black_box(differ(0) | differ(64)) == 0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.is(*other)
    }
}

impl Debug for Token {
    /// Not the bits.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text_and_shows_nothing_of_itself() {
        let token = Token::random();
        assert!(Token::parse(token.expose().as_bytes()).is_some_and(|again| again.is(token)));
        assert!(Token::from_bits(token.to_bits()).is(token) && !Token::random().is(token));
        assert!(!Token(1).is(Token(1 << 127)) && Token(1).expose().len() == DIGITS);
        assert_eq!(format!("{token:?}"), "***");
        for wrong in ["", "0", "+0000000000000000000000000000000", "0000000000000000000000000000000g"] {
            assert!(Token::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
