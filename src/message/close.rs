//! Why connections end, and the close codes and words that their clients get.

use std::borrow::Cow;
use std::time::Duration;

/// WebSocket close codes that the engine itself sends (RFC 6455, section 7.4.1), and what clients should do after them.
/// `docs/close-codes.md` describes them for authors of clients.
pub mod close_code {
    /// The purpose was fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server gives up on a silent client.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A text message was not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// The peer may not do what it did.
    pub const POLICY: u16 = 1008;
    /// A message was larger than the server takes.
    pub const TOO_BIG: u16 = 1009;
    /// The handler failed.
    pub const INTERNAL: u16 = 1011;
    /// The server is restarted, or stopped: the client comes back after a random pause (IANA, WebSocket Close Code Number
    /// Registry).
    pub const SERVICE_RESTART: u16 = 1012;

    /// More waited for the client than it may. A code of the engine's own: 1008 and 1013 are what scripts send to
    /// refuse, and many clients stay away after 1008. It is in the range of frameworks (RFC 6455, section 7.4.2), since
    /// 4000 to 4999 are left to scripts: clients that know only the ranges stay away after those.
    pub const TOO_SLOW: u16 = 3100;

    /// Memory is short, and the client was among those that held the most of it. Not 1013, which scripts and back ends
    /// send; like 3100, it says that nothing is wrong with the client's next connection.
    pub const MEMORY: u16 = 3101;

    /// What a client that wants to be connected does after a close.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Advice {
        /// It connects again without a pause; after a second failure with one.
        AtOnce,
        /// It connects again after a pause that grows and is random, so that not all come together.
        Later,
        /// It stays away: the next connection would end in the same way.
        Never,
    }

    /// All closes that the engine makes itself: code, reason, advice. An empty reason stands for texts that say what
    /// was wrong.
    pub const OWN: [(u16, &str, Advice); 11] = [
        (NORMAL, "", Advice::Never),
        (SERVICE_RESTART, "server shutdown, retry=MS", Advice::Later),
        (GOING_AWAY, "read timeout", Advice::AtOnce),
        (GOING_AWAY, "message timeout", Advice::Later),
        (PROTOCOL, "", Advice::Never),
        (INVALID_DATA, "", Advice::Never),
        (POLICY, "access was taken away", Advice::Never),
        (TOO_BIG, "", Advice::Never),
        (INTERNAL, "handler error", Advice::Later),
        (TOO_SLOW, "client too slow: outbox limit reached", Advice::Later),
        (MEMORY, "memory is short: too much is unfinished or unread", Advice::Later),
    ];

    /// Whether an endpoint may send that code.
    pub fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// The text for clients when the engine stops; the time to come back follows.
pub const SHUTDOWN: &str = "server shutdown";
/// The time within which clients come back after a stop, unless they are closed over a longer one.
const RETRY: Duration = Duration::from_secs(1);
/// The text about a client that is too slow, for the client and its script.
const TOO_SLOW: &str = "client too slow: outbox limit reached";
/// The text about a client that is closed because memory is short.
const MEMORY: &str = "memory is short: too much is unfinished or unread";

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed the connection in the protocol's way: the code and the reason of its close frame (RFC 6455,
    /// sections 7.1.5 and 7.1.6), if it gave them.
    Peer(Option<(u16, Box<str>)>),
    /// The script or a back end asked for it.
    Requested {
        /// The close code to send.
        code: u16,
        /// The close reason to send, at most 123 bytes.
        reason: Box<str>,
    },
    /// The engine stops. [`CloseReason::shutdown`] makes it.
    Shutdown {
        /// When the client should connect again, in milliseconds from now.
        retry: u32,
    },
    /// The socket failed or ended without a close; holds what the system said.
    Lost(Box<str>),
    /// The peer broke the protocol or a limit.
    Violation {
        /// The close code that says which.
        code: u16,
        /// What was wrong.
        what: Box<str>,
    },
    /// A hook raised an error; the log has it.
    HandlerFailed,
    /// No bytes came for the server's `readTimeout`.
    ReadTimeout,
    /// A message was not finished within the server's `messageTimeout`.
    MessageTimeout,
    /// Memory is short, and this client held much of it.
    Memory,
    /// The client took nothing for the server's `writeTimeout`.
    WriteTimeout,
    /// More bytes waited for the client than the server's `outboxLimit`.
    TooSlow,
}

impl CloseReason {
    /// The engine stops, and its clients should come back at some time within `over`, but at least within [`RETRY`]. Each
    /// gets a time of its own, so that they do not come together.
    pub fn shutdown(over: Duration) -> CloseReason {
        let within = u32::try_from(over.max(RETRY).as_millis()).unwrap_or(u32::MAX);
        let drawn = uuid::Uuid::new_v4().as_u128() as u32;
        CloseReason::Shutdown { retry: drawn % within }
    }

    /// The close frame to send for it: code and text. None: nothing can be sent any more, or the peer's own close
    /// frame is to be answered.
    pub fn frame(&self) -> Option<(u16, Cow<'_, str>)> {
        let (code, text) = match self {
            CloseReason::Requested { code, reason } => (*code, &**reason),
            CloseReason::Shutdown { retry } => {
                return Some((close_code::SERVICE_RESTART, format!("{SHUTDOWN}, retry={retry}").into()));
            }
            CloseReason::Violation { code, what } => (*code, &**what),
            CloseReason::HandlerFailed => (close_code::INTERNAL, "handler error"),
            CloseReason::ReadTimeout => (close_code::GOING_AWAY, "read timeout"),
            CloseReason::MessageTimeout => (close_code::GOING_AWAY, "message timeout"),
            CloseReason::TooSlow => (close_code::TOO_SLOW, TOO_SLOW),
            CloseReason::Memory => (close_code::MEMORY, MEMORY),
            CloseReason::Peer(_) | CloseReason::Lost(_) | CloseReason::WriteTimeout => return None,
        };
        Some((code, text.into()))
    }

    /// What `on_close` gets as its error: None after a clean close.
    pub fn error(&self) -> Option<String> {
        match self {
            CloseReason::Peer(_) | CloseReason::Requested { .. } | CloseReason::Shutdown { .. } => None,
            CloseReason::Lost(what) => Some(what.to_string()),
            CloseReason::Violation { what, .. } => Some(what.to_string()),
            CloseReason::HandlerFailed => Some("handler error".into()),
            CloseReason::ReadTimeout => Some("read timeout".into()),
            CloseReason::WriteTimeout => Some("write timeout".into()),
            CloseReason::TooSlow => Some(TOO_SLOW.into()),
            CloseReason::MessageTimeout => Some("message timeout".into()),
            CloseReason::Memory => Some(MEMORY.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the documentation's table: code, reason, advice.
    #[test]
    fn the_documentation_has_every_close() {
        use close_code::{Advice, OWN};
        let doc = include_str!("../../docs/close-codes.md");
        let table = doc.split("\n## What the engine sends\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows: Vec<(u16, String, &str)> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .map(|line| line.split(" | ").collect::<Vec<_>>())
            .filter_map(|cells| Some((cells[0].parse().ok()?, cells[1].to_owned(), cells[3])))
            .collect();
        let own: Vec<(u16, String, &str)> = OWN
            .iter()
            .map(|(code, reason, advice)| {
                let advice = match advice {
                    Advice::AtOnce => "reconnect at once",
                    Advice::Later => "reconnect later",
                    Advice::Never => "stay away",
                };
                (*code, reason.to_string(), advice)
            })
            .collect();
        assert_eq!(rows.len(), own.len(), "{rows:?}");
        for ((code, reason, advice), (own_code, own_reason, own_advice)) in rows.iter().zip(&own) {
            assert_eq!((code, advice), (own_code, own_advice));
            let quoted = format!("`{own_reason}`");
            assert_eq!(*reason == quoted, !own_reason.is_empty(), "{code}: {reason}");
        }
    }

    #[test]
    fn every_close_frame_has_a_reason_and_is_one_of_the_list() {
        let violation = |code| CloseReason::Violation { code, what: "what was wrong".into() };
        for reason in [
            CloseReason::shutdown(Duration::ZERO),
            CloseReason::HandlerFailed,
            CloseReason::ReadTimeout,
            CloseReason::MessageTimeout,
            CloseReason::TooSlow,
            CloseReason::Memory,
            violation(close_code::PROTOCOL),
            violation(close_code::INVALID_DATA),
            violation(close_code::TOO_BIG),
        ] {
            let (code, text) = reason.frame().unwrap();
            assert!(!text.is_empty() && text.len() <= 123, "{reason:?}");
            assert!(close_code::may_be_sent(code), "{code}");
            let said = text.trim_end_matches(|c: char| c.is_ascii_digit());
            let is = |own: &str| own.is_empty() || own == text || own.strip_suffix("MS") == Some(said);
            let known = |(own, words, _): &(u16, &str, _)| *own == code && is(words);
            assert!(close_code::OWN.iter().any(known), "{reason:?}");
        }
    }
}
