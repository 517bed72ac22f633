//! The TLS of one connection: bytes in, bytes out. It keeps keys and the state of the protocol, but no bytes: what has
//! come and is not complete stays with the caller, who shows it at each call.

use std::io;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::Acceptor;
use super::failure::Failure;
use crate::telemetry::metrics::labels::Handshake;

/// The most bytes of one record's content (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;
/// What a record takes besides its content, at most.
const OVERHEAD: usize = 64;

/// The state of one connection.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// The client has said that it sends no more.
    ended: bool,
}

impl Session {
    /// A connection whose handshake is to come.
    pub fn new(acceptor: &Acceptor) -> Result<Session, Failure> {
        Ok(Session { connection: UnbufferedServerConnection::new(acceptor.config.clone())?, ended: false })
    }

    /// Whether the handshake is over.
    pub fn is_open(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether the client has said that it sends no more (`close_notify`).
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the records at the beginning of `input`: the content of each goes to `plain`, what must be sent is put at the
    /// end of `out`. Returns how many bytes are done with. The others, as they are then, must be at the beginning of
    /// `input` at the next call of any function. After a failure `out` has what tells the client.
    pub fn read(
        &mut self,
        input: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), Failure>) {
        let mut used = 0;
        loop {
            let rest = input.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            let mut done = false;
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            plain(record.payload);
                        }
                        Some(Err(e)) => break Err(e.into()),
                        None => break Ok(()),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(())
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    Ok(())
                }
                Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    done = true;
                    Ok(())
                }
                Ok(state) => Err(unexpected(&state)),
                Err(e) => Err(e.into()),
            };
            used += discard;
            match step {
                Ok(()) if done => return (used, Ok(())),
                Ok(()) => {}
                Err(failure) => {
                    self.tell(input.get_mut(used..).unwrap_or_default(), out);
                    return (used, Err(failure));
                }
            }
        }
    }

    /// Enciphers bytes and puts them at the end of `out`. `input`: what is left of what has come.
    pub fn write(&mut self, bytes: &[u8], input: &mut [u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        self.when_open(input, out, |mut traffic, out| {
            let start = out.len();
            out.resize(start + bytes.len() + (bytes.len() / RECORD + 1) * OVERHEAD, 0);
            let written = match traffic.encrypt(bytes, &mut out[start..]) {
                Err(EncryptError::InsufficientSize(e)) => {
                    // Something else waits to be sent before.
                    out.resize(start + e.required_size, 0);
                    traffic.encrypt(bytes, &mut out[start..])
                }
                done => done,
            };
            out.truncate(start + written.as_ref().map_or(0, |written| *written));
            written.map(drop)
        })
    }

    /// Tells the client that nothing more will come (`close_notify`): puts that at the end of `out`.
    pub fn end(&mut self, input: &mut [u8], out: &mut Vec<u8>) {
        // Before the handshake is over there is nothing to end.
        let _ = self.when_open(input, out, |mut traffic, out| {
            let start = out.len();
            out.resize(start + 2 * OVERHEAD, 0);
            let written = match traffic.queue_close_notify(&mut out[start..]) {
                Err(EncryptError::InsufficientSize(e)) => {
                    out.resize(start + e.required_size, 0);
                    traffic.queue_close_notify(&mut out[start..])
                }
                done => done,
            };
            out.truncate(start + written.as_ref().map_or(0, |written| *written));
            written.map(drop)
        });
    }

    /// Calls `act` as soon as nothing else must be sent first.
    fn when_open(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        act: impl FnOnce(
            WriteTraffic<'_, tokio_rustls::rustls::server::ServerConnectionData>,
            &mut Vec<u8>,
        ) -> Result<(), EncryptError>,
    ) -> Result<(), Failure> {
        loop {
            // Nothing is discarded: all records that are complete have been taken by `read`.
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(input);
            match state? {
                ConnectionState::WriteTraffic(traffic) => {
                    return act(traffic, out).map_err(|e| Failure::new(Handshake::Malformed, e.to_string()));
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.ended = true,
                state => return Err(unexpected(&state)),
            }
        }
    }

    /// After a failure: what tells the client of it (an alert) is put at the end of `out`. Asked again, the connection
    /// would take the record that broke it for a new one.
    fn tell(&mut self, input: &mut [u8], out: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(input);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            // A failure here leaves the client without an alert.
            let _ = encode(&mut data, out);
        }
    }
}

/// Puts what must be sent at the end of `out`.
fn encode<T>(data: &mut EncodeTlsData<'_, T>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    // How much it is, is told by a buffer that is too small.
    let Err(EncodeError::InsufficientSize(e)) = data.encode(&mut []) else { return Ok(()) };
    out.resize(start + e.required_size, 0);
    data.encode(&mut out[start..]).map(drop).map_err(|e| io::Error::other(e).into())
}

fn unexpected(state: &dyn std::fmt::Debug) -> Failure {
    Failure::new(Handshake::Malformed, format!("unexpected state of the protocol: {state:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tls;
    use std::sync::Arc;
    use tokio_rustls::rustls::crypto::cipher::OutboundPlainMessage;
    use tokio_rustls::rustls::crypto::ring::{cipher_suite, default_provider};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{
        ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
        SupportedCipherSuite, version,
    };

    /// A session and a client that have shaken hands by TLS 1.3, with AES-128-GCM.
    fn pair() -> (Session, ClientConnection) {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("cert"), made.cert.pem()).unwrap();
        std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        let settings = Tls { cert: path("cert"), key: path("key"), ..Tls::default() };
        let mut session = Session::new(&Acceptor::load(&settings, true).unwrap().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&version::TLS13]).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut input = Vec::new();
        while client.is_handshaking() || !session.is_open() || client.wants_write() {
            while client.wants_write() {
                client.write_tls(&mut input).unwrap();
            }
            let mut out = Vec::new();
            let (used, read) = session.read(&mut input, |_| panic!("no content yet"), &mut out);
            read.unwrap();
            input.drain(..used);
            let mut rest = &out[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (session, client)
    }

    /// A message of the handshake may come in parts, and the library keeps the first of them, deciphered, in the caller's
    /// buffer: writing in between must find it there.
    #[test]
    fn a_message_of_the_protocol_in_two_parts_does_not_hinder_writing() {
        let (mut session, client) = pair();
        let (mut sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) =
            client.dangerous_extract_secrets().unwrap().tx
        else {
            panic!("another cipher");
        };
        let SupportedCipherSuite::Tls13(suite) = cipher_suite::TLS13_AES_128_GCM_SHA256 else { panic!("no suite") };
        let mut encrypter = suite.aead_alg.encrypter(key, iv);
        let mut record = |payload: &[u8]| {
            let message = OutboundPlainMessage {
                typ: ContentType::Handshake,
                version: ProtocolVersion::TLSv1_2,
                payload: payload.into(),
            };
            let record = encrypter.encrypt(message, sequence).unwrap().encode();
            sequence += 1;
            record
        };
        // A key update that asks for one in return, in two records.
        let (mut input, mut out) = (record(&[24, 0, 0]), Vec::new());
        let (used, read) = session.read(&mut input, |_| panic!("no content"), &mut out);
        read.unwrap();
        input.drain(..used);
        assert!(!input.is_empty(), "the first part is kept");
        for _ in 0..3 {
            session.write(b"hello", &mut input, &mut out).unwrap();
        }
        input.extend(record(&[1, 1]));
        let (used, read) = session.read(&mut input, |_| panic!("no content"), &mut out);
        read.unwrap();
        assert_eq!(used, input.len());
        let before = out.len();
        session.write(b"hello", &mut [], &mut out).unwrap();
        // The answer goes first: a key update of five bytes, with what TLS adds.
        assert_eq!(out.len() - before, (5 + 5 + 1 + 16) * 2);
    }
}
