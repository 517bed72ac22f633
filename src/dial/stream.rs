//! A connection to a server, plain or with TLS.

use clap::Args;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::telemetry::language::spoken;

/// Whose certificates are believed.
#[derive(Debug, Clone, Args)]
pub struct Trust {
    /// Who signed the server's certificate: a PEM file [default: those whom the system trusts]
    /// zh: 签发服务器证书的机构：PEM 文件 [默认：系统信任的机构]
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// Take any certificate
    /// zh: 接受任何证书
    #[arg(long, requires = "url", conflicts_with = "ca")]
    insecure: bool,
}

impl Trust {
    /// Those who may have signed.
    fn roots(&self) -> Result<RootCertStore, String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", self.named());
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => {
                for one in CertificateDer::pem_file_iter(file).map_err(|e| failed(&e))? {
                    roots.add(one.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
                }
            }
            // Those that can't be read are left out.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Ok(roots)
    }

    fn named(&self) -> String {
        self.ca
            .as_ref()
            .map_or_else(|| spoken!("the system's certificates", "系统的证书"), |file| file.display().to_string())
    }
}

/// How TLS is begun with one server.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// TLS with the server of that name. Each connection does a whole handshake: none is resumed.
    pub fn of(trust: &Trust, host: &str) -> Result<Tls, String> {
        let provider = Arc::new(default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match trust.insecure {
            true => Arc::new(Anybody(provider.clone())),
            false => {
                let roots = Arc::new(trust.roots()?);
                let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                builder.build().map_err(|e| format!("{}: {e}", trust.named()))?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(host.to_owned()).map_err(|e| format!("{host}: {e}"))?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

/// Believes any certificate. The signature by its key is checked, as it costs the same for any.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An open connection.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, and shakes hands if there is TLS.
    pub async fn connect(addr: SocketAddr, tls: Option<&Tls>) -> io::Result<Stream> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        Ok(match tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                Stream::Tls(Box::new(tls.connector.connect(tls.name.clone(), socket).await.map_err(explained)?))
            }
        })
    }

    /// Its socket.
    pub fn socket(&self) -> socket2::SockRef<'_> {
        match self {
            Stream::Plain(socket) => socket2::SockRef::from(socket),
            Stream::Tls(tls) => socket2::SockRef::from(tls.get_ref().0),
        }
    }
}

/// Says in words what is wrong with a certificate that somebody has made for a try and that openssl made one of an authority.
fn explained(e: io::Error) -> io::Error {
    if !e.to_string().contains("CaUsedAsEndEntity") {
        return e;
    }
    let why =
        "the server shows the certificate of an authority (CA:TRUE) instead of one of its own: make one with CA:FALSE";
    io::Error::new(e.kind(), why)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, into),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
