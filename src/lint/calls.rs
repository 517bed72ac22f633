//! Calls that must fail: methods of the engine's objects that are misspelt or called with a dot, and invalid names of
//! channels and topics in calls whose err is ignored.

use std::collections::BTreeSet;

use super::bytecode::{Ins, Proto, op};
use super::flow::{Flow, LintContext, Registers, Var, asks};
use super::found::Found;
use super::hints::{instead_of, lacks};
use super::hooks::Hooks;
use super::scan::Facts;
use crate::message::Channel;
use crate::telemetry::language::{Both, both};

/// Methods of a connection, with the fewest arguments that each needs besides the connection.
const LEAST: [(&str, usize); 7] = [
    ("send", 1),
    ("subscribe", 1),
    ("unsubscribe", 1),
    ("set_context", 1),
    ("set_context_value", 2),
    ("context_value", 1),
    ("wait_context_value", 1),
];

/// Functions whose first argument names a channel or topic, or all of whose arguments do.
const NAMED: [(&str, bool); 4] =
    [("mix.mesh.publish", false), ("mix.queue.push", false), ("mix.subscribe", true), ("mix.unsubscribe", true)];

/// Parameters of hooks that get one of the engine's objects.
pub(super) fn objects(facts: &Facts, hooks: &Hooks) -> Vec<(Var, &'static str)> {
    let top = facts.writes.iter().filter(|write| facts.is_top(write.proto));
    let found = top.filter_map(|write| {
        let function = write.function?;
        let first = facts.protos.get(function).and_then(|proto| proto.first_param());
        let objects = hooks.objects(&write.path, first)?;
        Some(objects.iter().map(move |(position, class)| ((function, *position), *class)))
    });
    found.flatten().collect()
}

/// All of one file.
pub(super) fn wrong(flow: &Flow<'_>, offered: &BTreeSet<String>) -> Vec<Found> {
    let mut found = Vec::new();
    for (number, proto) in flow.facts.protos.iter().enumerate() {
        // A method that is tested for first may belong to another object.
        let mut asked = BTreeSet::new();
        flow.walk(number, |r, ins| {
            if let Some((class, name)) = fetched(proto, r, ins)
                && proto.code.get(r.at() + 1).is_some_and(|next| asks(*next, ins.a()))
            {
                asked.insert((class, name));
            }
        });
        flow.walk(number, |r, ins| {
            if let Some((class, name)) = fetched(proto, r, ins)
                && !offered.contains(&format!("{class}:{name}"))
                && !asked.contains(&(class, name.clone()))
                && is_called(proto, r.at(), ins)
            {
                let what = lacks(class, &name);
                let fix = instead_of(class, &name, offered);
                found.push(Found::new(ins.line, &format!("{class}:{name}"), what, fix));
            }
            found.extend(without_self(r, ins));
            found.extend(in_vain(r, ins));
        });
    }
    found
}

/// The class and the name of a method that an instruction fetches.
fn fetched(proto: &Proto, r: &Registers<'_>, ins: Ins) -> Option<(&'static str, String)> {
    match (ins.op(), r.get(ins.b())?) {
        (op::TGETS, LintContext::Object(class)) => Some((class, proto.text(ins.c())?.to_owned())),
        _ => None,
    }
}

/// Whether what an instruction fetches is called, as far as it goes without a jump.
fn is_called(proto: &Proto, at: usize, fetch: Ins) -> bool {
    for (at, ins) in proto.code.iter().enumerate().skip(at + 1) {
        if (op::CALLM..=op::CALLT).contains(&ins.op()) && ins.a() <= fetch.a() {
            return ins.a() == fetch.a();
        } else if ins.target(at).is_some() {
            break;
        }
    }
    false
}

/// A method called with a dot whose first argument is not the connection.
fn without_self(r: &Registers<'_>, ins: Ins) -> Option<Found> {
    if !(op::CALLM..=op::CALLT).contains(&ins.op()) {
        return None;
    }
    let Some(LintContext::Method(class, name)) = r.get(ins.a()) else { return None };
    let mut arguments = r.arguments(ins);
    let count = arguments.len();
    let has_fixed_count = matches!(ins.op(), op::CALL | op::CALLT);
    let least = LEAST.iter().find(|(known, _)| *known == name).map_or(0, |(_, least)| *least);
    let is_wrong = match arguments.next().map(|first| r.get(first)) {
        Some(Some(LintContext::Object(_))) => false,
        // It may well be another connection.
        Some(None | Some(LintContext::Variable(_) | LintContext::Within(_))) => {
            let kind = arguments.next().and_then(|second| r.get(second));
            let is_kind = matches!(kind, Some(LintContext::Text(kind)) if matches!(kind.as_str(), "text" | "binary"));
            has_fixed_count && count < 1 + least || name == "send" && is_kind
        }
        Some(Some(_)) => true,
        None => has_fixed_count,
    };
    is_wrong.then(|| {
        let what = both!("{class}.{name}(...) does not pass the connection on", "{class}.{name}(...) 没有把连接传进去");
        let fix = both!("call it with a colon: {class}:{name}(...)", "请用冒号调用：{class}:{name}(...)");
        Found::new(ins.line, &format!("{class}.{name}"), what, fix)
    })
}

/// A call that fails because of its constant channel name, and whose results are all ignored.
fn in_vain(r: &Registers<'_>, ins: Ins) -> Option<Found> {
    const NO_RESULTS: usize = 1;
    if !matches!(ins.op(), op::CALL | op::CALLM) || ins.b() != NO_RESULTS {
        return None;
    }
    let arguments = r.arguments(ins);
    let (name, named) = match r.get(ins.a())? {
        LintContext::Path(path) => {
            let (_, all) = NAMED.iter().find(|(known, _)| *known == path)?;
            let end = if *all { arguments.end } else { arguments.end.min(arguments.start + 1) };
            (path, arguments.start..end)
        }
        LintContext::Method("conn", name) if matches!(name.as_str(), "subscribe" | "unsubscribe") => {
            (format!("conn:{name}"), arguments.start + 1..arguments.end)
        }
        _ => return None,
    };
    let problem = named.into_iter().find_map(|register| match r.get(register)? {
        LintContext::Text(text) => Channel::from_script(text.as_bytes()).err().map(|e| Both::same(e.to_string())),
        // Adding text around it does not make the name valid.
        LintContext::Piece(text) => {
            let is_wrong = text.chars().any(|c| c.is_whitespace() || c.is_control());
            is_wrong.then(|| {
                let text = text.escape_debug();
                both!(
                    "a channel's name with \"{text}\" holds a space or control character",
                    "带有 \"{text}\" 的频道名里有空格或控制字符"
                )
            })
        }
        _ => None,
    })?;
    let what = Both {
        en: format!("{name} fails here, and its err is ignored: {}", problem.en),
        zh: format!("{name} 在这里会失败，而它的 err 没有被查看：{}", problem.zh),
    };
    let fix = both!("name it otherwise, and look at the err", "请换一个名称，并查看 err");
    Some(Found::new(ins.line, &name, what, fix))
}
