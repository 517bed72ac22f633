//! The files of a script: those that were read for this version, and those that its functions require besides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bytecode;
use super::dialect::{self, Use};
use super::scan::Facts;
use super::tokens::comments;
use crate::script::inspect;
use crate::script::program::{Program, shown};

/// The most files that are followed from modules required only inside functions.
const MOST_FILES: usize = 1000;

/// One file of the script.
pub(super) struct File {
    /// Its path, as messages show it.
    pub shown: String,
    pub facts: Facts,
    /// What it uses that only the bundled LuaJIT takes.
    pub dialect: Vec<Use>,
    /// It lies in the script's folder; others are not warned of.
    pub own: bool,
    pub is_entry: bool,
    /// The comments that stand on a line, by that line.
    comments: BTreeMap<u32, String>,
}

impl File {
    /// Whether a comment on that line contains the text.
    pub fn is_commented(&self, line: u32, text: &str) -> bool {
        self.comments.get(&line).is_some_and(|comment| comment.contains(text))
    }
}

/// What was read for this version, and what its functions require besides.
pub(super) fn files(program: &Program) -> Vec<File> {
    let folder = program.folder();
    let file = |path: &Path, text: &[u8]| {
        let facts = Facts::of(bytecode::parse(&inspect::bytecode(program, path, text)?)?);
        let (own, is_entry) = (path.starts_with(folder), path == program.entry);
        let dialect = if own { dialect::uses(text) } else { Vec::new() };
        let comments = if own { comments(text) } else { BTreeMap::new() };
        Some(File { shown: shown(path), facts, dialect, own, is_entry, comments })
    };
    let mut files: Vec<File> = Vec::new();
    let mut known: BTreeSet<_> = BTreeSet::new();
    for (path, text) in program.texts() {
        files.extend(file(&path, &text));
        known.insert(path);
    }
    let mut next = 0;
    while let Some(requires) = files
        .get(next)
        .filter(|f| f.own)
        .map(|f| f.facts.requires.clone())
        .or_else(|| (next < files.len()).then(Vec::new))
    {
        next += 1;
        for name in requires {
            let name = name.replace('.', "/");
            for path in [folder.join(format!("{name}.lua")), folder.join(format!("{name}/init.lua"))] {
                if files.len() < MOST_FILES
                    && known.insert(path.clone())
                    && path.is_file()
                    && let Ok(Some(text)) = program.source(&path)
                {
                    files.extend(file(&path, &text));
                }
            }
        }
    }
    files
}
