//! A script's text as tokens, with their lines: what bytecode does not show. Comments are left out, and a string is one token
//! whatever it holds, so that nothing in them is taken for code. The rules are those of LuaJIT's lexer.

use std::collections::BTreeMap;

/// One token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    /// As it is spelt.
    pub text: &'a [u8],
    /// The line on which it begins, from 1.
    pub line: u32,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a reserved word.
    Name,
    Number,
    Text,
    /// An operator or a bracket.
    Symbol,
}

/// Operators of several characters; the longest of those that begin alike comes first. An assignment with an operator
/// counts as one token here; LuaJIT reads two.
const SYMBOLS: [&[u8]; 31] = [
    b"~>>=", b"...", b"..=", b"<<=", b">>=", b"~>>", b"==", b"~=", b"<=", b">=", b"..", b"::", b"!=", b"&&", b"||",
    b"->", b"?.", b"??", b"+=", b"-=", b"*=", b"/=", b"%=", b"&=", b"|=", b"<<", b">>", b"?", b"!", b"&", b"|",
];

/// The tokens of a text that compiles. For any other text, the tokens up to the first that can't be read.
pub(super) fn tokens(text: &[u8]) -> Vec<Token<'_>> {
    let mut lexer = Lexer::new(text);
    std::iter::from_fn(|| lexer.next()).collect()
}

/// The comments of a text, by the line on which each begins.
pub(super) fn comments(text: &[u8]) -> BTreeMap<u32, String> {
    let mut lexer = Lexer::new(text);
    while lexer.next().is_some() {}
    lexer.comments
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    comments: BTreeMap<u32, String>,
}

impl<'a> Lexer<'a> {
    /// At the first byte behind a byte order mark and a line for the shell.
    fn new(text: &'a [u8]) -> Lexer<'a> {
        let mut lexer = Lexer { text, at: 0, line: 1, comments: BTreeMap::new() };
        if text.starts_with(b"\xef\xbb\xbf") {
            lexer.at = 3;
        }
        if lexer.rest().starts_with(b"#") {
            lexer.skip_line();
        }
        lexer
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at.min(self.text.len())..]
    }

    /// Moves on by that many bytes, and counts the lines among them.
    fn skip(&mut self, count: usize) {
        let passed = &self.rest()[..count.min(self.rest().len())];
        // CR LF, LF CR, CR and LF each end one line.
        let mut bytes = passed.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            if matches!(byte, b'\n' | b'\r') {
                self.line += 1;
                bytes.next_if(|next| matches!(next, b'\n' | b'\r') && *next != byte);
            }
        }
        self.at += passed.len();
    }

    fn skip_line(&mut self) {
        let rest = self.rest();
        self.skip(rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len()));
    }

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = self.rest();
            let blank = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)).count();
            if blank > 0 {
                self.skip(blank);
            } else if let Some(comment) = rest.strip_prefix(b"--") {
                let (line, begins) = (self.line, self.at);
                match long_bracket(comment) {
                    Some(length) => self.skip(2 + length),
                    None => self.skip_line(),
                }
                let comment = String::from_utf8_lossy(&self.text[begins..self.at]);
                self.comments.entry(line).or_default().push_str(&comment);
            } else {
                break;
            }
        }
        let (rest, line) = (self.rest(), self.line);
        let (kind, length) = match *rest.first()? {
            b'0'..=b'9' => (Kind::Number, number(rest)),
            b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => (Kind::Number, number(rest)),
            b if is_name(b) => (Kind::Name, rest.iter().take_while(|b| is_name(**b)).count()),
            quote @ (b'"' | b'\'') => (Kind::Text, quoted(rest, quote)),
            b'[' if long_bracket(rest).is_some() => (Kind::Text, long_bracket(rest)?),
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(symbol));
                (Kind::Symbol, symbol.map_or(1, |symbol| symbol.len()))
            }
        };
        self.skip(length);
        Some(Token { kind, text: &rest[..length], line })
    }
}

/// Bytes beyond ASCII are letters for LuaJIT.
fn is_name(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// How long the number is that a text begins with. A sign belongs to it behind the letter of an exponent.
fn number(text: &[u8]) -> usize {
    let is_hex = text.len() > 1 && text[1].eq_ignore_ascii_case(&b'x');
    let exponent = if is_hex { b'p' } else { b'e' };
    let mut before = 0;
    let length = text.iter().take_while(|&&byte| {
        let signs = matches!(byte, b'+' | b'-') && u8::eq_ignore_ascii_case(&before, &exponent);
        before = byte;
        signs || byte == b'.' || is_name(byte)
    });
    length.count()
}

/// How long the quoted string is that a text begins with. One that does not end goes to the end of the text.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        at += match byte {
            b'\\' => 2,
            b if b == quote => return at + 1,
            _ => 1,
        };
    }
    text.len()
}

/// How long the long bracket is that a text begins with: `[[...]]`, `[==[...]==]`. One that does not end goes to the end.
fn long_bracket(text: &[u8]) -> Option<usize> {
    let level = text.strip_prefix(b"[")?.iter().take_while(|b| **b == b'=').count();
    if text.get(level + 1) != Some(&b'[') {
        return None;
    }
    let close = [&b"]"[..], &vec![b'='; level], b"]"].concat();
    let body = text.get(level + 2..)?;
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(text.len(), |end| level + 2 + end + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(&str, u32)> {
        tokens(text.as_bytes()).iter().map(|t| (std::str::from_utf8(t.text).unwrap(), t.line)).collect()
    }

    #[test]
    fn strings_and_comments_are_one_token_or_none() {
        for (text, wanted) in [
            ("a -- != b\n c", &[("a", 1), ("c", 2)][..]),
            ("a --[[ x\n != ]] b", &[("a", 1), ("b", 2)]),
            ("a --[==[ ]] \n\n ]==] b", &[("a", 1), ("b", 3)]),
            ("--[ x\na", &[("a", 2)]),
            ("'it\\'s != ' x", &[("'it\\'s != '", 1), ("x", 1)]),
            ("\"a\\\n&&\" x", &[("\"a\\\n&&\"", 1), ("x", 2)]),
            ("[[a\r\n]] x", &[("[[a\r\n]]", 1), ("x", 2)]),
            ("a[b[1]]", &[("a", 1), ("[", 1), ("b", 1), ("[", 1), ("1", 1), ("]", 1), ("]", 1)]),
            ("#!/usr/bin/lua !=\nx", &[("x", 2)]),
            ("\u{feff}x", &[("x", 1)]),
            ("'never ends != ", &[("'never ends != ", 1)]),
            ("[[never ends", &[("[[never ends", 1)]),
            (
                "1e-5-x 0x1p+4+y 5..z",
                &[("1e-5", 1), ("-", 1), ("x", 1), ("0x1p+4", 1), ("+", 1), ("y", 1), ("5..z", 1)],
            ),
            ("a~=b a..=b ...", &[("a", 1), ("~=", 1), ("b", 1), ("a", 1), ("..=", 1), ("b", 1), ("...", 1)]),
        ] {
            assert_eq!(read(text), wanted, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(text: Vec<u8>) {
            let found = tokens(&text);
            let bytes: usize = found.iter().map(|token| token.text.len()).sum();
            proptest::prop_assert!(bytes <= text.len());
            proptest::prop_assert!(found.iter().all(|token| !token.text.is_empty()));
        }
    }
}
