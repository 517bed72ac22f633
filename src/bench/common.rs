//! The options that all measurements share.

use clap::Args;

use crate::dial::stream::Trust;

/// Where to measure, and how to tell.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// The server to measure; without it, an engine is started for the measurement
    #[arg(long, value_name = "ws[s]://HOST:PORT/PATH")]
    pub(super) url: Option<String>,
    /// Where it is published to; {c} is the channel's number [default: /v1/mesh/publish on port 6789 of the same host]
    #[arg(long, value_name = "http[s]://HOST:PORT/PATH", requires = "url")]
    pub(super) publish: Option<String>,
    #[command(flatten)]
    pub(super) trust: Trust,
    /// Workers of the engine that is started
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url")]
    pub(super) workers: u16,
    /// The core the started engine is bound to
    #[arg(long, value_name = "CPU", conflicts_with = "url")]
    pub(super) server_cpu: Option<usize>,
    /// The core this client is bound to
    #[arg(long, value_name = "CPU")]
    pub(super) client_cpu: Option<usize>,
    /// What a client sends first, to be answered once; {c} is its channel's number, {i} its own; "" = nothing
    #[arg(long, value_name = "TEXT", default_value = r#"{"op":"subscribe","channel":"{c}@video"}"#)]
    pub(super) hello: String,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}
