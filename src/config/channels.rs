//! The rules of `engine.channels` by the names of channels.

use std::sync::Arc;

use super::keys::{ChannelRule, Config};
use super::raw::value::Value;
use super::types::{Envelope, Over};
use crate::telemetry::language::both;

/// The rules in force.
#[derive(Debug, Default, PartialEq)]
pub struct Rules(
    /// The longest match first.
    Box<[Arc<ChannelRule>]>,
);

impl Rules {
    /// These rules.
    pub fn new(rules: &[ChannelRule]) -> Rules {
        let mut rules: Box<[Arc<ChannelRule>]> = rules.iter().cloned().map(Arc::new).collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Rules(rules)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, the longest match first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ChannelRule>> {
        self.0.iter()
    }

    /// The rule of a channel: that with the longest match. It compares with each rule, so look it up once for a channel.
    pub fn of(&self, channel: &str) -> Option<&Arc<ChannelRule>> {
        self.0.iter().find(|rule| channel.starts_with(&rule.prefix))
    }
}

/// Reports what is wrong with rules whose keys don't go together; `root` is the file.
pub(super) fn check(config: &Config, root: &Value<'_>) {
    let list = root.get("engine.channels");
    for (rule, entry) in config.channels.iter().zip(list.entries()) {
        let ChannelRule { limit, envelope, .. } = rule;
        if limit.reserve > limit.rate.count {
            entry.get("limit.reserve").report(both!(
                "must not be more than limit.rate, of which it is a part",
                "不能大于 limit.rate，它是其中的一部分"
            ));
        }
        if limit.is_on() && limit.over == Over::Merge && *envelope != Envelope::Json {
            entry.get("limit.over").report(both!(
                "merge needs envelope: json, which tells how many messages were added up",
                "merge 需要 envelope: json，它会说明合并了多少条消息"
            ));
        }
    }
}

impl Config {
    /// The rule of a channel: that with the longest match.
    pub fn rule_of(&self, channel: &str) -> Option<&ChannelRule> {
        self.channels.iter().filter(|rule| channel.starts_with(&rule.prefix)).max_by_key(|rule| rule.prefix.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_counts() {
        let rule = |prefix: &str| ChannelRule::of(prefix);
        let rules = Rules::new(&[rule("video:"), rule("v"), rule("video:1")]);
        let of = |channel| rules.of(channel).map(|rule| rule.prefix.as_str());
        assert_eq!(of("video:12"), Some("video:1"));
        assert_eq!(of("video:2"), Some("video:"));
        assert_eq!(of("video"), Some("v"));
        assert_eq!(of("audio:1"), None);
    }
}
