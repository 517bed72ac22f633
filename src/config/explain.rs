//! Which rule of `engine.channels` holds for a channel's name, and why the others do not: `connmix check --explain`.

use super::keys::{ChannelRule, Config};
use super::print::{rows, yaml};
use crate::message::{Channel, ChannelError};
use crate::telemetry::language::{Both, both};

/// What holds for channels of that name, for people: as lines.
pub fn channel(config: &Config, name: &str) -> Result<Both, ChannelError> {
    let name = Channel::parse(name.as_bytes())?;
    let name = name.as_str();
    let held = config.rule_of(name);
    let mut out = Both::default();
    let path = |at: usize| format!("engine.channels[{at}]");
    let holds = |rule: &ChannelRule| held.is_some_and(|held| std::ptr::eq(held, rule));
    match config.channels.iter().position(holds) {
        Some(at) => {
            let prefix = format!("{}.", path(at));
            let rule = path(at);
            out.add(both!(
                "{name}: {rule} holds, the longest match that the name begins with\n",
                "{name}: 适用 {rule}，它是名称开头能匹配的最长的一条\n"
            ));
            for row in rows(config) {
                if let (Some(key), Some(value)) = (row.path.strip_prefix(&prefix), &row.value) {
                    out.add(Both::same(format!("  {key}: {}\n", yaml(value))));
                }
            }
        }
        None => out.add(both!(
            "{name}: no rule of engine.channels holds, so nothing is special\n",
            "{name}: engine.channels 里没有适用的规则，没有任何特殊之处\n"
        )),
    }
    for (at, rule) in config.channels.iter().enumerate().filter(|(_, rule)| !holds(rule)) {
        let why = match held.filter(|_| name.starts_with(&rule.prefix)) {
            Some(held) => {
                both!("begins it, too, but is shorter than \"{0}\"", "也是它的开头，但比 \"{0}\" 短", held.prefix)
            }
            None => both!("does not begin it", "不是它的开头"),
        };
        let (rule_path, prefix) = (path(at), &rule.prefix);
        out.add(Both {
            en: format!("  not {rule_path}: \"{prefix}\" {}\n", why.en),
            zh: format!("  不适用 {rule_path}：\"{prefix}\" {}\n", why.zh),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;
    use std::path::Path;

    #[test]
    fn it_says_which_rule_holds_and_why_the_others_do_not() {
        let file = "engine:\n  servers: [{entry: lua/entry.websocket.lua}]\n  channels:\n    - {match: 'video:'}\n    \
                    - {match: 'video:live:', presence: true, online: {every: 5s}}\n    - {match: chat}\n";
        let config = load::parse(Path::new("connmix.yaml"), file).unwrap_or_else(|e| panic!("{e}"));
        let said = channel(&config, "video:live:1").unwrap().en;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "video:live:1: engine.channels[1] holds, the longest match that the name begins with");
        for line in [
            "  match: 'video:live:'",
            "  presence: true",
            "  online.every: 5s",
            "  maxSubscribers: 0",
            "  not engine.channels[0]: \"video:\" begins it, too, but is shorter than \"video:live:\"",
            "  not engine.channels[2]: \"chat\" does not begin it",
        ] {
            assert!(lines.iter().any(|l| l.replace('"', "'") == line.replace('"', "'")), "{line} is not in\n{said}");
        }
        let said = channel(&config, "audio").unwrap().en;
        assert!(said.starts_with("audio: no rule of engine.channels holds") && said.lines().count() == 4, "{said}");
        assert!(channel(&config, "a b").is_err());
    }

    #[test]
    fn an_asterisk_at_the_end_says_what_holds_anyway() {
        let rules = "[{match: 'video:*', presence: true}, {match: '*', slow: latest}, {match: 'a*b'}]";
        let file = format!("engine:\n  servers: [{{entry: lua/entry.websocket.lua}}]\n  channels: {rules}\n");
        let config = load::parse(Path::new("connmix.yaml"), &file).unwrap_or_else(|e| panic!("{e}"));
        let rule = |name| config.rule_of(name).map(|rule| rule.prefix.as_str());
        assert_eq!([rule("video:1"), rule("video"), rule("a*bc")], [Some("video:"), Some(""), Some("a*b")]);
        let said = channel(&config, "video").unwrap().en;
        assert!(said.contains("  match: \"*\"\n") && said.contains("\"video:\" does not begin it"), "{said}");
    }
}
