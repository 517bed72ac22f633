//! Options that several subcommands have.

use clap::Args;
use std::path::PathBuf;

use crate::config::{Config, load};
use crate::ids::MAX_WORKERS;

// Names the configuration. No doc comment: it would become a help text.
#[derive(Debug, Args)]
pub(super) struct File {
    /// The configuration file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "connmix.yaml")]
    pub file: PathBuf,
}

// How an engine runs.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub file: File,
    /// Worker threads; 0 = one a core [default: engine.workers of the configuration]
    #[arg(short = 'p', long = "workers", value_name = "N", value_parser = clap::value_parser!(u16).range(0..=MAX_WORKERS as i64))]
    pub workers: Option<u16>,
}

/// Reads the configuration.
pub(super) fn load(file: &File) -> Result<Config, String> {
    load::load(&file.file).map_err(|problems| problems.to_string())
}
