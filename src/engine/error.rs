//! Why an engine does not start.

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A script is wrong; holds its error, with file and line.
    #[error("{0}")]
    Script(String),
    /// The system refused something.
    #[error("{0}")]
    System(String),
}
