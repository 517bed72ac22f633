//! The steps of a handover, in which a worker gives its connections to a successor process or takes them there.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::handover::Damaged;
use crate::ids::{ClientId, Lane, WorkerId};
use crate::shard::hold::Offer;
use crate::shard::outbox::shelf::Shelved;
use crate::shard::transport::MovedTls;

/// A connection that another process had, on its way to the worker that will have it.
pub struct Arrived {
    /// What it is, as [`Moved`](crate::shard::Moved) and its protocol have written it: with its keys, if it has TLS.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its socket, non-blocking.
    pub socket: TcpStream,
}

/// What a worker offers to the successor.
pub struct Offers {
    /// Connections of clients.
    pub clients: Vec<Offer>,
    /// The frames that wait for them, in parts.
    pub frames: Vec<Vec<u8>>,
    /// Connections of callers.
    pub callers: Vec<Offer>,
    /// The last of its clients' ids.
    pub ids: Vec<(Lane, u64)>,
}

/// A caller's connection that another process had.
pub struct ArrivedCaller {
    /// Its socket, non-blocking.
    pub socket: TcpStream,
    /// What has come and is no whole request.
    pub read: Vec<u8>,
    /// What its TLS was. Boxed, so that no list leaves copies of keys behind when it grows.
    pub tls: Option<Box<MovedTls>>,
}

/// A worker, and in which slot each of the connections is that it has taken up.
pub type Places = (WorkerId, Vec<(ClientId, u32)>);

/// A step of a handover.
pub enum Step {
    /// Answers how many handlers wait.
    Waiting(oneshot::Sender<usize>),
    /// Begin nothing new, and read nothing. Answers whether everything that had begun has ended within that time.
    Quiet {
        /// The time for it.
        within: Duration,
        /// Handlers' waits end, and nobody waits for handshakes and for the last handlers of connections that end.
        cut: bool,
        /// What is delivered does not count: other nodes publish yet.
        calls_only: bool,
        /// The answer.
        done: oneshot::Sender<bool>,
    },
    /// Write nothing more, and offer what can go. None: something has begun after all.
    Offer(oneshot::Sender<Option<Offers>>),
    /// The successor has taken what was offered.
    Moved(oneshot::Sender<()>),
    /// Of a successor: these connections are here, for which some of these frames wait, and nothing is done with them yet. Answers
    /// which worker this is, and in which slot each of them is.
    Arrive(Vec<Arrived>, Arc<Shelved>, oneshot::Sender<Result<Places, Damaged>>),
    /// Of a successor: the process before has issued these ids.
    Ids(Vec<(Lane, u64)>),
    /// Of a successor: callers' connections.
    Callers(Vec<ArrivedCaller>),
    /// Serve: there is no successor, or this is it.
    Lift,
}
