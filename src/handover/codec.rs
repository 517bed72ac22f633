//! Plain data as bytes: numbers in little-endian order, texts and lists behind their length. What is read is bounded by the
//! bytes that are there: nothing is allocated because a length says so.

use zeroize::Zeroize;

use crate::value::Value;

/// How deep tables of a value may be inside one another. Scripts can't make deeper ones.
const DEPTH: u8 = 64;

/// What was received can't be what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the process before has sent is damaged: {0}")]
pub struct Damaged(pub &'static str);

/// Writes plain data, keys among it: what is to be written grows without leaving copies behind. It can't be printed.
#[derive(Default)]
pub struct Encoder {
    /// What has been written.
    pub bytes: Vec<u8>,
}

impl Encoder {
    fn put(&mut self, bytes: &[u8]) {
        let length = self.bytes.len() + bytes.len();
        if length > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(length.next_power_of_two().max(64));
            larger.extend_from_slice(&self.bytes);
            std::mem::replace(&mut self.bytes, larger).zeroize();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// A truth value or a small number.
    pub fn byte(&mut self, n: u8) {
        self.put(&[n]);
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }

    /// A number of 64 bits.
    pub fn u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    /// Bytes, behind their number: less than 4 GiB, as everything that waits anywhere.
    pub fn data(&mut self, data: &[u8]) {
        self.u32(data.len() as u32);
        self.put(data);
    }

    /// The number of items that follow.
    pub fn count(&mut self, items: usize) {
        self.u32(items as u32);
    }

    /// Something that may be missing.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Encoder, T)) {
        self.byte(value.is_some().into());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A plain value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Nil => self.byte(0),
            Value::Bool(b) => self.put(&[1, u8::from(*b)]),
            Value::Number(n) => {
                self.byte(2);
                self.u64(n.to_bits());
            }
            Value::Str(text) => {
                self.byte(3);
                self.data(text);
            }
            Value::Table(pairs) | Value::Array(pairs) => {
                self.byte(if matches!(value, Value::Table(_)) { 4 } else { 5 });
                self.count(pairs.len());
                for (key, value) in pairs {
                    self.value(key);
                    self.value(value);
                }
            }
        }
    }
}

/// Reads plain data.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    fn take(&mut self, many: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(many).ok_or(Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// See [`Encoder::byte`].
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A truth value.
    pub fn flag(&mut self) -> Result<bool, Damaged> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged("a truth value")),
        }
    }

    /// See [`Encoder::u32`].
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        self.take(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// See [`Encoder::u64`].
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        let (low, high) = (self.u32()?, self.u32()?);
        Ok(u64::from(low) | u64::from(high) << 32)
    }

    /// See [`Encoder::data`].
    pub fn data(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// The same as text.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.data()?).map_err(|_| Damaged("a text"))
    }

    /// Items behind their number, each of which has a byte at least.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Damaged>) -> Result<Vec<T>, Damaged> {
        let many = self.u32()? as usize;
        if many > self.rest.len() {
            return Err(Damaged("a list is too long"));
        }
        (0..many).map(|_| item(self)).collect()
    }

    /// See [`Encoder::option`].
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Damaged>) -> Result<Option<T>, Damaged> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// See [`Encoder::value`].
    pub fn value(&mut self) -> Result<Value, Damaged> {
        self.value_at(0)
    }

    fn value_at(&mut self, depth: u8) -> Result<Value, Damaged> {
        if depth > DEPTH {
            return Err(Damaged("a value is too deep"));
        }
        let pair = |of: &mut Self| Ok((of.value_at(depth + 1)?, of.value_at(depth + 1)?));
        Ok(match self.byte()? {
            0 => Value::Nil,
            1 => Value::Bool(self.flag()?),
            2 => Value::Number(f64::from_bits(self.u64()?)),
            3 => Value::str(self.data()?),
            4 => Value::Table(self.list(pair)?.into()),
            5 => Value::Array(self.list(pair)?.into()),
            _ => return Err(Damaged("a kind of value")),
        })
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Damaged> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damaged("something is left")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::Bool),
            (-1e300..1e300).prop_map(Value::Number),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::str),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            let pairs = prop::collection::vec((inner.clone(), inner), 0..5);
            (pairs, any::<bool>()).prop_map(|(pairs, is_array)| match is_array {
                true => Value::Array(pairs.into()),
                false => Value::Table(pairs.into()),
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in values(), text in ".{0,20}", n: u64, some: Option<u32>) {
            let mut out = Encoder::default();
            out.value(&value);
            out.data(text.as_bytes());
            out.u64(n);
            out.option(some, Encoder::u32);
            let mut read = Decoder::new(&out.bytes);
            prop_assert_eq!(read.value(), Ok(value));
            prop_assert_eq!(read.text(), Ok(&*text));
            prop_assert_eq!(read.u64(), Ok(n));
            prop_assert_eq!(read.option(Decoder::u32), Ok(some));
            prop_assert_eq!(read.end(), Ok(()));
        }

        /// Any bytes are read or refused, in bounded memory and depth.
        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Decoder::new(&bytes).value();
            let _ = Decoder::new(&bytes).list(Decoder::text);
        }
    }

    #[test]
    fn what_is_written_stays_whole_as_it_grows() {
        let mut out = Encoder::default();
        for n in 0..5000u32 {
            out.u32(n);
        }
        let mut read = Decoder::new(&out.bytes);
        assert!((0..5000).all(|n| read.u32() == Ok(n)) && read.is_empty());
        assert!(out.bytes.capacity() < 2 * out.bytes.len());
    }

    #[test]
    fn a_deep_value_is_refused() {
        let deep = [4, 1, 0, 0, 0].repeat(100_000);
        assert_eq!(Decoder::new(&deep).value(), Err(Damaged("a value is too deep")));
        assert_eq!(Decoder::new(&[255; 4]).list(Decoder::byte), Err(Damaged("a list is too long")));
    }
}
