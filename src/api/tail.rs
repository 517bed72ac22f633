//! `GET /v1/tail`: events of all engines, as they happen, one JSON object a line. The nodes are asked for them several times a
//! second ([`Question::Tail`]); between that they keep no more than one answer may have. So a watcher that is slow, or a
//! cluster that does very much, costs a bounded amount of memory, and the watcher is told how many events it has missed.
//!
//! Lines rather than server-sent events: a browser's `EventSource` sends no credentials, and `curl` with `jq` reads lines.

use bytes::Bytes;
use hyper::body::{Body, Frame};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::error::ApiError;
use super::fields::invalid;
use super::query::{is_on, pairs};
use super::stage::Stage;
use super::state::Api;
use crate::cluster::{Behind, Mesh};
use crate::hub::{Answer, Question, Wanted, Watch};
use crate::ids::ClientId;
use crate::message::Channel;

/// The content type.
pub(super) const LINES: &str = "application/x-ndjson";
/// The pause between two questions.
const EVERY: Duration = Duration::from_millis(250);
/// After so long without an event the watcher is told that all is well.
const ALIVE: Duration = Duration::from_secs(5);
/// Workers forget a watcher that has not asked for a bit longer than this.
const FORGOTTEN: Duration = Duration::from_secs(9);
/// How long the last line may take.
const END: Duration = Duration::from_secs(1);

/// Whether a query asks for the contents of messages, which needs another right.
pub(super) fn shows_bodies(query: &str) -> bool {
    // What is no switch at all is refused later.
    pairs(query).flatten().any(|(name, value)| name == "bodies" && is_on(name, &value) != Ok(false))
}

fn wanted(query: &str) -> Result<Wanted, ApiError> {
    let mut wanted = Wanted::default();
    for pair in pairs(query) {
        let (name, value) = pair?;
        match name {
            "channel" => {
                let whole = value.strip_suffix('*').unwrap_or(&value);
                if whole.len() == value.len() || !whole.is_empty() {
                    Channel::parse(whole.as_bytes()).map_err(|e| invalid(format!("parameter \"channel\": {e}")))?;
                }
                wanted.channel = Some((&*value).into());
            }
            "client" => {
                let none = || invalid("parameter \"client\" must be a client_id");
                wanted.client = Some(ClientId::parse(value.as_bytes()).ok_or_else(none)?);
            }
            "errors" => wanted.errors = is_on(name, &value)?,
            "bodies" => wanted.bodies = is_on(name, &value)?,
            _ => {}
        }
    }
    Ok(wanted)
}

/// The lines, as the body of an answer.
pub(super) struct Tail(mpsc::Receiver<Bytes>);

impl Body for Tail {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|lines| Ok(Frame::data(lines))))
    }
}

impl Api {
    /// Begins to watch, for the user with that name.
    pub(super) async fn tail(&self, query: &str, user: &str) -> Result<Tail, ApiError> {
        if self.stage().is_draining() {
            return Err(ApiError::Unavailable);
        }
        if !self.mesh.is_serving() {
            return Err(ApiError::Joining);
        }
        // On all nodes the same.
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(user).into();
        let watch = Watch::new(u32::from_be_bytes([a, b, c, d]), wanted(query)?);
        let (mesh, stage, changed) = (self.mesh.clone(), self.stage.clone(), self.reconfigured.subscribe());
        let first = ask(&mesh, &watch).await;
        if first.seen.refused {
            return Err(ApiError::Watched);
        }
        // One piece waits: while the watcher does not take it, nobody is asked.
        let (tell, lines) = mpsc::channel(1);
        spawn_local(Telling { mesh, watch, tell, stage, changed }.run(first));
        Ok(Tail(lines))
    }
}

async fn ask(mesh: &Mesh, watch: &Watch) -> Answer {
    mesh.ask(Question::Tail(watch.clone()), Behind::default()).await.await
}

/// A watcher that is told.
struct Telling {
    mesh: Arc<Mesh>,
    watch: Watch,
    tell: mpsc::Sender<Bytes>,
    stage: watch::Receiver<Stage>,
    /// Another configuration: who was allowed to watch may not be any more.
    changed: watch::Receiver<()>,
}

impl Telling {
    async fn run(mut self, first: Answer) {
        let mut lines = String::from("{\"event\":\"watching\"}\n");
        let (mut answer, mut asked, mut late, mut missing) = (first, Instant::now(), false, 0);
        let mut told = asked;
        let (why, again) = loop {
            if answer.seen.refused {
                break ("too many watch", false);
            }
            write(&mut lines, &answer, late, &mut missing);
            if lines.is_empty() && told.elapsed() >= ALIVE {
                lines.push_str("{\"event\":\"alive\"}\n");
            }
            if !lines.is_empty() {
                told = Instant::now();
            }
            let lines = Bytes::from(std::mem::take(&mut lines));
            let Telling { tell, stage, changed, .. } = &mut self;
            let next = async {
                // The watcher has gone, or has all lines before these.
                if !lines.is_empty() && tell.send(lines).await.is_err() {
                    return false;
                }
                tokio::select! {
                    () = tell.closed() => false,
                    () = sleep(EVERY) => true,
                }
            };
            tokio::select! {
                biased;
                stage = stage.wait_for(Stage::interrupts) => break match stage.as_deref() {
                    Ok(Stage::Moving) => ("another process takes over", true),
                    _ => ("the engine is shutting down", false),
                },
                _ = changed.changed() => break ("the configuration has changed", true),
                goes_on = next => if !goes_on { return },
            }
            late = asked.elapsed() >= FORGOTTEN;
            answer = ask(&self.mesh, &self.watch).await;
            asked = Instant::now();
        };
        let end = format!("{{\"event\":\"end\",\"text\":\"{why}\",\"again\":{again}}}\n");
        let _ = tokio::time::timeout(END, self.tell.send(end.into())).await;
    }
}

/// Appends what has come. `late`: the workers may have forgotten the watcher, and whatever happened meanwhile.
fn write(lines: &mut String, answer: &Answer, late: bool, missing: &mut u64) {
    for event in &answer.seen.events {
        lines.push_str(&event.text);
        lines.push('\n');
    }
    if late && answer.seen.new > 0 {
        lines.push_str("{\"event\":\"lost\"}\n");
    } else if answer.seen.lost > 0 {
        // It can't fail.
        let _ = writeln!(lines, "{{\"event\":\"lost\",\"count\":{}}}", answer.seen.lost);
    }
    if answer.unanswered != *missing {
        *missing = answer.unanswered;
        let _ = writeln!(lines, "{{\"event\":\"unanswered\",\"nodes\":{missing}}}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_stands_in_the_query() {
        let all = wanted("channel=room%3A7*&client=3668201644240134&errors=1&bodies&x=y").unwrap();
        assert_eq!((all.channel.as_deref(), all.errors, all.bodies), (Some("room:7*"), true, true));
        assert_eq!(all.client.map(ClientId::get), Some(3668201644240134));
        assert_eq!(wanted("channel=*&errors=0").unwrap().channel.as_deref(), Some("*"));
        for wrong in ["channel=", "channel=a%20b", "channel=%ff", "client=x", "client=", "errors=2", "bodies=no"] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
        for (query, shows) in
            [("bodies=1", true), ("a=1&bodies", true), ("bodies=0", false), ("", false), ("bodies=no", true)]
        {
            assert_eq!(shows_bodies(query), shows, "{query}");
        }
    }
}
