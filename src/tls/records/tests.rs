//! What records may come, each told by its alert; the bounds of what brings nothing and of what a key enciphers. The other end
//! is the same code, with the keys the other way round.

use super::*;
use crate::tls::keys::Cipher;

/// Both ends of a connection.
fn pair(version: Version, cipher: Cipher) -> (Records, Records) {
    let length = if cipher == Cipher::Aes256Gcm { 48 } else { 32 };
    let keys = |of: u8| Keys::made_of(cipher, &vec![of; length]).unwrap();
    (Records::new(version, keys(1), keys(2)), Records::new(version, keys(2), keys(1)))
}

const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

/// A record of any type, as the other end makes it.
fn record(from: &mut Records, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(from.seal_any(kind, content, &mut out));
    out
}

/// What an end makes of records: what came of them, and the alerts that it sends.
fn read(own: &mut Records, other: &mut Records, mut input: Vec<u8>) -> (Result<Vec<u8>, String>, Vec<[u8; 2]>) {
    let (mut content, mut out) = (Vec::new(), Vec::new());
    let (_, read) = own.read(&mut input, |bytes| content.extend_from_slice(bytes), &mut out);
    (read.map(|()| content).map_err(|failure| failure.to_string()), alerts(other, &out))
}

/// The alerts in what came.
fn alerts(own: &mut Records, mut records: &[u8]) -> Vec<[u8; 2]> {
    let mut all = Vec::new();
    while let Some(head) = records.first_chunk::<HEAD>() {
        let (record, rest) = records.split_at(HEAD + usize::from(u16::from_be_bytes([head[3], head[4]])));
        let (key, mut body) = (own.receives.ready().unwrap(), record[HEAD..].to_vec());
        let Some(Ok((ALERT, &[level, what]))) = own.decipher(*head, &mut body, &key) else { panic!("no alert") };
        all.push([level, what]);
        records = rest;
    }
    all
}

#[test]
fn what_may_not_come_ends_the_connection_with_its_alert() {
    let fatal = |alert: AlertDescription| vec![[FATAL, alert.into()]];
    let unexpected = || fatal(AlertDescription::UnexpectedMessage);
    let decode = || fatal(AlertDescription::DecodeError);
    const LONG: &[u8] = &[7; CONTENT + 1];
    /// A record's version, type and content, and the alerts that follow.
    type Case = (Version, u8, &'static [u8], Vec<[u8; 2]>);
    let cases: Vec<Case> = vec![
        // Alerts: half of one, none, two, one that can't be a warning.
        (Version::Tls13, ALERT, &[1], decode()),
        (Version::Tls13, ALERT, &[], unexpected()),
        (Version::Tls12, ALERT, &[], unexpected()),
        (Version::Tls12, ALERT, &[1, 0, 1, 0], decode()),
        (Version::Tls13, ALERT, &[FATAL, 40], vec![]),
        (Version::Tls13, ALERT, &[WARNING, 41], vec![]),
        (Version::Tls12, ALERT, &[FATAL, 90], vec![]),
        // Messages of the handshake: none, another one, a wrong length, a wrong value, something behind it.
        (Version::Tls13, HANDSHAKE, &[], unexpected()),
        (Version::Tls13, HANDSHAKE, &[1, 0, 0, 1, 0], unexpected()),
        (Version::Tls13, HANDSHAKE, &[4], unexpected()),
        (Version::Tls13, HANDSHAKE, &[24, 0, 0, 2, 0], decode()),
        (Version::Tls13, HANDSHAKE, &[24, 0, 0, 0, 0], decode()),
        (Version::Tls13, HANDSHAKE, &[24, 0, 0, 1, 2], fatal(AlertDescription::IllegalParameter)),
        (Version::Tls13, HANDSHAKE, &[24, 0, 0, 1, 0, 24], unexpected()),
        (Version::Tls12, HANDSHAKE, &[], unexpected()),
        (Version::Tls12, HANDSHAKE, &[24, 0, 0, 1, 0], unexpected()),
        (Version::Tls12, HANDSHAKE, &[20, 0, 0, 12], unexpected()),
        // A change_cipher_spec, and types that there are not; by TLS 1.3 within a record.
        (Version::Tls13, 20, &[1], unexpected()),
        (Version::Tls13, 0, &[], unexpected()),
        (Version::Tls13, 0, &[0; 9], unexpected()),
        (Version::Tls13, 99, b"what", unexpected()),
        (Version::Tls12, 20, &[1], unexpected()),
        (Version::Tls12, 24, b"heartbeat", unexpected()),
        (Version::Tls12, DATA, LONG, fatal(AlertDescription::RecordOverflow)),
        (Version::Tls13, DATA, LONG, fatal(AlertDescription::RecordOverflow)),
    ];
    for cipher in Cipher::ALL {
        for (version, kind, content, expected) in &cases {
            let (mut own, mut other) = pair(*version, cipher);
            let mut input = record(&mut other, DATA, b"before");
            input.extend(record(&mut other, *kind, content));
            let (mut came, mut out) = (Vec::new(), Vec::new());
            let (_, read) = own.read(&mut input, |bytes| came.extend_from_slice(bytes), &mut out);
            assert!(read.is_err() && came == b"before", "{version:?} {kind} {content:?}");
            assert_eq!(alerts(&mut other, &out), *expected, "{version:?} {kind} {content:?}");
        }
    }
}

#[test]
fn a_head_that_can_not_be_is_told_before_the_rest_comes() {
    for (version, head, alert) in [
        (Version::Tls13, [22, 3, 3, 0, 5], AlertDescription::UnexpectedMessage),
        (Version::Tls13, [20, 3, 3, 0, 1], AlertDescription::UnexpectedMessage),
        (Version::Tls13, [21, 3, 3, 0, 2], AlertDescription::UnexpectedMessage),
        (Version::Tls13, [23, 3, 3, 0x41, 1], AlertDescription::RecordOverflow),
        (Version::Tls12, [23, 3, 3, 0x48, 1], AlertDescription::RecordOverflow),
        (Version::Tls12, [23, 3, 1, 0, 40], AlertDescription::ProtocolVersion),
        (Version::Tls12, [b'G', b'E', b'T', b' ', b'/'], AlertDescription::ProtocolVersion),
        (Version::Tls12, [99, 3, 3, 0, 40], AlertDescription::UnexpectedMessage),
    ] {
        let (mut own, mut other) = pair(version, Cipher::Aes128Gcm);
        let (came, told) = read(&mut own, &mut other, head.to_vec());
        assert_eq!((came.is_err(), told), (true, vec![[FATAL, alert.into()]]), "{version:?} {head:?}");
    }
    // Too short to hold anything at all.
    for version in BOTH {
        for length in 0..24 {
            let (mut own, mut other) = pair(version, Cipher::Aes128Gcm);
            let input = [&[23, 3, 3, 0, length][..], &vec![0; length.into()]].concat();
            let told = read(&mut own, &mut other, input).1;
            assert_eq!(told, [[FATAL, AlertDescription::BadRecordMac.into()]], "{version:?} {length}");
        }
    }
}

#[test]
fn what_brings_nothing_may_come_some_times_in_a_row() {
    let nothing: [(Version, u8, &[u8]); 5] = [
        (Version::Tls13, DATA, b""),
        (Version::Tls12, DATA, b""),
        (Version::Tls13, ALERT, &[WARNING, 90]),
        (Version::Tls12, ALERT, &[WARNING, 41]),
        (Version::Tls13, HANDSHAKE, &[24, 0, 0, 1, 1]),
    ];
    for (version, kind, content) in nothing {
        let (mut own, mut other) = pair(version, Cipher::ChaCha20Poly1305);
        let again = |own: &mut Records, other: &mut Records| {
            let record = record(other, kind, content);
            let told = read(own, other, record);
            other.follow(own);
            told
        };
        for _ in 0..3 {
            for _ in 0..FRUITLESS {
                assert_eq!(again(&mut own, &mut other), (Ok(vec![]), vec![]), "{version:?} {kind}");
            }
            let something = record(&mut other, DATA, b"x");
            assert_eq!(read(&mut own, &mut other, something).0, Ok(b"x".to_vec()));
        }
        for _ in 0..FRUITLESS {
            again(&mut own, &mut other).0.unwrap();
        }
        let (came, told) = again(&mut own, &mut other);
        assert_eq!((came.is_err(), told), (true, vec![[FATAL, 10]]), "{version:?} {kind}");
    }
}

#[test]
fn another_handshake_is_refused_and_the_connection_goes_on() {
    let (mut own, mut other) = pair(Version::Tls12, Cipher::Aes128Gcm);
    let mut input = record(&mut other, HANDSHAKE, &[CLIENT_HELLO, 0, 0, 40]);
    input.extend(record(&mut other, DATA, b"and on"));
    let told = read(&mut own, &mut other, input);
    assert_eq!(told, (Ok(b"and on".to_vec()), vec![[WARNING, AlertDescription::NoRenegotiation.into()]]));
    let input = record(&mut other, HANDSHAKE, &[CLIENT_HELLO, 0, 0, 40]);
    assert_eq!(read(&mut own, &mut other, input).1, [[FATAL, AlertDescription::UnexpectedMessage.into()]]);
}

#[test]
fn nothing_stands_within_a_message_of_the_handshake() {
    let (mut own, mut other) = pair(Version::Tls13, Cipher::Aes128Gcm);
    let mut input = record(&mut other, HANDSHAKE, &[24, 0]);
    input.extend(record(&mut other, DATA, b"not now"));
    let (came, told) = read(&mut own, &mut other, input);
    assert_eq!((came.is_err(), told), (true, vec![[FATAL, AlertDescription::UnexpectedMessage.into()]]));
}

/// Zeros may follow the content, as many as there is room for (RFC 8446, section 5.4).
#[test]
fn padding_is_left_out() {
    let (mut own, mut other) = pair(Version::Tls13, Cipher::Aes256Gcm);
    // The type as a part of the content: what follows it is padding.
    let padded = [&b"content"[..], &[DATA], &[0; 500]].concat();
    let input = record(&mut other, 0, &padded);
    assert_eq!(read(&mut own, &mut other, input).0, Ok(b"content".to_vec()));
}

#[test]
fn a_key_is_changed_before_it_has_enciphered_too_much() {
    for cipher in Cipher::ALL {
        let (mut own, mut other) = pair(Version::Tls13, cipher);
        (own.sends.sequence, other.receives.sequence) = (cipher.limit() - 1, cipher.limit() - 1);
        let mut out = Vec::new();
        for text in [b"one", b"two"] {
            own.write(text, &mut out).unwrap();
        }
        assert_eq!((own.sends.sequence, own.sends.cipher()), (1, cipher));
        let mut came = Vec::new();
        let (used, read) = other.read(&mut out, |bytes| came.extend_from_slice(bytes), &mut Vec::new());
        read.unwrap();
        assert_eq!((used, &came[..]), (out.len(), &b"onetwo"[..]));
        assert!(!other.wants_update && other.receives.sequence == 1);
    }
}

#[test]
fn a_key_of_tls_1_2_enciphers_no_more_than_it_may() {
    for cipher in Cipher::ALL {
        let (mut own, mut other) = pair(Version::Tls12, cipher);
        (own.sends.sequence, other.receives.sequence) = (cipher.limit() - 1, cipher.limit() - 1);
        let mut out = Vec::new();
        own.write(b"last", &mut out).unwrap();
        assert!(own.write(b"too much", &mut out).is_err());
        let mut came = Vec::new();
        other.read(&mut out, |bytes| came.extend_from_slice(bytes), &mut Vec::new()).1.unwrap();
        assert_eq!((&came[..], other.has_ended()), (&b"last"[..], true));
    }
}

#[test]
fn no_number_comes_twice() {
    let mut keys = Keys::made_of(Cipher::ChaCha20Poly1305, &[1; 32]).unwrap();
    let first = keys.number().unwrap();
    let second = keys.number().unwrap();
    assert!(first.1 != second.1 && (first.0, second.0) == (0, 1));
    keys.sequence = u64::MAX;
    assert!(keys.number().is_none() && keys.number().is_none(), "after the last there is none");
}

#[test]
fn what_is_damaged_is_not_taken_up() {
    let (own, _) = pair(Version::Tls13, Cipher::Aes128Gcm);
    let mut out = Encoder::default();
    own.save(&mut out);
    for length in 0..out.bytes.len() {
        assert!(Records::restore(&mut Decoder::new(&out.bytes[..length])).is_err(), "{length}");
    }
    out.bytes[1] = 9;
    assert!(Records::restore(&mut Decoder::new(&out.bytes)).is_err(), "no such cipher");
}
