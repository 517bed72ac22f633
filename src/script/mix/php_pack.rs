//! `mix.php_pack` and `mix.php_unpack`: PHP's `pack` and `unpack` on Lua strings.
//!
//! Both go over the format twice. The first time they only check and count; whatever is wrong is found there. The second
//! time they write into memory of Lua's, which counts against the VM's limit; nothing can fail then but that memory.
//!
//! They differ from PHP in these points. What PHP only warns of is a failure. A repeater is at most 2^31 - 1. A decimal
//! string from 2^63 to 2^64 - 1 packs as the 64 bits it stands for, and a larger one is a failure, where PHP would take
//! the greatest integer for both. On unpacking, `@0` goes to the beginning, where PHP stays, and `H*` uses up its data,
//! where PHP goes one byte back.

mod cast;
mod code;
mod functions;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use mlua::ffi;

use crate::script::push::{One, Stack};
use crate::script::stack::{Raise, push_bytes};

pub use functions::register;

/// The longest format, in bytes. Repeaters keep formats short; a bound keeps the time over one short.
const MAX_FORMAT: usize = 64 * 1024;

/// What ends the work on a format.
enum PackError {
    /// An argument of the wrong type.
    Raise(Raise),
    /// What the format or the data makes fail: the `err` that the script gets.
    Fails(String),
}

impl From<Raise> for PackError {
    fn from(raise: Raise) -> PackError {
        PackError::Raise(raise)
    }
}

impl From<String> for PackError {
    fn from(problem: String) -> PackError {
        PackError::Fails(problem)
    }
}

/// The format in argument 1, if it is one of bearable length.
fn format_length(format: &[u8]) -> Result<(), String> {
    if format.len() > MAX_FORMAT {
        return Err(format!("the format is longer than {MAX_FORMAT} bytes"));
    }
    Ok(())
}

/// Pushes a Lua string of `length` bytes that `write` makes in a buffer of zeros; it returns how many of them to keep.
/// Raises a memory error if Lua has no room for them, before `write` runs or after it.
fn push_made<W: FnOnce(&mut [u8]) -> usize>(stack: Stack<'_>, length: usize, write: W) -> One {
    // SAFETY: the buffer is a userdata on the stack, of that length; it is taken off when the string is there, a copy. `write` has no
    // other way to it.
    unsafe {
        stack.by_hand(|state| {
            // A userdata and not a vector: the VM's limit counts it.
            let start = ffi::lua_newuserdata(state, length.max(1)).cast::<u8>();
            std::ptr::write_bytes(start, 0, length);
            let buffer = std::slice::from_raw_parts_mut(start, length);
            let kept = write(&mut *buffer).min(length);
            push_bytes(state, buffer.get(..kept).unwrap_or_default());
            ffi::lua_remove(state, -2);
        })
    }
}
