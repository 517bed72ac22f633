//! Hashes of passwords, as PHC strings: argon2 (RFC 9106) and scrypt (RFC 7914).

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use scrypt::Scrypt;

/// The most memory that a hash may need, in bytes: a slip of the unit must not end the process.
const MEMORY: u64 = 1 << 30;
/// The most passes over it.
const PASSES: u64 = 64;

/// What is wrong with a hash; None: nothing, or it is empty.
pub fn problem_of(hash: &str) -> Option<&'static str> {
    const EXPECTED: &str = "expected a hash of argon2 or scrypt such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH, as \
                            connmix hash-password prints it";
    const TOO_DEAR: &str = "this hash needs more than 1GiB of memory or 64 passes";
    if hash.is_empty() {
        return None;
    }
    let Ok(hash) = PasswordHash::new(hash) else { return Some(EXPECTED) };
    if hash.salt.is_none() || hash.hash.is_none() {
        return Some(EXPECTED);
    }
    let cost = |name| hash.params.get_decimal(name).map(u64::from);
    let dear = match hash.algorithm.as_str() {
        "argon2id" | "argon2i" | "argon2d" if argon2::Params::try_from(&hash).is_ok() => {
            cost("m").is_none_or(|kib| kib > MEMORY >> 10) || cost("t").is_none_or(|passes| passes > PASSES)
        }
        "scrypt" if scrypt::Params::try_from(&hash).is_ok() => {
            let block = cost("r").unwrap_or(8).saturating_mul(128);
            let memory = cost("ln").map(|log_n| block.checked_shl(log_n as u32).filter(|_| log_n < 30));
            memory.flatten().is_none_or(|memory| memory > MEMORY) || cost("p").is_none_or(|passes| passes > PASSES)
        }
        _ => return Some(EXPECTED),
    };
    dear.then_some(TOO_DEAR)
}

/// Whether a password has that hash. Takes as much time and memory as the hash says.
pub fn verify(hash: &str, password: &[u8]) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    match hash.algorithm.as_str() {
        "scrypt" => Scrypt::new().verify_password(password, &hash).is_ok(),
        _ => Argon2::default().verify_password(password, &hash).is_ok(),
    }
}

/// The hash of a password, by argon2id with 19 MiB, two passes and a random salt. None: the password is too long.
pub fn hash(password: &[u8]) -> Option<String> {
    hash_with(&Argon2::default(), password)
}

fn hash_with(argon2: &Argon2<'_>, password: &[u8]) -> Option<String> {
    let salt = uuid::Uuid::new_v4().into_bytes();
    argon2.hash_password_with_salt(password, &salt).ok().map(|hash| hash.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use argon2::{Algorithm, Params, Version};

    /// A hash that takes no time.
    pub(crate) fn quick(password: &str) -> String {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        hash_with(&argon2, password.as_bytes()).unwrap()
    }

    /// Made by other programs: `password_hash` of PHP, and `hashlib.scrypt` of Python.
    const MADE_ELSEWHERE: [&str; 2] = [
        "$argon2id$v=19$m=64,t=1,p=1$T1huQ0phL2NWM09UMm43Uw$yKSZEmUSaPDlJHBgYcpWUvJtTE5qD5HdvNBHoofbIXY",
        "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$OWsz3HcfetRfOocd7/34a6m7YSIiEMcmi6NkV20Zx5M",
    ];

    #[test]
    fn a_password_has_its_hash_and_no_other_has() {
        let own = quick("sesame");
        for hash in MADE_ELSEWHERE.into_iter().chain([own.as_str()]) {
            assert_eq!(problem_of(hash), None, "{hash}");
            assert!(verify(hash, b"sesame") && !verify(hash, b"sesam") && !verify(hash, b""), "{hash}");
        }
        assert_ne!(own, quick("sesame"), "the salts differ");
        assert!(!verify("", b"") && !verify("sesame", b"sesame"));
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_told() {
        for bad in [
            "sesame",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$argon2id$v=19$m=1,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$2b$12$abcdefghijklmnopqrstuuxyz",
            "$pbkdf2-sha256$i=1000$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            assert!(problem_of(bad).unwrap().starts_with("expected a hash"), "{bad}");
        }
        for dear in [
            "$argon2id$v=19$m=2097152,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=19456,t=1000,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            "$scrypt$ln=21,r=8,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            assert!(problem_of(dear).unwrap().starts_with("this hash needs"), "{dear}");
        }
        assert_eq!(problem_of(""), None);
    }
}
