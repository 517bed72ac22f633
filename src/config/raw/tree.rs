//! From text to nodes, each with its place.
//!
//! It works on the parser's events, since only they tell every place, keep a scalar's spelling (a password of 0123
//! stays that) and let a duplicate key be one problem among others. Aliases share their node and merge keys (`<<`) are
//! laid out; both count in full, so that a file of a few lines can't stand for millions of values.

use super::{MAX_BYTES, Place, Sink, env, join, shown_key, units};
use crate::telemetry::language::{Both, both};
use serde_yaml::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use zeroize::Zeroizing;

/// The most values a file may hold, counting what its aliases stand for.
const MAX_NODES: usize = 100_000;

/// The most keys in one section; the schema has twenty. Keys are looked for one by one, so this bounds that too.
const MAX_KEYS: usize = 256;

/// The deepest nesting; the schema itself needs six.
const MAX_DEPTH: usize = 32;

/// A value and its place.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// How many nodes it stands for, aliases laid out.
    size: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// A scalar; `plain` if it stood without quotes.
    Scalar {
        /// Its text, unescaped. It may be a secret.
        text: Zeroizing<String>,
        /// Without quotes or `!!str`, so that `null` means nothing.
        plain: bool,
        /// Where it comes from.
        origin: Origin,
    },
    /// A list.
    List(Vec<Rc<Node>>),
    /// A mapping, without duplicates.
    Map(Vec<Entry>),
}

/// Where a scalar's text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file alone.
    File,
    /// A part of it from the environment, and so it is not for messages.
    Environment,
    /// It is unknown: a variable is not set, which has been reported.
    Unknown,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub name: String,
    /// The key's place.
    pub place: Place,
    /// The value.
    pub value: Rc<Node>,
}

impl Node {
    /// Whether it stands for "not given": empty, `~` or `null` without quotes.
    pub fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar { text, plain, .. } => *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            _ => false,
        }
    }
}

/// Parses a text of at most [`MAX_BYTES`]. None when there is no tree; the sink then says why.
pub fn parse(text: &str, sink: &Sink) -> Option<Rc<Node>> {
    if text.len() > MAX_BYTES {
        sink.report(
            Place::default(),
            "",
            both!("larger than {0}; this is no configuration", "大于 {0}；这不是配置文件", units::size(MAX_BYTES)),
        );
        return None;
    }
    let mut builder = Builder { sink, open: Vec::new(), root: None, anchors: HashMap::new(), total: 0, expanded: 0 };
    for event in Parser::new_from_str(text) {
        let step = event.map_err(Stop::from).and_then(|(event, span)| builder.event(event, span));
        if let Err(stop) = step {
            sink.report(stop.place, &builder.path(), stop.message);
            return None;
        }
    }
    match builder.root {
        Some(root) if !root.is_null() => Some(root),
        _ => {
            sink.report(
                Place::default(),
                "",
                both!(
                    "empty; it must name at least one server under engine.servers",
                    "空的；engine.servers 下面至少要有一个 server"
                ),
            );
            None
        }
    }
}

/// An error after which there is no tree.
struct Stop {
    place: Place,
    message: Both,
}

impl From<ScanError> for Stop {
    fn from(e: ScanError) -> Stop {
        let place = Place { line: e.marker().line(), column: e.marker().col() + 1 };
        Stop { place, message: both!("not valid YAML: {0}", "不是有效的 YAML：{0}", e.info()) }
    }
}

/// A list or mapping whose end has not been read yet.
struct Open {
    place: Place,
    anchor: usize,
    size: usize,
    what: Inside,
}

enum Inside {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, merges: Vec<Rc<Node>>, key: Option<Key> },
}

/// A key that waits for its value; `name` is None if it can't be one.
struct Key {
    name: Option<String>,
    place: Place,
}

struct Builder<'a> {
    sink: &'a Sink,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
    anchors: HashMap<usize, Rc<Node>>,
    total: usize,
    /// The bytes of texts with something from the environment.
    expanded: usize,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(Stop {
                place,
                message: both!(
                    "a second document begins here; a file holds one",
                    "这里开始了第二个文档；一个文件只能有一个"
                ),
            }),
            Event::Scalar(text, style, anchor, tag) => {
                let forced = self.tag_makes_text(place, tag.as_deref());
                let plain = style == ScalarStyle::Plain && !forced;
                let kind = self.scalar(place, Cow::into_owned(text), plain)?;
                self.count(1, place)?;
                self.finished(Rc::new(Node { place, kind, size: 1 }), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag_makes_text(place, tag.as_deref());
                self.begin(place, anchor, Inside::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag_makes_text(place, tag.as_deref());
                self.begin(place, anchor, Inside::Map { entries: Vec::new(), merges: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Stop {
                        place,
                        message: both!("an alias inside of what it stands for", "别名出现在它所代表的内容里"),
                    });
                };
                self.count(node.size, place)?;
                self.finished(node, 0)
            }
            _ => Ok(()),
        }
    }

    /// A scalar with what it says of the environment.
    fn scalar(&mut self, place: Place, text: String, plain: bool) -> Result<Kind, Stop> {
        let text = Zeroizing::new(text);
        // A key is what it is.
        let is_key = matches!(self.open.last(), Some(Open { what: Inside::Map { key: None, .. }, .. }));
        let expanded = if is_key { Ok(None) } else { env::expand(&text) };
        match expanded {
            Ok(Some(text)) => {
                self.expanded += text.len();
                if self.expanded > MAX_BYTES {
                    let message = both!(
                        "more than {0} from the environment",
                        "来自环境变量的内容超过 {0}",
                        units::size(MAX_BYTES)
                    );
                    return Err(Stop { place, message });
                }
                // A variable that says "null" is text; an empty one is nothing.
                let plain = plain && text.is_empty();
                Ok(Kind::Scalar { text, plain, origin: Origin::Environment })
            }
            Ok(None) => Ok(Kind::Scalar { text, plain, origin: Origin::File }),
            Err(message) => {
                self.sink.report(place, &self.path(), message);
                Ok(Kind::Scalar { text: Zeroizing::default(), plain: false, origin: Origin::Unknown })
            }
        }
    }

    /// Only `!!str` matters. The tag itself is not shown: it may be a password that was not quoted.
    fn tag_makes_text(&self, place: Place, tag: Option<&Tag>) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_custom() {
            self.sink.report(
                place,
                &self.path(),
                both!(
                    "tags are not used here; text that begins with ! must stand in quotes",
                    "这里不使用标签；以 ! 开头的文本要写在引号里"
                ),
            );
        }
        tag.is_yaml_core_schema_tag("str")
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Stop> {
        self.total += nodes;
        match self.total > MAX_NODES {
            true => Err(Stop {
                place,
                message: both!(
                    "more than {MAX_NODES} values, counting each alias in full",
                    "超过 {MAX_NODES} 个值（每个别名按全部内容计算）"
                ),
            }),
            false => Ok(()),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, what: Inside) -> Result<(), Stop> {
        self.count(1, place)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(Stop {
                place, message: both!("nested more than {MAX_DEPTH} deep", "嵌套超过 {MAX_DEPTH} 层")
            });
        }
        self.open.push(Open { place, anchor, size: 1, what });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let Open { place, anchor, mut size, what } = open;
        let kind = match what {
            Inside::List(items) => Kind::List(items),
            Inside::Map { mut entries, merges, .. } => {
                for from in merges {
                    size += self.merge(&mut entries, &from, place)?;
                }
                Kind::Map(entries)
            }
        };
        self.finished(Rc::new(Node { place, kind, size }), anchor)
    }

    /// What `<<` brings in: entries whose key is not there yet. Returns their size.
    fn merge(&mut self, entries: &mut Vec<Entry>, from: &Rc<Node>, at: Place) -> Result<usize, Stop> {
        let sources = match &from.kind {
            Kind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(from),
        };
        let mut added = 0;
        for source in sources {
            let Kind::Map(more) = &source.kind else {
                self.sink.report(
                    source.place,
                    &join(&self.path(), "<<"),
                    both!("expected a section of keys to merge in", "应为要合并进来的一组配置项"),
                );
                continue;
            };
            for entry in more {
                self.count(entry.value.size, at)?;
                if entries.iter().all(|e| e.name != entry.name) {
                    added += entry.value.size;
                    entries.push(entry.clone());
                    bound_keys(entries, at)?;
                }
            }
        }
        Ok(added)
    }

    /// Puts a complete node where it belongs.
    fn finished(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let path = self.path();
        let Some(top) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        top.size += node.size;
        match &mut top.what {
            Inside::List(items) => items.push(node),
            Inside::Map { entries, merges, key } => match key.take() {
                None => *key = Some(as_key(&node, &path, self.sink)),
                Some(Key { name: None, .. }) => {}
                Some(Key { name: Some(name), .. }) if name == "<<" => merges.push(node),
                Some(Key { name: Some(name), place }) => match entries.iter().find(|e| e.name == name) {
                    Some(first) => {
                        let (key, line) = (shown_key(&name), first.place.line);
                        let message = both!(
                            "duplicate key {key:?}; line {line} has it too",
                            "重复的配置项 {key:?}；第 {line} 行已有"
                        );
                        self.sink.report(place, &path, message);
                    }
                    None => {
                        entries.push(Entry { name, place, value: node });
                        bound_keys(entries, place)?;
                    }
                },
            },
        }
        Ok(())
    }

    /// The path of what is being read now.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match &open.what {
            Inside::List(items) => format!("{path}[{}]", items.len()),
            Inside::Map { key: Some(Key { name: Some(name), .. }), .. } => join(&path, name),
            Inside::Map { .. } => path,
        })
    }
}

fn bound_keys(entries: &[Entry], place: Place) -> Result<(), Stop> {
    match entries.len() > MAX_KEYS {
        true => Err(Stop {
            place,
            message: both!("more than {MAX_KEYS} keys in one section", "一组里超过 {MAX_KEYS} 个配置项"),
        }),
        false => Ok(()),
    }
}

fn as_key(node: &Node, path: &str, sink: &Sink) -> Key {
    let name = match &node.kind {
        Kind::Scalar { text, .. } => Some(text.to_string()),
        _ => {
            sink.report(node.place, path, both!("a key must be plain text", "配置项的名称必须是普通文本"));
            None
        }
    };
    Key { name, place: node.place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(usize, usize, String, String)> {
        let sink = Sink::default();
        parse(text, &sink);
        sink.into_list().into_iter().map(|p| (p.line, p.column, p.key, p.message.en)).collect()
    }

    fn entries(text: &str) -> Vec<(String, String)> {
        let sink = Sink::default();
        let root = parse(text, &sink).unwrap();
        assert_eq!(sink.into_list(), []);
        let Kind::Map(entries) = &root.kind else { panic!("no mapping") };
        entries.iter().map(|e| (e.name.clone(), shape(&e.value))).collect()
    }

    fn shape(node: &Node) -> String {
        match &node.kind {
            Kind::Scalar { text, .. } => text.to_string(),
            Kind::List(items) => format!("[{}]", items.iter().map(|n| shape(n)).collect::<Vec<_>>().join(" ")),
            Kind::Map(entries) => {
                let all: Vec<_> = entries.iter().map(|e| format!("{}={}", e.name, shape(&e.value))).collect();
                format!("{{{}}}", all.join(" "))
            }
        }
    }

    #[test]
    fn places_count_from_one_and_scalars_keep_their_spelling() {
        let sink = Sink::default();
        let root = parse("a: 1\nb:\n  - pass: 0123\n", &sink).unwrap();
        let Kind::Map(entries) = &root.kind else { panic!("no mapping") };
        assert_eq!((entries[0].place.line, entries[0].place.column), (1, 1));
        assert_eq!((entries[0].value.place.line, entries[0].value.place.column), (1, 4));
        let Kind::List(items) = &entries[1].value.kind else { panic!("no list") };
        let Kind::Map(inner) = &items[0].kind else { panic!("no mapping") };
        assert_eq!((inner[0].place.line, inner[0].place.column), (3, 5));
        assert_eq!(shape(&inner[0].value), "0123");
    }

    #[test]
    fn quotes_tell_text_from_nothing() {
        let sink = Sink::default();
        let root = parse("[~, null, '', \"null\", !!str null, ]", &sink).unwrap();
        let Kind::List(items) = &root.kind else { panic!("no list") };
        assert_eq!(items.iter().map(|n| n.is_null()).collect::<Vec<_>>(), [true, true, false, false, false]);
    }

    #[test]
    fn all_duplicates_are_found_in_one_pass() {
        let found = problems("a: 1\nb: {c: 1, c: 2}\na: [x]\n");
        let want = [
            (2, 11, "b.c".to_owned(), "duplicate key \"c\"; line 2 has it too".to_owned()),
            (3, 1, "a".to_owned(), "duplicate key \"a\"; line 1 has it too".to_owned()),
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn aliases_and_merges_are_laid_out() {
        let text = "x: &x {p: 1, q: 2}\ny: *x\nz: {<<: *x, p: 3}\nw: {<<: [*x, {r: 4, p: 5}]}\n";
        let all: Vec<String> = entries(text).into_iter().map(|(name, value)| name + " " + &value).collect();
        assert_eq!(all, ["x {p=1 q=2}", "y {p=1 q=2}", "z {p=3 q=2}", "w {p=1 q=2 r=4}"]);
    }

    #[test]
    fn what_is_no_tree_is_told_with_its_place() {
        for (text, line, key, message) in [
            ("", 0, "", "empty"),
            ("# nothing\n", 0, "", "empty"),
            ("a: [1\nb: 2", 2, "a[0]", "not valid YAML"),
            ("a: *b", 1, "a", "not valid YAML"),
            ("a: &a [*a]", 1, "a[0]", "an alias inside"),
            ("a: 1\n---\nb: 2\n", 2, "", "a second document"),
            ("a: !pa55word\n", 1, "a", "tags are not used"),
            ("{[a]: 1}", 1, "", "a key must be"),
            ("a: {<<: 1}", 1, "a.<<", "expected a section"),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert_eq!((found[0].0, found[0].2.as_str()), (line, key), "{text:?}: {found:?}");
            assert!(found[0].3.starts_with(message), "{text:?}: {found:?}");
            assert!(!found[0].3.contains("pa55"), "{found:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..40 {
            let one = format!("*a{}", i - 1);
            aliases += &format!("a{i}: &a{i} [{}]\n", vec![one; 10].join(","));
        }
        let chain: String = (1..20_000).map(|i| format!("- &a{i} [*a{}]\n", i - 1)).collect();
        let chain = "- &a0 [x]\n".to_owned() + &chain;
        let mut merges = "a0: &a0 {k: [x]}\n".to_owned();
        (1..250).for_each(|i| merges += &format!("a{i}: &a{i} {{<<: *a{}, k{i}: *a{}}}\n", i - 1, i - 1));
        let keys: String = (0..50_000).map(|i| format!("k{i}: 1\n")).collect();
        for (text, want) in [
            (aliases, "more than 100000 values"),
            (chain, "more than 100000 values"),
            (merges, "more than 100000 values"),
            (keys, "more than 256 keys"),
            ("[".repeat(100) + &"]".repeat(100), "nested more than"),
            ("[".repeat(100_000), "not valid YAML: "),
            (format!("[{}]", "[],".repeat(200_000)), "more than 100000 values"),
        ] {
            let found = problems(&text);
            assert!(found[0].3.starts_with(want), "{found:?}");
        }
    }
}
