//! All Lua: the VMs, what scripts may call, and what keeps a script from harming other connections.
//!
//! Only this module and the harness of Lua tests use mlua. Native functions are C functions on the raw Lua stack (see
//! [`stack`]), since every message pays for them. Functions that wait are in [`wait`]. [`vm`] runs hooks, and
//! [`watchdog`] stops runaway scripts. `inspect` and `harness` list what the linter and the harness use.

mod arrays;
mod budget;
mod build;
mod compile;
pub mod current;
pub mod doing;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod globals;
mod handler;
pub(crate) mod harness;
pub(crate) mod hints;
pub mod hook;
pub mod hooks;
pub mod ignored;
pub(crate) mod inspect;
mod limits;
pub mod mix;
mod natives;
mod outcome;
pub mod pattern;
mod places;
pub mod program;
mod push;
mod slots;
mod snapshot;
pub mod stack;
pub mod strings;
mod trace;
mod values;
pub mod vm;
pub mod wait;
pub mod watchdog;

#[cfg(test)]
mod tests;
