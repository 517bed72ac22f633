//! Results of native functions on their way to a Lua stack.

use mlua::ffi;
use std::ffi::c_int;

use super::state::State;
use crate::shard::context::Value;

/// Results that can be put on a Lua stack.
pub trait Push {
    /// How many values it pushes, where an error takes the place of all of them.
    const COUNT: c_int;
    /// Pushes and returns how many values. May raise a memory error.
    ///
    /// # Safety
    /// `state` must be valid and in a protected call.
    unsafe fn push_to(self, state: State) -> c_int;
    /// What failed, if they say that.
    fn err(&self) -> Option<&str> {
        None
    }
}

/// Pushes bytes as a Lua string.
///
/// # Safety
/// As [`Push::push_to`].
pub unsafe fn push_bytes(state: State, bytes: &[u8]) {
    unsafe {
        ffi::lua_pushlstring_(state, bytes.as_ptr().cast(), bytes.len());
    }
}

/// Its address is the key under which the registry keeps the metatable of arrays. No text: that would have to be pushed, which
/// may raise.
static ARRAY_METATABLE: u8 = 0;

unsafe fn push_array_key(state: State) {
    unsafe { ffi::lua_pushlightuserdata(state, (&raw const ARRAY_METATABLE).cast_mut().cast()) }
}

/// Takes the table at the top of the stack, which goes, for the metatable of tables that are arrays even while they are empty.
///
/// # Safety
/// As [`Push::push_to`].
pub unsafe fn set_array_metatable(state: State) {
    unsafe {
        push_array_key(state);
        ffi::lua_insert(state, -2);
        ffi::lua_rawset(state, ffi::LUA_REGISTRYINDEX);
    }
}

/// Pushes that metatable; nil in a VM without [`crate::script::mix`].
///
/// # Safety
/// `state` must be valid and have a free slot on its stack.
pub unsafe fn push_array_metatable(state: State) {
    unsafe {
        push_array_key(state);
        ffi::lua_rawget(state, ffi::LUA_REGISTRYINDEX);
    }
}

/// Marks the table at the top of the stack as an array, so that JSON shows it as one while it is empty, too.
///
/// # Safety
/// As [`Push::push_to`].
pub unsafe fn mark_array(state: State) {
    unsafe {
        ffi::luaL_checkstack(state, 1, c"array".as_ptr());
        push_array_metatable(state);
        ffi::lua_setmetatable(state, -2);
    }
}

/// Whether the table at a stack index, which must be absolute, is marked as an array. Raises nothing.
///
/// # Safety
/// `state` must be valid and have two free slots on its stack.
pub unsafe fn is_marked_array(state: State, table: c_int) -> bool {
    unsafe {
        if ffi::lua_getmetatable(state, table) == 0 {
            return false;
        }
        push_array_metatable(state);
        let marked = ffi::lua_rawequal(state, -1, -2) != 0;
        ffi::lua_pop(state, 2);
        marked
    }
}

impl Push for () {
    const COUNT: c_int = 0;
    unsafe fn push_to(self, _: State) -> c_int {
        0
    }
}

impl Push for bool {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { ffi::lua_pushboolean(state, self.into()) };
        1
    }
}

impl Push for f64 {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { ffi::lua_pushnumber(state, self) };
        1
    }
}

impl Push for &[u8] {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { push_bytes(state, self) };
        1
    }
}

impl Push for &str {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { self.as_bytes().push_to(state) }
    }
}

impl Push for String {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { self.as_bytes().push_to(state) }
    }
}

impl Push for Vec<u8> {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { self.as_slice().push_to(state) }
    }
}

/// An array of strings: table with keys 1..n, marked as an array.
impl Push for Vec<String> {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe {
            ffi::lua_createtable(state, self.len() as c_int, 0);
            for (i, s) in self.iter().enumerate() {
                push_bytes(state, s.as_bytes());
                ffi::lua_rawseti(state, -2, i as ffi::lua_Integer + 1);
            }
            mark_array(state);
        }
        1
    }
}

impl<T: Push> Push for Option<T> {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe {
            match self {
                Some(v) => v.push_to(state),
                None => {
                    ffi::lua_pushnil(state);
                    1
                }
            }
        }
    }
}

impl<A: Push, B: Push> Push for (A, B) {
    const COUNT: c_int = A::COUNT + B::COUNT;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { self.0.push_to(state) + self.1.push_to(state) }
    }
}

/// The results and then nil, or nil for each of them and then what failed: the API's `v, err`.
impl<T: Push> Push for Result<T, String> {
    const COUNT: c_int = T::COUNT + 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe {
            match self {
                Ok(v) => {
                    v.push_to(state);
                    ffi::lua_pushnil(state);
                }
                Err(e) => {
                    for _ in 0..T::COUNT {
                        ffi::lua_pushnil(state);
                    }
                    push_bytes(state, e.as_bytes());
                }
            }
        }
        Self::COUNT
    }
    fn err(&self) -> Option<&str> {
        self.as_ref().err().map(String::as_str)
    }
}

impl Push for &Value {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe {
            match self {
                Value::Nil => ffi::lua_pushnil(state),
                Value::Bool(b) => ffi::lua_pushboolean(state, (*b).into()),
                Value::Number(n) => ffi::lua_pushnumber(state, *n),
                Value::Str(s) => push_bytes(state, s),
                Value::Table(pairs) | Value::Array(pairs) => {
                    ffi::luaL_checkstack(state, 4, c"table nested too deep".as_ptr());
                    let (array, fields) =
                        if matches!(self, Value::Array(_)) { (pairs.len(), 0) } else { (0, pairs.len()) };
                    ffi::lua_createtable(state, array as c_int, fields as c_int);
                    for (k, v) in pairs {
                        k.push_to(state);
                        v.push_to(state);
                        ffi::lua_rawset(state, -3);
                    }
                    if matches!(self, Value::Array(_)) {
                        mark_array(state);
                    }
                }
            }
        }
        1
    }
}

impl Push for Value {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe { (&self).push_to(state) }
    }
}
