//! Which hooks a server's script may have, and what goes wrong with them besides their spelling.

use std::collections::BTreeSet;

use super::scan::Facts;
use crate::config::Protocol;
use crate::script::hooks::DECODE;
use crate::script::program::Program;
use crate::script::vm::Hook;

/// A line, a hook, what is wrong with it there, and the fix.
type Wrong = (u32, &'static str, String, String);

/// The hooks of a server.
pub(super) struct Hooks {
    pub names: Vec<&'static str>,
    protocol: &'static str,
}

impl Hooks {
    pub fn of(program: &Program) -> Hooks {
        let mut names: Vec<&'static str> = Hook::of(program.protocol).iter().map(|(hook, _)| hook.name()).collect();
        if program.protocol == Protocol::Socket {
            names.push(DECODE);
        }
        Hooks { names, protocol: program.protocol.name() }
    }

    /// All of them, in a sentence.
    pub fn all(&self) -> String {
        format!("the hooks of a {} server are {}", self.protocol, self.names.join(", "))
    }

    /// Hooks whose first argument has the name of another one.
    pub fn wrong_order(&self, facts: &Facts) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for write in facts.writes.iter().filter(|w| facts.is_top(w.proto)) {
            let Some((name, arguments, gets)) = arguments(&write.path).filter(|a| self.names.contains(&a.0)) else {
                continue;
            };
            let function = write.function.and_then(|f| facts.protos.get(f)).filter(|p| p.params > 0);
            let Some(first) = function.and_then(|f| f.locals.first()).map(|local| local.name.as_str()) else {
                continue;
            };
            // Scripts of before CONNMIX 1.0 have on_close(err, conn).
            if matches!(first, "conn" | "connection") || name == "on_close" && matches!(first, "err" | "error") {
                let what = format!("the first argument of {name} is {gets}, not '{first}'");
                wrong.push((write.line, name, what, format!("write function {name}{arguments}")));
            }
        }
        wrong
    }

    /// Hooks that are local functions of a file's top level while there is no global one.
    pub fn local(&self, facts: &Facts, functions: &BTreeSet<String>) -> Vec<Wrong> {
        let Some(top) = facts.protos.last() else { return Vec::new() };
        let missing = self.names.iter().copied().filter(|name| !functions.contains(*name));
        let local = missing.filter_map(|name| {
            let line = facts.declared(top, top.locals.iter().find(|l| l.name == name)?);
            let what = format!("{name} is a local function; the engine calls global ones");
            Some((line, name, what, format!("write function {name}(...) without local")))
        });
        local.collect()
    }
}

/// A hook's name, its arguments, and what the first one is.
fn arguments(name: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match name {
        "on_handshake" => ("on_handshake", "(client_id, headers, server, conn)", "the client's id"),
        "on_connect" => ("on_connect", "(client_id, conn)", "the client's id"),
        "on_message" => ("on_message", "(msg, conn)", "the message"),
        "on_close" => ("on_close", "(client_id, err, conn)", "the client's id"),
        "protocol_input" => ("protocol_input", "(buf, conn)", "the buffer"),
        "protocol_decode" => ("protocol_decode", "(str, conn)", "the package"),
        "protocol_encode" => ("protocol_encode", "(data, conn)", "the data"),
        _ => return None,
    })
}

/// Whether a global function was most likely meant as a hook: `on_open`, `onOpen`.
pub(super) fn looks_like_one(name: &str) -> bool {
    name.strip_prefix("on").is_some_and(|rest| rest.starts_with(|c: char| c == '_' || c.is_ascii_uppercase()))
}
