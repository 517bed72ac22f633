//! All Lua: the VMs, what scripts may call, and what keeps a script from harming anybody but its own connection.
//!
//! Besides the harness of Lua tests nobody else knows mlua. Native functions are C functions on the raw Lua stack (see
//! [`stack`]), since every message pays for them; those that wait are in [`wait`]'s hands. [`vm`] runs hooks, [`watchdog`] stops
//! runaways. What the linter and the harness see is listed in `inspect` and `harness`.

mod arrays;
mod budget;
mod build;
mod compile;
pub mod current;
pub mod doing;
mod frames;
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
pub mod stack;
pub mod strings;
mod trace;
mod values;
pub mod vm;
pub mod wait;
pub mod watchdog;

#[cfg(test)]
mod tests;
