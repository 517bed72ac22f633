//! Puts nodes together, event by event.

use serde_yaml::granit_parser::{Event, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use zeroize::Zeroizing;

use super::node::{Entry, Kind, Node, Origin};
use crate::config::raw::{MAX_BYTES, Place, Sink, env, join, shown_key, units};
use crate::telemetry::language::{Both, both};

/// The most values a file may hold, counting what its aliases stand for.
const MAX_NODES: usize = 100_000;

/// The most keys in one section; the schema has twenty. Keys are looked for one by one, so this bounds that too.
const MAX_KEYS: usize = 256;

/// The deepest nesting; the schema itself needs six.
const MAX_DEPTH: usize = 32;

/// An error after which there is no tree.
pub(super) struct Stop {
    pub(super) place: Place,
    pub(super) message: Both,
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

/// What has been read so far.
pub(super) struct Builder<'a> {
    sink: &'a Sink,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
    anchors: HashMap<usize, Rc<Node>>,
    total: usize,
    /// The bytes of texts with something from the environment.
    expanded: usize,
}

impl<'a> Builder<'a> {
    /// Nothing has been read.
    pub(super) fn new(sink: &'a Sink) -> Builder<'a> {
        Builder { sink, open: Vec::new(), root: None, anchors: HashMap::new(), total: 0, expanded: 0 }
    }

    /// What it all came to.
    pub(super) fn root(self) -> Option<Rc<Node>> {
        self.root
    }

    /// Takes the next event.
    pub(super) fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
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
    pub(super) fn path(&self) -> String {
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
