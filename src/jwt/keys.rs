//! The algorithms of tokens, and the keys that these are checked with, as they are written: secrets as text, public keys as PEM (RFC 7468) or as a JSON
//! Web Key or a set of them (RFC 7517).

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::{Map, Value as Json};

/// The most keys of a set.
pub const MAX_KEYS: usize = 100;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them, by the names that tokens have (RFC 7518, section 3.1; RFC 8037, section 3.1).
    pub const ALL: [(&'static str, Algorithm); 4] = [
        ("HS256", Algorithm::Hs256),
        ("RS256", Algorithm::Rs256),
        ("ES256", Algorithm::Es256),
        ("EdDSA", Algorithm::EdDsa),
    ];

    /// The algorithm of that name, in its letter case.
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// Why a key can't be used. Says nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// There is none.
    #[error("no key: the text is empty")]
    Empty,
    /// A private key is no business of who only checks.
    #[error("a private key was given; only the public key is wanted")]
    Private,
    /// Certificates are not read.
    #[error("a certificate was given; its public key is wanted (openssl x509 -pubkey -noout)")]
    Certificate,
    /// It looks like PEM, and is not.
    #[error("the PEM can't be read: {0}")]
    Pem(&'static str),
    /// A public key that would be taken for a secret.
    #[error("a public key is given as PEM, with its BEGIN and END lines")]
    Bare,
    /// It looks like a JSON Web Key, and is not.
    #[error("the JSON Web Keys can't be read: {0}")]
    Json(&'static str),
    /// No key of those is of a kind that is known.
    #[error("none of the keys is for HS256, RS256, ES256 or EdDSA")]
    None,
}

/// Keys that are trusted.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

/// One key.
#[derive(Clone)]
pub struct Key {
    kind: Kind,
    id: Option<String>,
}

#[derive(Clone)]
enum Kind {
    Secret(Vec<u8>),
    /// A DER `RSAPublicKey` (RFC 8017, appendix A.1.1).
    Rsa(Vec<u8>),
    /// Modulus and exponent, big-endian.
    RsaParts {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point of P-256.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    fn new(kind: Kind) -> Key {
        Key { kind, id: None }
    }

    fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Secret(_) => Algorithm::Hs256,
            Kind::Rsa(_) | Kind::RsaParts { .. } => Algorithm::Rs256,
            Kind::P256(_) => Algorithm::Es256,
            Kind::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether that is this key's signature of these bytes.
    pub(super) fn has_signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::verify(&key, signed, signature).is_ok()
            }
            Kind::Rsa(der) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).verify(signed, signature).is_ok()
            }
            Kind::RsaParts { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
            Kind::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            Kind::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok(),
        }
    }
}

impl Keys {
    /// The keys in a text: PEM, JSON Web Keys, or else a secret.
    pub fn read(text: &[u8]) -> Result<Keys, KeysError> {
        let trimmed = text.trim_ascii();
        if text.is_empty() {
            return Err(KeysError::Empty);
        }
        if let Some(at) = memchr::memmem::find(text, b"-----BEGIN") {
            return pem(&text[at..]).map(Keys);
        }
        if trimmed.starts_with(b"{") || trimmed.starts_with(b"\xEF\xBB\xBF") {
            return Keys::read_set(text, true);
        }
        // What would be a secret that everybody knows.
        let is_public = |bytes: &[u8]| public_key(bytes).is_some() || bytes.starts_with(b"ssh-");
        let plain = BASE64_STANDARD.decode(trimmed.split(|b| b.is_ascii_whitespace()).collect::<Vec<_>>().concat());
        if is_public(trimmed) || plain.is_ok_and(|bytes| is_public(&bytes)) {
            return Err(KeysError::Bare);
        }
        Ok(Keys(vec![Key::new(Kind::Secret(text.to_vec()))]))
    }

    /// The keys of a JSON Web Key, or of a set. Those of unknown kinds are left out (RFC 7517, section 5); so are secrets,
    /// unless they are expected.
    pub fn read_set(text: &[u8], secrets: bool) -> Result<Keys, KeysError> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let Ok(Json::Object(json)) = serde_json::from_slice(text) else {
            return Err(KeysError::Json("it is no JSON object"));
        };
        let keys: Vec<Key> = match json.get("keys") {
            Some(Json::Array(keys)) if keys.len() > MAX_KEYS => return Err(KeysError::Json("there are more than 100")),
            Some(Json::Array(keys)) => keys.iter().filter_map(|key| web_key(key.as_object()?, secrets)).collect(),
            Some(_) => return Err(KeysError::Json("keys is no array")),
            None if json.contains_key("kty") => web_key(&json, secrets).into_iter().collect(),
            None => return Err(KeysError::Json("it has neither keys nor kty")),
        };
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Keys(keys)) }
    }

    /// Adds others to them.
    pub fn add(&mut self, others: Keys) {
        self.0.extend(others.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that may have signed a token: of its algorithm, and with its key id if both have one.
    pub(super) fn fitting<'a>(&'a self, algorithm: Algorithm, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| {
            let other = key.id.as_deref().zip(kid).is_some_and(|(own, wanted)| own != wanted);
            key.algorithm() == algorithm && !other
        })
    }
}

/// One JSON Web Key (RFC 7518, section 6; RFC 8037, section 2). None: it is of no use here.
fn web_key(json: &Map<String, Json>, secrets: bool) -> Option<Key> {
    let text = |name: &str| json.get(name).and_then(Json::as_str);
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
    let kind = match (text("kty")?, text("crv")) {
        ("oct", _) if secrets => Kind::Secret(bytes("k").filter(|secret| !secret.is_empty())?),
        ("RSA", _) => Kind::RsaParts { n: unpadded(bytes("n")?), e: unpadded(bytes("e")?) },
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x").filter(|x| x.len() == 32)?, bytes("y").filter(|y| y.len() == 32)?);
            Kind::P256([&[4][..], &x, &y].concat())
        }
        ("OKP", Some("Ed25519")) => Kind::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    let key = Key { kind, id: text("kid").map(str::to_owned) };
    let is_for_this = text("use").is_none_or(|usage| usage == "sig")
        && text("alg").is_none_or(|name| Algorithm::named(name) == Some(key.algorithm()));
    is_for_this.then_some(key)
}

/// A number's bytes without zeros in front, which some libraries write.
fn unpadded(bytes: Vec<u8>) -> Vec<u8> {
    let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes[from..].to_vec()
}

/// All keys of a PEM text.
fn pem(text: &[u8]) -> Result<Vec<Key>, KeysError> {
    let text = std::str::from_utf8(text).map_err(|_| KeysError::Pem("it is not text"))?;
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let (label, rest) = block.split_once("-----").ok_or(KeysError::Pem("a BEGIN line has no end"))?;
        let (body, _) =
            rest.split_once(&format!("-----END {label}-----")).ok_or(KeysError::Pem("an END line is missing"))?;
        if label.ends_with("PRIVATE KEY") {
            return Err(KeysError::Private);
        } else if label.ends_with("CERTIFICATE") {
            return Err(KeysError::Certificate);
        }
        let plain: String = body.split_ascii_whitespace().collect();
        let der = BASE64_STANDARD.decode(plain).map_err(|_| KeysError::Pem("what is in it is not base64"))?;
        let kind = match label {
            "PUBLIC KEY" => public_key(&der).ok_or(KeysError::None)?,
            "RSA PUBLIC KEY" => Kind::Rsa(der),
            _ => return Err(KeysError::Pem("it holds something else than public keys")),
        };
        if keys.len() == MAX_KEYS {
            return Err(KeysError::Pem("there are more than 100 keys"));
        }
        keys.push(Key::new(kind));
    }
    if keys.is_empty() { Err(KeysError::Pem("there is no key in it")) } else { Ok(keys) }
}

/// Object identifiers, as DER has them (RFC 3279, RFC 5480, RFC 8410).
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const ED25519_ID: &[u8] = &[0x2B, 0x65, 0x70];

/// The key in a DER `SubjectPublicKeyInfo` (RFC 5280, section 4.1). None: it is none, or of another kind.
fn public_key(der: &[u8]) -> Option<Kind> {
    const SEQUENCE: u8 = 0x30;
    const BITS: u8 = 0x03;
    const OBJECT: u8 = 0x06;
    let (info, rest) = element(der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let (algorithm, key) = element(info, SEQUENCE)?;
    let (id, parameters) = element(algorithm, OBJECT)?;
    let (bits, rest) = element(key, BITS)?;
    // No bits are unused.
    let bits = bits.strip_prefix(&[0])?.to_vec();
    if !rest.is_empty() {
        return None;
    }
    match id {
        RSA => Some(Kind::Rsa(bits)),
        EC if element(parameters, OBJECT)?.0 == P256 && bits.len() == 65 && bits[0] == 4 => Some(Kind::P256(bits)),
        ED25519_ID if bits.len() == 32 => Some(Kind::Ed25519(bits)),
        _ => None,
    }
}

/// The content of a DER element with that tag, and what stands behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first().filter(|_| first == tag)?;
    let (length, rest) = match length {
        0..=0x7F => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    rest.split_at_checked(length)
}
