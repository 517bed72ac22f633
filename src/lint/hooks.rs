//! Which hooks a server's script may define, and mistakes in them other than their spelling.

use std::collections::BTreeSet;

use super::bytecode::Proto;
use super::found::Found;
use super::scan::Facts;
use crate::script::program::Program;
use crate::script::vm::Hook;
use crate::telemetry::language::{Both, both};

/// Globals that the engine reads, besides the hooks.
pub(super) const ENGINE_READS: [&str; 4] =
    ["protocol_input", "protocol_decode", "protocol_encode", "protocol_encode_shared"];

/// The hooks of a server.
pub(super) struct Hooks {
    pub names: Vec<&'static str>,
    protocol: &'static str,
}

impl Hooks {
    pub fn of(program: &Program) -> Hooks {
        let names = Hook::of(program.protocol).iter().map(|(hook, _)| hook.name()).collect();
        Hooks { names, protocol: program.protocol.name() }
    }

    /// All of them, in a sentence.
    pub fn all(&self) -> Both {
        let (protocol, names) = (self.protocol, self.names.join(", "));
        both!("the hooks of a {protocol} server are {names}", "{protocol} server 的钩子有 {names}")
    }

    /// Hooks whose first argument has the name of another one.
    pub fn wrong_order(&self, facts: &Facts) -> Vec<Found> {
        let wrong = self.written(facts).filter_map(|(line, (name, arguments, gets), function)| {
            let first = function.first_param()?;
            // Elsewhere an error's name in that place is no mistake, but an older form: see below.
            let is_wrong = matches!(first, "conn" | "connection") || name == "on_close" && first == "error";
            let (en, zh) = gets;
            let what = Both {
                en: format!("the first argument of {name} is {en}, not '{first}'"),
                zh: format!("{name} 的第一个参数是{zh}，不是 '{first}'"),
            };
            let found = Found::new(line, name, what, write_function(name, arguments));
            is_wrong.then_some(Found { order: Some(function.last_line), ..found })
        });
        wrong.collect()
    }

    /// Hooks in the form from before CONNMIX 1.0.
    pub fn older(&self, facts: &Facts) -> Vec<Found> {
        let older = self.written(facts).filter_map(|(line, (name, arguments, _), function)| {
            let is_older = name == "on_close" && function.first_param() == Some("err");
            let what = both!(
                "on_close(err, conn) is the older form, which is still called with these arguments",
                "on_close(err, conn) 是旧形式，仍然以这些参数调用"
            );
            is_older.then(|| Found::new(line, name, what, write_function(name, arguments)))
        });
        older.collect()
    }

    /// The hooks that a file's top level defines: the line, what is known of them, and the function.
    fn written<'a>(&self, facts: &'a Facts) -> impl Iterator<Item = (u32, Arguments, &'a Proto)> {
        let top = facts.writes.iter().filter(|write| facts.is_top(write.proto));
        top.filter_map(|write| {
            let arguments = arguments(&write.path).filter(|a| self.names.contains(&a.0))?;
            Some((write.line, arguments, facts.protos.get(write.function?)?))
        })
    }

    /// The positions of a hook's arguments that are objects of the engine, with their classes. `first` is how the hook calls
    /// its first argument.
    pub fn objects(&self, name: &str, first: Option<&str>) -> Option<&'static [(usize, &'static str)]> {
        let known: &[(usize, &str)] = match name {
            "on_handshake" => &[(3, "conn")],
            "on_connect" | "on_message" | "protocol_decode" | "protocol_encode" => &[(1, "conn")],
            "protocol_input" => &[(0, "buffer"), (1, "conn")],
            "on_close" if first == Some("err") => &[(1, "conn")],
            "on_close" => &[(2, "conn")],
            _ => return None,
        };
        self.names.contains(&name).then_some(known)
    }

    /// Hooks that are local functions of a file's top level while there is no global one.
    pub fn local(&self, facts: &Facts, functions: &BTreeSet<String>) -> Vec<Found> {
        let Some(top) = facts.protos.last() else { return Vec::new() };
        let missing = self.names.iter().copied().filter(|name| !functions.contains(*name));
        let local = missing.filter_map(|name| {
            let line = facts.declared(top, top.locals.iter().find(|l| l.name == name)?);
            let what = both!(
                "{name} is a local function; the engine calls global ones",
                "{name} 是局部函数；引擎调用的是全局函数"
            );
            Some(Found::new(line, name, what, without_local(name)))
        });
        local.collect()
    }
}

fn write_function(name: &str, arguments: &str) -> Both {
    both!("write function {name}{arguments}", "请写成 function {name}{arguments}")
}

/// The fix of a local function that must be global.
pub(super) fn without_local(name: &str) -> Both {
    both!("write function {name}(...) without local", "请写成 function {name}(...)，不要 local")
}

/// A hook's name, its arguments, and what the first one is, in English and in Chinese.
type Arguments = (&'static str, &'static str, (&'static str, &'static str));

fn arguments(name: &str) -> Option<Arguments> {
    Some(match name {
        "on_start" => ("on_start", "(worker)", ("the worker's number", " worker 的编号")),
        "on_handshake" => ("on_handshake", "(client_id, headers, server, conn)", ("the client's id", "客户端的 id")),
        "on_connect" => ("on_connect", "(client_id, conn)", ("the client's id", "客户端的 id")),
        "on_message" => ("on_message", "(msg, conn)", ("the message", "消息")),
        "on_close" => ("on_close", "(client_id, err, conn)", ("the client's id", "客户端的 id")),
        "protocol_input" => ("protocol_input", "(buf, conn)", ("the buffer", "缓冲区")),
        "protocol_decode" => ("protocol_decode", "(str, conn)", ("the package", "包")),
        "protocol_encode" => ("protocol_encode", "(data, conn)", ("the data", "数据")),
        _ => return None,
    })
}

/// Whether a global function was most likely meant as a hook: `on_open`, `onOpen`.
pub(super) fn looks_like_one(name: &str) -> bool {
    name.strip_prefix("on").is_some_and(|rest| rest.starts_with(|c: char| c == '_' || c.is_ascii_uppercase()))
}
