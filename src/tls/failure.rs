//! Why a handshake, or a connection after it, failed.

use std::fmt::{self, Display, Formatter};
use std::io;
use tokio_rustls::rustls::{Error, PeerIncompatible};

use crate::telemetry::metrics::labels::Handshake;

/// A failure, by its cause.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it is counted under.
    pub cause: Handshake,
    what: String,
}

impl Failure {
    /// A failure of that cause; `what` is for the log.
    pub fn new(cause: Handshake, what: impl Into<String>) -> Failure {
        Failure { cause, what: what.into() }
    }

    /// The client spoke something else than TLS.
    pub fn not_tls() -> Failure {
        Failure::new(Handshake::NotTls, "the client does not speak TLS")
    }

    /// The client ended the connection without saying so by TLS (`close_notify`), so something may be missing.
    pub fn ended() -> Failure {
        Failure::new(Handshake::Closed, "the client ended the connection without a close_notify")
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        use PeerIncompatible::*;
        let cause = match &e {
            Error::PeerIncompatible(
                Tls12NotOffered
                | Tls12NotOfferedOrEnabled
                | SupportedVersionsExtensionRequired
                // Older versions did not have it.
                | SignatureAlgorithmsExtensionRequired
                | ServerTlsVersionIsDisabledByOurConfig,
            ) => Handshake::Version,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Handshake::Negotiation,
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Handshake::Certificate,
            Error::AlertReceived(_) => Handshake::Refused,
            _ => Handshake::Malformed,
        };
        Failure::new(cause, e.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::new(Handshake::Closed, e.to_string())
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        let kind = match failure.cause {
            Handshake::Closed => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, failure.what)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}
