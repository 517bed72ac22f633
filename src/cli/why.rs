//! `why`: why a message did not reach a client, as far as the engine remembers.

use clap::Args;
use serde_json::Value;

use super::remote::{Out, Remote, in_query, one_line, wait_for};
use crate::telemetry::language::{Language, spoken};
use crate::telemetry::log::escape::json_for_terminal;

/// Of whom, and of what.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The client's id
    /// zh: 客户端的 id
    #[arg(value_name = "CLIENT", value_parser = clap::value_parser!(u64).range(1..))]
    client: u64,
    /// The id of a publish: what it came to, and whether the client was there
    /// zh: 一次发布的 id：那次发布的结果，以及客户端当时在不在
    #[arg(value_name = "MESSAGE-ID")]
    message: Option<String>,
    /// The channel in which the client should have been
    /// zh: 客户端本应在其中的频道
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// All that is known, as JSON
    /// zh: 已知的全部内容，JSON 格式
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Options {
    /// Asks, and prints the answer.
    pub(super) fn run(&self) -> Result<(), String> {
        let api = self.remote.api(6787)?;
        let mut path = format!("/v1/why?client={}", self.client);
        for (name, value) in [("message", &self.message), ("channel", &self.channel)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", in_query(value)));
            }
        }
        let text = wait_for(api.read(&path))?;
        let answer: Value =
            serde_json::from_str(&text).map_err(|_| spoken!("the answer is no JSON", "答复不是 JSON"))?;
        let (why, out) = (&answer["r"], Out::new());
        if self.json {
            let _ = out.line(&json_for_terminal(&why.to_string()));
            return Ok(());
        }
        for line in lines(why, &out, Language::chosen()) {
            if out.line(&line).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The engine's verdicts in Chinese. Its sentence behind them is English.
const VERDICTS: [(&str, &str); 10] = [
    ("connected", "在线"),
    ("subscribed", "在这个频道里"),
    ("left", "已经离开这个频道"),
    ("refused", "没有被允许进入这个频道"),
    ("never_subscribed", "从没订阅过"),
    ("closed", "连接已经结束"),
    ("forgotten", "曾经在线，怎样结束的已经不记得"),
    ("earlier_run", "它所在的节点后来重新启动过"),
    ("other_node", "它的节点无法访问"),
    ("never_connected", "从来没有这个客户端"),
];

fn verdict(name: &str, language: Language) -> String {
    let zh = VERDICTS.iter().find(|(known, _)| *known == name).filter(|_| language == Language::Chinese);
    zh.map_or_else(|| name.replace('_', " "), |(_, zh)| (*zh).to_owned())
}

fn lines(why: &Value, out: &Out, language: Language) -> Vec<String> {
    let text = |value: &Value| one_line(value.as_str().unwrap_or_default());
    let name = text(&why["verdict"]);
    let (client, verdict) = (text(&why["client"]), out.colour(1, &verdict(&name, language)));
    let say = |en: String, zh: String| if language == Language::Chinese { zh } else { en };
    let first = say(format!("client {client}: {verdict}"), format!("客户端 {client}：{verdict}"));
    let mut lines = vec![first, text(&why["because"])];
    let names = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let now = &why["now"];
    if now.is_object() {
        let (node, address) = (text(&now["node"]), text(&now["address"]));
        let (count, mut channels) = (one_line(&now["subscriptions"].to_string()), names(&now["channels"]));
        if !channels.is_empty() {
            channels = say(format!(" ({channels})"), format!("（{channels}）"));
        }
        lines.push(say(
            format!("now: node {node}, from {address}, channels: {count}{channels}"),
            format!("现在：节点 {node}，来自 {address}，频道数：{count}{channels}"),
        ));
    }
    let message = &why["message"];
    if message.is_object() {
        let outcome = &message["outcome"];
        let each = outcome.as_array().cloned().unwrap_or_else(|| vec![outcome.clone()]);
        let sum = |key: &str| each.iter().filter_map(|one| one[key].as_u64()).sum::<u64>();
        let came = match outcome.is_null() {
            true => say("has not been answered yet".to_owned(), "还没有得到响应".to_owned()),
            false => say(
                format!("reached {}, failed {}", sum("s"), sum("f")),
                format!("到达了 {} 个，没有到达 {} 个", sum("s"), sum("f")),
            ),
        };
        let over = match (sum("l"), sum("m")) {
            (0, _) => String::new(),
            (over, merged) => say(
                format!("; over the limit in {over} of them, added to others in {merged}"),
                format!("；超过了 {over} 个频道的上限，在其中 {merged} 个里与其他消息合并"),
            ),
        };
        let (id, channels) = (text(&message["id"]), names(&message["channels"]));
        lines.push(say(
            format!("message {id}: to {channels}, {came}{over}"),
            format!("消息 {id}：发往 {channels}，{came}{over}"),
        ));
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
            "message": {"id": "m", "channels": ["a", "c"], "outcome": [{"s": 3, "f": 1}, {"s": 0, "f": 0, "l": 1}]},
        });
        assert_eq!(
            lines(&why, &Out::new(), Language::English),
            [
                "client 7: never subscribed",
                "it is not in a",
                "now: node 9, from 1.2.3.4:5, channels: 1 (b)",
                "message m: to a, c, reached 3, failed 1; over the limit in 1 of them, added to others in 0",
            ]
        );
        assert_eq!(
            lines(&why, &Out::new(), Language::Chinese),
            [
                "客户端 7：从没订阅过",
                "it is not in a",
                "现在：节点 9，来自 1.2.3.4:5，频道数：1（b）",
                "消息 m：发往 a, c，到达了 3 个，没有到达 1 个；超过了 1 个频道的上限，在其中 0 个里与其他消息合并",
            ]
        );
    }

    /// The table of `docs/server-api.md`.
    #[test]
    fn every_verdict_has_its_words() {
        let doc = include_str!("../../docs/server-api.md");
        let table = doc.split("| `verdict` | |").nth(1).unwrap().split("\n\n").next().unwrap();
        let listed: Vec<&str> = table.split("| `").skip(1).filter_map(|row| row.split('`').next()).collect();
        assert_eq!(VERDICTS.map(|(name, _)| name).to_vec(), listed);
    }
}
