//! Which file of `src/` knows which, read from its text, and where that goes round in a circle.
//!
//! A file knows another if a path in it (in a `use`, or in the code) leads to an item that the other defines or passes on.
//! A module's declaration (`mod child;`) is no such path, nor is what a file only passes on (`pub use child::Item;` of an item
//! that it does not name again): so a parent and its child form a circle only if each uses what stands in the other's
//! file. Unit tests do not count. Calls of methods are not seen, since they name no file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Source, line_of, words};

/// The modules of the crate, by their path from its root, each with the number of its file.
type Modules = BTreeMap<Vec<String>, usize>;

/// What a file knows: the numbers of other files, each with the line that first says so.
type Arrows = BTreeMap<usize, usize>;

/// Files that know each other in a circle, and how.
pub struct Circle {
    /// Their paths below `src/`.
    pub files: Vec<String>,
    /// `shard/conn.rs:12 -> shard/outbox.rs`, of all arrows among them.
    pub arrows: Vec<String>,
}

/// All circles among these files.
pub fn circles(sources: &[Source]) -> Vec<Circle> {
    let modules: Modules =
        sources.iter().enumerate().filter_map(|(file, source)| Some((module_path(&source.path)?, file))).collect();
    let arrows: Vec<Arrows> =
        sources.iter().enumerate().map(|(file, source)| File::new(source, file, &modules).arrows()).collect();
    let mut reached: Vec<BTreeSet<usize>> = Vec::new();
    for from in 0..sources.len() {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(arrows[file].keys().copied().filter(|next| seen.insert(*next)));
        }
        reached.push(seen);
    }
    let mut circles = Vec::new();
    for first in 0..sources.len() {
        let members: Vec<usize> =
            reached[first].iter().copied().filter(|file| reached[*file].contains(&first)).collect();
        // Each is reported once, by its first file.
        if members.first() != Some(&first) {
            continue;
        }
        let inner = members.iter().flat_map(|from| arrows[*from].iter().map(move |(to, line)| (*from, *to, *line)));
        let inner = inner.filter(|(_, to, _)| members.contains(to));
        circles.push(Circle {
            files: members.iter().map(|file| sources[*file].path.clone()).collect(),
            arrows: inner
                .map(|(from, to, line)| format!("{}:{line} -> {}", sources[from].path, sources[to].path))
                .collect(),
        });
    }
    circles
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`. None: all of it is tests, or it is a program of its own.
fn module_path(path: &str) -> Option<Vec<String>> {
    let path = path.strip_suffix(".rs")?;
    if path == "main" || path.split('/').any(|part| part == "tests") {
        return None;
    }
    let parts = path.split('/').filter(|part| !matches!(*part, "lib" | "mod"));
    Some(parts.map(str::to_owned).collect())
}

/// A file that is read for the paths in it.
struct File<'a> {
    number: usize,
    own: Vec<String>,
    modules: &'a Modules,
    code: String,
    /// Where its modules that have no file of their own stand: `super` in there is one module less far up.
    inner: Vec<Range<usize>>,
    /// Modules by the names that they were imported under.
    aliases: BTreeMap<String, Vec<String>>,
}

impl<'a> File<'a> {
    fn new(source: &Source, number: usize, modules: &'a Modules) -> File<'a> {
        let code = source.without_tests();
        let inner = inner_modules(&code);
        let own = module_path(&source.path);
        let code = if own.is_some() { code } else { String::new() };
        File { number, own: own.unwrap_or_default(), modules, code, inner, aliases: BTreeMap::new() }
    }

    fn arrows(mut self) -> Arrows {
        let (mut arrows, mut leaves) = (Arrows::new(), Vec::new());
        let mut code = self.code.clone();
        for at in words(&self.code, "use") {
            let Some(length) = self.code[at..].find(';') else { continue };
            let before = self.code[..at].trim_end();
            let is_public = before.ends_with("pub") || before.ends_with(')');
            let mut named = Vec::new();
            use_tree(&self.code[at + "use".len()..at + length], &mut Vec::new(), &mut named);
            leaves.extend(named.into_iter().map(|(path, alias)| (at, is_public, path, alias)));
            code.replace_range(at..at + length, &blank_lines(&self.code[at..at + length]));
        }
        for (at, is_public, path, alias) in leaves {
            match self.resolve(&path, at) {
                Some((module, true)) => drop(self.aliases.insert(alias, module)),
                Some(_) if is_public && words(&code, &alias).next().is_none() => {}
                Some((module, false)) => self.add(&mut arrows, &module, at),
                None => {}
            }
        }
        for (at, path) in paths(&code) {
            if let Some((module, false)) = self.resolve(&path, at) {
                self.add(&mut arrows, &module, at);
            }
        }
        arrows
    }

    fn add(&self, arrows: &mut Arrows, module: &[String], at: usize) {
        if let Some(file) = self.modules.get(module).filter(|file| **file != self.number) {
            let line = line_of(&self.code, at);
            arrows.entry(*file).and_modify(|first| *first = line.min(*first)).or_insert(line);
        }
    }

    /// The module in whose file a path ends, and whether it is that module itself. None: it leads out of the crate, or
    /// to something in this file.
    fn resolve(&self, path: &[String], at: usize) -> Option<(Vec<String>, bool)> {
        let (first, rest) = path.split_first()?;
        let mut rest = rest;
        let mut module = match first.as_str() {
            "crate" | "connmix" => Vec::new(),
            "self" => self.own.clone(),
            "super" => {
                let mut up = 1;
                while let Some(("super", behind)) = rest.split_first().map(|(next, behind)| (next.as_str(), behind)) {
                    (up, rest) = (up + 1, behind);
                }
                let up = up - self.inner.iter().filter(|inner| inner.contains(&at)).count().min(up);
                self.own[..self.own.len().checked_sub(up)?].to_vec()
            }
            name => {
                let child = [&self.own[..], &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) { child } else { self.aliases.get(name)?.clone() }
            }
        };
        for name in rest {
            module.push(name.clone());
            if !self.modules.contains_key(&module) {
                module.pop();
                return Some((module, false));
            }
        }
        Some((module, true))
    }
}

/// As long, with as many lines, and nothing in it.
fn blank_lines(text: &str) -> String {
    text.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect()
}

/// Where `mod x { ... }` stands.
fn inner_modules(code: &str) -> Vec<Range<usize>> {
    let found = words(code, "mod").filter_map(|at| {
        let open = at + code[at..].find(['{', ';']).filter(|end| code[at + end..].starts_with('{'))?;
        let mut depth = 0;
        let close = code[open..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        });
        Some(open..close.map_or(code.len(), |(end, _)| open + end))
    });
    found.collect()
}

/// The paths that a `use` names, each with the name under which it is known from then on.
fn use_tree(tree: &str, prefix: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(group) = tree.strip_prefix('{') {
        let group = group.strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    use_tree(&group[start..at], prefix, leaves);
                    start = at + 1;
                }
                _ => {}
            }
        }
    } else if let Some((name, rest)) = tree.split_once("::") {
        if !name.trim().is_empty() {
            prefix.push(name.trim().to_owned());
            use_tree(rest, prefix, leaves);
            prefix.pop();
        }
    } else if !tree.is_empty() {
        let (name, alias) = tree.split_once(" as ").unwrap_or((tree, tree));
        let mut path = prefix.clone();
        let is_itself = name.trim() == "self" && !path.is_empty();
        if !is_itself {
            path.push(name.trim().to_owned());
        }
        let alias = match alias.trim() {
            "self" => path.last().cloned().unwrap_or_default(),
            alias => alias.to_owned(),
        };
        leaves.push((path, alias));
    }
}

/// The paths of two names and more in some code, with where they begin.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = code[at..].find(|c: char| c.is_alphabetic() || c == '_').map(|start| at + start) {
        let mut path = Vec::new();
        let mut end = start;
        loop {
            let length = code[end..].find(|c| !is_word(c)).unwrap_or(code.len() - end);
            if length == 0 {
                break;
            }
            path.push(code[end..end + length].to_owned());
            end += length;
            match code[end..].strip_prefix("::") {
                Some(_) => end += 2,
                None => break,
            }
        }
        let goes_on = code[..start].ends_with("::") || code[..start].ends_with('.') || code[..start].ends_with(is_word);
        if path.len() > 1 && !goes_on {
            found.push((start, path));
        }
        at = end.max(start + 1);
    }
    found
}
