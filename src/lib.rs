//! connmix: a scriptable engine for long-lived connections.
//!
//! The modules stand in layers; each imports only from those below its own (`docs/architecture.md` tells why, and
//! `tests/architecture.rs` holds it). From the bottom up:

// Publishing, sending and commands take two stages: what the first gives is awaited later.
#![allow(clippy::async_yields_async)]

// Layer 0: the vocabulary.
pub mod ids;
pub mod message;
pub mod secret;
pub mod telemetry;
pub mod value;
// Layer 1: what a successor process gets; above that what the YAML means; tokens; what the system tells of TCP; bytes, without I/O.
pub mod handover;

pub mod config;
pub mod jwt;
pub mod tcp;
pub mod wire;
// Layer 2: who may connect; channel -> workers -> connections; from handlers to back ends; the mark on the process's memory;
// what scripts share; their timers; TLS.
pub mod admission;
pub mod hub;
pub mod memory;
pub mod queue;
pub mod shared;
pub mod timers;
pub mod tls;
// Layer 3: the other nodes, and other programs.
pub mod cluster;
pub mod outbound;
// Layer 4: what one worker thread owns.
pub mod shard;
// Layer 5: all Lua.
pub mod script;
// Above it: what is found in scripts by reading them.
pub mod lint;
// Layer 6: the back ends' API, then the threads.
pub mod api;
pub mod worker;
// Layer 7: all wiring.
pub mod engine;
// Layer 8: connections to an engine from outside; the measurements, the tests of scripts; the command line.
pub mod bench;
pub mod cli;
pub mod dial;
pub mod testing;
// What tests and the fuzz targets have in common; cargo-fuzz sets the cfg.
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
