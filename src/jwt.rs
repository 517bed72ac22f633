//! JSON Web Tokens (RFC 7519), as back ends give them to their clients: whether one was signed with a key that is trusted,
//! and whether it is valid now and here. Nothing asynchronous, and no I/O.
//!
//! The key alone decides by which algorithm a signature is checked; the token's `alg` must name the same. So a public key
//! can't be taken for a secret, nor can a token do without a signature.

mod keys;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value as Json};

pub use keys::{Algorithm, Key, Keys, KeysError, MAX_KEYS};

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 64 * 1024;
/// The most keys that one token's signature is checked with.
const MAX_TRIES: usize = 16;

/// What is demanded of a token besides its signature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demands {
    /// It is for one of these. None: it must be for nobody in particular.
    pub audience: Vec<String>,
    /// It is from one of these; none: from anybody.
    pub issuer: Vec<String>,
    /// It is signed by one of these; none: by any.
    pub algorithms: Vec<Algorithm>,
    /// It has these claims.
    pub required: Vec<String>,
    /// Seconds by which clocks may differ.
    pub leeway: f64,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of one.
    #[error("no token: {0}")]
    Form(&'static str),
    /// Its algorithm is none that is accepted.
    #[error("the algorithm {0} is not accepted")]
    Algorithm(String),
    /// None of the keys is one for it.
    #[error("no key is there for it{0}")]
    NoKey(String),
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// It is not valid any more.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("the token is for another audience (aud)")]
    Audience,
    /// It is from somebody else.
    #[error("the token is from another issuer (iss)")]
    Issuer,
    /// A claim is not there, or is not what it has to be.
    #[error("the claim {0} {1}")]
    Claim(String, &'static str),
}

/// The claims of a token, if it is signed by one of the keys and meets the demands at that Unix time, in seconds.
pub fn verify(token: &[u8], keys: &Keys, demands: &Demands, now: f64) -> Result<Map<String, Json>, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Form("it is too long"));
    }
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, claims, signature] = parts[..] else {
        return Err(TokenError::Form("it has not three parts with dots between them"));
    };
    let signed = &token[..header.len() + 1 + claims.len()];
    let header = object(header, "its header is no JSON object in base64url")?;
    if header.contains_key("crit") {
        // RFC 7515, section 4.1.11: what it names must be understood.
        return Err(TokenError::Form("its header demands extensions (crit)"));
    }
    let Some(Json::String(name)) = header.get("alg") else {
        return Err(TokenError::Form("its header names no algorithm (alg)"));
    };
    let allowed = |algorithm: &Algorithm| demands.algorithms.is_empty() || demands.algorithms.contains(algorithm);
    let Some(algorithm) = Algorithm::named(name).filter(allowed) else {
        return Err(TokenError::Algorithm(shown(name)));
    };
    let kid = match header.get("kid") {
        None => None,
        Some(Json::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(TokenError::Form("its kid is no string")),
    };
    let signature = decoded(signature).ok_or(TokenError::Form("its signature is not base64url"))?;
    let mut fitting = keys.fitting(algorithm, kid).take(MAX_TRIES).peekable();
    if fitting.peek().is_none() {
        let of = kid.map_or_else(String::new, |kid| format!(" (kid {})", shown(kid)));
        return Err(TokenError::NoKey(format!(": {name}{of}")));
    }
    if !fitting.any(|key| key.has_signed(signed, &signature)) {
        return Err(TokenError::Signature);
    }
    let claims = object(claims, "its claims are no JSON object in base64url")?;
    check(&claims, demands, now)?;
    Ok(claims)
}

/// Whether the claims meet the demands (RFC 7519, section 4.1).
fn check(claims: &Map<String, Json>, demands: &Demands, now: f64) -> Result<(), TokenError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(n)) => Ok(n.as_f64()),
        Some(_) => Err(TokenError::Claim(name.into(), "is no number")),
    };
    if time("exp")?.is_some_and(|end| now >= end + demands.leeway) {
        return Err(TokenError::Expired);
    }
    if time("nbf")?.is_some_and(|begin| now < begin - demands.leeway) {
        return Err(TokenError::NotYet);
    }
    let is_ours = |audience: &Json| audience.as_str().is_some_and(|one| demands.audience.iter().any(|own| own == one));
    let fits = match claims.get("aud") {
        None => demands.audience.is_empty(),
        Some(Json::Array(audiences)) => audiences.iter().any(is_ours),
        Some(one) => is_ours(one),
    };
    if !fits {
        return Err(TokenError::Audience);
    }
    let issuer = claims.get("iss").and_then(Json::as_str);
    if !demands.issuer.is_empty() && !demands.issuer.iter().any(|known| Some(known.as_str()) == issuer) {
        return Err(TokenError::Issuer);
    }
    match demands.required.iter().find(|name| !claims.contains_key(*name)) {
        Some(name) => Err(TokenError::Claim(shown(name), "is missing")),
        None => Ok(()),
    }
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

fn object(part: &[u8], otherwise: &'static str) -> Result<Map<String, Json>, TokenError> {
    let object = decoded(part).and_then(|text| serde_json::from_slice(&text).ok());
    object.ok_or(TokenError::Form(otherwise))
}

/// A word of a token in an error's text.
fn shown(word: &str) -> String {
    word.chars().take(40).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
