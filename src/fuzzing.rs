//! The bodies of the fuzz targets, each with the name that it has in `fuzz/`. There cargo-fuzz runs them; without it the tests of
//! this file run them on the same seeds and on damaged ones. A body panics where something does not hold. It stands beside what it
//! tries, so that it may use what only that module sees.

use crate::{api, cluster, config, script, tls, wire};

/// A target, by its name and what it does with any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("handshake", wire::fuzzing::handshake),
    ("frames", wire::fuzzing::frames),
    ("proxy", wire::fuzzing::proxy),
    ("records", tls::fuzzing::records),
    ("http", api::fuzzing::http),
    ("configuration", config::fuzzing::configuration),
    ("json", script::fuzzing::json),
    ("php_unpack", script::fuzzing::php_unpack),
    ("parse_str", script::fuzzing::parse_str),
    ("pattern", script::fuzzing::pattern),
    ("packets", script::fuzzing::packets),
    ("mesh", cluster::fuzzing::mesh),
];

/// Runs the body of that name.
pub fn run(name: &str, bytes: &[u8]) {
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, body)) => body(bytes),
        None => panic!("no target is called {name}"),
    }
}

#[cfg(test)]
mod tests;
