//! Sets of JSON Web Keys that servers publish (RFC 7517), fetched and kept, for all workers together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::http::{Request, Response};
use crate::jwt::Keys;

/// The most servers whose keys are kept.
const MAX_URLS: usize = 64;
/// The largest set, in bytes.
const MAX_SET: usize = 256 * 1024;
/// How long a set is used before it is fetched anew.
const KEPT: Duration = Duration::from_secs(15 * 60);
/// How long it is used where fetching fails.
const KEPT_AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// Between two requests to one server: a token may name any key, and servers may be down.
const PAUSE: Duration = Duration::from_secs(10);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The sets that are kept, by URL.
#[derive(Default)]
pub(super) struct Sets(Mutex<HashMap<String, Arc<Set>>>);

/// What one server publishes.
#[derive(Default)]
struct Set {
    kept: Mutex<Kept>,
    /// Held by who fetches: others wait for what it finds.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default, Clone)]
struct Kept {
    keys: Option<(Arc<Keys>, Instant)>,
    /// When it was fetched last, and why that failed.
    tried: Option<(Instant, Option<String>)>,
}

impl Set {
    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sets {
    /// The keys of that URL, if they were fetched not long ago.
    pub(super) fn kept(&self, url: &str) -> Option<Arc<Keys>> {
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(url)?.clone();
        let (keys, fetched) = set.kept().keys?;
        (fetched.elapsed() < KEPT).then_some(keys)
    }

    /// The keys of that URL, fetched by `send` unless that was tried a moment ago. Where that fails, those from before for a
    /// while.
    pub(super) async fn keys(
        &self,
        url: String,
        send: impl AsyncFnOnce(Request) -> Result<Response, String>,
    ) -> Result<Arc<Keys>, String> {
        let set = {
            let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if sets.len() >= MAX_URLS && !sets.contains_key(&url) {
                return Err(format!("keys of {MAX_URLS} servers are kept already"));
            }
            sets.entry(url.clone()).or_default().clone()
        };
        let _fetching = set.fetching.lock().await;
        if set.kept().tried.is_none_or(|(at, _)| at.elapsed() >= PAUSE) {
            let fetched = fetch(&url, send).await;
            let (now, failed) = (Instant::now(), fetched.as_ref().err().cloned());
            let mut kept = set.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.tried = Some((now, failed));
            if let Ok(keys) = fetched {
                kept.keys = Some((Arc::new(keys), now));
            }
        }
        let Kept { keys, tried } = set.kept();
        let failed = || tried.and_then(|(_, failed)| failed).unwrap_or_else(|| "the keys are too old".into());
        keys.filter(|(_, fetched)| fetched.elapsed() < KEPT_AT_MOST).map(|(keys, _)| keys).ok_or_else(failed)
    }
}

/// Fetches a set. The error's text has no query: it may hold secrets.
async fn fetch(url: &str, send: impl AsyncFnOnce(Request) -> Result<Response, String>) -> Result<Keys, String> {
    let mut request = Request::new(b"GET", url.as_bytes())?;
    request.set_timeout(TIMEOUT);
    let response = send(request).await?;
    let whose = url.split(['?', '#']).next().unwrap_or_default();
    let whose = whose.rsplit_once('@').map_or(whose, |(_, host)| host);
    if response.status != 200 {
        return Err(format!("{whose} answered with status {}", response.status));
    } else if response.body.len() > MAX_SET {
        return Err(format!("the keys of {whose} have more than {MAX_SET} bytes"));
    }
    Keys::read_set(&response.body, false).map_err(|e| format!("{whose}: {e}"))
}
