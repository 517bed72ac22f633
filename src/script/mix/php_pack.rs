//! `mix.php_pack` and `mix.php_unpack`: PHP's `pack` and `unpack` on Lua strings.
//!
//! Both pass over the format twice. The first pass only checks and counts, and finds every fault. The second writes
//! into Lua's memory, which counts against the VM's limit; only that memory can fail then.
//!
//! They differ from PHP in these points. Where PHP only warns, they fail. A repeater is at most 2^31 - 1. A decimal
//! string from 2^63 to 2^64 - 1 packs as the 64 bits that it stands for, and a larger one fails; PHP would take the
//! greatest integer for both. On unpacking, `@0` goes to the beginning, where PHP stays, and `H*` uses up its data,
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

/// The longest format, in bytes. Repeaters keep formats short, and the bound keeps the time for one short.
const MAX_FORMAT: usize = 64 * 1024;

/// What ends the work on a format.
enum PackError {
    /// An argument of the wrong type.
    Raise(Raise),
    /// The format or the data is wrong: the `err` that the script gets.
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

/// Checks that the format in argument 1 is not too long.
fn format_length(format: &[u8]) -> Result<(), String> {
    if format.len() > MAX_FORMAT {
        return Err(format!("the format is longer than {MAX_FORMAT} bytes"));
    }
    Ok(())
}

/// Pushes a Lua string of `length` bytes. `write` fills a buffer of zeros and returns how many of them to keep. Raises
/// a memory error if Lua has no room, before `write` runs or after it.
fn push_made<W: FnOnce(&mut [u8]) -> usize>(stack: Stack<'_>, length: usize, write: W) -> One {
    // SAFETY: the buffer is a userdata on the stack, of that length; it is taken off when the string is there, a copy. `write` has no
    // other way to it.
    unsafe {
        stack.by_hand(|state| {
            // A userdata rather than a vector, so that the VM's limit counts it.
            let start = ffi::lua_newuserdata(state, length.max(1)).cast::<u8>();
            std::ptr::write_bytes(start, 0, length);
            let buffer = std::slice::from_raw_parts_mut(start, length);
            let kept = write(&mut *buffer).min(length);
            push_bytes(state, buffer.get(..kept).unwrap_or_default());
            ffi::lua_remove(state, -2);
        })
    }
}
