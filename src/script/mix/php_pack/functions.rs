//! The functions of this folder as scripts get them.

use super::{Trouble, pack, unpack};
use crate::script::stack::{Args, Fallible, State, set_native};

/// Adds `php_pack` and `php_unpack` to the `mix` table at the top of the stack.
///
/// # Safety
/// `state` must be valid and in a protected call, with a table at the top of its stack.
pub unsafe fn register(state: State) {
    unsafe {
        set_native(state, c"php_pack", |a: &Args| outcome("php_pack", pack::check(a)));
        set_native(state, c"php_unpack", |a: &Args| outcome("php_unpack", unpack::check(a)));
    }
}

fn outcome<T>(function: &str, result: Result<T, Trouble>) -> Fallible<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Trouble::Fails(problem)) => Ok(Err(format!("{function}: {problem}"))),
        Err(Trouble::Raise(raise)) => Err(raise),
    }
}
