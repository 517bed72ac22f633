//! How plain Rust values are pushed on a Lua stack.

use mlua::ffi;

use super::push::{One, Push, PushOne, Pushed, Stack};
use crate::shard::context::Value;

impl Push for () {
    type Pushed = ();
    fn push_to(self, _: Stack<'_>) {}
}

impl Push for bool {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        // SAFETY: it pushes one value.
        unsafe { stack.by_hand(|state| ffi::lua_pushboolean(state, self.into())) }
    }
}

impl Push for f64 {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        // SAFETY: it pushes one value.
        unsafe { stack.by_hand(|state| ffi::lua_pushnumber(state, self)) }
    }
}

impl Push for &[u8] {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_bytes(self)
    }
}

impl Push for &str {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_bytes(self.as_bytes())
    }
}

impl Push for String {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_bytes(self.as_bytes())
    }
}

impl Push for Vec<u8> {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_bytes(&self)
    }
}

/// An array of strings: table with keys 1..n, marked as an array.
impl Push for Vec<String> {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_table(self.len(), 0, |table| {
            for (i, s) in self.iter().enumerate() {
                table.element(i + 1, s.as_str());
            }
            table.mark_array();
        })
    }
}

impl<T: PushOne> Push for Option<T> {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        match self {
            Some(value) => value.push_to(stack),
            None => stack.push_nil(),
        }
    }
}

impl<A: Push, B: Push> Push for (A, B) {
    type Pushed = (A::Pushed, B::Pushed);
    fn push_to(self, stack: Stack<'_>) -> Self::Pushed {
        (self.0.push_to(stack), self.1.push_to(stack))
    }
}

/// The results and then nil, or nil for each of them and then what failed: the API's `v, err`.
impl<T: Push> Push for Result<T, String> {
    type Pushed = (T::Pushed, One);
    fn push_to(self, stack: Stack<'_>) -> Self::Pushed {
        match self {
            Ok(value) => (value.push_to(stack), stack.push_nil()),
            Err(e) => (T::Pushed::nils(stack), stack.push_bytes(e.as_bytes())),
        }
    }
    fn err(&self) -> Option<&str> {
        self.as_ref().err().map(String::as_str)
    }
}

impl Push for &Value {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        match self {
            Value::Nil => stack.push_nil(),
            Value::Bool(b) => b.push_to(stack),
            Value::Number(n) => n.push_to(stack),
            Value::Str(s) => stack.push_bytes(s),
            Value::Table(pairs) => stack.push_table(0, pairs.len(), |table| {
                pairs.iter().for_each(|(key, value)| table.set(key, value));
            }),
            Value::Array(pairs) => stack.push_table(pairs.len(), 0, |table| {
                pairs.iter().for_each(|(key, value)| table.set(key, value));
                table.mark_array();
            }),
        }
    }
}

impl Push for Value {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        (&self).push_to(stack)
    }
}
