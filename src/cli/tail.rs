//! `tail`: what happens in a running engine, line by line.

use clap::Args;
use serde_json::Value;
use std::fmt::Write;

use super::remote::{Out, Remote, ask_again, in_query, one_line, tell_gap, wait_for};
use crate::dial::http::Reply;
use crate::telemetry::language::spoken;
use crate::telemetry::log::escape::json_for_terminal;
use crate::telemetry::log::recent::KEPT;

/// What to show.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only of this channel, and of clients that are in it; with * at its end, of all that begin so
    /// zh: 只显示这个频道，以及其中的客户端；末尾是 * 时，是以此开头的所有频道
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only of this client
    /// zh: 只显示这个客户端
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only what goes wrong
    /// zh: 只显示出错的
    #[arg(long)]
    errors: bool,
    /// With the beginning of messages; needs the role write
    /// zh: 附带消息的开头部分；需要角色 write
    #[arg(long)]
    bodies: bool,
    /// The events as they come: one JSON object a line
    /// zh: 原样打印事件：每行一个 JSON 对象
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Options {
    fn path(&self) -> String {
        let mut path = "/v1/tail?".to_owned();
        for (name, value) in [("channel", &self.channel), ("client", &self.client)] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={}&", in_query(value)));
            }
        }
        for (name, on) in [("errors", self.errors), ("bodies", self.bodies)] {
            if on {
                path.push_str(&format!("{name}=1&"));
            }
        }
        path.pop();
        path
    }

    /// Shows events until the engine stops or nobody reads them. An engine that goes on, or starts anew, is watched again.
    pub(super) fn run(&self) -> Result<(), String> {
        let (api, out) = (self.remote.api(6787)?, Out::new());
        wait_for(async {
            let mut reply = api.get(&self.path()).await?;
            if reply.status != 200 {
                let text = reply.text().await?;
                return Err(api.refusal(reply.status, &text));
            }
            let mut log = Log::default();
            loop {
                let (why, is_over) = match self.read(&mut reply, &out, &mut log).await? {
                    End::NobodyReads => return Ok(()),
                    End::Told { why, again } => {
                        (spoken!("the engine has ended it: {why}", "引擎结束了它：{why}"), !again)
                    }
                    End::Lost(why) => (why, false),
                };
                if is_over {
                    return Err(why);
                }
                tell_gap(&why);
                log.before = log.newest.clone();
                reply = ask_again(&api, &self.path()).await?;
            }
        })
    }

    /// Shows what comes, to its end.
    async fn read(&self, reply: &mut Reply, out: &Out, log: &mut Log) -> Result<End, String> {
        loop {
            let line = match reply.line().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(End::Lost(spoken!("the connection has ended", "连接结束了"))),
                Err(why) => return Ok(End::Lost(spoken!("the connection is lost: {why}", "连接断了：{why}"))),
            };
            let event: Value =
                serde_json::from_str(&line).map_err(|_| spoken!("this is no stream of events", "收到的不是事件流"))?;
            if event["event"] == "log" && !log.is_new(event["at"].as_u64().unwrap_or(0), &line) {
                continue;
            }
            let shown = match self.json {
                true => Some(json_for_terminal(&line)),
                false => show(&event, out),
            };
            if shown.is_some_and(|line| out.line(&line).is_err()) {
                return Ok(End::NobodyReads);
            }
            if event["event"] == "end" {
                return Ok(End::Told { why: text(&event["text"]), again: event["again"] == true });
            }
        }
    }
}

/// Which lines of the log were shown: every stream begins with the last ones.
#[derive(Default)]
struct Log {
    /// The newest time of a line, and the lines of that time, as events: as many as begin a stream at most.
    newest: (u64, Vec<String>),
    /// The same as it was when this stream began.
    before: (u64, Vec<String>),
}

impl Log {
    /// Whether a line of the log was not shown by a stream before; it is noted.
    fn is_new(&mut self, at: u64, line: &str) -> bool {
        let (until, lines) = &self.before;
        if at < *until || (at == *until && lines.iter().any(|shown| shown == line)) {
            return false;
        }
        if at > self.newest.0 {
            self.newest = (at, Vec::new());
        }
        if at == self.newest.0 && self.newest.1.len() < KEPT {
            self.newest.1.push(line.to_owned());
        }
        true
    }
}

/// How a stream of events has ended.
enum End {
    /// Nobody reads what is printed.
    NobodyReads,
    /// The engine has ended it.
    Told {
        /// Its words.
        why: String,
        /// The engine goes on, or another process in its place.
        again: bool,
    },
    /// The connection has; how, in words.
    Lost(String),
}

/// The time of day in UTC.
fn time_of_day(ms: u64) -> String {
    let (second, ms) = (ms / 1000 % 86_400, ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", second / 3600, second / 60 % 60, second % 60)
}

/// A value of an event, harmless on a terminal whatever it is: the other end may be no engine.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        Value::Null => String::new(),
        other => one_line(&other.to_string()),
    }
}

/// How many connections a publish has reached, and how many not.
fn counts(event: &Value) -> String {
    match (&event["reached"], &event["failed"]) {
        (Value::Null, _) => String::new(),
        (reached, failed) if *failed == 0 => format!(" to {}", text(reached)),
        (reached, failed) => format!(" to {}, not to {}", text(reached), text(failed)),
    }
}

/// An event as people read it; None: it is of no use to them.
fn show(event: &Value, out: &Out) -> Option<String> {
    let name = event["event"].as_str().unwrap_or_default();
    let colour = match name {
        // The end is told as the command's own.
        "alive" | "watching" | "end" => return None,
        "error" | "dropped" | "refused" | "lost" | "unanswered" => 31,
        "connect" => 32,
        "closed" => 33,
        "delivered" | "published" => 36,
        "message" => 34,
        _ => 39,
    };
    let mut line = event["at"].as_u64().map_or_else(|| " ".repeat(12), time_of_day);
    // It can't fail.
    let _ = write!(line, " {}", out.colour(colour, &format!("{:<11}", text(&event["event"]))));
    if let Some(client) = event["client"].as_str() {
        let _ = write!(line, " {}", one_line(client));
    }
    let list = |names: &Value| {
        let names: Vec<String> = names.as_array().into_iter().flatten().map(text).collect();
        let more = event["more"].as_u64().map_or_else(String::new, |more| format!(" and {more} more"));
        names.join(", ") + &more
    };
    let of = |key: &str| text(&event[key]);
    let body = || match (event["data"].as_str(), event["data64"].as_str()) {
        (Some(data), _) => format!(": {}", one_line(data)),
        (None, Some(data)) => format!(": base64 {}", one_line(data)),
        (None, None) => String::new(),
    };
    let cut = || if event["cut"] == true { " [cut]" } else { "" };
    let _ = match name {
        "connect" => write!(line, " from {} at server {}", of("address"), of("server")),
        "refused" => {
            let (address, server) = (of("address"), of("server"));
            write!(line, " {address} at server {server} with {} ({}): {}", of("status"), of("cause"), of("text"))
        }
        "message" => write!(line, " {} {} bytes{}{}", of("kind"), of("bytes"), body(), cut()),
        "handler" => {
            let failed = if event["ok"] == false { ", failed" } else { "" };
            write!(line, " {} took {} ms{failed}", of("hook"), of("ms"))
        }
        "published" => {
            let missing =
                event["unanswered"].as_u64().map_or_else(String::new, |n| format!(", {n} nodes did not answer"));
            let counts = if event["reached"].is_null() { ", not counted".to_owned() } else { counts(event) };
            let over = match (event["left_out"].is_null(), event["merged"].is_null()) {
                (true, _) => "",
                (false, true) => ", left out: over the limit",
                (false, false) => ", added to others: over the limit",
            };
            write!(line, " {} {} bytes{counts}{missing}{over}", of("channel"), of("bytes"))
        }
        "subscribe" | "unsubscribe" => write!(line, " {}", list(&event["channels"])),
        "delivered" if event["channel"].is_string() => {
            write!(line, " {} {} bytes{}{}{}", of("channel"), of("bytes"), counts(event), body(), cut())
        }
        "delivered" => write!(line, " {} bytes{}{}", of("bytes"), body(), cut()),
        "dropped" => write!(line, " a message: {}", of("cause")),
        "closed" => {
            let code = event["code"].as_u64().map_or_else(String::new, |code| format!(" {code}"));
            let words = event["text"].as_str().map_or_else(String::new, |words| format!(": {}", one_line(words)));
            let channels = match event["channels"].as_array() {
                Some(channels) if !channels.is_empty() => format!("; was in {}", list(&event["channels"])),
                _ => String::new(),
            };
            write!(line, " {}{code}{words}{channels}", of("reason"))
        }
        "error" => {
            let stack = if of("traceback").is_empty() { String::new() } else { format!(" ({})", of("traceback")) };
            write!(line, " {}{}: {}{stack}", of("hook"), of("timer"), of("text"))
        }
        "log" => write!(line, " {} {}: {}", of("level"), of("target"), of("text")),
        "lost" if event["count"].is_null() => write!(line, " events, nobody knows how many: they came too fast"),
        "lost" => write!(line, " {} events: they came too fast", of("count")),
        "unanswered" => write!(line, " {} nodes do not answer", of("nodes")),
        _ => write!(line, " {}", one_line(&event.to_string())),
    };
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::escape::is_harmful;
    use serde_json::json;

    #[test]
    fn events_are_lines_for_people_and_steer_no_terminal() {
        let out = Out::new();
        for (event, line) in [
            (json!({"event": "alive"}), None),
            (json!({"event": "end", "text": "the engine stops"}), None),
            (
                json!({"event": "message", "at": 1000, "client": "7", "kind": "text", "bytes": 3, "data": "a\u{1b}b", "cut": true}),
                Some("00:00:01.000 message     7 text 3 bytes: a\\u{1b}b [cut]"),
            ),
            (
                json!({"event": "delivered", "at": 1000, "channel": "c", "bytes": 3, "reached": 2, "failed": 1}),
                Some("00:00:01.000 delivered   c 3 bytes to 2, not to 1"),
            ),
            (
                json!({"event": "published", "at": 1000, "channel": "c", "bytes": 3, "reached": 0, "failed": 0, "left_out": 1, "merged": 1}),
                Some("00:00:01.000 published   c 3 bytes to 0, added to others: over the limit"),
            ),
            (
                json!({"event": "closed", "at": 86_399_999, "client": "7", "reason": "too_slow", "code": 3100, "text": "x", "channels": ["a", "b"], "more": 2}),
                Some("23:59:59.999 closed      7 too_slow 3100: x; was in a, b and 2 more"),
            ),
            (
                json!({"event": "refused", "at": 0, "server": 0, "address": "1.2.3.4:5", "cause": "request", "status": 404, "text": "nothing is here"}),
                Some("00:00:00.000 refused     1.2.3.4:5 at server 0 with 404 (request): nothing is here"),
            ),
            (
                json!({"event": "lost"}),
                Some("             lost        events, nobody knows how many: they came too fast"),
            ),
        ] {
            assert_eq!(show(&event, &out).as_deref(), line);
        }
    }

    #[test]
    fn no_line_of_the_log_is_shown_twice_when_a_stream_begins_anew() {
        let mut log = Log::default();
        let lines = [(1, "a"), (3, "b"), (2, "of another node"), (3, "c")];
        assert!(lines.iter().all(|(at, line)| log.is_new(*at, line)));
        log.before = log.newest.clone();
        assert!(!lines.iter().any(|(at, line)| log.is_new(*at, line)));
        assert!(log.is_new(3, "d") && log.is_new(4, "e"));
        log.before = log.newest.clone();
        assert!(!log.is_new(3, "d") && !log.is_new(4, "e") && log.is_new(4, "f"));
    }

    #[test]
    fn whatever_stands_where_nothing_else_is_expected_steers_no_terminal() {
        let (out, bad) = (Out::new(), json!({"x\u{9b}": ["\u{9b}31m\u{202e}\u{1b}\n"]}));
        let keys = [
            "at",
            "client",
            "kind",
            "bytes",
            "data",
            "data64",
            "cut",
            "channel",
            "channels",
            "more",
            "reached",
            "failed",
            "unanswered",
            "cause",
            "reason",
            "code",
            "text",
            "hook",
            "timer",
            "traceback",
            "level",
            "target",
            "count",
            "nodes",
            "ms",
            "ok",
            "address",
            "server",
        ];
        let names =
            ["connect", "message", "handler", "published", "subscribe", "delivered", "dropped", "closed", "error"];
        for name in names.into_iter().chain(["log", "lost", "unanswered", "\u{9b}2J"]) {
            for channel in [bad.clone(), "c".into()] {
                let mut event: Value = keys.map(|key| (key.to_owned(), bad.clone())).into_iter().collect();
                event["event"] = name.into();
                event["channel"] = channel;
                let line = show(&event, &out).unwrap();
                assert!(!line.chars().any(is_harmful), "{line:?}");
            }
        }
    }
}
