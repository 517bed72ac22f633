//! All Lua: the VMs, what scripts may call, and what keeps a script from harming anybody but its own connection.
//!
//! The only module that knows mlua. Native functions are C functions on the raw Lua stack (see [`stack`]), since every
//! message pays for them; those that wait are in [`wait`]'s hands. [`vm`] runs hooks, [`guard`] stops runaways.

mod arrays;
mod budget;
mod build;
pub mod check;
mod compile;
pub mod current;
pub mod doing;
mod frames;
pub mod guard;
mod handler;
pub mod hooks;
pub mod ignored;
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
mod teach;
pub mod testing;
mod trace;
mod values;
pub mod vm;
pub mod wait;

#[cfg(test)]
mod tests;
