//! Kinds of keys with more than one value: sections, lists of sections, and pairs of keys that make one value.

use super::changes::{Change, Changes, Effect, HIDDEN};
use super::kinds::{Leaf, number, parsed, required, required_text, text};
use super::raw::value::Value;
use super::rows::{Head, Kind, Row, Section, below};
use super::types::Listen;
use crate::telemetry::language::both;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The text of a missing list entry in a change.
const NONE: &str = "none";

/// A section of its own type.
pub struct Part<S>(PhantomData<S>);

/// A section of its own type.
pub fn part<S: Section>() -> Part<S> {
    Part(PhantomData)
}

impl<S: Section> Kind for Part<S> {
    type Value = S;

    fn read(&self, at: &Value<'_>) -> S {
        S::read(at)
    }

    fn rows(&self, head: &Head, value: Option<&S>, rows: &mut Vec<Row>) {
        S::rows(&head.path, value, rows);
    }

    fn compare(&self, head: &Head, old: &S, new: &S, changes: &mut Changes) {
        S::compare(&head.path, old, new, changes);
    }

    fn merge(&self, _: Effect, old: &S, new: &S) -> S {
        S::merge(old, new)
    }
}

/// An entry of a list of sections.
pub trait Entry: Section {
    /// The text of the whole entry in a change that adds or removes it.
    fn summary(&self) -> String;
}

/// A list of sections that are told apart by a name.
pub struct Named<S> {
    key: &'static str,
    name: fn(&S) -> &str,
    as_one: bool,
}

impl<S: Entry> Named<S> {
    /// The same, but a change of an entry is shown by its summary, which has everything except secrets.
    pub fn told_as_one(self) -> Named<S> {
        Named { as_one: true, ..self }
    }

    fn compare_as_one(&self, effect: Effect, key: &str, old: &S, new: &S, changes: &mut Changes) {
        if old.summary() != new.summary() {
            changes.add(effect, key, old.summary(), new.summary());
        }
        let mut rows = Changes::default();
        S::compare(key, old, new, &mut rows);
        let secrets = rows.live.iter().chain(&rows.restart).filter(|change| change.new == HIDDEN);
        secrets.for_each(|change| changes.add_hidden(effect, &change.key));
    }
}

/// A list of sections, none of which has the same `key`; `name` is that key's value. Empty names are left to their row.
pub fn named<S: Entry>(key: &'static str, name: fn(&S) -> &str) -> Named<S> {
    Named { key, name, as_one: false }
}

impl<S: Entry + PartialEq> Kind for Named<S> {
    type Value = Vec<S>;

    fn read(&self, at: &Value<'_>) -> Vec<S> {
        let entries = at.entries();
        let all: Vec<S> = entries.iter().map(S::read).collect();
        names_differ(all.iter().map(self.name).zip(entries.iter().map(|entry| entry.get(self.key))));
        all
    }

    fn rows(&self, head: &Head, value: Option<&Vec<S>>, rows: &mut Vec<Row>) {
        rows.push(list_row(head, Some(Json::Array(Vec::new()))));
        entry_rows(head, value, rows);
    }

    fn compare(&self, head: &Head, old: &Vec<S>, new: &Vec<S>, changes: &mut Changes) {
        let find = |all: &'_ [S], name: &str| all.iter().find(|entry| (self.name)(entry) == name).cloned();
        for name in union(old.iter().map(self.name), new.iter().map(self.name)) {
            let key = format!("{}[{name}]", head.path);
            match (find(old, name), find(new, name)) {
                (Some(old), Some(new)) if self.as_one => self.compare_as_one(head.effect, &key, &old, &new, changes),
                (Some(old), Some(new)) => S::compare(&key, &old, &new, changes),
                (old, new) => changes.add(head.effect, &key, summary(old.as_ref()), summary(new.as_ref())),
            }
        }
    }
}

/// Reports names that are given twice, each at its value.
fn names_differ<'a>(names: impl Iterator<Item = (&'a str, Value<'a>)>) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (name, at) in names.filter(|(name, _)| !name.is_empty()) {
        match first.get(name) {
            Some(line) => {
                at.report(both!("{name:?} is taken; line {line} has it too", "{name:?} 已被使用；第 {line} 行已有"))
            }
            None => drop(first.insert(name, at.line())),
        }
    }
}

/// All names of both lists, each once, in their order.
fn union<'a>(old: impl Iterator<Item = &'a str>, new: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in old.chain(new) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn summary(entry: Option<&impl Entry>) -> String {
    entry.map_or_else(|| NONE.to_owned(), Entry::summary)
}

/// The rows of a list's entries; of an empty one, those that an entry would have.
fn entry_rows<S: Section>(head: &Head, value: Option<&Vec<S>>, rows: &mut Vec<Row>) {
    match value.map(Vec::as_slice) {
        None | Some([]) => S::rows(&format!("{}[]", head.path), None, rows),
        Some(entries) => {
            for (i, entry) in entries.iter().enumerate() {
                S::rows(&format!("{}[{i}]", head.path), Some(entry), rows);
            }
        }
    }
}

/// The row of the list itself, with its default; None: it needs at least one entry.
fn list_row(head: &Head, default: Option<Json>) -> Row {
    Row {
        path: head.path.clone(),
        kind: "sections",
        bounds: "entries with these keys".to_owned(),
        default,
        effect: head.effect,
        words: head.words.to_owned(),
        value: None,
        hidden: false,
    }
}

/// A list of sections that are told apart by their position, each of which is there as a whole or waits for a restart
/// as a whole.
pub struct Positioned<S>(PhantomData<S>);

/// A list of sections, at least one, that are told apart by their position. If one of them has a change that needs a
/// restart, all of its changes wait for it.
pub fn positioned<S: Entry>() -> Positioned<S> {
    Positioned(PhantomData)
}

impl<S: Entry> Kind for Positioned<S> {
    type Value = Vec<S>;

    fn read(&self, at: &Value<'_>) -> Vec<S> {
        at.entries().iter().map(S::read).collect()
    }

    fn rows(&self, head: &Head, value: Option<&Vec<S>>, rows: &mut Vec<Row>) {
        rows.push(list_row(head, None));
        entry_rows(head, value, rows);
    }

    fn compare(&self, head: &Head, old: &Vec<S>, new: &Vec<S>, changes: &mut Changes) {
        for i in 0..old.len().max(new.len()) {
            let key = format!("{}[{i}]", head.path);
            match (old.get(i), new.get(i)) {
                (Some(old), Some(new)) => {
                    let mut found = Changes::default();
                    S::compare(&key, old, new, &mut found);
                    match found.restart.is_empty() {
                        true => changes.live.append(&mut found.live),
                        false => changes.restart.append(&mut found.restart),
                    }
                }
                (old, new) => changes.restart.push(Change { key, old: summary(old), new: summary(new) }),
            }
        }
    }

    fn merge(&self, _: Effect, old: &Vec<S>, new: &Vec<S>) -> Vec<S> {
        let stays = |old: &S, new: &S| {
            let mut found = Changes::default();
            S::compare("", old, new, &mut found);
            found.restart.is_empty()
        };
        let merged = old.iter().enumerate().map(|(i, old)| match new.get(i) {
            Some(new) if stays(old, new) => S::merge(old, new),
            _ => old.clone(),
        });
        merged.collect()
    }
}

/// `port` and `bind`: an address to listen on.
pub struct Address {
    port: u16,
}

/// `port`, by default this one, and `bind`.
pub fn address(port: u16) -> Address {
    Address { port }
}

impl Address {
    fn keys(&self) -> (Leaf<u16>, Leaf<IpAddr>) {
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let bind = parsed("an IP address such as 0.0.0.0", any, |text| text.parse().ok(), |ip| ip.to_string().into());
        (number(0..=u16::MAX, self.port), bind)
    }
}

/// The heads of two keys below one.
fn two(head: &Head, first: &str, second: (&str, &'static str)) -> (Head, Head) {
    let path = |key| below(&head.path, key);
    (Head { path: path(first), ..*head }, Head { path: path(second.0), words: second.1, ..*head })
}

fn port_and_bind(head: &Head) -> (Head, Head) {
    two(head, "port", ("bind", "The IP address that this port is on."))
}

impl Kind for Address {
    type Value = Listen;

    fn read(&self, at: &Value<'_>) -> Listen {
        let ((port, bind), key) = (self.keys(), at.get("port").path().to_owned());
        let ip = bind.read(&at.get("bind"));
        Listen { addr: SocketAddr::new(ip, port.read(&at.get("port"))), key }
    }

    fn rows(&self, head: &Head, value: Option<&Listen>, rows: &mut Vec<Row>) {
        let ((port, bind), (at_port, at_bind)) = (self.keys(), port_and_bind(head));
        port.rows(&at_port, value.map(|value| value.addr.port()).as_ref(), rows);
        bind.rows(&at_bind, value.map(|value| value.addr.ip()).as_ref(), rows);
    }

    fn compare(&self, head: &Head, old: &Listen, new: &Listen, changes: &mut Changes) {
        let ((port, bind), (at_port, at_bind)) = (self.keys(), port_and_bind(head));
        port.compare(&at_port, &old.addr.port(), &new.addr.port(), changes);
        bind.compare(&at_bind, &old.addr.ip(), &new.addr.ip(), changes);
    }
}

/// A list of `name` and `value`, for scripts; but for `path`, a name may be given more than once, and the last one
/// counts.
pub struct Options;

/// The option that the engine itself knows.
const PATH: &str = "path";

/// What a script keeps in any other may be a secret.
fn option_value(name: &str) -> Leaf<String> {
    if name == PATH { text("") } else { text("").secret() }
}

fn name_and_value(head: &Head) -> (Head, Head) {
    let head = Head { words: "path, or any other name, for mix.server.option.", ..head.clone() };
    two(&head, "name", ("value", "Its value. A path begins with / and holds no space, ? or #."))
}

impl Kind for Options {
    type Value = Vec<(String, String)>;

    fn read(&self, at: &Value<'_>) -> Self::Value {
        let entries = at.entries();
        let mut all = Vec::new();
        for entry in &entries {
            let (name, at) = (required_text(&entry.get("name")), entry.get("value"));
            let value = at.text().unwrap_or_default().to_owned();
            if name == PATH && (!value.starts_with('/') || value.contains([' ', '?', '#'])) {
                at.report(both!(
                    "expected a path that begins with \"/\" and holds no space, \"?\" or \"#\"",
                    "应为以 \"/\" 开头、不含空格、\"?\" 和 \"#\" 的路径"
                ));
            }
            all.push((name, value));
        }
        let named = all.iter().zip(&entries).filter(|((name, _), _)| name == PATH);
        names_differ(named.map(|((name, _), entry)| (name.as_str(), entry.get("name"))));
        all
    }

    fn rows(&self, head: &Head, value: Option<&Self::Value>, rows: &mut Vec<Row>) {
        rows.push(list_row(head, Some(Json::Array(Vec::new()))));
        let name_row = required();
        let mut entry = |index: String, pair: Option<&(String, String)>| {
            let head = Head { path: format!("{}[{index}]", head.path), ..head.clone() };
            let (at_name, at_value) = name_and_value(&head);
            name_row.rows(&at_name, pair.map(|(name, _)| name), rows);
            let name = pair.map_or(PATH, |(name, _)| name);
            option_value(name).rows(&at_value, pair.map(|(_, value)| value), rows);
        };
        match value.map(Vec::as_slice) {
            None | Some([]) => entry(String::new(), None),
            Some(all) => all.iter().enumerate().for_each(|(i, pair)| entry(i.to_string(), Some(pair))),
        }
    }

    fn compare(&self, head: &Head, old: &Self::Value, new: &Self::Value, changes: &mut Changes) {
        let last = |all: &[(String, String)], name: &str| {
            let found = all.iter().rev().find(|(given, _)| given == name);
            found.map(|(_, value)| value.clone())
        };
        for name in union(old.iter().map(|(name, _)| name.as_str()), new.iter().map(|(name, _)| name.as_str())) {
            let (old, new, key) = (last(old, name), last(new, name), below(&head.path, name));
            match name {
                _ if old == new => {}
                PATH => {
                    let tell = |value: Option<String>| value.unwrap_or_else(|| NONE.to_owned());
                    changes.add(head.effect, &key, tell(old), tell(new));
                }
                _ => changes.add_hidden(head.effect, &key),
            }
        }
    }
}
