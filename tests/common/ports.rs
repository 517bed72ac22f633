//! Ports for programs that must be told theirs before they start.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Below those that the system gives to sockets by itself (32768 and up unless it is told otherwise): so no connection of
/// another test takes one between this and the program's start.
const FIRST: u32 = 10_240;
const MANY: u32 = 22_000;

/// A port of the loopback that nobody has, and that no other test of this process gets.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere.
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..MANY {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % MANY;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port as u16)).is_ok() {
            return port as u16;
        }
    }
    panic!("no port is free");
}

/// The same as an address.
pub fn free_addr() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port())
}
