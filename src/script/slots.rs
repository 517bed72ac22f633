//! The values on the stack of a Lua thread, to read. Nothing here raises a Lua error, allocates in Lua, calls a metamethod or
//! converts a value in its slot.

use mlua::ffi;
use std::borrow::Cow;
use std::ffi::c_int;
use std::marker::PhantomData;

use super::arrays;

/// A Lua thread (coroutine or main), as LuaJIT has it.
pub type State = *mut ffi::lua_State;

/// The slots of a Lua thread that is alive for as long as `'call`. Slots count from 1; what is no slot, or lies above the top, is
/// read as nothing.
///
/// What is lent from a slot (bytes, another thread) stays valid while the value is on the stack. Only unsafe code
/// removes values, and it must make sure that nothing lent from them is still in use.
#[derive(Clone, Copy)]
pub struct Slots<'call> {
    state: State,
    call: PhantomData<&'call ()>,
}

impl<'call> Slots<'call> {
    /// # Safety
    /// `state` must be a Lua thread that no other thread of the system uses, and that is kept (by the call that runs on it, by a
    /// stack slot or by the registry) throughout `'call`.
    #[inline]
    pub unsafe fn new(state: State) -> Slots<'call> {
        Slots { state, call: PhantomData }
    }

    /// The Lua thread.
    #[inline]
    pub fn state(self) -> State {
        self.state
    }

    /// How many slots are in use.
    #[inline]
    pub fn top(self) -> c_int {
        // SAFETY: the thread is alive (`new`).
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// One of `ffi::LUA_T*`; `LUA_TNONE` where there is no such slot.
    #[inline]
    pub fn kind(self, slot: c_int) -> c_int {
        // SAFETY: the thread is alive (`new`), and `valid` leaves only indices that LuaJIT compares with the top.
        unsafe { ffi::lua_type(self.state, valid(slot)) }
    }

    /// What Lua calls the type of a value.
    pub fn type_name(self, slot: c_int) -> &'static str {
        match self.kind(slot) {
            ffi::LUA_TNONE => "no value",
            ffi::LUA_TNIL => "nil",
            ffi::LUA_TBOOLEAN => "boolean",
            ffi::LUA_TNUMBER => "number",
            ffi::LUA_TSTRING => "string",
            ffi::LUA_TTABLE => "table",
            ffi::LUA_TFUNCTION => "function",
            ffi::LUA_TTHREAD => "thread",
            _ => "userdata",
        }
    }

    /// False for false, nil and nothing; true for all else.
    #[inline]
    pub fn boolean(self, slot: c_int) -> bool {
        // SAFETY: as in `kind`.
        unsafe { ffi::lua_toboolean(self.state, valid(slot)) != 0 }
    }

    /// A number, or a string that spells one.
    #[inline]
    pub fn number(self, slot: c_int) -> Option<f64> {
        // SAFETY: as in `kind`. Neither call converts the value in its slot.
        unsafe { (ffi::lua_isnumber(self.state, valid(slot)) != 0).then(|| ffi::lua_tonumber(self.state, valid(slot))) }
    }

    /// A number, but not a string that spells one.
    #[inline]
    pub fn exact_number(self, slot: c_int) -> Option<f64> {
        // SAFETY: as in `kind`.
        (self.kind(slot) == ffi::LUA_TNUMBER).then(|| unsafe { ffi::lua_tonumber(self.state, valid(slot)) })
    }

    /// The bytes of a string, not of a number.
    #[inline]
    pub fn string(self, slot: c_int) -> Option<&'call [u8]> {
        // SAFETY: `valid` as in `kind`.
        unsafe { self.string_at(valid(slot)) }
    }

    /// The bytes of the running native function's upvalue of that number, from 1, if it is a string.
    pub fn upvalue_string(self, number: u8) -> Option<&'call [u8]> {
        // SAFETY: LuaJIT compares the number with that of the upvalues that there are.
        unsafe { self.string_at(ffi::lua_upvalueindex(number.max(1).into())) }
    }

    /// # Safety
    /// `index` must be a slot above 0, or an upvalue.
    #[inline]
    unsafe fn string_at(self, index: c_int) -> Option<&'call [u8]> {
        // SAFETY: the caller's, and the thread is alive.
        unsafe { (ffi::lua_type(self.state, index) == ffi::LUA_TSTRING).then(|| self.text_at(index)) }
    }

    /// # Safety
    /// There must be a string at that index.
    #[inline]
    unsafe fn text_at(self, index: c_int) -> &'call [u8] {
        let mut length = 0;
        // SAFETY: the caller's, and the thread is alive. A string is not converted, and its bytes stay where they are while the
        // value is in its slot.
        unsafe {
            let start = ffi::lua_tolstring(self.state, index, &mut length);
            std::slice::from_raw_parts(start.cast(), length)
        }
    }

    /// A plain value, or what it is instead, with one look at its type.
    #[inline]
    pub fn plain(self, slot: c_int) -> Plain<'call> {
        match self.kind(slot) {
            ffi::LUA_TNONE | ffi::LUA_TNIL => Plain::Nil,
            ffi::LUA_TBOOLEAN => Plain::Bool(self.boolean(slot)),
            // SAFETY: as in `kind`.
            ffi::LUA_TNUMBER => Plain::Number(unsafe { ffi::lua_tonumber(self.state, valid(slot)) }),
            // SAFETY: as in `string_at`, which it is: a string.
            ffi::LUA_TSTRING => Plain::Text(unsafe { self.text_at(valid(slot)) }),
            kind => Plain::Other(kind),
        }
    }

    /// The bytes of a string, or a number's text as Lua writes it.
    pub fn bytes(self, slot: c_int) -> Option<Cow<'call, [u8]>> {
        match self.string(slot) {
            Some(bytes) => Some(Cow::Borrowed(bytes)),
            None => self.exact_number(slot).map(|n| Cow::Owned(number_text(n))),
        }
    }

    /// The bytes of a string, the border of a table, the size of a userdata; 0 for all else.
    #[inline]
    pub fn length(self, slot: c_int) -> usize {
        match self.kind(slot) {
            // SAFETY: as in `kind`. (It would convert a number in its slot.)
            ffi::LUA_TSTRING | ffi::LUA_TTABLE | ffi::LUA_TUSERDATA => unsafe {
                ffi::lua_objlen(self.state, valid(slot))
            },
            _ => 0,
        }
    }

    /// Where a userdata stands, light or full; null for all else.
    #[inline]
    pub fn userdata(self, slot: c_int) -> *mut std::ffi::c_void {
        // SAFETY: as in `kind`.
        unsafe { ffi::lua_touserdata(self.state, valid(slot)) }
    }

    /// A coroutine.
    pub fn thread(self, slot: c_int) -> Option<Slots<'call>> {
        // SAFETY: as in `kind`.
        let state = unsafe { ffi::lua_tothread(self.state, valid(slot)) };
        // SAFETY: it is alive while it is in its slot.
        (!state.is_null()).then(|| unsafe { Slots::new(state) })
    }

    /// The handle of that type in a slot.
    #[inline]
    pub fn handle<T: Handle>(self, slot: c_int) -> Option<&'call T> {
        // SAFETY: `valid` as in `kind`.
        unsafe { self.handle_at(valid(slot)) }
    }

    /// The same at an index that may count from the top.
    ///
    /// # Safety
    /// `index` must be a slot above 0, or one in use, counted from the top (-1).
    #[inline]
    pub unsafe fn handle_at<T: Handle>(self, index: c_int) -> Option<&'call T> {
        // SAFETY: the caller's, and the thread is alive. What is looked into is a full userdata of that size, aligned as LuaJIT
        // aligns all of them (to 8 bytes: asserted where one is made). Any bytes are a pointer to compare; what follows the tag of
        // a type is one of it, by the promise of `Handle`, and it is there while the value is on the stack.
        unsafe {
            // Null for what is no userdata. A light one has no length.
            let tagged = ffi::lua_touserdata(self.state, index).cast::<Tagged<T>>();
            if tagged.is_null() || ffi::lua_objlen(self.state, index) != size_of::<Tagged<T>>() {
                return None;
            }
            std::ptr::eq((*tagged).tag, T::tag()).then(|| &(*tagged).value)
        }
    }

    /// Whether a value is a table that is marked as an array ([`super::push::Table::mark_array`]). Wants two free slots.
    pub fn is_marked_array(self, slot: c_int) -> bool {
        // SAFETY: a table at a slot above 0.
        self.kind(slot) == ffi::LUA_TTABLE && unsafe { arrays::is_marked(self.state, valid(slot)) }
    }
}

/// What [`Slots::plain`] finds in a slot.
pub enum Plain<'call> {
    /// Nil, or no such slot.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string's bytes.
    Text(&'call [u8]),
    /// What is no plain value: one of `ffi::LUA_T*`.
    Other(c_int),
}

/// The slot, or for one from 0 down an index that LuaJIT finds to be above the top, since it does not check those.
#[inline]
fn valid(slot: c_int) -> c_int {
    if slot > 0 { slot } else { c_int::MAX }
}

/// Plain data that scripts hold as a userdata, with a tag in front that tells it from any other without a look at metatables.
///
/// # Safety
/// The tag must be the address of a static of this type alone.
pub unsafe trait Handle: 'static {
    /// See above.
    fn tag() -> *const u8;
}

/// What the userdata of a handle holds.
#[repr(C)]
pub(super) struct Tagged<T> {
    pub tag: *const u8,
    pub value: T,
}

/// Lua's own text of a number (`%.14g`).
pub fn number_text(n: f64) -> Vec<u8> {
    let mut text = [0u8; 40];
    // SAFETY: the buffer's length is told, and the format takes one double.
    let length = unsafe { libc::snprintf(text.as_mut_ptr().cast(), text.len(), c"%.14g".as_ptr(), n) };
    text[..(length.max(0) as usize).min(text.len() - 1)].to_vec()
}
