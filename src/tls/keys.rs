//! The keys of one direction of a connection, as plain data, and what they encipher and decipher: the bytes of one record
//! after the other, each under a number of its own. How records look, `records` knows.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey,
};
use ring::error::Unspecified;
use ring::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use tokio_rustls::rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use crate::handover::{Damaged, Decoder, Encoder};

/// The longest key.
const KEY: usize = 32;
/// The longest secret: as long as the longest hash.
const SECRET: usize = 48;
/// The most records that AES may encipher by one key (RFC 8446, section 5.5).
const AES_LIMIT: u64 = 1 << 24;

/// How records are enciphered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub(super) const ALL: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    fn aead(self) -> &'static Algorithm {
        match self {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// The hash of the suite of TLS 1.3 that has it (RFC 8446, section B.4).
    fn hash(self) -> hkdf::Algorithm {
        match self {
            Cipher::Aes128Gcm | Cipher::ChaCha20Poly1305 => HKDF_SHA256,
            Cipher::Aes256Gcm => HKDF_SHA384,
        }
    }

    pub(super) fn is_gcm(self) -> bool {
        self != Cipher::ChaCha20Poly1305
    }

    /// The most records that one key may encipher.
    pub(super) fn limit(self) -> u64 {
        match self {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => AES_LIMIT,
            // There is none but that each record has a number.
            Cipher::ChaCha20Poly1305 => u64::MAX - 1,
        }
    }
}

/// The keys of one direction, and how far they have been used.
pub(super) struct Keys {
    cipher: Cipher,
    key: Zeroizing<[u8; KEY]>,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// Of TLS 1.3: what the key was made of, and the next one is.
    secret: Zeroizing<[u8; SECRET]>,
    /// The number of the next record.
    pub(super) sequence: u64,
}

impl Keys {
    /// Those that the handshake has agreed on. `secret`: of TLS 1.3, what they were made of.
    pub(super) fn of(agreed: (u64, ConnectionTrafficSecrets), secret: Option<&[u8]>) -> Option<Keys> {
        let (sequence, secrets) = agreed;
        let (cipher, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::ChaCha20Poly1305, key, iv),
            _ => return None,
        };
        let mut keys = Keys::empty(cipher);
        keys.sequence = sequence;
        fill(&mut *keys.key, key.as_ref(), cipher.aead().key_len())?;
        fill(&mut *keys.iv, iv.as_ref(), NONCE_LEN)?;
        if let Some(secret) = secret {
            fill(&mut *keys.secret, secret, cipher.hash().len())?;
            // Making them once more would take a hundredth of the handshake.
            debug_assert!(Keys::made_of(cipher, secret).is_some_and(|made| made.key == keys.key && made.iv == keys.iv));
        }
        Some(keys)
    }

    fn empty(cipher: Cipher) -> Keys {
        Keys {
            cipher,
            key: Zeroizing::default(),
            iv: Zeroizing::default(),
            secret: Zeroizing::new([0; SECRET]),
            sequence: 0,
        }
    }

    /// The keys that a secret of TLS 1.3 makes, unused (RFC 8446, section 7.3).
    pub(super) fn made_of(cipher: Cipher, secret: &[u8]) -> Option<Keys> {
        let mut keys = Keys::empty(cipher);
        fill(&mut *keys.secret, secret, cipher.hash().len())?;
        expand(cipher, secret, "key", &mut keys.key[..cipher.aead().key_len()]).ok()?;
        expand(cipher, secret, "iv", &mut *keys.iv).ok()?;
        Some(keys)
    }

    /// The keys after these (RFC 8446, section 7.2).
    pub(super) fn next(&self) -> Option<Keys> {
        let (mut next, length) = (Zeroizing::new([0; SECRET]), self.cipher.hash().len());
        expand(self.cipher, &self.secret[..length], "traffic upd", &mut next[..length]).ok()?;
        Keys::made_of(self.cipher, &next[..length])
    }

    pub(super) fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The cipher with this key. That it is made when it is needed, and not kept, makes an idle connection small; it takes
    /// about as long as to encipher a short message.
    pub(super) fn ready(&self) -> Result<LessSafeKey, Unspecified> {
        let aead = self.cipher.aead();
        UnboundKey::new(aead, &self.key[..aead.key_len()]).map(LessSafeKey::new)
    }

    /// The number of the next record and the nonce that follows from it, which nothing else will ever be enciphered by
    /// (RFC 8446, section 5.3; RFC 7905, section 2). None: there is no further number.
    pub(super) fn number(&mut self) -> Option<(u64, [u8; NONCE_LEN])> {
        let number = self.sequence;
        self.sequence = number.checked_add(1)?;
        let mut nonce = *self.iv;
        nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of)| *byte ^= of);
        Some((number, nonce))
    }

    /// What AES-GCM of TLS 1.2 begins each nonce with (RFC 5288, section 3).
    pub(super) fn salt(&self) -> [u8; 4] {
        [self.iv[0], self.iv[1], self.iv[2], self.iv[3]]
    }

    /// Writes them for a successor process.
    pub(super) fn save(&self, out: &mut Encoder) {
        out.byte(Cipher::ALL.iter().position(|cipher| *cipher == self.cipher).unwrap_or_default() as u8);
        [&self.key[..], &self.iv[..], &self.secret[..]].into_iter().for_each(|bytes| out.data(bytes));
        out.u64(self.sequence);
    }

    /// Reads what [`Keys::save`] has written.
    pub(super) fn read(from: &mut Decoder<'_>) -> Result<Keys, Damaged> {
        let cipher = Cipher::ALL.get(usize::from(from.byte()?)).ok_or(Damaged("a cipher of TLS"))?;
        let mut keys = Keys::empty(*cipher);
        for into in [&mut keys.key[..], &mut keys.iv[..], &mut keys.secret[..]] {
            let length = into.len();
            fill(into, from.data()?, length).ok_or(Damaged("a key of TLS"))?;
        }
        keys.sequence = from.u64()?;
        Ok(keys)
    }
}

/// Copies bytes that must be so many.
fn fill(into: &mut [u8], from: &[u8], length: usize) -> Option<()> {
    let from = Some(from).filter(|from| from.len() == length)?;
    into.get_mut(..length)?.copy_from_slice(from);
    Some(())
}

/// HKDF-Expand-Label without a context (RFC 8446, section 7.1).
fn expand(cipher: Cipher, secret: &[u8], label: &str, out: &mut [u8]) -> Result<(), Unspecified> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &str = "tls13 ";
    let length = (out.len() as u16).to_be_bytes();
    let info = [&length[..], &[(PREFIX.len() + label.len()) as u8], PREFIX.as_bytes(), label.as_bytes(), &[0]];
    Prk::new_less_safe(cipher.hash(), secret).expand(&info, Length(out.len()))?.fill(out)
}

/// Enciphers bytes where they are; gives the tag that follows them.
pub(super) fn seal(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    head: &[u8],
    content: &mut [u8],
) -> Result<Tag, Unspecified> {
    key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(head), content)
}

/// Deciphers bytes that end with their tag, from that position on, to the beginning.
pub(super) fn open<'a>(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    head: &[u8],
    content: &'a mut [u8],
    from: usize,
) -> Result<&'a mut [u8], Unspecified> {
    key.open_within(Nonce::assume_unique_for_key(nonce), Aad::from(head), content, from..)
}
