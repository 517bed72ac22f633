//! The likely fix of a script's error: what was probably meant by a name that is not there.

use std::collections::BTreeSet;

use super::found::{Lint, with_fix};
use crate::script::hints::Mistake;
use crate::telemetry::language::{Both, both};

/// Longer names are not taken for typing errors.
const LONGEST: usize = 64;

/// The ends of errors that mean that a table was given where a message belongs.
const TABLE_FOR_TEXT: [&str; 3] = [
    "bad argument #1 to 'send' (string expected, got table)",
    "bad argument #2 to 'send' (string expected, got table)",
    "bad argument #2 to 'publish' (string expected, got table)",
];

/// The name that a misspelt one most likely stands for. Letter case and underscores count for nothing.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    let wanted = plain(name);
    if name.len() > LONGEST || wanted.chars().count() < 3 {
        return None;
    }
    let near = known.filter(|k| k.len() <= LONGEST && *k != name);
    let (distance, near) = near.map(|k| (strsim::osa_distance(&wanted, &plain(k)), k)).min()?;
    (distance <= 1 + near.len() / 6).then_some(near)
}

/// The likely fix of a script's error, given its lints and what the engine offers it. None: nothing to add.
pub(super) fn fix(mistake: &Mistake<'_>, slips: &[Lint], offered: &BTreeSet<String>) -> Option<Both> {
    let Mistake { message, hook, missed } = mistake;
    if TABLE_FOR_TEXT.iter().any(|end| message.ends_with(end)) {
        return Some(both!("mix.json_encode makes a string of a table", "mix.json_encode 可以把表变成字符串"));
    }
    let (place, what) = message.split_once(": attempt to ")?;
    let (file, line) = place.rsplit_once(':')?;
    if !what.ends_with(" (a nil value)") && !what.ends_with(" a nil value") {
        return None;
    }
    let in_file: Vec<&Lint> = slips.iter().filter(|slip| is_shown_as(&slip.file, file)).collect();
    let here = || in_file.iter().filter(|slip| slip.line.to_string() == line);
    // What gives nil at a file's top level.
    let is_connection = |slip: &&&Lint| matches!(slip.name.as_str(), "mix.websocket" | "mix.socket.tcp");
    let Some((kind, name)) = subject(what) else {
        return here().find(is_connection).map(|slip| slip.fix.clone());
    };
    // Of several hooks with arguments in another order: the one in which the line stands, else the one that runs.
    let order = || {
        let line: u32 = line.parse().ok()?;
        let around = in_file.iter().find(|slip| slip.order.is_some_and(|last| (slip.line..=last).contains(&line)));
        let running =
            || slips.iter().find(|slip| slip.order.is_some() && hook.is_some_and(|hook| hook.name() == slip.name));
        around.copied().or_else(running).map(|slip| slip.fix.clone())
    };
    match kind {
        "global" => {
            let slip = here().find(|slip| slip.name == name)?;
            Some(match slip.fix.is_empty() {
                true => both!("nothing defines it", "没有地方定义它"),
                false => slip.fix.clone(),
            })
        }
        "field" | "method" => {
            if missed.name != name {
                // For example a message that a hook takes for the connection.
                let is_method = kind == "method" && offered.contains(&format!("conn:{name}"));
                // Or a field that a library lacks, or lacks here: io.open.
                let is_it = |slip: &&&Lint| slip.name.strip_suffix(name).is_some_and(|table| table.ends_with('.'));
                let of_library = || here().find(is_it).filter(|_| kind == "field").map(|slip| slip.said());
                return order().filter(|_| is_method).or_else(of_library);
            }
            Some(with_fix(&lacks(&missed.owner, name), &instead_of(&missed.owner, name, offered)))
        }
        "local" | "upvalue" if matches!(name, "conn" | "connection") => {
            let at_top = || in_file.iter().find(is_connection).map(|slip| slip.fix.clone());
            let general = || {
                both!(
                    "inside a hook, local {name} = mix.websocket() gives the connection",
                    "在钩子里，local {name} = mix.websocket() 可以得到连接"
                )
            };
            Some(order().or_else(at_top).unwrap_or_else(general))
        }
        _ => None,
    }
}

/// `index local 'conn' (a nil value)` is about the local `conn`.
fn subject(what: &str) -> Option<(&str, &str)> {
    let (before, rest) = what.split_once(" '")?;
    Some((before.rsplit(' ').next()?, rest.split_once('\'')?.0))
}

/// Lua shows only the end of a long path.
fn is_shown_as(file: &str, shown: &str) -> bool {
    file == shown || shown.strip_prefix("...").is_some_and(|end| file.ends_with(end))
}

/// A table or an object does not have a name.
pub(super) fn lacks(owner: &str, name: &str) -> Both {
    both!("{owner} has no '{name}'", "{owner} 没有 '{name}'")
}

/// A name that was probably meant, as it is to be shown; None: nobody can tell.
pub(super) fn did_you_mean(shown: Option<String>) -> Both {
    shown.map_or_else(Both::default, |shown| both!("did you mean {shown}?", "是不是 {shown}？"))
}

/// A name in quotes.
pub(super) fn in_quotes(name: &str) -> String {
    format!("'{name}'")
}

/// What was probably meant by a name that `owner` does not have: `did you mean 'json_decode'?`; empty if there is no
/// telling.
pub(super) fn instead_of(owner: &str, name: &str, offered: &BTreeSet<String>) -> Both {
    match (owner, name) {
        // Names from older versions.
        ("mix.redis", "llen" | "set" | "get" | "incr" | "decr") => {
            return both!(
                "today it is mix.redis.connection(\"default\"):command(\"{name}\", ...)",
                "现在是 mix.redis.connection(\"default\"):command(\"{name}\", ...)"
            );
        }
        ("mix.queue", "consume" | "pop") => {
            return both!(
                "back ends consume topics, by queue.pop of the WebSocket API",
                "主题由后端消费，用 WebSocket API 的 queue.pop"
            );
        }
        ("mix.queue", "new") => {
            return both!(
                "a topic is there from the first mix.queue.push on",
                "从第一次 mix.queue.push 起就有这个主题"
            );
        }
        _ => {}
    }
    let fields = offered.iter().filter_map(|full| full.strip_prefix(owner)?.strip_prefix(['.', ':']));
    if let Some(near) = nearest(name, fields.filter(|field| !field.contains('.'))) {
        return did_you_mean(Some(in_quotes(near)));
    }
    // The name may belong to another table: mix.publish, conn:publish.
    let elsewhere = offered.iter().find(|full| full.rsplit(['.', ':']).next() == Some(name));
    did_you_mean(elsewhere.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::hints::Missed;

    #[test]
    fn names_are_near_whatever_their_case_and_underscores() {
        let known = ["json_decode", "json_encode", "send", "on_message", "log"];
        for (name, near) in [
            ("json_decod", Some("json_decode")),
            ("jsonDecode", Some("json_decode")),
            ("onMessage", Some("on_message")),
            ("on_mesage", Some("on_message")),
            ("sned", Some("send")),
            ("send", None),
            ("lo", None),
            ("elephant", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), near, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }

    #[test]
    fn a_path_that_was_cut_is_the_same_file() {
        let slip = Lint {
            file: "/a/very/long/way/down/to/entry.lua".into(),
            line: 7,
            name: "conn".into(),
            what: Both::default(),
            fix: "the fix".into(),
            order: None,
            is_split: false,
        };
        let fix = |message: &str| {
            let mistake = Mistake { message, hook: None, missed: Missed::default() };
            super::fix(&mistake, std::slice::from_ref(&slip), &BTreeSet::new()).map(|fix| fix.en)
        };
        let what = "attempt to index global 'conn' (a nil value)";
        assert_eq!(fix(&format!("...down/to/entry.lua:7: {what}")).as_deref(), Some("the fix"));
        for other in ["...down/to/entry.lua:8", "...up/to/entry.lua:7", "entry.lua:7", "entry.lua"] {
            assert_eq!(fix(&format!("{other}: {what}")), None, "{other}");
        }
        assert_eq!(fix("no place at all"), None);
    }
}
