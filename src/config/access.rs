//! The secrets of the configuration: which of them may stand together, and what is in the files that are named.
//!
//! Such a file is read with the configuration, at the start and at each reload. It is not watched.

use super::file;
use super::keys::{Config, User};
use super::raw::value::Value;
use crate::secret::{Secret, digest};
use crate::telemetry::language::{Both, both, system};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The longest file of a secret, in bytes.
const MOST: u64 = 4096;

/// Completes the users and the Redis servers: reads their files. Problems are reported where the keys stand below `root`.
pub fn settle(config: &mut Config, root: &Value<'_>) {
    for (user, at) in config.users.iter_mut().zip(root.get("access.users").entries()) {
        let has_password =
            one_of(&at, &mut user.password, &user.password_file, "password", &["passwordFile", "passwordHash"]);
        let has_token = one_of(&at, &mut user.token, &user.token_file, "token", &["tokenFile", "tokenHash"]);
        if !has_password && !has_token {
            let missing = both!(
                "missing; a user has a password, a passwordFile, a passwordHash, or a token, a tokenFile or a tokenHash",
                "缺少；用户要有 password、passwordFile 或 passwordHash，或者 token、tokenFile 或 tokenHash"
            );
            let key = at.get("password");
            key.report(if key.is_set() { both!("must not be empty", "不能为空") } else { missing });
        }
        user.token_digest = token_digest(user);
    }
    for (redis, at) in config.luavm.redis.iter_mut().zip(root.get("engine.luavm.redis").entries()) {
        one_of(&at, &mut redis.password, &redis.password_file, "password", &["passwordFile"]);
    }
}

/// Whether a secret is given, in any of its forms; at most one may be. The one in a file is put into `secret`.
fn one_of(at: &Value<'_>, secret: &mut Secret, file: &str, key: &str, others: &[&str]) -> bool {
    let is_given = |key: &&str| {
        let value = at.get(key);
        value.is_unknown() || value.text().is_some_and(|text| !text.is_empty())
    };
    let given: Vec<&str> = std::iter::once(&key).chain(others).copied().filter(|key| is_given(key)).collect();
    if let [first, second, ..] = given[..] {
        at.get(second).report(both!("{first} is given too; only one of them may be", "还写了 {first}；两者只能写一个"));
    } else if !file.is_empty() {
        match read(file) {
            Ok(text) => *secret = text,
            Err(why) => at.get(others[0]).report(why),
        }
    }
    // A list in its place has been reported.
    !given.is_empty() || at.get(key).is_set() && at.get(key).is_many()
}

fn token_digest(user: &User) -> Option<[u8; 32]> {
    match user.token.is_empty() {
        true => digest(user.token_hash.expose()),
        false => Some(Sha256::digest(user.token.expose()).into()),
    }
}

/// The secret in a file, which is relative to the working directory: its first line, without spaces around it.
pub fn read(name: &str) -> Result<Secret, Both> {
    let bytes = file::read(name.as_ref(), MOST).map_err(|error| {
        let Both { en, zh } = system(&error);
        Both { en: format!("{name} cannot be read: {en}"), zh: format!("无法读取 {name}：{zh}") }
    })?;
    let bytes = Zeroizing::new(bytes);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    match std::str::from_utf8(line) {
        Ok("") => Err(both!("the first line of {name} is empty", "{name} 的第一行是空的")),
        Ok(line) => Ok(line.into()),
        Err(_) => Err(both!("the first line of {name} is no text", "{name} 的第一行不是文本")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::parse;
    use super::*;

    /// The configuration with those users, or its problems. `DIR` is a folder with files of secrets.
    fn users(users: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("pass", " from-a-file \nsecond line\n"), ("empty", "\n\n"), ("binary", "\u{0}")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::write(dir.path().join("binary"), b"\xff\xfe").unwrap();
        std::fs::write(dir.path().join("e.lua"), "").unwrap();
        let users = users.replace("DIR", dir.path().to_str().unwrap());
        let text = format!("access: {{users: [{users}]}}\nengine: {{servers: [{{entry: e.lua}}]}}");
        let read = parse(&dir.path().join("connmix.yaml"), &text);
        read.map_err(|problems| problems.list.iter().map(|p| format!("{}: {}\n", p.key, p.message)).collect())
    }

    #[test]
    fn a_secret_may_stand_in_a_file() {
        let config = users("{username: a, passwordFile: DIR/pass}, {username: b, tokenFile: DIR/pass}").unwrap();
        assert_eq!(config.users[0].password.expose(), "from-a-file");
        let digest: [u8; 32] = Sha256::digest("from-a-file").into();
        assert_eq!((config.users[0].token_digest, config.users[1].token_digest), (None, Some(digest)));
        assert!(config.users[1].password.is_empty());
    }

    #[test]
    fn a_token_may_be_known_by_its_hash() {
        let digest = "3C469E9D6C5875D37A43F353D4F88E61FCF812C66EEE3457465A40B0DA4153E0";
        let config = users(&format!("{{username: a, tokenHash: {digest}}}, {{username: b, token: token}}")).unwrap();
        assert_eq!(config.users[0].token_digest, config.users[1].token_digest);
        assert!(users("{username: a, tokenHash: abc}").unwrap_err().contains("64 hexadecimal digits"));
    }

    #[test]
    fn exactly_one_form_of_a_secret_is_given() {
        for (user, want) in [
            ("{username: a}", "password: missing; a user has"),
            ("{username: a, password: ''}", "password: must not be empty"),
            ("{username: a, password: x, passwordFile: DIR/pass}", "passwordFile: password is given too"),
            ("{username: a, token: x, tokenFile: DIR/pass}", "tokenFile: token is given too"),
            ("{username: a, passwordFile: DIR/none}", "none cannot be read: "),
            ("{username: a, passwordFile: DIR}", "cannot be read: it is a folder"),
            ("{username: a, passwordFile: DIR/empty}", "empty is empty"),
            ("{username: a, passwordFile: DIR/binary}", "binary is no text"),
            ("{username: a, passwordHash: sesame}", "passwordHash: expected"),
            ("{username: a, password: [sesame]}", "password: expected text, got a list"),
            (
                "{username: a, password: '${CONNMIX_UNSET}'}",
                "password: the environment variable CONNMIX_UNSET is not set",
            ),
            ("{username: a, token: 'x${CONNMIX_UNSET}'}", "token: the environment variable CONNMIX_UNSET is not set"),
            (
                "{username: a, tokenHash: '${CONNMIX_UNSET}'}",
                "tokenHash: the environment variable CONNMIX_UNSET is not set",
            ),
            (
                "{username: a, passwordFile: '${CONNMIX_UNSET}'}",
                "passwordFile: the environment variable CONNMIX_UNSET is not",
            ),
        ] {
            let problems = users(user).unwrap_err();
            assert!(problems.contains(want) && problems.lines().count() == 1, "{user}: {problems}");
            assert!(!problems.contains("sesame"), "{problems}");
        }
        assert!(users("{username: a, password: x, token: y}").is_ok());
    }
}
