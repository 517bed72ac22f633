//! The findings of the linter.

use super::dialect::Use;

/// One lint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lint {
    /// The file, as messages show it.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// The name in question: a global, a hook, or a path such as `mix.mesh.publsh`.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// The likely fix; may be empty.
    pub fix: String,
    /// For a hook with its arguments in the wrong order: the hook's last line. [`Lint::line`] is its first.
    pub order: Option<u32>,
    /// It is state that each worker has of its own, which is no problem with a single worker.
    pub is_split: bool,
}

impl std::fmt::Display for Lint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: warning: {}", self.file, self.line, self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// A lint as the parts of this module find it, in a file that they need not know.
pub(super) struct Found {
    pub line: u32,
    pub name: String,
    pub what: String,
    pub fix: String,
    pub order: Option<u32>,
    pub is_split: bool,
}

impl Found {
    pub fn new(line: u32, name: &str, what: impl Into<String>, fix: impl Into<String>) -> Found {
        Found { line, name: name.into(), what: what.into(), fix: fix.into(), order: None, is_split: false }
    }

    pub fn of_dialect((line, spelt, instead): &Use) -> Found {
        let what = format!("'{spelt}' is neither Lua 5.1 nor stock LuaJIT: such a script runs nowhere else");
        Found::new(*line, spelt, what, instead.as_str())
    }

    pub fn slip(self, file: &str) -> Lint {
        let Found { line, name, what, fix, order, is_split } = self;
        Lint { file: file.into(), line, name, what, fix, order, is_split }
    }
}
