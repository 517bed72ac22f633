//! How a node proves to another that it knows the cluster's secret, without saying it: a message authentication code
//! (HMAC with SHA-256, RFC 2104) over what is random in both runs. So a proof that was heard serves nobody else.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cluster::protocol::Hello;

/// The proof of `from` towards `to` for the stream of that epoch.
pub fn of(secret: &[u8], from: &Hello, to: &Hello, epoch: u32) -> [u8; 32] {
    mac(secret, from, to, epoch).finalize().into_bytes().into()
}

/// Whether that is a proof, compared in constant time.
pub fn verify(secret: &[u8], from: &Hello, to: &Hello, epoch: u32, proof: &[u8; 32]) -> bool {
    mac(secret, from, to, epoch).verify_slice(proof).is_ok()
}

fn mac(secret: &[u8], from: &Hello, to: &Hello, epoch: u32) -> Hmac<Sha256> {
    // A key of any length will do: the library's error has no cause here.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(b"connmix mesh");
    for hello in [from, to] {
        mac.update(&hello.run.0.to_le_bytes());
        mac.update(&hello.nonce);
    }
    mac.update(&epoch.to_le_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::protocol::Run;

    #[test]
    fn a_proof_holds_for_one_secret_one_pair_and_one_stream() {
        let hello = |run: u64, nonce: u8| Hello {
            major: 1,
            minor: 0,
            run: Run(run),
            number: 1,
            engine: true,
            center: false,
            serving: false,
            started: 0,
            clients: 0,
            nonce: [nonce; 16],
            api: String::new(),
        };
        let (a, b) = (hello(1, 1), hello(2, 2));
        let proof = of(b"secret", &a, &b, 1);
        assert!(verify(b"secret", &a, &b, 1, &proof));
        assert!(!verify(b"another", &a, &b, 1, &proof));
        assert!(!verify(b"secret", &b, &a, 1, &proof));
        assert!(!verify(b"secret", &a, &hello(2, 3), 1, &proof));
        assert!(!verify(b"secret", &a, &b, 2, &proof));
    }
}
