//! All Lua.
pub mod mix;
pub mod stack;
