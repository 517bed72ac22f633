//! A certificate with its key, from two PEM files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::x509;
use crate::config::file::read;
use crate::telemetry::language::{Both, both, system};

/// The largest file of certificates or of a key.
const MAX_BYTES: u64 = 1 << 20;
/// How long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(14 * DAY);
const DAY: u64 = 24 * 3600;

/// A certificate that a port can show.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its file.
    pub file: String,
    /// The names of the DNS that it is for, in lower case; the first label may be `*`.
    pub names: Vec<String>,
    /// When it ends.
    pub expires: SystemTime,
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads it; the error names the file and what is wrong, and never holds anything of a key.
    pub(super) fn load(cert: &str, key: &str, provider: &CryptoProvider) -> Result<Certificate, Both> {
        let chain = certificates(cert)?;
        let facts = chain.first().and_then(|first| x509::read(first));
        let x509::Facts { expires, names } =
            facts.ok_or_else(|| both!("{cert}: its first certificate is broken", "{cert}: 其中的第一个证书已损坏"))?;
        let text = text(key)?;
        let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            both!(
                "{key}: no private key is in it (a PEM file; the key must not be encrypted)",
                "{key}: 其中没有私钥（应为 PEM 文件，私钥不能加密）"
            )
        })?;
        let key = CertifiedKey::from_der(chain, secret, provider).map_err(|e| match e {
            Error::InconsistentKeys(_) => both!("{key} is not the key of {cert}", "{key} 不是 {cert} 的私钥"),
            // Of the key it tells the kind at most.
            e => both!("{cert} cannot be used with {key}: {e}", "{cert} 不能与 {key} 一起使用：{e}"),
        })?;
        Ok(Certificate { file: cert.to_owned(), names, expires, key: Arc::new(key) })
    }

    /// What is to be told of its end: that it is over, or near.
    pub fn warning(&self, now: SystemTime) -> Option<Both> {
        let file = &self.file;
        let Ok(left) = self.expires.duration_since(now) else {
            return Some(both!("{file} has expired: clients refuse it", "{file} 已经过期：客户端会拒绝它"));
        };
        (left < SOON).then(|| match left.as_secs() / DAY {
            0 => both!("{file} expires within a day", "{file} 一天之内过期"),
            1 => both!("{file} expires in 1 day", "{file} 1 天后过期"),
            days => both!("{file} expires in {days} days", "{file} {days} 天后过期"),
        })
    }

    /// Seconds until it ends; negative once it has.
    pub fn seconds_left(&self, now: SystemTime) -> f64 {
        match self.expires.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(over) => -over.duration().as_secs_f64(),
        }
    }
}

/// All certificates of a PEM file, at least one.
pub(super) fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Both> {
    let text = text(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(both!("{file}: no certificate is in it (a PEM file)", "{file}: 其中没有证书（应为 PEM 文件）")),
        Err(e) => Err(Both::same(format!("{file}: {e}"))),
    }
}

fn text(file: &str) -> Result<Vec<u8>, Both> {
    read(Path::new(file), MAX_BYTES).map_err(|e| {
        let Both { en, zh } = system(&e);
        Both { en: format!("{file} cannot be read: {en}"), zh: format!("无法读取 {file}：{zh}") }
    })
}
