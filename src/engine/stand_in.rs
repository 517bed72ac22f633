//! Answers API callers while all workers are stuck, so that a probe gets a 503 instead of nothing. Requests are not
//! read: until a worker goes on, there is one answer to everything.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api;
use crate::ids::WorkerId;
use crate::tls::{NOT_NOW, Port, Ports};
use crate::worker::{Listener, Role};

/// Callers that are answered and have not ended their connection yet.
const MAX_CALLERS: usize = 256;
/// How long a caller may take to read its answer and end the connection.
const LINGER: Duration = Duration::from_secs(1);

/// The APIs' listeners, until they are shut.
pub(super) struct Doors {
    open: Mutex<Vec<(Port, TcpListener)>>,
    tls: Arc<Ports>,
}

impl Doors {
    /// The API listeners among these.
    pub(super) fn new(listeners: Vec<Listener>, tls: Arc<Ports>) -> Doors {
        let apis = listeners.into_iter().filter_map(|l| match l.role {
            Role::Api => Some((Port::Api, l.socket)),
            Role::Center => Some((Port::Center, l.socket)),
            Role::Server(_) => None,
        });
        Doors { open: Mutex::new(apis.collect()), tls }
    }

    /// The engine ends: nobody is accepted here from now on.
    pub(super) fn shut(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The callers that are being answered.
#[derive(Default)]
pub(super) struct StandIn {
    callers: Vec<(TcpStream, Instant)>,
}

impl StandIn {
    /// Answers callers that wait to be accepted, if all workers are stuck.
    pub(super) fn look(&mut self, doors: &Doors, stuck: &[WorkerId], workers: usize) {
        self.callers.retain_mut(|(socket, since)| since.elapsed() < LINGER && !has_ended(socket));
        if stuck.len() < workers {
            return;
        }
        let open = doors.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (port, door) in open.iter() {
            // With TLS there is no answer without a handshake.
            let answer = match doors.tls.of(*port) {
                Some(_) => NOT_NOW.to_vec(),
                None => api::stuck(stuck),
            };
            while self.callers.len() < MAX_CALLERS
                && let Ok((mut socket, _)) = door.accept()
            {
                // A new socket takes this at once, or never.
                let answered = socket
                    .set_nonblocking(true)
                    .and_then(|()| socket.write_all(&answer))
                    .and_then(|()| socket.shutdown(Shutdown::Write));
                if answered.is_ok() {
                    // A socket that is closed with its request unread takes the answer with it.
                    self.callers.push((socket, Instant::now()));
                }
            }
        }
    }
}

/// Reads and discards what has come; returns whether the caller has ended.
fn has_ended(socket: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    // Bounded, so that one caller can't hold up the thread.
    for _ in 0..16 {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}
