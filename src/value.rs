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
}
