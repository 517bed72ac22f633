//! Sessions against the clients of the library, in any pieces, by all suites, and in one process after the other.

use super::*;
use crate::config::Tls;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use tokio_rustls::rustls::crypto::cipher::OutboundPlainMessage;
use tokio_rustls::rustls::crypto::ring::{cipher_suite, default_provider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, Error, RootCertStore,
    SupportedCipherSuite,
};

/// The suites of both versions.
const SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A port, and those that trust its certificate.
static PORT: LazyLock<(Acceptor, RootCertStore)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("cert"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    let settings = Tls { cert: path("cert"), key: path("key"), ..Tls::default() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    (Acceptor::load(&settings, true).unwrap().unwrap(), roots)
});

/// A client of the library that offers one suite alone.
fn client(suite: SupportedCipherSuite) -> ClientConnection {
    client_by(suite, None)
}

/// The same, whose records are no longer than that.
fn client_by(suite: SupportedCipherSuite, longest: Option<usize>) -> ClientConnection {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[suite.version()]).unwrap();
    let mut config = builder.with_root_certificates(PORT.1.clone()).with_no_client_auth();
    config.enable_secret_extraction = true;
    config.max_fragment_size = longest;
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// What a client has to send.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).unwrap();
    }
    records
}

/// Gives a client what came; what was in it.
fn got(client: &mut ClientConnection, mut records: &[u8]) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    while !records.is_empty() {
        client.read_tls(&mut records).unwrap();
        client.process_new_packets()?;
        let _ = client.reader().read_to_end(&mut content);
    }
    Ok(content)
}

/// A session and a client that have shaken hands.
fn pair(suite: SupportedCipherSuite) -> (Session, ClientConnection) {
    let (mut session, mut client) = (Session::new(&PORT.0).unwrap(), client(suite));
    let mut input = Vec::new();
    while client.is_handshaking() || !session.is_open() || client.wants_write() {
        input.extend(sent(&mut client));
        let mut out = Vec::new();
        let (used, read) = session.read(&mut input, |_| panic!("no content yet"), &mut out);
        read.unwrap();
        input.drain(..used);
        got(&mut client, &out).unwrap();
    }
    assert_eq!(client.negotiated_cipher_suite(), Some(suite));
    (session, client)
}

/// The same session in another process.
fn moved(session: &Session) -> Session {
    let mut out = Encoder::default();
    session.save(&mut out);
    let mut from = Decoder::new(&out.bytes);
    let moved = Session::restore(&mut from).unwrap();
    from.end().unwrap();
    moved
}

/// Something that happens to a connection.
#[derive(Debug, Clone)]
enum Event {
    /// The client sends so many bytes.
    Ask(usize),
    /// It is sent so many.
    Answer(usize),
    /// What it has sent arrives, in pieces of that size.
    Arrive(usize),
    /// The client changes its key, and wants another one in return.
    Update,
    /// The session goes over to another process.
    Move,
}

fn events() -> impl Strategy<Value = Event> {
    let size = || prop_oneof![0usize..300, 16_380usize..16_390, 0usize..70_000];
    prop_oneof![
        size().prop_map(Event::Ask),
        size().prop_map(Event::Answer),
        prop_oneof![1usize..40, 1usize..20_000].prop_map(Event::Arrive),
        Just(Event::Update),
        Just(Event::Move),
    ]
}

/// So many bytes that do not look alike.
fn bytes(many: usize, from: usize) -> Vec<u8> {
    (from..from + many).map(|n| (n * 7 + n / 251) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Against the library: whatever is sent arrives, through changes of keys and in whichever process.
    #[test]
    fn what_is_sent_arrives(suite in 0..SUITES.len(), events in prop::collection::vec(events(), 1..24)) {
        let (mut session, mut client) = pair(SUITES[suite]);
        client.set_buffer_limit(None);
        let (mut on_the_way, mut input) = (Vec::new(), Vec::new());
        let (mut asked, mut heard, mut answered, mut out) = (0, 0, 0, Vec::new());
        for event in events.into_iter().chain([Event::Arrive(999)]) {
            match event {
                Event::Ask(many) => {
                    client.writer().write_all(&bytes(many, asked)).unwrap();
                    asked += many;
                    on_the_way.extend(sent(&mut client));
                }
                Event::Answer(many) => {
                    out.clear();
                    session.write(&bytes(many, answered), &mut out).unwrap();
                    prop_assert!(got(&mut client, &out).unwrap() == bytes(many, answered));
                    answered += many;
                }
                Event::Arrive(piece) => {
                    for piece in on_the_way.chunks(piece) {
                        input.extend_from_slice(piece);
                        out.clear();
                        let mut content = Vec::new();
                        let (used, read) = session.read(&mut input, |bytes| content.extend_from_slice(bytes), &mut out);
                        read.unwrap();
                        input.drain(..used);
                        prop_assert!(content == bytes(content.len(), heard) && out.is_empty());
                        heard += content.len();
                    }
                    on_the_way.clear();
                }
                Event::Update => {
                    if SUITES[suite].tls13().is_some() {
                        client.refresh_traffic_keys().unwrap();
                        on_the_way.extend(sent(&mut client));
                    }
                }
                Event::Move => session = moved(&session),
            }
        }
        prop_assert_eq!((heard, input.len()), (asked, 0));
        // In the end each tells the other.
        client.send_close_notify();
        let mut last = sent(&mut client);
        session.read(&mut last, |_| (), &mut out).1.unwrap();
        prop_assert!(session.has_ended() && moved(&session).has_ended());
        out.clear();
        session.end(&mut out);
        client.read_tls(&mut &out[..]).unwrap();
        prop_assert!(client.process_new_packets().unwrap().peer_has_closed());
    }

    /// A byte that is not as it was sent ends the connection, and the client is told which way.
    #[test]
    fn a_flipped_byte_is_noticed(suite in 0..SUITES.len(), size in 0usize..20_000, at: prop::sample::Index, bit in 0..8) {
        let (mut session, mut client) = pair(SUITES[suite]);
        client.writer().write_all(&bytes(size, 0)).unwrap();
        client.writer().write_all(b"one more").unwrap();
        let mut input = sent(&mut client);
        let at = at.index(input.len());
        input[at] ^= 1u8 << bit;
        // Its length may have grown.
        input.extend([0; 40_000]);
        let (mut content, mut out) = (Vec::new(), Vec::new());
        let (_, read) = session.read(&mut input, |bytes| content.extend_from_slice(bytes), &mut out);
        let said = bytes(size, 0).into_iter().chain(*b"one more").collect::<Vec<u8>>();
        prop_assert!(read.is_err() && said.starts_with(&content) && content.len() < said.len(), "{at}: {read:?}");
        prop_assert!(matches!(got(&mut client, &out), Err(Error::AlertReceived(
            AlertDescription::BadRecordMac
                | AlertDescription::RecordOverflow
                | AlertDescription::UnexpectedMessage
                | AlertDescription::ProtocolVersion
        ))));
    }
}

#[test]
fn the_handshake_may_come_in_any_pieces_and_what_follows_with_it() {
    // The shortest records of the library cut a message of the handshake into many.
    for (suite, longest) in SUITES.into_iter().flat_map(|suite| [(suite, None), (suite, Some(32))]) {
        for piece in [1, 7, 40, 100_000] {
            let (mut session, mut client) = (Session::new(&PORT.0).unwrap(), client_by(suite, longest));
            let (mut input, mut content) = (Vec::new(), Vec::new());
            client.writer().write_all(b"at once").unwrap();
            for _ in 0..4 {
                for piece in sent(&mut client).chunks(piece) {
                    input.extend_from_slice(piece);
                    let mut out = Vec::new();
                    let (used, read) = session.read(&mut input, |bytes| content.extend_from_slice(bytes), &mut out);
                    read.unwrap();
                    input.drain(..used);
                    got(&mut client, &out).unwrap();
                }
            }
            assert_eq!((&content[..], session.is_open()), (&b"at once"[..], true), "{suite:?} {longest:?} by {piece}");
        }
    }
}

/// A change of keys may come in parts, with something sent in between.
#[test]
fn a_message_of_the_protocol_in_two_parts_does_not_hinder_writing() {
    let (mut session, client) = pair(cipher_suite::TLS13_AES_128_GCM_SHA256);
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
    // A key update that asks for one in return, in two records; the session goes over to another process in between.
    let (mut input, mut out) = (record(&[24, 0, 0]), Vec::new());
    let (used, read) = session.read(&mut input, |_| panic!("no content"), &mut out);
    read.unwrap();
    assert_eq!((used, out.len()), (input.len(), 0));
    session = moved(&session);
    for _ in 0..3 {
        session.write(b"hello", &mut out).unwrap();
    }
    let (used, read) = session.read(&mut record(&[1, 1]), |_| panic!("no content"), &mut out);
    read.unwrap();
    assert_eq!(used, 5 + 2 + 1 + 16);
    session = moved(&session);
    let before = out.len();
    session.write(b"hello", &mut out).unwrap();
    // The answer goes first: a key update of five bytes, with what TLS adds.
    assert_eq!(out.len() - before, (5 + 5 + 1 + 16) * 2);
}
