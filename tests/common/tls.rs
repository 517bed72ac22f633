//! TLS for tests: an authority that signs certificates, and clients that trust it.

use super::PATIENCE;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio_tungstenite::WebSocketStream;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Another name than those of the certificates that it signs, or these look signed by themselves.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `FILE.pem` and `FILE.key` for these names into a folder.
    pub fn issue(&self, folder: &Path, file: &str, names: &[&str]) {
        self.issue_with(folder, file, names, |_| ());
    }

    /// The same, with changes.
    pub fn issue_with(&self, folder: &Path, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.pem")), pem).unwrap();
    }

    /// Writes its own certificate.
    pub fn write(&self, file: &Path) {
        std::fs::write(file, &self.pem).unwrap();
    }

    /// A client that trusts it.
    pub fn trusted(&self) -> Trusting {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Trusting {
            roots,
            versions: vec![&version::TLS13, &version::TLS12],
            own: None,
            protocols: Vec::new(),
            longest: None,
        }
    }
}

/// How a client does TLS.
#[derive(Clone)]
pub struct Trusting {
    roots: RootCertStore,
    versions: Vec<&'static SupportedProtocolVersion>,
    own: Option<(Vec<u8>, Vec<u8>)>,
    protocols: Vec<Vec<u8>>,
    longest: Option<usize>,
}

impl Trusting {
    /// With TLS 1.2 alone.
    pub fn by_tls12(mut self) -> Trusting {
        self.versions = vec![&version::TLS12];
        self
    }

    /// Showing a certificate of that folder.
    pub fn showing(mut self, folder: &Path, file: &str) -> Trusting {
        let read = |ending: &str| std::fs::read(folder.join(format!("{file}.{ending}"))).unwrap();
        self.own = Some((read("pem"), read("key")));
        self
    }

    /// Offering these protocols (ALPN).
    pub fn offering(mut self, protocols: &[&str]) -> Trusting {
        self.protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// In records that are no longer than that.
    pub fn in_records_of(mut self, bytes: usize) -> Trusting {
        self.longest = Some(bytes);
        self
    }

    pub fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder =
            builder.with_protocol_versions(&self.versions).unwrap().with_root_certificates(self.roots.clone());
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert).unwrap();
                builder.with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.clone();
        config.max_fragment_size = self.longest;
        config
    }

    /// Shakes hands over a connection, asking for a name.
    pub async fn over<S>(&self, stream: S, name: &str) -> std::io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::new(self.config()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        timeout(PATIENCE, connector.connect(name, stream)).await.expect("a handshake in time")
    }

    pub async fn dial(&self, addr: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        self.over(stream, name).await
    }

    /// An open WebSocket at `/ws`.
    pub async fn websocket(&self, addr: SocketAddr, name: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.dial(addr, name).await.unwrap();
        open(stream).await
    }
}

/// Opens a WebSocket at `/ws`.
pub async fn open<S>(stream: S) -> WebSocketStream<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let opening = tokio_tungstenite::client_async("ws://localhost/ws", stream);
    timeout(PATIENCE, opening).await.expect("an answer in time").unwrap().0
}
