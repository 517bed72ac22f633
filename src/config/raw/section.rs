//! Reads nodes key by key: each getter names a key once, with its bounds and its default, and reports what is wrong.
//!
//! A getter never fails: with a problem reported it returns the default, so that reading goes on. Whoever reads must ask
//! for every key of a section; the keys that nobody asked for are then the unknown ones.

use super::tree::{Entry, Kind, Node};
use super::units::{self, Quantity};
use super::{At, Place, Sink, join, quoted, shown_key};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

/// A value, or the gap where it would stand.
pub struct Value<'a> {
    sink: &'a Sink,
    /// None when the key is absent or has no value.
    node: Option<&'a Node>,
    key: String,
    place: Place,
}

/// A mapping while it is read.
pub struct Section<'a> {
    sink: &'a Sink,
    entries: &'a [Entry],
    key: String,
    place: Place,
    known: Vec<&'static str>,
    /// Keys of older versions, and what they are called today.
    older: &'static [(&'static str, &'static str)],
    /// Keys that are taken in an older spelling.
    older_spelt: Vec<&'static str>,
}

impl<'a> Value<'a> {
    /// The whole file.
    pub fn root(node: &'a Node, sink: &'a Sink) -> Value<'a> {
        Value { sink, node: Some(node), key: String::new(), place: node.place }
    }

    /// Whether anything is given.
    pub fn is_set(&self) -> bool {
        self.node.is_some()
    }

    /// Whether it is a list, and nothing is in it.
    pub fn is_empty_list(&self) -> bool {
        matches!(self.node.map(|n| &n.kind), Some(Kind::List(items)) if items.is_empty())
    }

    /// Something with this value's place and key.
    pub fn at<T>(&self, value: T) -> At<T> {
        At { value, place: self.place, key: self.key.clone() }
    }

    /// Reports a problem at this value.
    pub fn report(&self, message: impl Into<String>) {
        self.sink.report(self.place, &self.key, message);
    }

    fn expected(&self, what: &str, node: &Node) {
        let got = match &node.kind {
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a section of keys".to_owned(),
            Kind::Scalar { text, .. } => quoted(text),
        };
        self.report(format!("expected {what}, got {got}"));
    }

    /// A list or a section was expected. A scalar in its place is not shown: it may hold a password.
    fn expected_many(&self, what: &str, node: &Node) {
        let got = match &node.kind {
            Kind::List(_) => "a list",
            Kind::Map(_) => "a section of keys",
            Kind::Scalar { .. } => "a single value",
        };
        self.report(format!("expected {what}, got {got}"));
    }

    /// Reads a mapping; a gap reads as one without keys. Unknown keys are reported once `read` is through.
    pub fn section<T>(self, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let entries = match self.node.map(|n| (n, &n.kind)) {
            Some((_, Kind::Map(entries))) => entries.as_slice(),
            Some((node, _)) => {
                self.expected_many("a section of keys", node);
                &[]
            }
            None => &[],
        };
        let mut section = Section {
            sink: self.sink,
            entries,
            key: self.key,
            place: self.place,
            known: Vec::new(),
            older: &[],
            older_spelt: Vec::new(),
        };
        let result = read(&mut section);
        section.report_unknown();
        result
    }

    /// The values of a list, gaps left out. A gap in the list's own place is an empty list.
    pub fn list(&self) -> Vec<Value<'a>> {
        let items = match self.node.map(|n| (n, &n.kind)) {
            Some((_, Kind::List(items))) => items.as_slice(),
            Some((node, _)) => {
                self.expected_many("a list", node);
                &[]
            }
            None => &[],
        };
        items.iter().enumerate().filter_map(|(i, node)| self.item(i, node)).collect()
    }

    fn item(&self, index: usize, node: &'a Rc<Node>) -> Option<Value<'a>> {
        let value =
            Value { sink: self.sink, node: Some(node), key: format!("{}[{index}]", self.key), place: node.place };
        match node.is_null() {
            true => {
                value.report("an entry without a value");
                None
            }
            false => Some(value),
        }
    }

    /// The scalar's text, whatever it looks like. None for a gap or a problem.
    pub fn text(&self) -> Option<&'a str> {
        self.scalar("text")
    }

    fn scalar(&self, expected: &str) -> Option<&'a str> {
        let node = self.node?;
        match &node.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => {
                self.expected(expected, node);
                None
            }
        }
    }

    /// A text that `parse` understands; what it says otherwise is the problem's message.
    pub fn parse<T>(&self, expected: &str, default: T, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(text) = self.scalar(expected) else { return default };
        parse(text).unwrap_or_else(|| {
            self.report(format!("expected {expected}, got {}", quoted(text)));
            default
        })
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)], default: T) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        self.parse(&expected, default, |text| words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value))
    }

    /// As [`Value::word`], where older files have other words: each with what it is called today.
    pub fn word_of<T: Copy>(&self, words: &[(&str, T)], older: &[(&str, &str)], default: T) -> T {
        let given = self.node.and_then(|node| match &node.kind {
            Kind::Scalar { text, .. } => older.iter().find(|(old, _)| old == text),
            _ => None,
        });
        match given {
            Some((old, today)) => {
                self.report(format!("\"{old}\" is called \"{today}\" today"));
                default
            }
            None => self.word(words, default),
        }
    }

    /// A whole number.
    pub fn number<T>(&self, range: RangeInclusive<T>, default: T) -> T
    where
        T: TryFrom<i128> + PartialOrd + Copy + Display,
    {
        let parse = |text: &str| match text.trim().parse::<i128>() {
            Ok(n) => T::try_from(n).map_or(Quantity::OutOfRange, Quantity::Is),
            Err(_) => Quantity::Unreadable,
        };
        self.quantity("a whole number", parse, |n| n.to_string(), range, default)
    }

    /// A duration.
    pub fn duration(&self, range: RangeInclusive<Duration>, default: Duration) -> Duration {
        const EXPECTED: &str = "a number of seconds or text such as \"10s\"";
        self.quantity(EXPECTED, units::parse_duration, units::duration, range, default)
    }

    /// A number of bytes.
    pub fn size(&self, range: RangeInclusive<usize>, default: usize) -> usize {
        const EXPECTED: &str = "a number of bytes or text such as \"64KiB\"";
        self.quantity(EXPECTED, units::parse_size, units::size, range, default)
    }

    fn quantity<T: PartialOrd + Copy>(
        &self,
        expected: &str,
        parse: impl FnOnce(&str) -> Quantity<T>,
        show: impl Fn(T) -> String,
        range: RangeInclusive<T>,
        default: T,
    ) -> T {
        let Some(text) = self.scalar(expected) else { return default };
        match parse(text) {
            Quantity::Is(value) if range.contains(&value) => return value,
            Quantity::Unreadable => self.report(format!("expected {expected}, got {}", quoted(text))),
            Quantity::Is(_) | Quantity::OutOfRange => {
                let (least, most) = (show(*range.start()), show(*range.end()));
                self.report(format!("out of range: {}; it must be from {least} to {most}", quoted(text)));
            }
        }
        default
    }
}

impl<'a> Section<'a> {
    /// The value of a key, which is a known one from now on.
    pub fn get(&mut self, name: &'static str) -> Value<'a> {
        self.known.push(name);
        let entry = self.entries.iter().find(|e| e.name == name);
        let place = match entry {
            Some(e) if e.value.is_null() => e.place,
            Some(e) => e.value.place,
            None => self.place,
        };
        let node = entry.map(|e| &*e.value).filter(|node| !node.is_null());
        Value { sink: self.sink, node, key: join(&self.key, name), place }
    }

    /// The value of a key that may be spelt in an older way, too. Both at once are a problem.
    pub fn get_either(&mut self, name: &'static str, older: &'static str) -> Value<'a> {
        let (value, old) = (self.get(name), self.get(older));
        // Messages offer only today's spelling.
        self.known.pop();
        self.older_spelt.push(older);
        if value.is_set() && old.is_set() {
            old.report(format!("given twice: it is an older spelling of {name}"));
        }
        if old.is_set() && !value.is_set() { old } else { value }
    }

    /// Names keys of older versions that are none any more, with what they are called today.
    pub fn older(&mut self, older: &'static [(&'static str, &'static str)]) {
        self.older = older;
    }

    fn report_unknown(&self) {
        let is_known = |name: &str| self.known.contains(&name) || self.older_spelt.contains(&name);
        for entry in self.entries.iter().filter(|e| !is_known(&e.name)) {
            let older = self.older.iter().find(|(old, _)| *old == entry.name);
            let hint = match nearest(&entry.name, &self.known) {
                _ if older.is_some() => older.map_or_else(String::new, |(_, today)| format!("it is {today} today")),
                Some(known) => format!("did you mean {known:?}?"),
                None if entry.name.contains(':') => "a space must follow the colon".to_owned(),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let message = format!("unknown key \"{}\"; {hint}", shown_key(&entry.name));
            self.sink.report(entry.place, &join(&self.key, &entry.name), message);
        }
    }
}

/// The known key that a misspelt one most likely stands for.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    const LONGEST: usize = 40;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |k: &str| strsim::osa_distance(&name, &k.to_lowercase());
    let (best, near) = known.iter().map(|k| (distance(k), *k)).min()?;
    (best <= 1 + near.len() / 5).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// Reads a text with `read` and returns its result and the problems as `LINE:COLUMN KEY: MESSAGE`.
    fn run<T>(text: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> (T, Vec<String>) {
        let sink = Sink::default();
        let root = tree::parse(text, &sink).unwrap();
        let result = Value::root(&root, &sink).section(read);
        let show = |p: &super::super::Problem| format!("{}:{} {}: {}", p.line, p.column, p.key, p.message);
        (result, sink.into_list().iter().map(show).collect())
    }

    #[test]
    fn a_gap_reads_as_the_default() {
        let (got, problems) = run("a:\nb: ~\n", |s| {
            let secs = s.get("a").duration(Duration::ZERO..=Duration::MAX, Duration::from_secs(3));
            (secs, s.get("b").list().len(), s.get("c").number(0..=9, 7u8), s.get("d").text().is_none())
        });
        assert_eq!(got, (Duration::from_secs(3), 0, 7, true));
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn every_wrong_value_is_told_and_reading_goes_on() {
        let text = "a: [1]\nb: 70000\nc: ten\nd: {x: 1}\ne: hunter2\nf: loud\ng: 99h\nh: 0\ni: [1, ~]\n";
        let (_, problems) = run(text, |s| {
            let hours = |n: u64| Duration::from_secs(n * 3600);
            s.get("a").duration(hours(0)..=hours(24), hours(1));
            s.get("b").number(0..=u16::MAX, 1);
            s.get("c").number(0..=9usize, 1);
            s.get("d").size(0..=9, 1);
            s.get("e").section(|_| ());
            s.get("f").word(&[("text", 1), ("json", 2)], 1);
            s.get("g").duration(hours(0)..=hours(24), hours(1));
            s.get("h").size(1..=1 << 20, 1);
            s.get("i").list();
        });
        let want = [
            "1:4 a: expected a number of seconds or text such as \"10s\", got a list",
            "2:4 b: out of range: \"70000\"; it must be from 0 to 65535",
            "3:4 c: expected a whole number, got \"ten\"",
            "4:4 d: expected a number of bytes or text such as \"64KiB\", got a section of keys",
            "5:4 e: expected a section of keys, got a single value",
            "6:4 f: expected one of text, json, got \"loud\"",
            "7:4 g: out of range: \"99h\"; it must be from 0s to 24h",
            "8:4 h: out of range: \"0\"; it must be from 1 to 1MiB",
            "9:8 i[1]: an entry without a value",
        ];
        assert_eq!(problems, want);
    }

    #[test]
    fn older_keys_and_words_are_taken_or_name_todays() {
        let read = |s: &mut Section<'_>| {
            s.older(&[("server", "apiServer")]);
            let age = s.get_either("byteCodeExpires", "bytecodeExpires").number(0..=99, 10);
            (age, s.get("protocol").word_of(&[("socket", 1)], &[("custom", "socket")], 0))
        };
        assert_eq!(run("bytecodeExpires: 5\nprotocol: socket\n", read), ((5, 1), vec![]));
        assert_eq!(run("byteCodeExpires: 6\n", read), ((6, 0), vec![]));
        let (got, problems) = run("byteCodeExpires: 6\nbytecodeExpires: 5\nserver: 1\nprotocol: custom\nx: 1\n", read);
        assert_eq!(got, (6, 0));
        let want = [
            "2:18 bytecodeExpires: given twice: it is an older spelling of byteCodeExpires",
            "3:1 server: unknown key \"server\"; it is apiServer today",
            "4:11 protocol: \"custom\" is called \"socket\" today",
            "5:1 x: unknown key \"x\"; known here: byteCodeExpires, protocol",
        ];
        assert_eq!(problems, want);
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let text = "readTimout: 1\nREADTIMEOUT: 1\nprot: 1\nfoo: 1\nport:6790: \n\"password:hunter2\": 1\n";
        let (_, problems) = run(text, |s| {
            s.get("readTimeout");
            s.get("port");
        });
        let want = [
            "1:1 readTimout: unknown key \"readTimout\"; did you mean \"readTimeout\"?",
            "2:1 READTIMEOUT: unknown key \"READTIMEOUT\"; did you mean \"readTimeout\"?",
            "3:1 prot: unknown key \"prot\"; did you mean \"port\"?",
            "4:1 foo: unknown key \"foo\"; known here: readTimeout, port",
            "5:1 port:...: unknown key \"port:...\"; a space must follow the colon",
            "6:1 password:...: unknown key \"password:...\"; a space must follow the colon",
        ];
        assert_eq!(problems, want);
    }
}
