//! Requests to an engine's APIs: one on each connection, and its answer, whole or line by line as it comes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use zeroize::Zeroizing;

use super::Place;
use super::stream::{Stream, Trust};
use crate::telemetry::language::spoken;

/// The longest line of a head and of an answer, in bytes.
const LONGEST_LINE: usize = 1024 * 1024;
/// The most headers of an answer.
const MOST_HEADERS: usize = 100;
/// The longest answer that is read whole, in bytes.
const LONGEST: usize = 64 * 1024 * 1024;
/// Where the password of `--user` stands, if it is not given there.
const PASSWORD: &str = "CONNMIX_PASSWORD";
/// A token instead of a user.
const TOKEN: &str = "CONNMIX_TOKEN";

/// Who calls.
#[derive(Debug, Clone, Args)]
pub struct Login {
    /// Who calls; without a password it is taken from the variable CONNMIX_PASSWORD. A token is taken from CONNMIX_TOKEN
    /// zh: 以谁的身份调用；没有写密码时从变量 CONNMIX_PASSWORD 读取。令牌从 CONNMIX_TOKEN 读取
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
}

impl Login {
    /// The `Authorization` header; None: nobody in particular.
    fn header(&self) -> Option<Zeroizing<String>> {
        let variable = |name| std::env::var(name).ok().map(Zeroizing::new);
        let Some(user) = &self.user else {
            return variable(TOKEN).map(|token| Zeroizing::new(format!("Bearer {}", *token)));
        };
        let credentials = match user.contains(':') {
            true => Zeroizing::new(user.clone()),
            false => Zeroizing::new(format!("{user}:{}", *variable(PASSWORD).unwrap_or_default())),
        };
        Some(Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes()))))
    }
}

/// An API, and who calls it.
pub struct Api {
    place: Place,
    login: Login,
}

/// How the end of a body is known.
enum Body {
    /// So many bytes follow.
    Bytes(u64),
    /// Chunks follow (RFC 9112, section 7.1); so many bytes of this one.
    Chunks(u64),
    /// The connection ends.
    End,
    /// It is over.
    Over,
}

/// An answer of which the head has come.
pub struct Reply {
    /// Its status.
    pub status: u16,
    reader: BufReader<Stream>,
    body: Body,
    /// What has come of a line.
    line: Vec<u8>,
}

impl Api {
    /// The API at that URL.
    pub fn at(url: &str, login: &Login, trust: &Trust) -> Result<Api, String> {
        let place = Place::find(url, &[("http", 80, false), ("https", 443, true)], trust)?;
        if !matches!(place.path.as_str(), "/" | "") {
            return Err(spoken!("{url}: a URL without a path is expected", "{url}: URL 里不应有路径"));
        }
        Ok(Api { place, login: login.clone() })
    }

    /// Asks with GET.
    pub async fn get(&self, path: &str) -> Result<Reply, String> {
        let mut stream = self.place.connect().await?;
        let failed = |e: std::io::Error| format!("{}://{}: {e}", self.place.scheme, self.place.host);
        let mut request = Zeroizing::new(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.place.host));
        if let Some(header) = self.login.header() {
            if header.contains(['\r', '\n']) {
                return Err(spoken!("the credentials hold the end of a line", "用户名、密码或令牌里有换行符"));
            }
            request.push_str("Authorization: ");
            request.push_str(&header);
            request.push_str("\r\n");
        }
        request.push_str("Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut reader = BufReader::new(stream);
        let (scheme, host) = (self.place.scheme, &self.place.host);
        let no_http =
            || spoken!("{scheme}://{host}: this is no HTTP server", "{scheme}://{host}: 对方不是 HTTP 服务器");
        let line = read_line(&mut reader).await.map_err(failed)?;
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).ok_or_else(no_http)?;
        let mut body = Body::End;
        for headers in 0.. {
            if headers > MOST_HEADERS {
                return Err(no_http());
            }
            let line = read_line(&mut reader).await.map_err(failed)?;
            let Some((name, value)) = line.split_once(':') else {
                match line.is_empty() {
                    true => break,
                    false => return Err(no_http()),
                }
            };
            if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
                body = Body::Chunks(0);
            } else if name.eq_ignore_ascii_case("content-length") && !matches!(body, Body::Chunks(_)) {
                body = Body::Bytes(value.trim().parse().map_err(|_| no_http())?);
            }
        }
        Ok(Reply { status, reader, body, line: Vec::new() })
    }

    /// Asks with GET, and reads the whole answer; an error for any other status than 200.
    pub async fn read(&self, path: &str) -> Result<String, String> {
        let mut reply = self.get(path).await?;
        let text = reply.text().await?;
        if reply.status == 200 { Ok(text) } else { Err(self.refusal(reply.status, &text)) }
    }

    /// What an answer says that is none of 200: the sentence of its JSON, if it has one.
    pub fn refusal(&self, status: u16, text: &str) -> String {
        let told = serde_json::from_str::<serde_json::Value>(text).ok();
        let told = told.as_ref().and_then(|told| told["E"]["m"].as_str()).map(str::to_owned);
        let told = told.unwrap_or_else(|| spoken!("no reason was given", "没有给出原因"));
        let (scheme, host) = (self.place.scheme, &self.place.host);
        spoken!("{scheme}://{host}: {told} (status {status})", "{scheme}://{host}: {told}（状态码 {status}）")
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        &self.place.host
    }
}

impl Reply {
    /// The next line of the body without its end; None: that was the last.
    pub async fn line(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let rest = self.line.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.line, rest);
                line.pop();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.line.len() > LONGEST_LINE {
                return Err(spoken!("the answer has a line that is too long", "答复里有一行太长"));
            }
            match self.piece().await.map_err(|e| e.to_string())? {
                Some(piece) => self.line.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    /// The whole body.
    pub async fn text(&mut self) -> Result<String, String> {
        let mut text = std::mem::take(&mut self.line);
        while let Some(piece) = self.piece().await.map_err(|e| e.to_string())? {
            text.extend_from_slice(&piece);
            if text.len() > LONGEST {
                return Err(spoken!("the answer is too long", "答复太长"));
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What comes next of the body; None: its end.
    async fn piece(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let wrong = || std::io::Error::other(spoken!("the answer is malformed", "答复的格式有误"));
        if let Body::Chunks(0) = self.body {
            let line = read_line(&mut self.reader).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| wrong())?;
            self.body = if size == 0 { Body::Over } else { Body::Chunks(size) };
        }
        let left = match self.body {
            Body::Over | Body::Bytes(0) => return Ok(None),
            Body::Bytes(left) | Body::Chunks(left) => left,
            Body::End => u64::MAX,
        };
        let mut piece = vec![0; left.min(16 * 1024) as usize];
        let came = self.reader.read(&mut piece).await?;
        piece.truncate(came);
        if came == 0 {
            return if matches!(self.body, Body::End) {
                Ok(None)
            } else {
                Err(std::io::ErrorKind::UnexpectedEof.into())
            };
        }
        let left = left - came as u64;
        self.body = match self.body {
            Body::Chunks(_) if left == 0 => {
                if !read_line(&mut self.reader).await?.is_empty() {
                    return Err(wrong());
                }
                Body::Chunks(0)
            }
            Body::Chunks(_) => Body::Chunks(left),
            Body::Bytes(_) => Body::Bytes(left),
            Body::End | Body::Over => Body::End,
        };
        Ok(Some(piece))
    }
}

/// A line without its end.
async fn read_line(reader: &mut BufReader<Stream>) -> std::io::Result<String> {
    let mut line = Vec::new();
    let came = reader.take(LONGEST_LINE as u64).read_until(b'\n', &mut line).await?;
    if came == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
