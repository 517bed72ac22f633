//! What the commands have in common that look at a running engine: where it is, who calls, and how they print.

use clap::Args;
use std::fmt;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::dial::http::{Api, Login, Reply};
use crate::dial::stream::Trust;
use crate::telemetry::language::spoken;
use crate::telemetry::log::escape::{Escaping, for_terminal};
use crate::telemetry::terminal::complain;

/// Where an engine is.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// The API: of the center, or of an engine [default: on this machine, port 6787; top: 6789]
    /// zh: API 的地址：中心的或引擎的 [默认：本机的 6787 端口；top 是 6789]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    trust: Trust,
}

impl Remote {
    /// Its API; without `--url` the one at that port of this machine.
    pub(super) fn api(&self, port: u16) -> Result<Api, String> {
        let default = format!("http://127.0.0.1:{port}");
        Api::at(self.url.as_ref().unwrap_or(&default), &self.login, &self.trust)
    }
}

/// How long a lost engine is looked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks with GET what came off before; while the engine can't be reached or does not serve yet, again. What it refuses is an error
/// at once.
pub(super) async fn ask_again(api: &Api, path: &str) -> Result<Reply, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (failed, is_final) = match api.get(path).await {
            Ok(reply) if reply.status == 200 => return Ok(reply),
            Ok(mut reply) => (api.refusal(reply.status, &reply.text().await?), reply.status < 500),
            Err(failed) => (failed, false),
        };
        if is_final || Instant::now() >= until {
            return Err(failed);
        }
        sleep(PAUSE).await;
    }
}

/// Tells why a stream of lines has a gap, beside them.
pub(super) fn tell_gap(why: &str) {
    complain!("{}", for_terminal(&spoken!("{why}; connecting again", "{why}；正在重新连接")));
}

/// A text of others for one line of a terminal.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // A string takes everything.
    let _ = fmt::Write::write_str(&mut Escaping(&mut line), text);
    line
}

/// A text as a part of a query.
pub(super) fn in_query(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Runs what waits for a network.
pub(super) fn wait_for<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| spoken!("the runtime could not start: {e}", "运行时无法启动：{e}"))?.block_on(what)
}

/// Standard output, for lines. Its end is no error: the reader has seen enough.
pub(super) struct Out {
    colours: bool,
}

/// Nobody reads what is printed.
pub(super) struct NobodyReads;

impl Out {
    /// Colours only for people: on a terminal, unless `NO_COLOR` is set.
    pub(super) fn new() -> Out {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Out { colours: wanted && io::stdout().is_terminal() }
    }

    /// Prints a line.
    pub(super) fn line(&self, text: &str) -> Result<(), NobodyReads> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|_| NobodyReads)
    }

    /// A text in a colour, by its number of the terminal's (SGR).
    pub(super) fn colour(&self, number: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{number}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
