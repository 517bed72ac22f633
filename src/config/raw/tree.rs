//! From text to nodes, each with its place.
//!
//! It works on the parser's events, since only they tell every place, keep a scalar's spelling (a password of 0123
//! stays that) and let a duplicate key be one problem among others. Aliases share their node and merge keys (`<<`) are
//! laid out; both count in full, so that a file of a few lines can't stand for millions of values.

mod builder;
mod node;

use super::{MAX_BYTES, Place, Sink, units};
use crate::telemetry::language::both;
use serde_yaml::granit_parser::Parser;
use std::rc::Rc;

use builder::{Builder, Stop};
pub use node::{Entry, Kind, Node, Origin};

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
    let mut builder = Builder::new(sink);
    for event in Parser::new_from_str(text) {
        let step = event.map_err(Stop::from).and_then(|(event, span)| builder.event(event, span));
        if let Err(stop) = step {
            sink.report(stop.place, &builder.path(), stop.message);
            return None;
        }
    }
    match builder.root() {
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
