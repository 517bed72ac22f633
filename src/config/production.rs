//! What a configuration should not have in production: `connmix check --production`.
//!
//! An error is what lets in strangers who reach the port or this machine. A warning depends on what stands around the engine, or
//! takes a defence away. None of it is wrong in itself, so that a start takes it.

use super::changes::Effect;
use super::load;
use super::print;
use super::raw::value::Value;
use super::raw::{Sink, tree};
use super::types::{High, Level, Library, Listen, Protocol};
use super::{Config, Problems, Row, Server};
use crate::telemetry::language::{Both, both, spoken};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A hook that may hold its worker for longer than this makes all clients of the worker wait noticeably.
const LONG_HOOK: Duration = Duration::from_secs(2);

/// Trusted proxies are machines of one's own: no network is larger than this prefix.
const WIDEST: u8 = 8;

/// Something that is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line of the key, or of the section that lacks it; 0: no line of the file.
    pub line: usize,
    /// The key's path.
    pub key: String,
    /// An error; else a warning.
    pub is_error: bool,
    /// What is there, why it matters, and what to do.
    pub what: Both,
}

impl Finding {
    /// What follows the file's name, for a terminal: `:LINE: KEY: error: WHAT`.
    pub fn spoken(&self) -> String {
        let line = if self.line > 0 { format!(":{}", self.line) } else { String::new() };
        let (key, what) = (&self.key, self.what.spoken());
        match self.is_error {
            true => spoken!("{line}: {key}: error: {what}", "{line}: {key}: 错误：{what}"),
            false => spoken!("{line}: {key}: warning: {what}", "{line}: {key}: 警告：{what}"),
        }
    }
}

/// Looks at a file that has been loaded, and at the files that it names.
pub fn check(config: &Config) -> Result<Vec<Finding>, Problems> {
    let text = load::text(&config.file)?;
    let sink = Sink::default();
    let root = tree::parse(&text, &sink);
    let rows = print::rows(config);
    let mut check = Check { config, rows: &rows, root: Value::root(root.as_deref(), &sink), found: Vec::new() };
    check.apis();
    check.trust();
    check.servers();
    check.engine();
    check.cluster();
    check.files();
    check.found.sort_by_key(|finding| finding.line);
    Ok(check.found)
}

struct Check<'a> {
    config: &'a Config,
    /// With the values in force.
    rows: &'a [Row],
    root: Value<'a>,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn add(&mut self, is_error: bool, key: &str, what: Both) {
        let line = self.root.get(key).line();
        self.found.push(Finding { line, key: key.to_owned(), is_error, what });
    }

    fn error(&mut self, key: &str, what: Both) {
        self.add(true, key, what);
    }

    fn warn(&mut self, key: &str, what: Both) {
        self.add(false, key, what);
    }

    /// Whether a text stands at that key.
    fn is_set(&self, key: &str) -> bool {
        self.root.get(key).text().is_some_and(|text| !text.is_empty())
    }

    /// Whether a key of that section has an effect in this version.
    fn has_effect(&self, section: &str) -> bool {
        self.rows.iter().any(|row| row.path.starts_with(section) && row.effect != Effect::Unused)
    }

    /// What to do about a listener without TLS.
    fn tls_advice(&self, section: &str) -> Both {
        let mut advice = match self.has_effect(&format!("{section}.tls.")) {
            true => both!("set tls.cert and tls.key, or ", "请设置 tls.cert 和 tls.key，或者"),
            false => both!("", "请"),
        };
        advice.add(both!(
            "bind it to 127.0.0.1 behind a proxy that ends TLS",
            "把它绑定到 127.0.0.1，前面放一个处理 TLS 的代理"
        ));
        advice
    }

    fn apis(&mut self) {
        let Config { api, center, users, .. } = self.config;
        for (section, listen) in [("engine.apiServer", &api.listen), ("center.apiServer", center)] {
            if !listen.is_beyond_loopback() {
                continue;
            }
            let (bind, addr) = (format!("{section}.bind"), listen.addr);
            if users.is_empty() {
                self.error(
                    &bind,
                    both!(
                        "{addr} is open to everybody who reaches it: there are no access.users; set some, or bind it to 127.0.0.1",
                        "{addr} 对所有能访问到它的人开放：没有 access.users；请设置，或者把它绑定到 127.0.0.1"
                    ),
                );
            } else if !self.is_set(&format!("{section}.tls.cert")) {
                let mut what = both!(
                    "{addr} has no TLS: passwords and messages can be read on the way; ",
                    "{addr} 没有 TLS：密码和消息在途中可能被读到；"
                );
                what.add(self.tls_advice(section));
                self.warn(&bind, what);
            }
        }
        for (key, off) in [
            ("engine.apiServer.readTimeout", api.read_timeout.is_zero()),
            ("engine.apiServer.writeTimeout", api.write_timeout.is_zero()),
        ] {
            if off {
                self.warn(
                    key,
                    both!(
                        "0 is no limit: callers that stall keep their connections; set some seconds",
                        "0 表示没有上限：停住的调用方会一直占着连接；请设置若干秒"
                    ),
                );
            }
        }
    }

    /// Secrets that stand in the file as they are, and who is believed.
    fn trust(&mut self) {
        // Options of scripts may be anything; of a hash nobody gets the secret.
        let is_plain = |row: &&Row| row.hidden && !row.path.contains(".options[") && !row.path.ends_with("Hash");
        for row in self.rows.iter().filter(is_plain) {
            if self.root.get(&row.path).text().is_some_and(|text| text.starts_with("${")) {
                continue;
            }
            let others = ["Hash", "File"].map(|end| format!("{}{end}", row.path));
            let known = others.iter().filter(|other| self.has_effect(other));
            let known: Vec<&str> = known.filter_map(|other| other.rsplit('.').next()).collect();
            let mut what = both!(
                "a secret stands readable in the file, and in each copy of it; ",
                "文件里有明文的密钥，它的每个副本里也有；请"
            );
            if !known.is_empty() {
                what.add(Both {
                    en: format!("set {} instead, or ", known.join(" or ")),
                    zh: format!("改用 {}，或者", known.join(" 或 ")),
                });
            }
            what.add(both!("keep the file from others", "不要让别人得到这个文件"));
            self.warn(&row.path, what);
        }
        for at in 0..self.config.trusted_proxies.len() {
            let net = self.config.trusted_proxies[at];
            if net.prefix_len() < WIDEST {
                self.error(
                    &format!("trustedProxies[{at}]"),
                    both!(
                        "with {net} any client can claim any address; name the addresses of your proxies",
                        "写了 {net}，任何客户端都可以冒充任何地址；请写你自己的代理的地址"
                    ),
                );
            }
        }
    }

    fn servers(&mut self) {
        for server in &self.config.servers {
            let section = load::key_of(server, "");
            self.server(section.trim_end_matches('.'), server);
        }
    }

    fn server(&mut self, section: &str, server: &Server) {
        let key = |name: &str| format!("{section}.{name}");
        let limits = &server.limits;
        if server.listen.is_beyond_loopback() && !self.is_set(&key("tls.cert")) {
            let addr = server.listen.addr;
            let mut what = both!(
                "{addr} has no TLS: what clients send and get can be read on the way; ",
                "{addr} 没有 TLS：客户端收发的内容在途中可能被读到；"
            );
            what.add(self.tls_advice(section));
            self.warn(&key("bind"), what);
        }
        if server.protocol == Protocol::Websocket && server.allowed_origins.is_empty() {
            self.warn(
                &key("allowedOrigins"),
                both!(
                    "pages of any site may connect from a visitor's browser, with that visitor's cookies; list the origins of \
                     your pages, unless on_handshake demands a token",
                    "任何网站的页面都可以从访问者的浏览器连接，并带上该访问者的 cookie；请列出自己页面的来源，除非 on_handshake \
                     要求令牌"
                ),
            );
        }
        if limits.max_connections == 0 {
            self.warn(
                &key("maxConnections"),
                both!(
                    "0 is no limit: clients can take all descriptors that are not kept back; set one",
                    "0 表示没有上限：客户端可以占满预留之外的所有文件描述符；请设置一个"
                ),
            );
        }
        let rate = key("rate");
        let is_known = self.has_effect(&format!("{rate}."));
        if is_known && server.listen.is_beyond_loopback() && !self.root.get(&rate).is_set() {
            self.warn(
                &rate,
                both!(
                    "there is no limit on connects and messages of an address; set some",
                    "对一个地址的连接数和消息数没有限制；请设置"
                ),
            );
        }
        for (name, off, why) in [
            (
                "readTimeout",
                limits.read_timeout.is_zero(),
                both!("clients that are gone unnoticed stay", "悄悄消失的客户端会一直留着"),
            ),
            (
                "writeTimeout",
                limits.write_timeout.is_zero(),
                both!("clients that take nothing stay", "什么都不接收的客户端会一直留着"),
            ),
            (
                "messageTimeout",
                limits.message_timeout.is_zero(),
                both!("messages without an end stay in memory", "没有结束的消息会一直占着内存"),
            ),
            (
                "unsentLimit",
                limits.unsent_limit == 0,
                both!("the system keeps as much for a slow client as it likes", "系统会为慢客户端随意缓存"),
            ),
        ] {
            if off {
                let what = Both {
                    en: format!("0 is no limit: {}; leave the default", why.en),
                    zh: format!("0 表示没有上限：{}；请保留默认值", why.zh),
                };
                self.warn(&key(name), what);
            }
        }
        if limits.handler_timeout > LONG_HOOK {
            self.warn(
                &key("handlerTimeout"),
                both!(
                    "one hook may hold up its worker's clients for {0:?}; set less",
                    "一个钩子可能使它的 worker 的客户端等待 {0:?}；请设得小一些",
                    limits.handler_timeout
                ),
            );
        }
        if mode(&server.entry).is_ok_and(|mode| mode & 0o002 != 0) {
            self.error(
                &key("entry"),
                both!(
                    "every user of this machine can change {0}: chmod o-w",
                    "本机的每个用户都可以修改 {0}：chmod o-w",
                    server.entry.display()
                ),
            );
        }
    }

    fn engine(&mut self) {
        if self.config.logging.level == Level::Debug {
            self.warn(
                "logging.level",
                both!(
                    "debug writes a line for each connect, publish and close; set info",
                    "debug 对每次连接、发布和关闭都写一行；请设为 info"
                ),
            );
        }
        for library in &self.config.luavm.libraries {
            let what = match library {
                Library::Io => both!(
                    "io lets scripts read and write all files of the engine's user",
                    "有了 io，脚本可以读写引擎所属用户的所有文件"
                ),
                Library::Os => both!(
                    "os lets scripts run programs as the engine's user",
                    "有了 os，脚本可以以引擎所属用户的身份运行程序"
                ),
            };
            let mut all = what;
            all.add(both!("; leave it out unless a script needs it", "；除非脚本需要，请去掉"));
            self.warn("engine.luavm.libraries", all);
        }
        if self.config.memory.high == High::Bytes(0) {
            self.error(
                "engine.memory.high",
                both!(
                    "0 is no mark: clients can fill the memory of the machine; leave the default",
                    "0 表示没有警戒线：客户端可以占满机器的内存；请保留默认值"
                ),
            );
        }
    }

    fn cluster(&mut self) {
        let Config { cluster, registry, mesh_point, .. } = self.config;
        let is_mesh = self.config.is_of_mesh();
        // Engines and centers are of a mesh, whatever the file says; only the command line tells them.
        let may_be = is_mesh || !self.config.centers.is_empty() || self.root.get("cluster").is_set();
        let listens = [registry, mesh_point].into_iter().any(Listen::is_beyond_loopback);
        if !may_be || !listens {
            return;
        }
        let who = match is_mesh {
            true => Both::default(),
            false => both!("as a center or an engine: ", "作为中心或引擎时："),
        };
        if cluster.secret.is_empty() && cluster.secret_file.is_empty() {
            self.add(
                is_mesh,
                "cluster.secret",
                Both {
                    en: format!(
                        "{}everybody who reaches the ports can join, read and publish; set cluster.secretFile",
                        who.en
                    ),
                    zh: format!("{}能访问到这些端口的人都可以加入、读取和发布；请设置 cluster.secretFile", who.zh),
                },
            );
        }
        if cluster.tls_cert.is_empty() {
            self.warn(
                "cluster.tls.cert",
                Both {
                    en: format!(
                        "{}what nodes say to each other can be read and changed on the way; set cluster.tls",
                        who.en
                    ),
                    zh: format!("{}节点之间的内容在途中可能被读到和篡改；请设置 cluster.tls", who.zh),
                },
            );
        }
    }

    /// Files that others on this machine can read or change.
    fn files(&mut self) {
        let file = self.config.file.clone();
        let has_secret = self.rows.iter().any(|row| row.hidden);
        match mode(&file) {
            Ok(mode) if mode & 0o002 != 0 => self.file(both!(
                "every user of this machine can change this file: chmod o-w",
                "本机的每个用户都可以修改这个文件：chmod o-w"
            )),
            Ok(mode) if mode & 0o004 != 0 && has_secret => {
                self.file(both!(
                    "every user of this machine can read this file, which holds secrets: chmod o-r",
                    "本机的每个用户都可以读取这个文件，而其中有密钥：chmod o-r"
                ));
            }
            _ => {}
        }
        let is_file =
            |row: &&Row| row.path.ends_with("File") || row.path.contains(".tls.") && row.path.ends_with(".key");
        for row in self.rows.iter().filter(is_file) {
            let name = row.value.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
            match mode(Path::new(name)) {
                _ if name.is_empty() => {}
                Ok(mode) if mode & 0o006 != 0 => {
                    let what = both!(
                        "every user of this machine can read or change {name}: chmod o=",
                        "本机的每个用户都可以读取或修改 {name}：chmod o="
                    );
                    self.error(&row.path, what);
                }
                Ok(_) => {}
                Err(e) => self.warn(
                    &row.path,
                    both!(
                        "the mode of {name} is not known: {e}; is it readable by others?",
                        "无法得知 {name} 的权限：{e}；别人能读到它吗？"
                    ),
                ),
            }
        }
    }

    /// An error of the file as a whole.
    fn file(&mut self, what: Both) {
        self.found.push(Finding { line: 0, key: "mode".to_owned(), is_error: true, what });
    }
}

/// A file's permissions.
fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(std::fs::metadata(path)?.mode())
}
