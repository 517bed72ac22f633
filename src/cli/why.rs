//! `why`: why a message did not reach a client, as far as the engine remembers.

use clap::Args;
use serde_json::Value;

use super::remote::{Out, Remote, in_query, one_line, wait_for};

/// Of whom, and of what.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The client's id
    #[arg(value_name = "CLIENT")]
    client: String,
    /// The id of a publish: what it came to, and whether the client was there
    #[arg(value_name = "MESSAGE-ID")]
    message: Option<String>,
    /// The channel in which the client should have been
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// All that is known, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Options {
    /// Asks, and prints the answer.
    pub(super) fn run(&self) -> Result<(), String> {
        let api = self.remote.api(6787)?;
        let mut path = format!("/v1/why?client={}", in_query(&self.client));
        for (name, value) in [("message", &self.message), ("channel", &self.channel)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", in_query(value)));
            }
        }
        let text = wait_for(api.read(&path))?;
        let answer: Value = serde_json::from_str(&text).map_err(|_| "the answer is no JSON")?;
        let (why, out) = (&answer["r"], Out::new());
        if self.json {
            let _ = out.line(&why.to_string());
            return Ok(());
        }
        for line in lines(why, &out) {
            if out.line(&line).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn lines(why: &Value, out: &Out) -> Vec<String> {
    let text = |value: &Value| one_line(value.as_str().unwrap_or_default());
    let verdict = text(&why["verdict"]).replace('_', " ");
    let mut lines =
        vec![format!("client {}: {}", text(&why["client"]), out.colour(1, &verdict)), text(&why["because"])];
    let names = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let now = &why["now"];
    if now.is_object() {
        let (node, address) = (text(&now["node"]), text(&now["address"]));
        lines.push(format!(
            "now: node {node}, from {address}, {} channels: {}",
            now["subscriptions"],
            names(&now["channels"])
        ));
    }
    let message = &why["message"];
    if message.is_object() {
        let outcome = &message["outcome"];
        let each = outcome.as_array().cloned().unwrap_or_else(|| vec![outcome.clone()]);
        let sum = |key: &str| each.iter().filter_map(|one| one[key].as_u64()).sum::<u64>();
        let came = match outcome.is_null() {
            true => "has not been answered yet".to_owned(),
            false => format!("reached {}, and not {}", sum("s"), sum("f")),
        };
        lines.push(format!("message {}: to {}, {came}", text(&message["id"]), names(&message["channels"])));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_answer_is_told_in_a_few_lines() {
        let why = json!({
            "client": "7", "verdict": "never_subscribed", "because": "it is not in a",
            "now": {"node": "9", "address": "1.2.3.4:5", "channels": ["b"], "subscriptions": 1},
            "message": {"id": "m", "channels": ["a", "c"], "outcome": [{"s": 1, "f": 0}, {"s": 2, "f": 1}]},
        });
        assert_eq!(
            lines(&why, &Out::new()),
            [
                "client 7: never subscribed",
                "it is not in a",
                "now: node 9, from 1.2.3.4:5, 1 channels: b",
                "message m: to a, c, reached 3, and not 1",
            ]
        );
    }
}
