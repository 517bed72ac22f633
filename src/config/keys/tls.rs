//! The rows of `tls`: of a server, of the engine's API, of the center's.

use crate::config::changes::{Changes, Effect::Live};
use crate::config::kinds::{required, text};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, named};

section! {
    /// TLS of a port. Files are relative to this file's folder or, if they are not there, to the working directory.
    #[derive(Debug, Clone, PartialEq, Default)]
    pub struct Tls {
        /// The certificate, with those that lead to who signed it: a PEM file. With it, the port speaks TLS alone. A changed
        /// file counts at once, for new connections.
        pub cert: String = "cert", text(""), Live;
        /// The key of tls.cert: a PEM file, not encrypted.
        pub key: String = "key", text(""), Live;
        /// Who signs the certificates of clients: a PEM file. With it, clients must show one. Empty = none is asked for.
        pub client_ca: String = "clientCa", text(""), Live;
        /// Certificates for other names. Each is shown to clients that ask for a name in it, tls.cert to all others.
        pub certificates: Vec<NamedCertificate> = "certificates", named("cert", |more: &NamedCertificate| &more.cert), Live;
    }
}

section! {
    /// A certificate for other names.
    #[derive(Debug, Clone, PartialEq)]
    pub struct NamedCertificate {
        /// The certificate, as tls.cert.
        pub cert: String = "cert", required(), Live;
        /// Its key, as tls.key.
        pub key: String = "key", required(), Live;
    }
}

impl Entry for NamedCertificate {
    fn summary(&self) -> String {
        self.cert.clone()
    }
}
