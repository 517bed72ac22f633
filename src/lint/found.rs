//! The findings of the linter.

use super::dialect::Use;
use crate::telemetry::language::{Both, both};

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
    pub what: Both,
    /// The likely fix; may be empty.
    pub fix: Both,
    /// For a hook with its arguments in the wrong order: the hook's last line. [`Lint::line`] is its first.
    pub order: Option<u32>,
    /// It is state that each worker has of its own, which is no problem with a single worker.
    pub is_split: bool,
}

impl Lint {
    /// `FILE:LINE: warning: WHAT; FIX`
    pub fn warning(&self) -> Both {
        let (Lint { file, line, .. }, said) = (self, self.said());
        Both { en: format!("{file}:{line}: warning: {}", said.en), zh: format!("{file}:{line}: 警告：{}", said.zh) }
    }

    /// What is wrong, and the fix if there is one.
    pub fn said(&self) -> Both {
        with_fix(&self.what, &self.fix)
    }
}

/// A text and the likely fix behind it; an empty one is none.
pub(super) fn with_fix(text: &Both, fix: &Both) -> Both {
    match fix.is_empty() {
        true => text.clone(),
        false => Both { en: format!("{}; {}", text.en, fix.en), zh: format!("{}；{}", text.zh, fix.zh) },
    }
}

/// A lint as the parts of this module find it, in a file that they need not know.
pub(super) struct Found {
    pub line: u32,
    pub name: String,
    pub what: Both,
    pub fix: Both,
    pub order: Option<u32>,
    pub is_split: bool,
}

impl Found {
    pub fn new(line: u32, name: &str, what: Both, fix: Both) -> Found {
        Found { line, name: name.into(), what, fix, order: None, is_split: false }
    }

    pub fn of_dialect((line, spelt, instead): &Use) -> Found {
        let what = both!(
            "'{spelt}' is neither Lua 5.1 nor stock LuaJIT: such a script runs nowhere else",
            "'{spelt}' 不是 Lua 5.1 的写法，也不是标准 LuaJIT 的：这样的脚本在别处无法运行"
        );
        Found::new(*line, spelt, what, instead.clone())
    }

    pub fn slip(self, file: &str) -> Lint {
        let Found { line, name, what, fix, order, is_split } = self;
        Lint { file: file.into(), line, name, what, fix, order, is_split }
    }
}
