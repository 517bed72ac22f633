//! Why an engine does not start.

use crate::telemetry::language::Both;

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A script is wrong; holds its error, with file and line.
    #[error("{0}")]
    Script(Both),
    /// A certificate or its key can't be used; holds all that is wrong, one a line.
    #[error("{0}")]
    Certificate(String),
    /// The system refused something.
    #[error("{0}")]
    System(String),
}

impl StartError {
    /// For a terminal.
    pub fn spoken(&self) -> String {
        match self {
            StartError::Script(why) => why.spoken().to_owned(),
            StartError::Certificate(why) | StartError::System(why) => why.clone(),
        }
    }
}
