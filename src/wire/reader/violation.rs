//! Violations by clients: the close code and the text for each.

use std::borrow::Cow;

use crate::message::{CloseReason, close_code};

/// The client broke the protocol or a limit: the connection is to be closed with that code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// The close code to send (RFC 6455, section 7.4.1).
    pub code: u16,
    /// What was wrong; short enough for a close frame's reason.
    pub what: Cow<'static, str>,
}

impl Violation {
    pub(super) fn protocol(what: &'static str) -> Violation {
        Violation { code: close_code::PROTOCOL, what: Cow::Borrowed(what) }
    }

    /// The content of a message is not what it has to be.
    pub(crate) fn invalid(what: &'static str) -> Violation {
        Violation { code: close_code::INVALID_DATA, what: Cow::Borrowed(what) }
    }

    /// A message is larger than `limit` bytes.
    pub(crate) fn too_big(limit: usize) -> Violation {
        Violation { code: close_code::TOO_BIG, what: Cow::Owned(format!("message larger than {limit} bytes")) }
    }
}

impl From<Violation> for CloseReason {
    fn from(violation: Violation) -> CloseReason {
        CloseReason::Violation { code: violation.code, what: violation.what.into() }
    }
}
