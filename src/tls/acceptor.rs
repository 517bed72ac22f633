//! How a port shakes hands: which certificate it shows to whom, and whose it asks for.

use std::collections::HashMap;
use std::sync::Arc;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring::{Ticketer, default_provider};
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::certificate::{Certificate, certificates};
use super::secrets::Telling;
use crate::config::Tls;

/// The only application protocol (RFC 7301): a WebSocket begins as HTTP/1.1.
const HTTP: &[u8] = b"http/1.1";

/// The TLS of a port, loaded from files.
#[derive(Debug)]
pub struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    /// Its certificates; the first one is for clients that name none of the others' names.
    pub certificates: Vec<Certificate>,
}

impl Acceptor {
    /// Reads the files; None: the port is without TLS. `http`: its clients speak HTTP. Returns all that is wrong.
    pub fn load(settings: &Tls, http: bool) -> Result<Option<Acceptor>, Vec<String>> {
        if settings.cert.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(default_provider());
        let (mut loaded, mut wrong) = (Vec::new(), Vec::new());
        let first = [(&settings.cert, &settings.key)];
        for (cert, key) in first.into_iter().chain(settings.certificates.iter().map(|more| (&more.cert, &more.key))) {
            match Certificate::load(cert, key, &provider) {
                Ok(certificate) => loaded.push(certificate),
                Err(e) => wrong.push(e),
            }
        }
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| vec![e.to_string()])?;
        let asks = !settings.client_ca.is_empty();
        let builder = match asks {
            false => builder.with_no_client_auth(),
            true => {
                let verifier = signers(&settings.client_ca).and_then(|roots| {
                    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                    builder.build().map_err(|e| format!("{}: {e}", settings.client_ca))
                });
                match verifier {
                    Ok(verifier) => builder.with_client_cert_verifier(verifier),
                    Err(e) => {
                        wrong.push(e);
                        builder.with_no_client_auth()
                    }
                }
            }
        };
        let Some(by_name) = ByName::of(&loaded).filter(|_| wrong.is_empty()) else { return Err(wrong) };
        let mut config = builder.with_cert_resolver(Arc::new(by_name));
        if http {
            config.alpn_protocols = vec![HTTP.to_vec()];
        }
        // After the handshake its keys are ours.
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Telling);
        // What a client needs to come back with less work is in its ticket; the engine keeps nothing. Where certificates
        // are asked for, each handshake is a whole one, so that a changed clientCa counts at once.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if asks {
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Ticketer::new().map_err(|e| vec![e.to_string()])?;
        }
        Ok(Some(Acceptor { config: Arc::new(config), certificates: loaded }))
    }
}

/// The certificates that client certificates must be signed by.
fn signers(file: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for one in certificates(file)? {
        roots.add(one).map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(roots)
}

/// Chooses the certificate by the name that the client asks for (RFC 6066, section 3).
#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl ByName {
    fn of(certificates: &[Certificate]) -> Option<ByName> {
        let first = certificates.first()?.key.clone();
        let mut names = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                // Of several for a name, the first counts.
                names.entry(name.clone()).or_insert_with(|| certificate.key.clone());
            }
        }
        Some(ByName { names, first })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        // RFC 6125, section 6.4.3: * stands for one whole label.
        let wild = || self.names.get(&format!("*.{}", name.split_once('.')?.1));
        self.names.get(&name).or_else(wild)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().and_then(|name| self.find(name)).unwrap_or(&self.first).clone())
    }
}
