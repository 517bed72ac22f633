//! `client`: a client in the terminal. What is typed is sent line by line, and what comes is printed; messages go to standard
//! output, everything else to standard error, so that both can be piped.

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::remote::{one_line, wait_for};
use crate::dial::Place;
use crate::dial::stream::{Stream, Trust};
use crate::telemetry::language::spoken;
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::complain;

/// Where to connect, and how.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// ws://HOST:PORT/PATH, wss:// with TLS; tcp://HOST:PORT for a socket server, tls:// with TLS
    /// zh: ws://HOST:PORT/PATH，使用 TLS 时是 wss://；socket 服务器是 tcp://HOST:PORT，使用 TLS 时是 tls://
    #[arg(value_name = "URL")]
    url: String,
    /// A header of the request; may be repeated
    /// zh: 请求的一个头；可以重复
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// After the end of the input: so many seconds without a message, and it goes
    /// zh: 输入结束之后，这么多秒没有消息就退出
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    wait: f64,
    /// Tell when it is connected, and of pings
    /// zh: 报告何时连接成功，以及 ping
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    trust: Trust,
}

/// The exit code after a close that is neither 1000 nor 1001.
const CLOSED: u8 = 3;
/// The longest wait that is meant.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Lines that are read ahead of what is sent.
const AHEAD: usize = 64;

/// The most characters that are shown of why a server refuses.
const REASON: usize = 200;

/// How it ended.
enum End {
    /// Both ends agree, or this one has left.
    Clean,
    /// The server closed with another code.
    Closed,
}

impl Options {
    /// Talks until an end; the process's exit code.
    pub(super) fn run(&self) -> Result<ExitCode, String> {
        let wait = Duration::try_from_secs_f64(self.wait)
            .map_err(|_| spoken!("--wait: a number of seconds is expected", "--wait: 应为秒数"))?;
        // An instant can't be any later.
        let wait = wait.min(FOREVER);
        let schemes = [("ws", 80, false), ("wss", 443, true), ("tcp", 0, false), ("tls", 0, true)];
        let place = Place::find(&self.url, &schemes, &self.trust)?;
        let end = wait_for(async {
            let stream = place.connect().await?;
            match place.scheme {
                "ws" | "wss" => self.websocket(&place, stream, wait).await,
                _ => self.socket(stream, wait).await,
            }
        })?;
        Ok(match end {
            End::Clean => ExitCode::SUCCESS,
            End::Closed => ExitCode::from(CLOSED),
        })
    }

    async fn websocket(&self, place: &Place, stream: Stream, wait: Duration) -> Result<End, String> {
        let mut request = self.url.as_str().into_client_request().map_err(|e| format!("{}: {e}", self.url))?;
        for header in &self.header {
            let wrong =
                || spoken!("--header {header:?}: expected NAME: VALUE", "--header {header:?}: 应写成 NAME: VALUE");
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
            request.headers_mut().append(name, value);
        }
        let (mut ws, response) = tokio_tungstenite::client_async(request, stream).await.map_err(refused)?;
        if self.verbose {
            let chosen = response.headers().get("Sec-WebSocket-Protocol").and_then(|value| value.to_str().ok());
            let chosen = chosen.map(one_line);
            let chosen = chosen.map_or_else(String::new, |name| spoken!(", subprotocol {name}", "，子协议 {name}"));
            let host = &place.host;
            complain!("{}", spoken!("connected to {host}{chosen}", "已连接到 {host}{chosen}"));
        }
        // Pings are no messages: they do not put the end off.
        let (mut input, mut last) = (Some(lines()), Instant::now());
        loop {
            let is_over = input.is_none();
            let typed = async {
                match &mut input {
                    Some(lines) => lines.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                come = ws.next() => match come {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        last = Instant::now();
                        match message {
                            Message::Binary(data) => print(hex(&data).as_bytes(), true)?,
                            other => print(&other.into_data(), true)?,
                        }
                    }
                    Some(Ok(Message::Ping(_))) if self.verbose => complain!("{}", spoken!("ping, answered", "收到 ping，已应答")),
                    Some(Ok(Message::Close(frame))) => {
                        // The reply goes out as the stream is read to its end.
                        while let Some(Ok(_)) = ws.next().await {}
                        return Ok(closed(frame));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(Error::ConnectionClosed)) | None => return Ok(End::Clean),
                    Some(Err(e)) => return Err(lost(&e)),
                },
                line = typed => match line {
                    Some(line) => ws.send(message(line)).await.map_err(|e| lost(&e))?,
                    None => (input, last) = (None, Instant::now()),
                },
                () = sleep_until(last + wait), if is_over => {
                    // Its answer is awaited for a while only.
                    let leave = async {
                        ws.close(None).await.ok()?;
                        while let Some(Ok(_)) = ws.next().await {}
                        Some(())
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(2), leave).await;
                    return Ok(End::Clean);
                }
            }
        }
    }

    /// Lines are sent with their ends. Bytes are printed as they come, but on a terminal only their text.
    async fn socket(&self, mut stream: Stream, wait: Duration) -> Result<End, String> {
        if self.verbose {
            complain!("{}", spoken!("connected", "已连接"));
        }
        let (mut input, mut buffer) = (Some(lines()), vec![0; 16 * 1024]);
        let (mut shown, is_terminal) = (Shown::default(), std::io::stdout().is_terminal());
        loop {
            let is_over = input.is_none();
            let typed = async {
                match &mut input {
                    Some(lines) => lines.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                come = stream.read(&mut buffer) => match come.map_err(|e| lost(&e))? {
                    0 => return Ok(End::Clean),
                    n if is_terminal => print(shown.next(&buffer[..n]).as_bytes(), false)?,
                    n => print(&buffer[..n], false)?,
                },
                line = typed => match line {
                    Some(mut line) => {
                        line.push(b'\n');
                        stream.write_all(&line).await.map_err(|e| lost(&e))?;
                        stream.flush().await.map_err(|e| lost(&e))?;
                    }
                    None => input = None,
                },
                () = tokio::time::sleep(wait), if is_over => return Ok(End::Clean),
            }
        }
    }
}

/// What is typed is text; what is no UTF-8 can only be binary.
fn message(line: Vec<u8>) -> Message {
    match String::from_utf8(line) {
        Ok(text) => Message::text(text),
        Err(e) => Message::binary(e.into_bytes()),
    }
}

/// Binary messages are printed so, behind a mark.
fn hex(data: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * data.len());
    text.push_str("0x");
    // A string takes everything.
    for byte in data {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn print(bytes: &[u8], line: bool) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let end: &[u8] = if line { b"\n" } else { b"" };
    // What comes is shown as it is where it is piped; a terminal is not steered by it.
    let harmless = match (line && out.is_terminal(), std::str::from_utf8(bytes)) {
        (true, Ok(text)) => Some(one_line(text)),
        _ => None,
    };
    let bytes = harmless.as_ref().map_or(bytes, |text| text.as_bytes());
    let written = out.write_all(bytes).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
    written.map_err(|e| spoken!("standard output: {e}", "标准输出：{e}"))
}

/// Bytes as text that steers no terminal. Ends of lines stay.
#[derive(Default)]
struct Shown {
    /// The beginning of a character, or of an end of a line, whose rest is to come: 3 bytes at most.
    rest: Vec<u8>,
}

impl Shown {
    fn next(&mut self, bytes: &[u8]) -> String {
        let mut whole = std::mem::take(&mut self.rest);
        whole.extend_from_slice(bytes);
        let last = whole.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        // What can't become a character is shown as such at once.
        let is_begun = std::str::from_utf8(last).is_err_and(|e| e.error_len().is_none());
        let waits = if is_begun { last.len() } else { usize::from(whole.ends_with(b"\r")) };
        self.rest = whole.split_off(whole.len() - waits);
        for_terminal(&String::from_utf8_lossy(&whole).replace("\r\n", "\n"))
    }
}

fn closed(frame: Option<CloseFrame>) -> End {
    match frame {
        Some(CloseFrame { code, reason }) => {
            let code = u16::from(code);
            let reason = if reason.is_empty() { String::new() } else { format!(": {}", one_line(&reason)) };
            complain!("{}", spoken!("closed with {code}{reason}", "以 {code} 关闭{reason}"));
            if matches!(code, 1000 | 1001) { End::Clean } else { End::Closed }
        }
        None => {
            complain!("{}", spoken!("closed", "已关闭"));
            End::Clean
        }
    }
}

/// Why a connection ended that should not.
fn lost(e: &dyn std::fmt::Display) -> String {
    spoken!("the connection is lost: {e}", "连接断了：{e}")
}

/// Why there is no connection.
fn refused(e: Error) -> String {
    match e {
        Error::Http(response) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let line = body.trim().lines().next().unwrap_or_default();
            // A web page says nothing that people read here.
            let body = match line.is_empty() || line.starts_with('<') {
                true => String::new(),
                false => format!(": {}", line.chars().take(REASON).collect::<String>()),
            };
            let status = response.status();
            if !status.is_client_error() && !status.is_server_error() {
                return spoken!(
                    "no WebSocket is served at this address: the answer is {status}",
                    "这个地址没有提供 WebSocket：应答是 {status}"
                );
            }
            spoken!("the server refused the connection with {status}{body}", "服务器以 {status} 拒绝了连接{body}")
        }
        e => spoken!(
            "the server is no WebSocket server, or it failed: {e}",
            "对方不是 WebSocket 服务器，或者出错了：{e}"
        ),
    }
}

/// The lines of standard input without their ends, until the end of the input. A thread reads them: it can't be waited for
/// otherwise.
fn lines() -> mpsc::Receiver<Vec<u8>> {
    let (tell, come) = mpsc::channel(AHEAD);
    let read = move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    };
    // Without it, there is no input.
    let _ = std::thread::Builder::new().name("input".into()).spawn(read);
    come
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_on_a_terminal_in_whatever_pieces_they_come() {
        let shown = |pieces: &[&[u8]]| {
            let mut shown = Shown::default();
            pieces.iter().map(|piece| shown.next(piece)).collect::<String>()
        };
        assert_eq!(shown(&[b"a\x1b[2Jb\r\nc\n"]), "a\\u{1b}[2Jb\nc\n");
        assert_eq!(shown(&["a\u{9b}31m\tb\rc".as_bytes()]), "a\\u{9b}31m\tb\\rc");
        assert_eq!(shown(&[b"\xff\x9b31m"]), "\u{fffd}\u{fffd}31m");
        let text = "弹幕\r\n\u{9b}é\n".as_bytes();
        for at in 0..=text.len() {
            assert_eq!(shown(&[&text[..at], &text[at..]]), "弹幕\n\\u{9b}é\n", "{at}");
        }
    }
}
