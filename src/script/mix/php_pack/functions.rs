//! The functions of this folder as scripts get them.

use super::{PackError, pack, unpack};
use crate::script::push::Table;
use crate::script::stack::{Args, Fallible};

/// Adds `php_pack` and `php_unpack` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"php_pack", |a: &Args| outcome("php_pack", pack::check(a)));
    mix.native(c"php_unpack", |a: &Args| outcome("php_unpack", unpack::check(a)));
}

fn outcome<T>(function: &str, result: Result<T, PackError>) -> Fallible<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(PackError::Fails(problem)) => Ok(Err(format!("{function}: {problem}"))),
        Err(PackError::Raise(raise)) => Err(raise),
    }
}
