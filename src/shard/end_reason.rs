//! The label that the end of a connection is counted under.

use crate::message::CloseReason;
use crate::telemetry::metrics::labels::EndReason;

impl From<&CloseReason> for EndReason {
    fn from(reason: &CloseReason) -> EndReason {
        match reason {
            CloseReason::Peer(_) => EndReason::Peer,
            CloseReason::Requested { .. } => EndReason::Requested,
            CloseReason::Shutdown { .. } => EndReason::Shutdown,
            CloseReason::Lost(_) => EndReason::Lost,
            CloseReason::Violation { .. } => EndReason::Violation,
            CloseReason::HandlerFailed => EndReason::HandlerFailed,
            CloseReason::ReadTimeout => EndReason::ReadTimeout,
            CloseReason::WriteTimeout => EndReason::WriteTimeout,
            CloseReason::TooSlow => EndReason::TooSlow,
            CloseReason::MessageTimeout => EndReason::MessageTimeout,
            CloseReason::Memory => EndReason::Memory,
        }
    }
}
