//! Options that several subcommands have.

use clap::Args;
use std::path::PathBuf;

use crate::config::{Config, load};
use crate::engine::WITHOUT_CLUSTER;
use crate::ids::MAX_WORKERS;
use crate::telemetry::language::spoken;

// Names the configuration. No doc comment: it would become a help text.
#[derive(Debug, Args)]
pub(super) struct File {
    /// The configuration file
    /// zh: 配置文件
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "connmix.yaml")]
    pub file: PathBuf,
}

// How an engine runs.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub file: File,
    /// Worker threads; 0 = one a core [default: engine.workers of the configuration]
    /// zh: 工作线程数；0 = 每核一个 [默认：配置里的 engine.workers]
    #[arg(short = 'p', long = "workers", value_name = "N", value_parser = clap::value_parser!(u16).range(0..=MAX_WORKERS as i64))]
    pub workers: Option<u16>,
}

/// What a program without the cluster says where one is needed.
pub(super) fn without_cluster() -> String {
    spoken!(
        "{WITHOUT_CLUSTER}",
        "这个 connmix 编译时没有带上集群；请这样编译：cargo build --release --features cluster"
    )
}

/// Reads the configuration.
pub(super) fn load(file: &File) -> Result<Config, String> {
    load::load(&file.file).map_err(|problems| problems.spoken())
}
