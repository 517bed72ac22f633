//! Commands to a connection as bytes, for the way to another node. What is read comes from outside: it is bounded in depth,
//! and costs no more than its length.

use crate::hub::ConnCommand;
use crate::message::{Channel, Kind, Message};
use crate::secret::token::Token;
use crate::value::Value;
use bytes::Bytes;

/// How deep tables may be nested.
const DEPTH: usize = 64;

/// The bytes of a command.
pub fn encode(command: &ConnCommand) -> Vec<u8> {
    let mut out = Vec::new();
    match command {
        ConnCommand::SetContext(values) => {
            out.push(0);
            length(&mut out, values.len());
            for (key, value) in values {
                bytes(&mut out, key.as_bytes());
                encode_value(&mut out, value);
            }
        }
        ConnCommand::Subscribe(channels) => names(&mut out, 1, channels),
        ConnCommand::Unsubscribe(channels) => names(&mut out, 2, channels),
        ConnCommand::Close { code, reason } => {
            out.push(3);
            out.extend_from_slice(&code.to_le_bytes());
            bytes(&mut out, reason.as_bytes());
        }
        // Its trace stays here: what nodes say has no place for it.
        ConnCommand::Receive { token, message, trace: _ } => {
            out.push(4);
            out.extend_from_slice(&token.to_bits().to_le_bytes());
            out.push(u8::from(message.kind() == Kind::Binary));
            bytes(&mut out, message.data());
        }
    }
    out
}

fn names(out: &mut Vec<u8>, kind: u8, channels: &[Channel]) {
    out.push(kind);
    length(out, channels.len());
    channels.iter().for_each(|channel| bytes(out, channel.as_str().as_bytes()));
}

fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn encode_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Nil => out.push(0),
        Value::Bool(value) => out.push(1 + u8::from(*value)),
        Value::Number(number) => {
            out.push(3);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Str(text) => {
            out.push(4);
            bytes(out, text);
        }
        Value::Table(pairs) | Value::Array(pairs) => {
            out.push(if matches!(value, Value::Table(_)) { 5 } else { 6 });
            length(out, pairs.len());
            for (key, value) in pairs {
                encode_value(out, key);
                encode_value(out, value);
            }
        }
    }
}

/// The command that such bytes are; None: they are none.
pub fn decode(bytes: &[u8]) -> Option<ConnCommand> {
    let mut reader = Reader(bytes);
    let command = match reader.byte()? {
        0 => {
            let mut values = Vec::new();
            for _ in 0..reader.count()? {
                let key = reader.text()?.to_owned();
                values.push((key, reader.value(DEPTH)?));
            }
            ConnCommand::SetContext(values)
        }
        1 => ConnCommand::Subscribe(reader.channels()?),
        2 => ConnCommand::Unsubscribe(reader.channels()?),
        3 => {
            let code = u16::from_le_bytes(*reader.array()?);
            ConnCommand::Close { code, reason: reader.text()?.into() }
        }
        4 => {
            let token = Token::from_bits(u128::from_le_bytes(*reader.array()?));
            let kind = match reader.byte()? {
                0 => Kind::Text,
                1 => Kind::Binary,
                _ => return None,
            };
            let message = Message::new(kind, Bytes::copy_from_slice(reader.bytes()?)).ok()?;
            ConnCommand::Receive { token, message, trace: None }
        }
        _ => return None,
    };
    reader.0.is_empty().then_some(command)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    /// A count of things that take at least a byte each.
    fn count(&mut self) -> Option<usize> {
        let count = u32::from_le_bytes(*self.array()?) as usize;
        (count <= self.0.len()).then_some(count)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn channels(&mut self) -> Option<Vec<Channel>> {
        (0..self.count()?).map(|_| Channel::parse(self.bytes()?).ok()).collect()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        Some(match self.byte()? {
            0 => Value::Nil,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Number(f64::from_le_bytes(*self.array()?)),
            4 => Value::Str(self.bytes()?.into()),
            kind @ (5 | 6) => {
                let depth = depth.checked_sub(1)?;
                let mut pairs = Vec::new();
                for _ in 0..self.count()? {
                    pairs.push((self.value(depth)?, self.value(depth)?));
                }
                if kind == 5 { Value::Table(pairs.into()) } else { Value::Array(pairs.into()) }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_come_back() {
        let channel = |name: &str| Channel::parse(name.as_bytes()).unwrap();
        let table = Value::Table([(Value::str("a"), Value::Array([(Value::Number(1.0), Value::Nil)].into()))].into());
        for command in [
            ConnCommand::SetContext(vec![("k".into(), table), ("b".into(), Value::Bool(true))]),
            ConnCommand::SetContext(vec![]),
            ConnCommand::Subscribe(vec![channel("a"), channel("b")]),
            ConnCommand::Unsubscribe(vec![]),
            ConnCommand::Close { code: 4001, reason: "bye".into() },
            ConnCommand::Receive { token: Token::random(), message: Message::text("hello"), trace: None },
            ConnCommand::Receive { token: Token::random(), message: Message::binary(&b"\xff"[..]), trace: None },
        ] {
            let bytes = encode(&command);
            assert_eq!(decode(&bytes), Some(command));
            assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested =
            |depth: usize| (0..depth).fold(Value::Nil, |inner, _| Value::Table([(Value::str("k"), inner)].into()));
        let command = |depth| encode(&ConnCommand::SetContext(vec![("k".into(), nested(depth))]));
        assert!(decode(&command(DEPTH)).is_some());
        assert!(decode(&command(DEPTH + 1)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(0..8u8, 0..100)) {
            if let Some(command) = decode(&bytes) {
                prop_assert_eq!(encode(&command), bytes);
            }
        }
    }
}
