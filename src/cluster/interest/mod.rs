//! Which node has subscribers of which channel. Each node tells all others of its own channels ([`Own`]) and keeps what
//! they told ([`Others`]). A channel is known by a hash of its name: two channels with the same hash cost a message for
//! nothing, no more.

pub mod others;
pub mod own;

/// What nodes know a channel by. All nodes of all versions must make the same of a name: XXH3 with 64 bits, without a seed.
pub fn hash(channel: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(channel.as_bytes())
}
