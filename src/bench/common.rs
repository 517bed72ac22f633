//! The options that all measurements share.

use clap::Args;

use crate::dial::stream::Trust;

/// Where to measure, and how to tell.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// The server to measure; without it, an engine is started for the measurement
    /// zh: 要测量的服务器；不写则为测量启动一个引擎
    #[arg(long, value_name = "ws[s]://HOST:PORT/PATH")]
    pub(super) url: Option<String>,
    /// Where it is published to; {c} is the channel's number [default: /v1/mesh/publish on port 6789 of the same host]
    /// zh: 向哪里发布；{c} 是频道的编号 [默认：同一主机 6789 端口的 /v1/mesh/publish]
    #[arg(long, value_name = "http[s]://HOST:PORT/PATH", requires = "url")]
    pub(super) publish: Option<String>,
    #[command(flatten)]
    pub(super) trust: Trust,
    /// Workers of the engine that is started
    /// zh: 所启动的引擎的工作线程数
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "url")]
    pub(super) workers: u16,
    /// The core the started engine is bound to
    /// zh: 所启动的引擎绑定到哪个核
    #[arg(long, value_name = "CPU", conflicts_with = "url")]
    pub(super) server_cpu: Option<usize>,
    /// The core this client is bound to
    /// zh: 这个客户端绑定到哪个核
    #[arg(long, value_name = "CPU")]
    pub(super) client_cpu: Option<usize>,
    /// What a client sends first, to be answered once; {c} is its channel's number, {i} its own; "" = nothing
    /// zh: 客户端首先发送的内容，服务器应答一次；{c} 是它的频道的编号，{i} 是它自己的编号；"" = 什么都不发
    #[arg(long, value_name = "TEXT", default_value = r#"{"op":"subscribe","channel":"{c}@video"}"#)]
    pub(super) hello: String,
    /// Print one JSON object
    /// zh: 打印一个 JSON 对象
    #[arg(long)]
    pub(super) json: bool,
}
