//! The rows of `logging`: where the log goes, how much of it, and how its lines look.

use super::bounds::{GIB, MIB};
use crate::config::changes::{Changes, Effect::Live, Effect::Restart};
use crate::config::kinds::{Leaf, flag, flag_or, number, size, text, word};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::types::{Format, Level};
use std::path::PathBuf;

section! {
    /// Where the log goes and how much of it.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Logging {
        /// The log's file, relative to the working directory: a new one each day and when one is full. An empty text is the
        /// console only.
        pub filename: Option<PathBuf> = "filename", log_file(), Restart("the log file");
        /// Whether a new file begins each day and when one is full, and the oldest are removed. If not, there is one, of
        /// exactly that name, until another program moves it away and sends SIGUSR1.
        pub rotate: bool = "rotate", flag_or(true), Restart("the log file");
        /// How many files are kept.
        pub max_files: usize = "maxFiles", number(1..=10_000, 7), Restart("the log file");
        /// The most bytes of one file.
        pub max_size: usize = "maxSize", size(64 * 1024..=1024 * GIB, 100 * MIB), Restart("the log file");
        /// The least severe level that is written. At debug there are connects, subscriptions, publishes and closes, too.
        pub level: Level = "level", word(&[Level::Debug, Level::Info, Level::Warn, Level::Error], Level::Info), Live;
        /// One line for each request to an API and each handshake, at info.
        pub access: bool = "access", flag(), Live;
        /// How a line looks: text, or json, one object a line.
        pub format: Format = "format", word(&[Format::Text, Format::Json], Format::Text), Restart("the log");
    }
}

fn log_file() -> Leaf<Option<PathBuf>> {
    let file = text("logs/connmix.log").map(
        |name| (!name.is_empty()).then(|| PathBuf::from(name)),
        |file: &Option<PathBuf>| file.as_ref().map_or_else(String::new, |file| file.display().to_string()),
    );
    file.told(|name| match name.as_str() {
        Some("") | None => "the console only".to_owned(),
        Some(name) => name.to_owned(),
    })
}
