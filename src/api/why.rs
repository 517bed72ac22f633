//! `GET /v1/why`: why a message did not reach a client. It tells what is known: where the client is now, how it ended, which
//! channels it has left or was not let into, and what a publish with an id came to. What nobody remembers it says, too.

use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::ApiError;
use super::fields::{CLIENT_ID, Field, client_id, invalid};
use super::query::pairs;
use super::state::Api;
use crate::cluster::{Behind, Home};
use crate::hub::{Answer, ClientInfo, CommandError, Ended, PastPublish, Question, Story, Turn};
use crate::ids::{ClientId, Issued};
use crate::message::Channel;

/// What is asked.
struct Asked {
    client: Result<ClientId, u64>,
    channel: Option<Channel>,
    /// The id of a publish.
    message: Option<String>,
}

/// What is told.
#[derive(Debug, Serialize)]
pub(super) struct Why {
    client: String,
    verdict: Verdict,
    /// The same in a sentence or two.
    because: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Now>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    turns: Vec<Turn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Connected, and no channel was asked for.
    Connected,
    /// It is in the channel now.
    Subscribed,
    /// It has left the channel.
    Left,
    /// A rule or a bound did not let it into the channel.
    Refused,
    /// It has not been in the channel, as far as is remembered.
    NeverSubscribed,
    /// Its connection has ended.
    Closed,
    /// It was connected, and its end is not remembered any more.
    Forgotten,
    /// Its id is of no node that can be reached from here.
    OtherNode,
    /// Its id was given out by an earlier run, if at all.
    EarlierRun,
    /// There has been no such client.
    NeverConnected,
}

/// A client that is connected.
#[derive(Debug, Serialize)]
struct Now {
    node: String,
    server: u32,
    address: String,
    channels: Vec<String>,
    subscriptions: u64,
    waiting: u64,
    /// When it came, in seconds of Unix time.
    since: u64,
}

/// A publish with an id.
#[derive(Debug, Serialize)]
struct Message {
    id: String,
    /// When it came, in milliseconds of Unix time.
    at: u64,
    channels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<serde_json::Value>,
}

fn read(query: &str) -> Result<Asked, ApiError> {
    let (mut client, mut channel, mut message) = (None, None, None);
    for pair in pairs(query) {
        let (name, value) = pair?;
        match name {
            "client" => {
                let number = client_id(&Field::Text(value));
                let number = number.ok_or_else(|| invalid(format!("parameter \"client\" {CLIENT_ID}")))?;
                client = Some(ClientId::new(number).ok_or(number));
            }
            "channel" => {
                let parsed = Channel::parse(value.as_bytes());
                channel = Some(parsed.map_err(|e| invalid(format!("parameter \"channel\": {e}")))?);
            }
            "message" => message = Some(value.into_owned()),
            _ => {}
        }
    }
    let client = client.ok_or_else(|| invalid("parameter \"client\" is missing"))?;
    Ok(Asked { client, channel, message })
}

impl Api {
    /// Answers why.
    pub(super) async fn why(&self, query: &str) -> Result<Why, ApiError> {
        if !self.mesh.is_serving() {
            return Err(ApiError::Joining);
        }
        let asked = read(query)?;
        let client = match asked.client {
            Ok(client) => client,
            Err(number) => {
                let because = format!("no client can have the id {number}");
                return Ok(Why::new(number.to_string(), Verdict::NeverConnected, because));
            }
        };
        let remembered = match &asked.message {
            Some(id) => self.remembered(id).await,
            None => None,
        };
        let mut why = match self.mesh.home_of(client) {
            Home::Elsewhere => {
                let number = client.node().map_or(0, |node| node.get());
                let because = format!(
                    "it is a client of the node with the number {number}, which this node has no link to: that node has ended, \
                     or is in another cluster"
                );
                Why::new(client.to_string(), Verdict::OtherNode, because)
            }
            Home::Here | Home::Linked => {
                let now = self.known(Question::Client(client), client).await?;
                let story = self.known(Question::Story(client), client).await?.story.unwrap_or_default();
                let channels = match (asked.channel, &remembered) {
                    (Some(channel), _) => vec![channel.as_str().to_owned()],
                    (None, Some(publish)) => publish.channels.clone(),
                    (None, None) => Vec::new(),
                };
                tell(
                    client,
                    now.client.map(|info| *info),
                    story,
                    &channels,
                    remembered.as_ref().map(|publish| publish.at),
                )
            }
        };
        why.add_message(asked.message, remembered);
        Ok(why)
    }

    /// The publish with that id, as this node remembers it, or the one that knows whether there has been one.
    async fn remembered(&self, id: &str) -> Option<PastPublish> {
        match self.repeats.find(id) {
            Some(publish) => Some(publish),
            None => {
                let answer = self.mesh.ask(Question::Publish(id.into()), Behind::default()).await.await;
                answer.publish.map(|publish| *publish)
            }
        }
    }

    async fn known(&self, question: Question, client: ClientId) -> Result<Answer, ApiError> {
        let answer = self.mesh.ask(question, Behind::default()).await.await;
        match answer.unanswered {
            0 => Ok(answer),
            _ => Err(ApiError::NotObeyed(CommandError::Unanswered(client))),
        }
    }
}

impl Why {
    fn new(client: String, verdict: Verdict, because: String) -> Why {
        Why { client, verdict, because, now: None, ended: None, turns: Vec::new(), message: None }
    }

    fn add_message(&mut self, id: Option<String>, remembered: Option<PastPublish>) {
        match (id, remembered) {
            (Some(id), Some(PastPublish { at, channels, outcome })) => {
                let outcome = outcome.and_then(|outcome| serde_json::from_str(&outcome).ok());
                self.message = Some(Message { id, at, channels, outcome });
            }
            (Some(_), None) => {
                self.because.truncate(self.because.trim_end_matches('.').len());
                self.because
                    .push_str("; no publish with that id is known: it is older than five minutes, or had no id");
            }
            (None, _) => {}
        }
    }
}

/// What is known of a client, and what that means for these channels and a message that was published then.
fn tell(client: ClientId, now: Option<ClientInfo>, story: Story, channels: &[String], published: Option<u64>) -> Why {
    let ago = |at: u64| ago(at, clock());
    let id = client.to_string();
    if let Some(info) = now {
        let (verdict, because) = of_connected(&info, &story, channels, published);
        let ClientInfo { node, server, address, channels, subscriptions, waiting, since, .. } = info;
        let node = node.to_string();
        let now = Some(Now { node, server, address, channels, subscriptions, waiting, since });
        return Why { now, turns: story.turns, ..Why::new(id, verdict, because) };
    }
    let Story { ended, turns, issued, ends_since, .. } = story;
    let (verdict, because) = match (&ended, issued) {
        (Some(ended), _) => (Verdict::Closed, of_ended(ended, channels, published)),
        (None, Issued::Never) => (Verdict::NeverConnected, "this id has not been given to any client yet".into()),
        (None, Issued::Before) => {
            let because = "its node has started anew since: all who were connected before are gone".into();
            (Verdict::EarlierRun, because)
        }
        (None, Issued::Here) => {
            let since =
                if ends_since == 0 { String::new() } else { format!(" It ended at least {}.", ago(ends_since)) };
            let because = format!("it was connected, and how it ended is not remembered any more.{since}");
            (Verdict::Forgotten, because)
        }
    };
    Why { ended, turns, ..Why::new(id, verdict, because) }
}

fn of_connected(info: &ClientInfo, story: &Story, channels: &[String], published: Option<u64>) -> (Verdict, String) {
    let mut waiting = match info.waiting {
        0 => String::new(),
        bytes => format!(" {bytes} bytes wait to be written to it: it reads slowly, or not at all."),
    };
    if published.is_some_and(|published| published / 1000 < info.since) {
        waiting.push_str(" It connected after the message was published.");
    }
    if channels.is_empty() {
        let (count, s) = (info.subscriptions, if info.subscriptions == 1 { "" } else { "s" });
        let because = format!("it is connected and in {count} channel{s}; name a channel to learn more.{waiting}");
        return (Verdict::Connected, because);
    }
    if let Some(channel) = channels.iter().find(|channel| info.channels.contains(channel)) {
        let because = format!(
            "it is in {channel}: what was published there since it subscribed has been put into its outbox, unless the publisher \
             left it out. When it subscribed is not remembered.{waiting}"
        );
        return (Verdict::Subscribed, because);
    }
    let turn = story.turns.iter().rev().find(|turn| channels.contains(&turn.channel));
    match turn {
        Some(Turn { at, channel, refused: Some(why) }) => {
            (Verdict::Refused, format!("it was not let into {channel} {}: {why}", ago(*at, clock())))
        }
        Some(Turn { at, channel, refused: None }) => {
            let before = match published {
                Some(published) if *at <= published => ", before the message was published",
                Some(_) => ", after the message was published: while it was in, the message was put into its outbox",
                None => "",
            };
            (Verdict::Left, format!("it left {channel} {}{before}", ago(*at, clock())))
        }
        None => {
            let since = match story.turns_since {
                0 => String::new(),
                at => format!(", and has left none of them since {}", ago(at, clock())),
            };
            (Verdict::NeverSubscribed, format!("it is not in {}{since}", channels.join(", ")))
        }
    }
}

fn of_ended(ended: &Ended, channels: &[String], published: Option<u64>) -> String {
    let code = if ended.code == 0 { String::new() } else { format!(", code {}", ended.code) };
    let words = if ended.text.is_empty() { String::new() } else { format!(": {}", ended.text) };
    let mut because = format!("its connection ended {} ({}{code}){words}", ago(ended.at, clock()), ended.reason);
    match published {
        Some(published) if ended.at < published => because.push_str("; that was before the message was published"),
        Some(published) if ended.at == published => {
            because.push_str("; the message was published in the same millisecond");
        }
        Some(_) => because.push_str("; that was after the message was published"),
        None => {}
    }
    let known = ended.channels.len() as u64 == ended.subscriptions;
    match channels.iter().find(|channel| ended.channels.contains(channel)) {
        Some(channel) => because.push_str(&format!("; it was in {channel} until then")),
        None if !channels.is_empty() && known => {
            because.push_str(&format!("; it was not in {} at its end", channels.join(", ")));
        }
        None => {}
    }
    because
}

/// Milliseconds of Unix time.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// How long ago something was, in words.
fn ago(at: u64, now: u64) -> String {
    match now.saturating_sub(at) / 1000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(channels: &[&str], waiting: u64) -> ClientInfo {
        let channels: Vec<String> = channels.iter().map(|name| (*name).to_owned()).collect();
        let subscriptions = channels.len() as u64;
        ClientInfo {
            node: 1,
            server: 0,
            address: "1.2.3.4:5".into(),
            channels,
            subscriptions,
            waiting,
            since: 0,
            read: 0,
            sent: 0,
        }
    }

    fn turn(at: u64, channel: &str, refused: Option<&str>) -> Turn {
        Turn { at, channel: channel.into(), refused: refused.map(str::to_owned) }
    }

    #[test]
    fn a_connected_client_is_in_a_channel_has_left_it_or_never_came() {
        let channels = ["a".to_owned()];
        let story = |turns: Vec<Turn>| Story { turns, ..Story::default() };
        let tell = |info, turns, published| of_connected(&info, &story(turns), &channels, published);
        assert_eq!(tell(info(&["a"], 0), vec![turn(1, "a", None)], None).0, Verdict::Subscribed);
        assert!(tell(info(&["a"], 7), vec![], None).1.contains("7 bytes wait"));
        let (verdict, because) = tell(info(&["b"], 0), vec![turn(5, "a", None), turn(6, "b", None)], Some(9));
        assert_eq!(verdict, Verdict::Left);
        assert!(because.ends_with("before the message was published"), "{because}");
        let (verdict, because) = tell(info(&[], 0), vec![turn(5, "a", None), turn(6, "a", Some("it is full"))], None);
        assert_eq!(verdict, Verdict::Refused);
        assert!(because.ends_with("it is full"), "{because}");
        assert_eq!(tell(info(&["b"], 0), vec![turn(5, "b", None)], None).0, Verdict::NeverSubscribed);
        let came = |since: u64| ClientInfo { since, ..info(&["a"], 0) };
        for (since, is_later) in [(9, false), (10, false), (11, true)] {
            let because = tell(came(since), vec![], Some(10_500)).1;
            assert_eq!(because.ends_with("It connected after the message was published."), is_later, "{because}");
        }
        assert_eq!(of_connected(&info(&["b"], 0), &story(vec![]), &[], None).0, Verdict::Connected);
    }

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!(ago(1000, 1000), "0 s ago");
        assert_eq!(ago(5000, 1000), "0 s ago", "a clock that was set back");
        assert_eq!(ago(0, 119_999), "119 s ago");
        assert_eq!(ago(0, 120_000), "2 min ago");
        assert_eq!(ago(0, 7_200_000), "2 h ago");
    }
}
