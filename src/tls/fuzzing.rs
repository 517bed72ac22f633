//! What must hold of records, whatever a client makes of them.

use super::keys::{Cipher, Keys};
use super::records::{Records, Version};
use crate::handover::{Decoder, Encoder};

/// What a client says by itself, not as the content of a record.
const BARE: u8 = 255;
/// The type of a record with content.
const DATA: u8 = 23;

/// Two ends of a connection whose handshake is over, by TLS 1.3.
#[cfg(test)]
pub fn open_pair() -> [super::Session; 2] {
    let keys = |of: u8| Keys::made_of(Cipher::Aes128Gcm, &[of; 32]).unwrap();
    [(1, 2), (2, 1)].map(|(sends, receives)| {
        let mut out = Encoder::default();
        Records::new(Version::Tls13, keys(sends), keys(receives)).save(&mut out);
        super::Session::restore(&mut Decoder::new(&out.bytes)).unwrap()
    })
}

/// Records of any types with any content, and bytes that are none. Each comes at once and in pieces, in one process and in
/// many: it makes no difference. Content arrives as it was sent, and the client learns in a few bytes why it is not let go on.
pub fn records(bytes: &[u8]) {
    let [how, piece, rest @ ..] = bytes else { return };
    let version = if how & 1 == 0 { Version::Tls12 } else { Version::Tls13 };
    let cipher = Cipher::ALL[usize::from(how >> 1) % Cipher::ALL.len()];
    let end = |sends: u8, receives: u8| {
        let keys = |of: u8| Keys::made_of(cipher, &vec![of; if cipher == Cipher::Aes256Gcm { 48 } else { 32 }]);
        Records::new(version, keys(sends).unwrap(), keys(receives).unwrap())
    };
    let (mut client, mut whole, mut pieces) = (end(1, 2), end(2, 1), end(2, 1));
    let (mut at_once, mut in_pieces, mut rest) = (Vec::new(), Vec::new(), rest);
    while let [kind, length, more @ ..] = rest {
        let (content, more) = more.split_at(more.len().min((*length).into()));
        rest = more;
        let mut record = Vec::new();
        match *kind {
            BARE => record.extend_from_slice(content),
            kind => assert!(client.seal_any(kind, content, &mut record)),
        }
        at_once.extend_from_slice(&record);
        let (mut came, mut told) = (Vec::new(), Vec::new());
        let (used, read) = whole.read(&mut at_once, |bytes| came.extend_from_slice(bytes), &mut told);
        at_once.drain(..used);
        let (mut came_again, mut told_again, mut failed) = (Vec::new(), Vec::new(), None);
        for piece in record.chunks((*piece).max(1).into()) {
            in_pieces.extend_from_slice(piece);
            let (used, read) =
                pieces.read(&mut in_pieces, |bytes| came_again.extend_from_slice(bytes), &mut told_again);
            in_pieces.drain(..used);
            failed = read.err();
            if failed.is_some() {
                break;
            }
            let mut out = Encoder::default();
            pieces.save(&mut out);
            pieces = Records::restore(&mut Decoder::new(&out.bytes)).unwrap();
        }
        let why = |failure: &super::Failure| failure.to_string();
        assert_eq!((&came, &told), (&came_again, &told_again));
        assert_eq!(read.as_ref().err().map(why), failed.as_ref().map(why));
        assert!(told.len() <= 64, "{} bytes", told.len());
        if read.is_err() {
            return;
        }
        if *kind == DATA && at_once.is_empty() && !whole.has_ended() {
            assert_eq!(came, content);
        }
        // Both ends change a key at the same record.
        client.follow(&whole);
    }
}
