//! Single values: found by their path, read with a default and bounds, and reported with their place.
//!
//! A getter never fails: it reports a problem and returns the default, so that reading goes on. Anything that should be
//! a section and is not reads as a section without keys; `known` has reported it.

use super::address::{NO_ENDPOINT, ORIGIN};
use super::older::older_spelling;
use super::tree::{Kind, Node, Origin};
use super::units::{self, Quantity};
use super::{Place, Sink, join, quoted};
use crate::telemetry::language::{Both, both};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

/// A scalar as messages show it: not what comes from the environment, where secrets are.
fn shown(node: &Node) -> Both {
    match &node.kind {
        Kind::Scalar { origin: Origin::File, text, .. } => quoted(text).into(),
        _ => both!("the value of an environment variable", "某个环境变量的值"),
    }
}

/// What is expected, and what is wrong with a value, in Chinese. What is not here is told in English.
const CHINESE: [(&str, &str); 28] = [
    ("text", "文本"),
    ("a list", "列表"),
    ("a section of keys", "一组配置项"),
    ("a whole number", "整数"),
    ("true or false", "true 或 false"),
    ("a number of seconds or text such as \"10s\"", "秒数，或者 \"10s\" 这样的文本"),
    ("a number of bytes or text such as \"64KiB\"", "字节数，或者 \"64KiB\" 这样的文本"),
    ("a number for each time, such as \"10/s\" or \"40/200ms\"", "每段时间的个数，例如 \"10/s\" 或 \"40/200ms\""),
    ("a size for each time, such as \"64KiB/s\"", "每段时间的大小，例如 \"64KiB/s\""),
    ("an IP address such as 0.0.0.0", "IP 地址，例如 0.0.0.0"),
    ("host:port", "host:port"),
    (
        "\"*\", a pattern such as \"172.*.*.*\", an IP address or a CIDR",
        "\"*\"、\"172.*.*.*\" 这样的模式、IP 地址或 CIDR",
    ),
    ("an IP address or a CIDR such as \"10.0.0.0/8\"", "IP 地址或 CIDR，例如 \"10.0.0.0/8\""),
    ("a part such as \"80%\" or a size such as \"1GiB\"", "\"80%\" 这样的比例，或者 \"1GiB\" 这样的大小"),
    ("auto or a size such as \"1GiB\"", "auto，或者 \"1GiB\" 这样的大小"),
    (ORIGIN, "网页的来源，例如 \"https://example.com\"（协议、主机，可以有端口）"),
    ("expected the SHA-256 of the token: 64 hexadecimal digits", "应为令牌的 SHA-256：64 个十六进制数字"),
    (
        "expected a hash of argon2 or scrypt such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH, as connmix hash-password prints it",
        "应为 argon2 或 scrypt 的散列值，例如 $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH，也就是 connmix hash-password 打印的样子",
    ),
    ("this hash needs more than 1GiB of memory or 64 passes", "这个散列值需要超过 1GiB 的内存或 64 次迭代"),
    ("must not contain a colon", "不能含有冒号"),
    ("must have at most 90 bytes", "最多 90 字节"),
    ("must not be empty", "不能为空"),
    ("must hold %n, in whose place the number is put", "必须含有 %n，人数会写在那里"),
    (
        "no channel's name begins so: it has 1 to 255 bytes without spaces or control characters",
        "没有频道名会这样开头：频道名是 1 到 255 字节，不含空格和控制字符",
    ),
    (NO_ENDPOINT, "应为收集器的 URL，例如 http://localhost:4318，其中不能有用户、密码、查询或片段"),
    ("a number between 0 and 1", "0 到 1 之间的数字"),
    ("expected the name of a header that the engine does not set itself", "应为请求头的名称，并且不是引擎自己设置的"),
    ("expected the value of a header: not empty, without a line break", "应为请求头的值：不能为空，不能有换行"),
];

/// A fixed text in both languages.
pub fn worded(what: &str) -> Both {
    let zh = match what.strip_prefix("one of ") {
        Some(words) => format!("以下之一：{words}"),
        None => CHINESE.iter().find(|(en, _)| *en == what).map_or(what, |(_, zh)| zh).to_owned(),
    };
    Both { en: what.to_owned(), zh }
}

fn expected_got(what: &str, got: &Both) -> Both {
    let what = worded(what);
    Both {
        en: format!("expected {}, got {}", what.en, got.en),
        zh: format!("应为{}，实际是{}", spaced(&what.zh), spaced(&got.zh)),
    }
}

/// A text behind a Chinese character: one that begins with something else has a space before it.
fn spaced(text: &str) -> String {
    if text.starts_with(|c: char| c.is_ascii()) { format!(" {text}") } else { text.to_owned() }
}

/// A value, or the gap where it would stand.
#[derive(Clone)]
pub struct Value<'a> {
    sink: &'a Sink,
    /// None when the key is absent or has no value.
    node: Option<&'a Node>,
    key: String,
    place: Place,
}

impl<'a> Value<'a> {
    /// The whole file; None: a file without any key.
    pub fn root(node: Option<&'a Node>, sink: &'a Sink) -> Value<'a> {
        Value { sink, node, key: String::new(), place: node.map_or(Place::default(), |node| node.place) }
    }

    /// The value at a path below this one: `apiServer.port`, `servers[0].port`; the empty path is this value itself. A
    /// gap stands where its key does, or where the section begins that lacks it.
    pub fn get(&self, path: &str) -> Value<'a> {
        path.split('.').filter(|name| !name.is_empty()).fold(self.clone(), |value, name| match name.split_once('[') {
            None => value.key(name),
            Some((name, index)) => {
                let index = index.trim_end_matches(']').parse().unwrap_or(usize::MAX);
                let list = value.key(name);
                let item = list.items().get(index).and_then(|node| list.item(index, node));
                item.unwrap_or(Value { node: None, ..list })
            }
        })
    }

    /// The value of one key, in an older spelling if only that is given.
    fn key(&self, name: &str) -> Value<'a> {
        let entries = match self.node.map(|node| &node.kind) {
            Some(Kind::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        let spelt = |name: &str| entries.iter().find(|entry| entry.name == name);
        let older = || older_spelling(name).and_then(spelt).filter(|entry| !entry.value.is_null());
        let entry = match spelt(name) {
            Some(entry) if entry.value.is_null() => older().or(Some(entry)),
            found => found.or_else(older),
        };
        let place = match entry {
            Some(e) if e.value.is_null() => e.place,
            Some(e) => e.value.place,
            None => self.place,
        };
        let node = entry.map(|e| &*e.value).filter(|node| !node.is_null());
        let name = entry.map_or(name, |entry| &entry.name);
        Value { sink: self.sink, node, key: join(&self.key, name), place }
    }

    /// The key's path.
    pub fn path(&self) -> &str {
        &self.key
    }

    /// Whether anything is given.
    pub fn is_set(&self) -> bool {
        self.node.is_some()
    }

    /// Whether its text, or a part of it, came from a variable of the environment.
    pub fn is_of_environment(&self) -> bool {
        matches!(self.kind(), Some(Kind::Scalar { origin: Origin::Environment, .. }))
    }

    /// Whether it is a list, and nothing is in it.
    pub fn is_empty_list(&self) -> bool {
        matches!(self.node.map(|n| &n.kind), Some(Kind::List(items)) if items.is_empty())
    }

    /// Whether it is a list or a section of keys.
    pub fn is_many(&self) -> bool {
        matches!(self.kind(), Some(Kind::List(_) | Kind::Map(_)))
    }

    /// Whether it is a text that names a variable of the environment which is not there. That has been reported.
    pub fn is_unknown(&self) -> bool {
        matches!(self.kind(), Some(Kind::Scalar { origin: Origin::Unknown, .. }))
    }

    /// Reports a problem at this value.
    pub fn report(&self, message: impl Into<Both>) {
        if self.is_unknown() {
            return;
        }
        self.sink.report(self.place, &self.key, message);
    }

    /// The line it stands in, from 1.
    pub fn line(&self) -> usize {
        self.place.line
    }

    fn expected(&self, what: &str, node: &Node) {
        let got = match &node.kind {
            Kind::List(_) => worded("a list"),
            Kind::Map(_) => worded("a section of keys"),
            Kind::Scalar { .. } => shown(node),
        };
        self.report(expected_got(what, &got));
    }

    /// A list or a section was expected. A scalar in its place is not shown: it may hold a password.
    pub fn expected_many(&self, what: &str) {
        let Some(node) = self.node else { return };
        let got = match &node.kind {
            Kind::List(_) => worded("a list"),
            Kind::Map(_) => worded("a section of keys"),
            Kind::Scalar { .. } => both!("a single value", "单个值"),
        };
        self.report(expected_got(what, &got));
    }

    /// What this value is; None for a gap.
    pub fn kind(&self) -> Option<&'a Kind> {
        self.node.map(|node| &node.kind)
    }

    /// The values of a list, gaps left out. A gap in the list's own place is an empty list. What is no list is
    /// reported, and so are gaps in it.
    pub fn list(&self) -> Vec<Value<'a>> {
        if !matches!(self.kind(), None | Some(Kind::List(_))) {
            self.expected_many("a list");
        }
        let items = self.items().iter().enumerate();
        let mut list = Vec::new();
        for (i, node) in items {
            match self.item(i, node) {
                Some(item) => list.push(item),
                None => self.gap(i, node).report(both!("an entry without a value", "这一项没有值")),
            }
        }
        list
    }

    /// As [`Value::list`], for what `known` has looked at: nothing is reported.
    pub fn entries(&self) -> Vec<Value<'a>> {
        self.items().iter().enumerate().filter_map(|(i, node)| self.item(i, node)).collect()
    }

    fn items(&self) -> &'a [Rc<Node>] {
        match self.kind() {
            Some(Kind::List(items)) => items,
            _ => &[],
        }
    }

    fn item(&self, index: usize, node: &'a Node) -> Option<Value<'a>> {
        (!node.is_null()).then(|| Value { node: Some(node), ..self.gap(index, node) })
    }

    fn gap(&self, index: usize, node: &Node) -> Value<'a> {
        Value { sink: self.sink, node: None, key: format!("{}[{index}]", self.key), place: node.place }
    }

    /// The scalar's text, whatever it looks like. None for a gap or a problem.
    pub fn text(&self) -> Option<&'a str> {
        self.scalar("text")
    }

    /// The scalar's text for messages.
    fn shown(&self) -> Both {
        self.node.map(shown).unwrap_or_default()
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
            self.report(expected_got(expected, &self.shown()));
            default
        })
    }

    /// One of a few words, which are what the values are displayed as. Older files have other words: each with what it
    /// is called today. None for a gap or a problem.
    pub fn word<T: Copy + Display>(&self, words: &[T], older: &[(&str, &str)]) -> Option<T> {
        let given = match self.kind() {
            Some(Kind::Scalar { text, .. }) => older.iter().find(|(old, _)| *old == text.as_str()),
            _ => None,
        };
        if let Some((old, today)) = given {
            self.report(both!("\"{old}\" is called \"{today}\" today", "\"{old}\" 现在叫 \"{today}\""));
            return None;
        }
        let names: Vec<String> = words.iter().map(ToString::to_string).collect();
        let expected = format!("one of {}", names.join(", "));
        self.parse(&expected, None, |text| names.iter().position(|name| name == text).map(|at| Some(words[at])))
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
            Quantity::Unreadable => self.report(expected_got(expected, &self.shown())),
            Quantity::Is(_) | Quantity::OutOfRange => {
                let (least, most) = (show(*range.start()), show(*range.end()));
                let Both { en, zh } = self.shown();
                self.report(Both {
                    en: format!("out of range: {en}; it must be from {least} to {most}"),
                    zh: format!("超出范围：{zh}；必须从 {least} 到 {most}"),
                });
            }
        }
        default
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// Reads a text with `read` and returns its result and the problems as `LINE:COLUMN KEY: MESSAGE`.
    fn run<T>(text: &str, read: impl FnOnce(&Value<'_>) -> T) -> (T, Vec<String>) {
        let sink = Sink::default();
        let root = tree::parse(text, &sink).unwrap();
        let result = read(&Value::root(Some(&root), &sink));
        let show = |p: &crate::config::Problem| format!("{}:{} {}: {}", p.line, p.column, p.key, p.message);
        (result, sink.into_list().iter().map(show).collect())
    }

    #[test]
    fn a_gap_reads_as_the_default() {
        let (got, problems) = run("a:\nb: ~\n", |s| {
            let secs = s.get("a").duration(Duration::ZERO..=Duration::MAX, Duration::from_secs(3));
            (secs, s.get("b").list().len(), s.get("c").number(0..=9, 7u8), s.get("d.e[3].f").text().is_none())
        });
        assert_eq!(got, (Duration::from_secs(3), 0, 7, true));
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn every_wrong_value_is_told_and_reading_goes_on() {
        let text = "a: [1]\nb: 70000\nc: ten\nd: {x: 1}\ne: 1\nf: loud\ng: 99h\nh: 0\ni: [1, ~]\n";
        let (_, problems) = run(text, |s| {
            let hours = |n: u64| Duration::from_secs(n * 3600);
            s.get("a").duration(hours(0)..=hours(24), hours(1));
            s.get("b").number(0..=u16::MAX, 1);
            s.get("c").number(0..=9usize, 1);
            s.get("d").size(0..=9, 1);
            s.get("e").list();
            s.get("f").word(&["text", "json"], &[]);
            s.get("g").duration(hours(0)..=hours(24), hours(1));
            s.get("h").size(1..=1 << 20, 1);
            s.get("i").list();
        });
        let want = [
            "1:4 a: expected a number of seconds or text such as \"10s\", got a list",
            "2:4 b: out of range: \"70000\"; it must be from 0 to 65535",
            "3:4 c: expected a whole number, got \"ten\"",
            "4:4 d: expected a number of bytes or text such as \"64KiB\", got a section of keys",
            "5:4 e: expected a list, got a single value",
            "6:4 f: expected one of text, json, got \"loud\"",
            "7:4 g: out of range: \"99h\"; it must be from 0s to 24h",
            "8:4 h: out of range: \"0\"; it must be from 1 to 1MiB",
            "9:8 i[1]: an entry without a value",
        ];
        assert_eq!(problems, want);
    }

    #[test]
    fn older_keys_and_words_are_taken_or_name_todays() {
        let read = |s: &Value<'_>| {
            let age = s.get("byteCodeExpires").number(0..=99, 10);
            (age, s.get("protocol").word(&["socket"], &[("custom", "socket")]))
        };
        assert_eq!(run("bytecodeExpires: 5\nprotocol: socket\n", read), ((5, Some("socket")), vec![]));
        assert_eq!(run("byteCodeExpires: 6\n", read), ((6, None), vec![]));
        assert_eq!(run("byteCodeExpires:\nbytecodeExpires: 7\n", read), ((7, None), vec![]));
        let (got, problems) = run("byteCodeExpires: 6\nbytecodeExpires: 500\nprotocol: custom\n", read);
        assert_eq!(got, (6, None));
        assert_eq!(problems, ["3:11 protocol: \"custom\" is called \"socket\" today"]);
        let (_, problems) = run("x: 1\nbytecodeExpires: 500\n", read);
        assert_eq!(problems, ["2:18 bytecodeExpires: out of range: \"500\"; it must be from 0 to 99"]);
    }

    #[test]
    fn a_value_is_found_by_its_path_and_a_gap_stands_where_its_section_does() {
        let text = "a:\n  b:\n    - ~\n    - c: 1\n      d:\n";
        let (found, _) = run(text, |s| {
            ["a.b[1].c", "a.b[1].d", "a.b[1].x", "a.x.y", ""].map(|path| {
                let value = s.get(path);
                format!("{} {}:{}", value.path(), value.place.line, value.place.column)
            })
        });
        let want = ["a.b[1].c 4:10", "a.b[1].d 5:7", "a.b[1].x 4:7", "a.x.y 2:3", " 1:1"];
        assert_eq!(found, want);
    }
}
