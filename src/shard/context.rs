//! A connection's context: plain data that scripts and back ends set. It outlives every VM.

pub use crate::value::Value;

/// The most bytes of values a context holds.
pub const MAX_BYTES: usize = 256 * 1024;
/// The most keys a context holds.
pub const MAX_KEYS: usize = 1024;

/// Why a value was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// [`MAX_KEYS`] are there already.
    #[error("the context already holds {MAX_KEYS} keys")]
    Keys,
    /// It would hold more than [`MAX_BYTES`].
    #[error("the context would hold more than {MAX_BYTES} bytes")]
    Bytes,
}

/// Keys and their values. A linear search: contexts hold a handful of keys, and an idle connection's memory counts.
#[derive(Debug, Default)]
pub struct Context {
    /// No larger than it has to be: most contexts get their few keys once, and there may be a million of them.
    entries: Box<[(Box<str>, Value)]>,
    weight: usize,
}

impl Context {
    /// The value under that key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| **k == *key).map(|(_, v)| v)
    }

    /// Sets a value, or removes it with [`Value::Nil`].
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), Full> {
        let at = self.entries.iter().position(|(k, _)| **k == *key);
        let freed = at.map_or(0, |i| key.len() + self.entries[i].1.weight());
        if value == Value::Nil {
            if let Some(i) = at {
                let mut entries = std::mem::take(&mut self.entries).into_vec();
                entries.swap_remove(i);
                self.entries = entries.into();
                self.weight -= freed;
            }
            return Ok(());
        }
        let weight = self.weight - freed + key.len() + value.weight();
        if weight > MAX_BYTES {
            return Err(Full::Bytes);
        }
        match at {
            Some(i) => self.entries[i].1 = value,
            None if self.entries.len() >= MAX_KEYS => return Err(Full::Keys),
            None => {
                let mut entries = std::mem::take(&mut self.entries).into_vec();
                entries.reserve_exact(1);
                entries.push((key.into(), value));
                self.entries = entries.into();
            }
        }
        self.weight = weight;
        Ok(())
    }

    /// Sets several values, or none of them.
    pub fn merge(&mut self, values: Vec<(String, Value)>) -> Result<(), Full> {
        let mut merged = Context { entries: self.entries.clone(), weight: self.weight };
        for (key, value) in values {
            merged.set(&key, value)?;
        }
        *self = merged;
        Ok(())
    }

    /// All keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (&**k, v))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_replaced_and_removed() {
        let mut c = Context::default();
        c.set("uid", Value::Number(7.0)).unwrap();
        c.set("uid", Value::str("x")).unwrap();
        assert_eq!(c.get("uid"), Some(&Value::str("x")));
        c.set("uid", Value::Nil).unwrap();
        assert!(c.is_empty());
        assert_eq!(c.weight, 0);
    }

    #[test]
    fn a_full_context_refuses_and_keeps_what_it_has() {
        let mut c = Context::default();
        c.set("a", Value::str("old")).unwrap();
        assert_eq!(c.set("a", Value::str(vec![0; MAX_BYTES])), Err(Full::Bytes));
        assert_eq!(c.get("a"), Some(&Value::str("old")));
        for i in 1..MAX_KEYS {
            c.set(&i.to_string(), Value::Bool(true)).unwrap();
        }
        assert_eq!(c.set("one more", Value::Bool(true)), Err(Full::Keys));
        c.set("a", Value::Bool(false)).unwrap();
    }
}
