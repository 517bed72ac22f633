//! Pushing values on a Lua stack: results of native functions, and the tables that hold those.
//!
//! What is pushed is counted by types: a push returns [`One`], which nothing else makes, so that a native function returns as
//! many values as it says. LuaJIT grows a stack with each push; where it can't, or has no memory, it raises a Lua error, which
//! unwinds as a panic does and runs the destructors of what it passes (`build.rs` sees to that). Rust can't catch it: there must
//! be no `catch_unwind` in between.

use mlua::ffi;
use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::ops::Deref;

use super::arrays;
use super::slots::{Handle, Slots, State, Tagged};

/// A stack on which a native function may push.
#[derive(Clone, Copy)]
pub struct Stack<'call>(Slots<'call>);

impl<'call> Deref for Stack<'call> {
    type Target = Slots<'call>;
    fn deref(&self) -> &Slots<'call> {
        &self.0
    }
}

/// One value that has been pushed.
#[must_use = "a value that nobody counts stays on the stack"]
pub struct One(PhantomData<*const ()>);

/// Values that have been pushed: [`One`], nothing, or two of these.
pub trait Pushed: Sized {
    /// How many.
    const COUNT: c_int;
    /// Pushes as many nils.
    fn nils(stack: Stack<'_>) -> Self;
}

impl Pushed for () {
    const COUNT: c_int = 0;
    fn nils(_: Stack<'_>) {}
}

impl Pushed for One {
    const COUNT: c_int = 1;
    fn nils(stack: Stack<'_>) -> One {
        stack.push_nil()
    }
}

impl<A: Pushed, B: Pushed> Pushed for (A, B) {
    const COUNT: c_int = A::COUNT + B::COUNT;
    fn nils(stack: Stack<'_>) -> Self {
        (A::nils(stack), B::nils(stack))
    }
}

/// Results that can be put on a Lua stack.
pub trait Push {
    /// How many values that pushes, where an error takes the place of all of them.
    type Pushed: Pushed;
    /// Pushes them. May raise a memory error.
    fn push_to(self, stack: Stack<'_>) -> Self::Pushed;
    /// How many of the values that are pushed the script gets: the uppermost ones.
    #[inline]
    fn results(&self) -> c_int {
        Self::Pushed::COUNT
    }
    /// The text of the err, if the results are a failure.
    fn err(&self) -> Option<&str> {
        None
    }
}

/// What is one value to Lua.
pub trait PushOne: Push<Pushed = One> {}
impl<T: Push<Pushed = One>> PushOne for T {}

impl<'call> Stack<'call> {
    /// # Safety
    /// As [`Slots::new`]; besides, all of `'call` must be in a protected call, with no `catch_unwind` between the two: whatever is
    /// pushed may raise.
    #[inline]
    pub unsafe fn new(state: State) -> Stack<'call> {
        // SAFETY: the caller's.
        Stack(unsafe { Slots::new(state) })
    }

    /// Pushes nil.
    #[inline]
    pub fn push_nil(self) -> One {
        // SAFETY: alive and protected (`new`); LuaJIT makes room.
        unsafe { self.by_hand(|state| ffi::lua_pushnil(state)) }
    }

    /// Pushes a light userdata.
    #[inline]
    pub(in crate::script) fn push_pointer(self, pointer: *mut c_void) -> One {
        // SAFETY: as in `push_nil`. Only code that knows the pointer's type reads through it.
        unsafe { self.by_hand(|state| ffi::lua_pushlightuserdata(state, pointer)) }
    }

    /// Pushes a string of these bytes.
    #[inline]
    pub fn push_bytes(self, bytes: &[u8]) -> One {
        // SAFETY: as in `push_nil`; the bytes are copied.
        unsafe { self.by_hand(|state| push_bytes(state, bytes)) }
    }

    /// Pushes the value of a slot once more; nil where there is none.
    #[inline]
    pub fn push_copy(self, slot: c_int) -> One {
        if slot <= 0 {
            return self.push_nil();
        }
        // SAFETY: as in `push_nil`; LuaJIT compares a slot above 0 with the top.
        unsafe { self.by_hand(|state| ffi::lua_pushvalue(state, slot)) }
    }

    /// Pushes what the registry has under a name.
    pub fn push_registered(self, name: &CStr) -> One {
        // SAFETY: as in `push_nil`; the registry is a table without a metatable.
        unsafe { self.by_hand(|state| _ = ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, name.as_ptr())) }
    }

    /// Pushes the metatable of tables that are arrays even while they are empty; nil in a VM without [`crate::script::mix`].
    pub fn push_array_metatable(self) -> One {
        // SAFETY: alive and protected (`new`).
        unsafe { self.by_hand(|state| arrays::push_metatable(state)) }
    }

    /// Sets what the registry has under a name.
    pub fn register(self, name: &CStr, value: impl PushOne) {
        let One(_) = value.push_to(self);
        // SAFETY: as in `push_registered`; it takes the value that has just been pushed.
        unsafe { ffi::lua_setfield(self.state(), ffi::LUA_REGISTRYINDEX, name.as_ptr()) }
    }

    /// Lends the registry.
    pub fn registry(self, look: impl FnOnce(&Table<'call>)) {
        let slot = self.top() + 1;
        // SAFETY: alive and protected (`new`). The registry is a table, which is there until `look` has looked.
        unsafe {
            ffi::lua_pushvalue(self.state(), ffi::LUA_REGISTRYINDEX);
            look(&Table { stack: self, slot });
            ffi::lua_settop(self.state(), slot - 1);
        }
    }

    /// Sets a global.
    pub fn set_global(self, name: &CStr, value: impl PushOne) {
        let One(_) = value.push_to(self);
        // SAFETY: alive and protected (`new`); it takes the value that has just been pushed.
        unsafe { ffi::lua_setglobal(self.state(), name.as_ptr()) }
    }

    /// Pushes a table with room for so many elements and fields, which `fill` gets.
    #[inline]
    pub fn push_table(self, elements: usize, fields: usize, fill: impl FnOnce(&Table<'call>)) -> One {
        let size = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
        // SAFETY: alive and protected (`new`).
        unsafe {
            // The table, a key, a value, and a metatable. Says more than the error that pushing would raise.
            ffi::luaL_checkstack(self.state(), 4, c"tables nested too deep".as_ptr());
            ffi::lua_createtable(self.state(), size(elements), size(fields));
        }
        fill(&Table { stack: self, slot: self.top() });
        One(PhantomData)
    }

    /// Pushes a closure whose upvalues are all that `upvalues` pushes.
    ///
    /// # Safety
    /// `function` must be one for Lua to call, with these upvalues; it must not panic.
    pub unsafe fn push_closure<U: Pushed>(
        self,
        function: ffi::lua_CFunction,
        upvalues: impl FnOnce(Stack<'call>) -> U,
    ) -> One {
        _ = upvalues(self);
        // SAFETY: alive and protected (`new`); it takes what has just been pushed.
        unsafe { self.by_hand(|state| ffi::lua_pushcclosure(state, function, U::COUNT)) }
    }

    /// Pushes a userdata with a handle in it, and with a metatable that `metatable` pushes.
    #[inline]
    pub fn push_handle<T: Handle>(self, value: T, metatable: impl PushOne) -> One {
        const {
            assert!(align_of::<Tagged<T>>() <= 8, "LuaJIT aligns userdata to 8 bytes");
            assert!(!std::mem::needs_drop::<T>(), "nothing drops it");
        }
        // SAFETY: alive and protected (`new`); as many bytes as are written, aligned as they have to be.
        unsafe {
            let place = ffi::lua_newuserdata(self.state(), size_of::<Tagged<T>>()).cast::<Tagged<T>>();
            place.write(Tagged { tag: T::tag(), value });
        }
        let One(_) = metatable.push_to(self);
        // SAFETY: the userdata and a value above it have just been pushed.
        unsafe { set_metatable(self.state()) };
        One(PhantomData)
    }

    /// Pushes one value by hand.
    ///
    /// # Safety
    /// `push` must leave exactly one value more on the stack, and those below as they are.
    #[inline]
    pub unsafe fn by_hand(self, push: impl FnOnce(State)) -> One {
        push(self.state());
        One(PhantomData)
    }
}

/// A table on the stack, to be filled.
pub struct Table<'call> {
    stack: Stack<'call>,
    slot: c_int,
}

impl<'call> Table<'call> {
    /// # Safety
    /// There must be a table at the top of the stack, which must stay there while this is used.
    pub unsafe fn at_top(stack: Stack<'call>) -> Table<'call> {
        Table { stack, slot: stack.top() }
    }

    /// The stack that it is on.
    pub fn stack(&self) -> Stack<'call> {
        self.stack
    }

    /// Its slot.
    pub fn slot(&self) -> c_int {
        self.slot
    }

    /// Sets a field by its name.
    pub fn field(&self, name: &CStr, value: impl PushOne) {
        let One(_) = value.push_to(self.stack);
        // SAFETY: the table is in its slot; what has just been pushed is taken.
        unsafe { ffi::lua_setfield(self.stack.state(), self.slot, name.as_ptr()) }
    }

    /// Sets any key but nil and NaN, which raise an error.
    pub fn set(&self, key: impl PushOne, value: impl PushOne) {
        let One(_) = key.push_to(self.stack);
        let One(_) = value.push_to(self.stack);
        // SAFETY: the table is in its slot; the two that have just been pushed are taken.
        unsafe { ffi::lua_rawset(self.stack.state(), self.slot) }
    }

    /// Sets an element; they count from 1.
    pub fn element(&self, index: usize, value: impl PushOne) {
        let One(_) = value.push_to(self.stack);
        // SAFETY: the table is in its slot; what has just been pushed is taken.
        unsafe { ffi::lua_rawseti(self.stack.state(), self.slot, index as ffi::lua_Integer) }
    }

    /// Whether it has a metatable.
    pub fn has_metatable(&self) -> bool {
        let top = self.stack.top();
        // SAFETY: the table is in its slot. What is pushed, if anything, is popped.
        unsafe {
            let has = ffi::lua_getmetatable(self.stack.state(), self.slot) != 0;
            ffi::lua_settop(self.stack.state(), top);
            has
        }
    }

    /// Calls `visit` with each of its fields that is a table and has a string as its name. The table itself must not get new fields
    /// meanwhile, which raises an error or passes some over.
    pub fn each_table(&self, mut visit: impl FnMut(&[u8], &Table<'call>)) {
        let state = self.stack.state();
        let key = self.stack.top() + 1;
        // SAFETY: LuaJIT makes room.
        unsafe { ffi::lua_pushnil(state) };
        // SAFETY: the table is in its slot, and the key at the top: nil, or the one before.
        while unsafe { ffi::lua_next(state, self.slot) } != 0 {
            if self.stack.kind(key + 1) == ffi::LUA_TTABLE
                && let Some(name) = self.stack.string(key)
            {
                visit(name, &Table { stack: self.stack, slot: key + 1 });
            }
            // SAFETY: takes off the value, which was lent to `visit` alone.
            unsafe { ffi::lua_settop(state, key) };
        }
    }

    /// Sets the table's metatable. A value that is no table is ignored.
    pub fn set_metatable(&self, metatable: impl PushOne) {
        let One(_) = self.stack.push_copy(self.slot);
        let One(_) = metatable.push_to(self.stack);
        // SAFETY: the two have just been pushed; what is left of them goes.
        unsafe {
            set_metatable(self.stack.state());
            ffi::lua_pop(self.stack.state(), 1);
        }
    }

    /// Marks it as an array, so that JSON shows it as one while it is empty, too.
    pub fn mark_array(&self) {
        let One(_) = self.stack.push_array_metatable();
        // SAFETY: the table is in its slot. What has just been pushed is taken: a table or nil.
        unsafe { ffi::lua_setmetatable(self.stack.state(), self.slot) };
    }
}

/// Pops a metatable, or what should have been one, and gives it to the value below it.
///
/// # Safety
/// `state` must be alive and in a protected call, with two values at the top of its stack, the lower a table or a userdata.
unsafe fn set_metatable(state: State) {
    // SAFETY: the caller's. LuaJIT takes whatever is there for a table, hence the look.
    unsafe {
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_setmetatable(state, -2);
        } else {
            ffi::lua_pop(state, 1);
        }
    }
}

/// A value that a function pushes.
pub struct With<F>(F);

impl<F: FnOnce(Stack<'_>) -> One> Push for With<F> {
    type Pushed = One;
    #[inline]
    fn push_to(self, stack: Stack<'_>) -> One {
        (self.0)(stack)
    }
}

/// A value that a function pushes.
pub fn with<F: FnOnce(Stack<'_>) -> One>(push: F) -> With<F> {
    With(push)
}

/// A table with room for so many fields, which `fill` gets.
pub fn table(fields: usize, fill: impl FnOnce(&Table<'_>)) -> impl PushOne {
    with(move |stack| stack.push_table(0, fields, fill))
}

/// Pushes bytes as a Lua string.
///
/// # Safety
/// `state` must be alive and in a protected call.
#[inline]
pub unsafe fn push_bytes(state: State, bytes: &[u8]) {
    // SAFETY: the caller's; the bytes are copied. By Lua's function itself: the binding's usual one reads back what it pushed.
    unsafe { ffi::lua_pushlstring_(state, bytes.as_ptr().cast(), bytes.len()) }
}
