//! The problems of a configuration file, and how they are shown.

use std::fmt::Write;
use std::path::PathBuf;

use crate::telemetry::language::{Both, Language};

/// Something wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when it concerns the whole file.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The key's path: `engine.servers[0].readTimeout`; may be empty.
    pub key: String,
    /// What is wrong, and what was expected.
    pub message: Both,
}

/// All problems of a configuration file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    /// For a terminal.
    pub fn spoken(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        let _ = self.write(&mut text, Language::chosen());
        text
    }

    fn write(&self, f: &mut impl Write, language: Language) -> std::fmt::Result {
        for (i, p) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.file.display())?;
            if p.line > 0 {
                write!(f, ":{}:{}", p.line, p.column)?;
            }
            if !p.key.is_empty() {
                write!(f, ": {}", p.key)?;
            }
            write!(f, ": {}", p.message.in_language(language))?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Problems {
    /// One line a problem, in English: `FILE:LINE:COLUMN: KEY: MESSAGE`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.write(f, Language::English)
    }
}

impl std::error::Error for Problems {}
