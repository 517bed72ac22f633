//! Plain values, as scripts and back ends exchange them.

/// A plain value, as Lua and JSON both have it. Never holds anything of a VM.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Absent.
    Nil,
    /// true or false
    Bool(bool),
    /// Any number; Lua has no other kind.
    Number(f64),
    /// Bytes.
    Str(Box<[u8]>),
    /// A table's pairs, in the order they were read.
    Table(Box<[(Value, Value)]>),
    /// Those of a table that is an array, even while it is empty: where it was decoded from one, or marked so.
    Array(Box<[(Value, Value)]>),
}

impl Value {
    /// A string value.
    pub fn str(text: impl AsRef<[u8]>) -> Value {
        Value::Str(text.as_ref().into())
    }

    /// The bytes it counts for where memory is bounded: what it holds, and its own size.
    pub fn weight(&self) -> usize {
        size_of::<Value>()
            + match self {
                Value::Nil | Value::Bool(_) | Value::Number(_) => 0,
                Value::Str(s) => s.len(),
                Value::Table(pairs) | Value::Array(pairs) => pairs.iter().map(|(k, v)| k.weight() + v.weight()).sum(),
            }
    }

    /// Appends bytes that are the same for equal values alone, whichever order the pairs of their tables were read in.
    pub fn identify(&self, bytes: &mut Vec<u8>) {
        let sized = |kind: u8, content: &[u8], bytes: &mut Vec<u8>| {
            bytes.push(kind);
            bytes.extend((content.len() as u64).to_le_bytes());
            bytes.extend(content);
        };
        match self {
            Value::Nil => bytes.push(0),
            Value::Bool(b) => bytes.extend([1, u8::from(*b)]),
            // Zero is one number, whatever its sign.
            Value::Number(n) => {
                bytes.push(2);
                bytes.extend((n + 0.0).to_le_bytes());
            }
            Value::Str(text) => sized(3, text, bytes),
            Value::Table(pairs) | Value::Array(pairs) => {
                let identified = |(key, value): &(Value, Value)| {
                    let mut pair = Vec::new();
                    key.identify(&mut pair);
                    value.identify(&mut pair);
                    pair
                };
                let mut pairs: Vec<Vec<u8>> = pairs.iter().map(identified).collect();
                pairs.sort();
                sized(4, &pairs.concat(), bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_identified_alike() {
        let of = |value: &Value| {
            let mut bytes = Vec::new();
            value.identify(&mut bytes);
            bytes
        };
        let pair = |key: &str, n: f64| (Value::str(key), Value::Number(n));
        let one = Value::Table(Box::new([pair("a", 0.0), pair("b", 1.0)]));
        let other = Value::Array(Box::new([pair("b", 1.0), pair("a", -0.0)]));
        assert_eq!(of(&one), of(&other));
        let values = [
            Value::Nil,
            Value::Bool(false),
            Value::Bool(true),
            Value::Number(1.0),
            Value::str("1"),
            Value::str(""),
            Value::Table(Box::default()),
            Value::Table(Box::new([pair("a", 1.0)])),
            one,
        ];
        for (i, value) in values.iter().enumerate() {
            assert!(values[..i].iter().all(|before| of(before) != of(value)), "{value:?}");
        }
    }
}
