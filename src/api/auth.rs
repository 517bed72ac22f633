//! Who may call: HTTP Basic (RFC 7617) or a bearer token (RFC 6750) against the configured users.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tokio::task::spawn_local;
use zeroize::Zeroizing;

use super::answer::Answer;
use super::call::Call;
use super::callers::{Caller, Taken};
use super::error::ApiError;
use super::login_throttle::Verdict;
use super::stage::Stage;
use super::state::Api;
use crate::config::{Config, HostPattern, User};
use crate::secret::{Secret, is_same};
use crate::telemetry::rate_limited::rate_limited;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Role `read`.
    Read,
    /// Role `write`.
    Write,
}

impl Right {
    /// What a call of the mesh needs.
    pub(super) fn to(call: Call) -> Right {
        match call {
            Call::Count | Call::Presence | Call::History => Right::Read,
            Call::Publish | Call::Send | Call::Close | Call::Conn => Right::Write,
        }
    }
}

/// What a caller shows.
enum Credentials {
    /// A name and a password.
    Basic(Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>),
    /// A token's SHA-256.
    Bearer([u8; 32]),
}

/// Whose credentials they are.
pub(super) enum Login<'a> {
    /// This user's.
    User(&'a User),
    /// Nobody's.
    Nobody,
    /// This user's, if the password has that hash. None: nobody's; but finding out takes as long, so that the time does
    /// not tell which names exist.
    Hashed(Option<&'a User>, &'a Secret),
}

/// Finds the user of an `Authorization` header. Computes no password's hash.
pub(super) fn find<'a>(users: &'a [User], authorization: Option<&[u8]>) -> Login<'a> {
    let (name, password) = match authorization.and_then(decode) {
        None => return Login::Nobody,
        Some(Credentials::Bearer(digest)) => {
            // Every user is compared, here and below, so that the time tells neither which names exist nor how much of a
            // secret was right.
            let has = |user: &User| user.token_digest.is_some_and(|own| is_same(&digest, &own));
            return users.iter().fold(Login::Nobody, |found, user| if has(user) { Login::User(user) } else { found });
        }
        Some(Credentials::Basic(name, password)) => (name, password),
    };
    let (mut found, mut hashed, mut any_hash) = (None, None, None);
    for user in users {
        let same_name = is_same(&name, user.username.as_bytes());
        let same_password = is_same(&password, user.password.expose().as_bytes());
        if same_name & same_password & !user.password.is_empty() {
            found = Some(user);
        }
        if !user.password_hash.is_empty() {
            any_hash = Some(&user.password_hash);
            if same_name {
                hashed = Some(user);
            }
        }
    }
    match (found, hashed, any_hash) {
        (Some(user), ..) => Login::User(user),
        (None, Some(user), _) => Login::Hashed(Some(user), &user.password_hash),
        (None, None, Some(hash)) => Login::Hashed(None, hash),
        (None, None, None) => Login::Nobody,
    }
}

/// Whether a user may do that from there.
pub(super) fn authorize(user: &User, caller: IpAddr, right: Right) -> Result<(), ApiError> {
    if !user.host.matches(caller) {
        return Err(ApiError::Forbidden("this user may not call from this address".into()));
    }
    match right {
        Right::Read if user.roles.read => Ok(()),
        Right::Write if user.roles.write => Ok(()),
        Right::Read => Err(ApiError::Forbidden("this user lacks the role read".into())),
        Right::Write => Err(ApiError::Forbidden("this user lacks the role write".into())),
    }
}

/// The name of the user whose credentials these are, once they have been found right; empty: nobody in particular.
pub(super) fn name_of<'a>(users: &'a [User], authorization: Option<&[u8]>) -> &'a str {
    match find(users, authorization) {
        Login::User(user) | Login::Hashed(Some(user), _) => &user.username,
        Login::Hashed(None, _) | Login::Nobody => "",
    }
}

impl Api {
    /// Lets a call with that `Authorization` pass, or says why not. None: only [`Api::verify`] can tell. Without configured
    /// users, everybody may do everything.
    pub(super) fn check(
        &self,
        config: &Config,
        authorization: Option<&[u8]>,
        caller: Caller,
        right: Right,
        taken: &Taken,
    ) -> Option<Result<(), ApiError>> {
        if config.users.is_empty() {
            return Some(Ok(()));
        }
        let seat = &taken.seat;
        if authorization.is_some() && !self.logins.may_try(caller.peer, seat, || is_named(&config.users, caller.peer)) {
            rate_limited!(WARN, "credentials are not looked at", "";
                target: "connmix::api", peer = %caller.peer, "wrong credentials come faster than answers wait: those of this address are not looked at");
            return Some(Err(ApiError::TooMany));
        }
        let checked = match find(&config.users, authorization) {
            Login::User(user) => authorize(user, caller.peer, right),
            Login::Nobody => Err(ApiError::Unauthorized),
            Login::Hashed(user, hash) => match user.filter(|_| self.is_known(hash, authorization)) {
                Some(user) => authorize(user, caller.peer, right),
                None => return None,
            },
        };
        self.proven(&checked, caller, taken);
        Some(checked)
    }

    /// The same where the hash of a password has to be computed.
    pub(super) async fn verify(
        &self,
        authorization: Option<&[u8]>,
        caller: Caller,
        right: Right,
        taken: &Taken,
    ) -> Result<(), ApiError> {
        let config = self.config.load_full();
        let checked = match (find(&config.users, authorization), authorization) {
            (Login::Hashed(user, hash), Some(header)) => {
                let Some(Credentials::Basic(_, password)) = decode(header) else { return Err(ApiError::Unauthorized) };
                let expected = is_named(&config.users, caller.peer) || self.logins.has_proven(caller.peer);
                match (self.verifier.verify(hash, header, password, caller.peer, expected).await, user) {
                    (None, _) => Err(ApiError::Busy),
                    (Some(true), Some(user)) => authorize(user, caller.peer, right),
                    (Some(_), _) => Err(ApiError::Unauthorized),
                }
            }
            (Login::User(user), _) => authorize(user, caller.peer, right),
            _ => Err(ApiError::Unauthorized),
        };
        self.proven(&checked, caller, taken);
        checked
    }

    fn is_known(&self, hash: &Secret, authorization: Option<&[u8]>) -> bool {
        authorization.is_some_and(|header| self.verifier.is_known(hash, header))
    }

    /// The hash that the password of this header is known to have, if it is by its hash that the user is known.
    pub(super) fn known_hash(&self, config: &Config, authorization: Option<&[u8]>) -> Option<Secret> {
        match find(&config.users, authorization) {
            Login::Hashed(Some(_), hash) => self.is_known(hash, authorization).then(|| hash.clone()),
            _ => None,
        }
    }

    fn proven(&self, checked: &Result<(), ApiError>, caller: Caller, taken: &Taken) {
        if checked.is_ok() && !taken.seat.proven.load(Relaxed) {
            taken.seat.proven.store(true, Relaxed);
            self.logins.succeeded(caller.peer);
        }
    }

    /// The answer to a call that is refused. After several failed logins the caller has to wait for it.
    pub(super) async fn refuse(
        &self,
        error: ApiError,
        authorization: Option<&[u8]>,
        caller: Caller,
        taken: &Taken,
    ) -> Answer {
        let mut answer = Answer::failure(&error, None);
        answer.ends = error == ApiError::TooMany;
        if error == ApiError::Unauthorized && is_login(authorization) {
            self.counts.logins_failed.add(1);
            taken.seat.guessed.store(true, Relaxed);
            match self.logins.failed(caller.peer) {
                Verdict::Now => {}
                Verdict::Later(waiting) => {
                    self.counts.logins_delayed.add(1);
                    let mut stage = self.stage.clone();
                    tokio::select! {
                        _ = spawn_local(waiting.rest()) => {}
                        _ = stage.wait_for(Stage::is_draining) => {}
                    }
                }
                Verdict::End => answer.ends = true,
            }
        }
        answer
    }
}

/// Whether the configuration names the address as that of a user.
fn is_named(users: &[User], caller: IpAddr) -> bool {
    users.iter().any(|user| user.host != HostPattern::Any && user.host.matches(caller))
}

/// Whether the caller has tried to log in: there are credentials, right or wrong.
fn is_login(authorization: Option<&[u8]>) -> bool {
    authorization.and_then(decode).is_some()
}

/// The credentials of a header.
fn decode(value: &[u8]) -> Option<Credentials> {
    let space = value.iter().position(|&b| b == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Credentials::Bearer(Sha256::digest(rest).into()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest).ok()?);
    let colon = decoded.iter().position(|&b| b == b':')?;
    let part = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
    Some(Credentials::Basic(part(&decoded[..colon]), part(&decoded[colon + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostPattern, Roles};

    fn user(name: &str, read: bool, write: bool) -> User {
        User {
            username: name.into(),
            password: Secret::default(),
            password_file: String::new(),
            password_hash: Secret::default(),
            token: Secret::default(),
            token_file: String::new(),
            token_hash: Secret::default(),
            roles: Roles { read, write },
            host: HostPattern::V4([Some(127), None, None, None]),
            token_digest: None,
        }
    }

    fn users() -> [User; 4] {
        [
            User { password: "s3:cret".into(), ..user("ann", true, true) },
            User { password: "b".into(), ..user("bob", true, false) },
            User { password_hash: "a hash".into(), ..user("eve", true, true) },
            User { token_digest: Some(Sha256::digest(b"t0ken").into()), ..user("robot", true, true) },
        ]
    }

    fn basic(credentials: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(credentials)).into_bytes()
    }

    /// The user that is found; `?` before one whose hash decides, alone where there is none.
    fn found(authorization: &[u8]) -> Option<String> {
        let users = users();
        match find(&users, Some(authorization)) {
            Login::User(user) => Some(user.username.clone()),
            Login::Hashed(user, _) => Some(format!("?{}", user.map_or("", |user| &user.username))),
            Login::Nobody => None,
        }
    }

    #[test]
    fn users_are_found_by_password_and_token() {
        assert_eq!(found(&basic("ann:s3:cret")).as_deref(), Some("ann"));
        assert_eq!(found(&basic("bob:b")).as_deref(), Some("bob"));
        assert_eq!(found(&basic("eve:any")).as_deref(), Some("?eve"));
        // Nobody, which takes as long to find out as for a user with a hash.
        for wrong in ["ann:s3:cre", "ann:", "ANN:s3:cret", "x:s3:cret", "robot:", "robot:t0ken"] {
            assert_eq!(found(&basic(wrong)).as_deref(), Some("?"), "{wrong}");
        }
        for right in [&b"Bearer t0ken"[..], b"bearer  t0ken "] {
            assert_eq!(found(right).as_deref(), Some("robot"));
        }
        for wrong in
            [&b"Bearer t0ke"[..], b"Bearer ", b"Bearer", b"Digest t0ken", b"Bearert0ken", b"", b"Basic !", b" "]
        {
            assert_eq!(found(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
        assert!(matches!(find(&users()[..2], Some(&basic("x:y"))), Login::Nobody));
        assert!(matches!(find(&users(), None), Login::Nobody));
        assert_eq!(found(&basic("nocolon")), None);
    }

    #[test]
    fn users_are_bounded_by_role_and_host() {
        let (here, there) = ([127, 0, 0, 1].into(), [10, 0, 0, 1].into());
        let [ann, bob, ..] = &users();
        assert_eq!(authorize(ann, here, Right::Write), Ok(()));
        assert_eq!(authorize(bob, here, Right::Read), Ok(()));
        assert!(matches!(authorize(bob, here, Right::Write), Err(ApiError::Forbidden(_))));
        assert!(matches!(authorize(ann, there, Right::Read), Err(ApiError::Forbidden(_))));
    }
}
