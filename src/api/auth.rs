//! Who may call: HTTP Basic (RFC 7617) against the configured users.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use tokio::task::spawn_local;

use super::answer::Answer;
use super::call::Call;
use super::callers::{Caller, Taken};
use super::error::ApiError;
use super::login_throttle::Verdict;
use super::state::Api;
use crate::config::{Config, HostPattern, User};
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
            Call::Count => Right::Read,
            Call::Publish | Call::Send | Call::Close | Call::Conn => Right::Write,
        }
    }
}

/// Lets a call with that `Authorization` header pass, or says why not. Without configured users, everybody may do
/// everything.
pub fn check(users: &[User], authorization: Option<&[u8]>, caller: IpAddr, right: Right) -> Result<(), ApiError> {
    if users.is_empty() {
        return Ok(());
    }
    let credentials = authorization.and_then(decode);
    let (name, password) = credentials.ok_or(ApiError::Unauthorized)?;
    // Every user is compared, so that the time tells neither which names exist nor how much of a password was right.
    let mut found = None;
    for user in users {
        let same_name = same(&name, user.username.as_bytes());
        let same_password = same(&password, user.password.as_bytes());
        if same_name & same_password {
            found = Some(user);
        }
    }
    let user = found.ok_or(ApiError::Unauthorized)?;
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

impl Api {
    /// Lets a call with that `Authorization` pass, or says why not.
    pub(super) fn check(
        &self,
        config: &Config,
        authorization: Option<&[u8]>,
        caller: Caller,
        right: Right,
        taken: &Taken,
    ) -> Result<(), ApiError> {
        if config.users.is_empty() {
            return Ok(());
        }
        let seat = &taken.seat;
        let is_known =
            || config.users.iter().any(|user| user.host != HostPattern::Any && user.host.matches(caller.peer));
        if authorization.is_some() && !self.logins.may_try(caller.peer, seat, is_known) {
            rate_limited!(WARN, "credentials are not looked at", "";
                target: "connmix::api", peer = %caller.peer, "wrong credentials come faster than answers wait: those of this address are not looked at");
            return Err(ApiError::TooMany);
        }
        let checked = check(&config.users, authorization, caller.peer, right);
        if checked.is_ok() && !seat.proven.load(Relaxed) {
            seat.proven.store(true, Relaxed);
            self.logins.succeeded(caller.peer);
        }
        checked
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
                    let mut draining = self.draining.clone();
                    tokio::select! {
                        _ = spawn_local(waiting.rest()) => {}
                        _ = draining.wait_for(|draining| *draining) => {}
                    }
                }
                Verdict::End => answer.ends = true,
            }
        }
        answer
    }
}

/// Whether the caller has tried to log in: there is a name and a password, right or wrong.
fn is_login(authorization: Option<&[u8]>) -> bool {
    authorization.and_then(decode).is_some()
}

/// Name and password of a Basic header.
fn decode(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&b| b == b':')?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

/// Compares in a time that depends neither on where the texts differ nor on the length of the secret (apart from
/// hashing it): both are hashed, and the hashes are compared in constant time.
fn same(given: &[u8], secret: &[u8]) -> bool {
    let digest = |text: &[u8]| {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&Default::default());
        mac.update(text);
        mac.finalize()
    };
    digest(given) == digest(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostPattern, Roles};

    fn user(name: &str, password: &str, read: bool, write: bool) -> User {
        User {
            username: name.into(),
            password: password.into(),
            roles: Roles { read, write },
            host: HostPattern::V4([Some(127), None, None, None]),
        }
    }

    fn basic(credentials: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(credentials)).into_bytes()
    }

    #[test]
    fn users_are_checked_by_password_role_and_host() {
        let users = [user("ann", "s3:cret", true, true), user("bob", "", true, false)];
        let (here, there) = ([127, 0, 0, 1].into(), [10, 0, 0, 1].into());
        assert_eq!(check(&[], None, there, Right::Write), Ok(()));
        assert_eq!(check(&users, Some(&basic("ann:s3:cret")), here, Right::Write), Ok(()));
        assert_eq!(check(&users, Some(&basic("bob:")), here, Right::Read), Ok(()));
        assert!(matches!(check(&users, Some(&basic("bob:")), here, Right::Write), Err(ApiError::Forbidden(_))));
        assert!(matches!(check(&users, Some(&basic("ann:s3:cret")), there, Right::Read), Err(ApiError::Forbidden(_))));
        for wrong in ["ann:s3:cre", "ann:", "ANN:s3:cret", "x:s3:cret", "nocolon"] {
            assert_eq!(check(&users, Some(&basic(wrong)), here, Right::Read), Err(ApiError::Unauthorized), "{wrong}");
        }
        assert_eq!(check(&users, None, here, Right::Read), Err(ApiError::Unauthorized));
        assert_eq!(check(&users, Some(b"Bearer x"), here, Right::Read), Err(ApiError::Unauthorized));
    }
}
