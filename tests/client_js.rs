//! The browser client of `clients/js`: in a real browser against the real engine, which is killed, unreachable, or closes with
//! codes of all classes; and in node with a clock of the test's own.

mod common;

use common::browser::{Page, browser};
use common::optional::{Missing, Outcome, need};
use common::process::Process;
use common::{TestEngine, eventually, get, post, write_config};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What npm and a page's author count: the file as it is served, compressed.
const MAX_GZIPPED: usize = 4096;

const SCRIPT: &str = r#"
function on_message(msg, conn)
  local request = msg.type == "text" and mix.json_decode(msg.data)
  if msg.type == "binary" then
    conn:send(msg.data, "binary")
  elseif request.subscribe then
    conn:subscribe(request.subscribe)
    conn:send("subscribed")
  elseif request.say then
    conn:send(request.say)
  elseif request.code then
    conn:close(request.code, request.reason)
  else
    error("as it was asked to")
  end
end
"#;

fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js")
}

/// A web server with the client's files and a page that imports the module; where it is.
async fn files() -> SocketAddr {
    const PAGE: &str = r#"<!doctype html><script type="module">
        import { Connmix } from "/connmix.js";
        globalThis.notes = { open: [], messages: [], close: [] };
        globalThis.make = (url, options) => {
          globalThis.client = new Connmix(url, {
            onopen: (open) => {
              notes.open.push(open);
              client.send('{"subscribe":"news"}');
            },
            onmessage: (data) => notes.messages.push(data),
            onclose: (close) => notes.close.push(close),
            ...options,
          });
        };
    </script>"#;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if !matches!(stream.read_buf(&mut request).await, Ok(n) if n > 0) {
                        return;
                    }
                }
                let script = request.starts_with(b"GET /connmix.js ");
                let body = if script { fs::read(client().join("connmix.js")).unwrap() } else { PAGE.into() };
                let kind = if script { "text/javascript" } else { "text/html" };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            });
        }
    });
    at
}

/// A page that has the client.
struct Tab {
    page: Page,
    _profile: TempDir,
}

impl Tab {
    async fn open() -> Result<Tab, Missing> {
        let browser = browser()?;
        let profile = tempfile::tempdir().unwrap();
        let mut page = Page::open(browser, profile.path(), &format!("http://{}/", files().await)).await;
        page.until("typeof make === 'function'").await;
        Ok(Tab { page, _profile: profile })
    }

    /// Makes a client of a server at `/ws`, whose options are JavaScript; once it is subscribed.
    async fn client(&mut self, at: SocketAddr, options: &str) {
        self.server(at).await;
        self.page.value("notes.messages = []; 0").await;
        self.page.value(&format!("make(() => server, {options}); 0")).await;
        self.subscribed(1).await;
    }

    /// Says where its next attempts find the server.
    async fn server(&mut self, at: SocketAddr) {
        self.page.value(&format!("server = 'ws://{at}/ws'")).await;
    }

    /// Waits until it has been subscribed so many times.
    async fn subscribed(&mut self, times: usize) {
        self.page.until(&format!("notes.messages.filter((text) => text === 'subscribed').length >= {times}")).await;
    }

    async fn heard(&mut self, message: &str) {
        self.page.until(&format!("notes.messages.includes({})", json!(message))).await;
    }

    /// The end of a connection that comes next.
    async fn closed(&mut self) -> Value {
        self.page.until("notes.close.length > 0").await;
        self.page.value("notes.close.shift()").await
    }
}

/// A process that serves clients by [`SCRIPT`].
fn serve(dir: &Path) -> Process {
    fs::write(dir.join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.join("connmix.yaml"), "eventStream: on", "workers: 1", "");
    Process::ready(dir, &["dev"])
}

async fn a_killed_server_is_found_again_with_subscription_and_what_waited() -> Outcome {
    let mut tab = Tab::open().await?;
    let dir = tempfile::tempdir().unwrap();
    let engine = serve(dir.path());
    tab.client(engine.ws(), "{firstDelay: 100, maxDelay: 300}").await;
    engine.signal(libc::SIGKILL);
    engine.ended();
    let end = tab.closed().await;
    assert_eq!((&end["code"], &end["reason"]), (&json!(1006), &json!("")));
    assert!(end["delay"].as_f64().unwrap() <= 100.0, "{end}");
    // While nobody listens attempts fail.
    tab.closed().await;
    tab.closed().await;
    assert_eq!(tab.page.value(r#"client.send('{"say":"I waited"}')"#).await, true);

    // Another port, since this one may be anybody's by now.
    let engine = serve(dir.path());
    tab.server(engine.ws()).await;
    tab.subscribed(2).await;
    tab.heard("I waited").await;
    let reply = post(engine.api(), "/v1/mesh/publish", r#"{"c":"news","d":"fresh"}"#).await;
    assert_eq!(reply, (200, r#"{"E":null,"r":{"s":1,"f":0}}"#.into()));
    tab.heard("fresh").await;
    assert_eq!(tab.page.value("notes.open").await, json!([{"again": false}, {"again": true}]));
    // The subscription went first, though what waited was older.
    let messages = json!(["subscribed", "subscribed", "I waited", "fresh"]);
    assert_eq!(tab.page.value("notes.messages").await, messages);

    // A server that is stopped says so.
    tab.page.value("notes.close = []; 0").await;
    engine.stop();
    let end = tab.closed().await;
    assert_eq!(end["code"], 1012);
    let hint: f64 = end["reason"].as_str().unwrap().strip_prefix("server shutdown, retry=").unwrap().parse().unwrap();
    // As it asks, but for the page's own bound.
    assert!(end["delay"].as_f64().unwrap() >= hint.min(300.0), "{end}");
    Ok(())
}

/// A network that can be cut: connections stay, and nothing gets through any more, not even their end.
struct Network {
    at: SocketAddr,
    works: watch::Sender<bool>,
}

impl Network {
    async fn to(target: SocketAddr) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Network { at: listener.local_addr().unwrap(), works: watch::Sender::new(true) };
        let works = network.works.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut works = works.subscribe();
                tokio::spawn(async move {
                    let whole = *works.borrow_and_update();
                    let carried = async {
                        let mut to = TcpStream::connect(target).await?;
                        tokio::io::copy_bidirectional(&mut from, &mut to).await
                    };
                    tokio::select! {
                        _ = carried, if whole => return,
                        _ = works.changed() => {}
                    }
                    // What was under way when the network was cut stays unanswered for good.
                    std::future::pending::<()>().await;
                });
            }
        });
        network
    }
}

async fn a_network_that_is_cut_is_noticed_by_pings() -> Outcome {
    let mut tab = Tab::open().await?;
    let engine = TestEngine::new(SCRIPT);
    let network = Network::to(engine.ws()).await;
    let ping =
        "{ping: '{\"say\":\"pong\"}', pingInterval: 100, pingTimeout: 1000, connectTimeout: 1000, maxDelay: 100}";
    tab.client(network.at, ping).await;
    tab.heard("pong").await;
    network.works.send_replace(false);
    tab.page.until("notes.close.some((end) => end.reason === 'no answer to the ping')").await;
    tab.page.until("notes.close.some((end) => end.reason === 'no connection in time')").await;
    network.works.send_replace(true);
    tab.page.value("notes.messages = []; 0").await;
    tab.subscribed(1).await;
    tab.heard("pong").await;
    let closes = tab.page.value("notes.close").await;
    assert!(closes.as_array().unwrap().iter().all(|end| end["code"] == 1006), "{closes}");
    Ok(())
}

/// A way to a server that lets no WebSocket through: a proxy that knows no upgrade.
async fn without_upgrades(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    if !matches!(from.read_buf(&mut head).await, Ok(n) if n > 0) {
                        return;
                    }
                }
                if String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket") {
                    let _ = from.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                    return;
                }
                let Ok(mut to) = TcpStream::connect(target).await else { return };
                if to.write_all(&head).await.is_ok() {
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    at
}

async fn where_no_websocket_gets_through_it_has_an_event_stream_and_comes_back_to_it() -> Outcome {
    let mut tab = Tab::open().await?;
    let dir = tempfile::tempdir().unwrap();
    let engine = serve(dir.path());
    // After two attempts that failed.
    let door = without_upgrades(engine.ws()).await;
    tab.client(door, "{firstDelay: 50, maxDelay: 100}").await;
    assert_eq!(tab.page.value("notes.close.map((end) => end.code)").await, json!([1006, 1006]));
    assert_eq!(tab.page.value("notes.open").await, json!([{"again": false}]));

    // Messages of all kinds, in their order.
    tab.page.value("for (let n = 0; n < 20; n++) client.send(JSON.stringify({say: `number ${n}, 弹幕`})); 0").await;
    tab.heard("number 19, 弹幕").await;
    let numbers = "notes.messages.slice(1).every((text, n) => text === `number ${n}, 弹幕`)";
    assert_eq!(tab.page.value(numbers).await, true);
    tab.page.value("client.send(new Uint8Array([0, 255, 13, 10])); 0").await;
    tab.page.until("notes.messages.at(-1) instanceof ArrayBuffer").await;
    assert_eq!(tab.page.value("[...new Uint8Array(notes.messages.pop())]").await, json!([0, 255, 13, 10]));
    let reply = post(engine.api(), "/v1/mesh/publish", r#"{"c":"news","d":"two\nlines"}"#).await;
    assert_eq!(reply, (200, r#"{"E":null,"r":{"s":1,"f":0}}"#.into()));
    tab.heard("two\nlines").await;

    // The server is killed, and comes back at another port.
    tab.page.value("notes.close = []; 0").await;
    engine.signal(libc::SIGKILL);
    engine.ended();
    assert_eq!(tab.closed().await["code"], 1006);
    assert_eq!(tab.page.value(r#"client.send('{"say":"I waited"}')"#).await, true);
    let engine = serve(dir.path());
    let door = without_upgrades(engine.ws()).await;
    tab.server(door).await;
    tab.subscribed(2).await;
    tab.heard("I waited").await;

    // It hears why a connection ends.
    tab.page.value("notes.close = []; 0").await;
    tab.page.value(r#"client.send('{"code":1013,"reason":"busy"}'); 0"#).await;
    let end = tab.closed().await;
    assert_eq!((&end["code"], &end["reason"]), (&json!(1013), &json!("busy")));
    tab.subscribed(3).await;
    tab.page.value(r#"client.send('{"code":4001,"reason":"please log in"}'); 0"#).await;
    assert_eq!(tab.closed().await, json!({"code": 4001, "reason": "please log in", "delay": null}));
    assert_eq!(tab.page.value("client.state").await, "closed");

    // What was sent before the end still goes, and then nobody is there.
    tab.client(door, "{firstDelay: 50}").await;
    let bye = r#"client.send('{"say":"unheard"}'), client.close()"#;
    tab.page.value(bye).await;
    let gone = async || {
        let reply = post(engine.api(), "/v1/mesh/count", r#"{"c":"news"}"#).await;
        (reply.1 == r#"{"E":null,"r":{"n":0}}"#).then_some(())
    };
    eventually("nobody is in the channel", gone).await;
    let (_, figures) = get(engine.api(), "/metrics").await;
    // Two in the first life of the page, one since then and the one of the end.
    let read = "connmix_engine_servers_read_messages_total{protocol=\"event_stream\"}";
    let heard = figures.lines().find_map(|line| line.strip_prefix(read)).unwrap().trim();
    assert_eq!(heard, "7", "subscriptions, what waited, both codes, and the last words");
    Ok(())
}

/// Also one that is cut off, where no end is ever seen.
async fn without_websocket_in_the_browser_it_has_an_event_stream_at_once() -> Outcome {
    let mut tab = Tab::open().await?;
    let engine = TestEngine::with(SCRIPT, "eventStream: on", "workers: 2");
    tab.page.value("delete globalThis.WebSocket; 0").await;
    let network = Network::to(engine.ws()).await;
    let ping =
        "{ping: '{\"say\":\"pong\"}', pingInterval: 100, pingTimeout: 1000, connectTimeout: 1000, maxDelay: 100}";
    tab.client(network.at, ping).await;
    assert_eq!(tab.page.value("notes.close").await, json!([]));
    tab.heard("pong").await;
    network.works.send_replace(false);
    tab.page.until("notes.close.some((end) => end.reason === 'no answer to the ping')").await;
    network.works.send_replace(true);
    tab.page.value("notes.messages = []; 0").await;
    tab.subscribed(1).await;
    tab.heard("pong").await;

    // Not where the page wants none, nor where the server has none.
    tab.page.value("client.close(); notes.close = []; make(() => server, {eventStream: false}); 0").await;
    let end = tab.closed().await;
    assert!(end["reason"].as_str().unwrap().contains("WebSocket is not defined"), "{end}");
    tab.page.value("client.close()").await;
    Ok(())
}

async fn each_class_of_close_codes_leads_to_what_it_should() -> Outcome {
    let mut tab = Tab::open().await?;
    let engine = TestEngine::new(SCRIPT);
    let close = |code: u16, reason: &str| json!({"code": code, "reason": reason}).to_string();
    for (request, code, reason, again) in [
        (close(1000, ""), 1000, "", false),
        (close(1008, "no"), 1008, "no", false),
        (close(4001, "please log in"), 4001, "please log in", false),
        ("no JSON".to_owned(), 1011, "handler error", true),
        (close(1013, "busy"), 1013, "busy", true),
        (close(3100, ""), 3100, "", true),
    ] {
        tab.page.value("notes.open = []; 0").await;
        tab.client(engine.ws(), "{firstDelay: 100}").await;
        tab.page.value(&format!("client.send({})", json!(request))).await;
        let end = tab.closed().await;
        assert_eq!((&end["code"], &end["reason"]), (&json!(code), &json!(reason)));
        if again {
            assert!(end["delay"].as_f64().unwrap() <= 100.0, "{end}");
            tab.subscribed(2).await;
            assert_eq!(tab.page.value("notes.open").await, json!([{"again": false}, {"again": true}]));
            tab.page.value("client.close()").await;
        } else {
            assert_eq!(end["delay"], Value::Null);
        }
        assert_eq!(tab.page.value("client.state").await, "closed");
        assert_eq!(tab.page.value("client.send('late')").await, false);
    }

    // The application may know better, and a handshake that is refused has no status in a browser.
    tab.client(engine.ws(), "{retry: ({code}) => code === 4001 ? 'now' : undefined}").await;
    tab.page.value(&format!("client.send({})", json!(close(4001, "")))).await;
    assert_eq!(tab.closed().await["delay"], 0);
    tab.subscribed(2).await;
    tab.page.value("client.close()").await;
    tab.page.value(&format!("make('ws://{}/elsewhere'); 0", engine.ws())).await;
    let end = tab.closed().await;
    assert_eq!(end["code"], 1006);
    assert!(end["delay"].is_number(), "{end}");
    tab.page.value("client.close()").await;

    // Who was merely silent comes back at once.
    let strict = TestEngine::with(SCRIPT, "readTimeout: 3", "workers: 1");
    tab.client(strict.ws(), "{}").await;
    assert_eq!(tab.closed().await, json!({"code": 1001, "reason": "read timeout", "delay": 0}));
    tab.subscribed(2).await;
    tab.page.value("client.close()").await;

    // The server hears of an end for good, and nothing comes after it.
    engine.publish_to("news", "anybody?", 0).await;
    assert_eq!(tab.page.value("notes.close").await, json!([]));
    Ok(())
}

/// With pauses that are longer than any test.
async fn a_page_that_is_shown_or_back_online_does_not_wait() -> Outcome {
    let mut tab = Tab::open().await?;
    let engine = TestEngine::new(SCRIPT);
    tab.page.value("Math.random = () => 0.9; 0").await;
    tab.client(engine.ws(), "{firstDelay: 1e9, maxDelay: 1e9}").await;
    let busy = json!(json!({"code": 1013, "reason": ""}).to_string());

    // Another tab comes in front.
    let other = tab.page.call("Target.createTarget", json!({"url": "about:blank"})).await;
    assert!(other["targetId"].is_string());
    tab.page.until("document.hidden").await;
    tab.page.value(&format!("client.send({busy})")).await;
    assert_eq!(tab.closed().await["delay"], 9e8);
    assert_eq!(tab.page.value("client.state").await, "waiting");
    tab.page.call("Page.bringToFront", json!({})).await;
    tab.subscribed(2).await;

    // The network goes and comes.
    let network =
        |offline: bool| json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    tab.page.value(&format!("client.send({busy})")).await;
    tab.closed().await;
    tab.page.call("Network.emulateNetworkConditions", network(true)).await;
    tab.page.until("!navigator.onLine").await;
    assert_eq!(tab.page.value("client.state").await, "waiting");
    tab.page.call("Network.emulateNetworkConditions", network(false)).await;
    tab.subscribed(3).await;
    Ok(())
}

/// Runs a program to its end; what it printed.
fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let ended = Command::new(program).args(args).current_dir(client()).output().unwrap();
    assert!(ended.status.success(), "{program}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

async fn its_own_tests_pass_in_node() -> Outcome {
    need("node", &["-e", "process.exit(process.versions.node.split('.')[0] >= 18 ? 0 : 1)"])?;
    let printed = String::from_utf8(run("node", &["connmix.test.mjs"])).unwrap();
    let tests = fs::read_to_string(client().join("connmix.test.mjs")).unwrap();
    let tests = tests.lines().filter(|line| line.starts_with("  ") && line.ends_with("\"() {")).count();
    assert_eq!(printed.lines().filter(|line| line.starts_with("ok: ")).count(), tests);
    Ok(())
}

/// Node has a WebSocket since 22; since 20.10 with an option.
async fn it_connects_from_node() -> Outcome {
    const OPTION: &str = "--experimental-websocket";
    need("node", &[OPTION, "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => process.exit(0)"])?;
    let engine = TestEngine::new(SCRIPT);
    let program = format!(
        "import {{ Connmix }} from './connmix.js';
         const client = new Connmix('ws://{}/ws', {{
           onmessage(data) {{
             console.log(data);
             client.close();
           }},
         }});
         client.send('{{\"say\":\"hello\"}}');",
        engine.ws()
    );
    let printed = run("node", &[OPTION, "--no-warnings", "--input-type=module", "-e", &program]);
    assert_eq!(printed, b"hello\n");
    Ok(())
}

async fn the_files_to_serve_are_small_and_the_same() -> Outcome {
    need("gzip", &["--version"])?;
    for name in ["connmix.js", "connmix.script.js"] {
        let size = run("gzip", &["-9", "-c", name]).len();
        assert!(size < MAX_GZIPPED, "{name} is {size} bytes, compressed");
    }
    let script = fs::read(client().join("connmix.script.js")).unwrap();
    assert!(run("sh", &["script.sh"]) == script, "sh script.sh > connmix.script.js");
    assert!(!String::from_utf8(script).unwrap().contains("export class"));
    Ok(())
}

/// All that the package names is there, and both languages of its page show the same code.
async fn the_package_is_whole() -> Outcome {
    let package = fs::read_to_string(client().join("package.json")).unwrap();
    let package: Value = serde_json::from_str(&package).unwrap();
    let exports = &package["exports"];
    let named = [&exports["."]["types"], &exports["."]["default"], &exports["./script"], &package["unpkg"]];
    for file in package["files"].as_array().unwrap().iter().chain(named) {
        assert!(client().join(file.as_str().unwrap()).is_file(), "{file}");
    }
    assert_eq!(package.get("dependencies"), None);
    assert_eq!(package["license"], env!("CARGO_PKG_LICENSE"));
    let types = fs::read_to_string(client().join("connmix.d.ts")).unwrap();
    let code = fs::read_to_string(client().join("connmix.js")).unwrap();
    let options = types.split("export interface Options {").nth(1).unwrap().split("\n}").next().unwrap();
    for option in options.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("?: ")) {
        assert!(code.contains(option.0), "{}", option.0);
    }
    let blocks = |name: &str| {
        let page = fs::read_to_string(client().join(name)).unwrap();
        let code = |line: &str| line.split("// ").next().unwrap().trim_end().to_owned();
        page.split("\n```").skip(1).step_by(2).map(|b| b.lines().map(code).collect()).collect::<Vec<Vec<_>>>()
    };
    let english = blocks("README.md");
    assert!(!english.is_empty());
    assert_eq!(english, blocks("README.zh-CN.md"));
    Ok(())
}

optional_tests! {
    a_killed_server_is_found_again_with_subscription_and_what_waited,
    a_network_that_is_cut_is_noticed_by_pings,
    where_no_websocket_gets_through_it_has_an_event_stream_and_comes_back_to_it,
    without_websocket_in_the_browser_it_has_an_event_stream_at_once,
    each_class_of_close_codes_leads_to_what_it_should,
    a_page_that_is_shown_or_back_online_does_not_wait,
    its_own_tests_pass_in_node,
    it_connects_from_node,
    the_files_to_serve_are_small_and_the_same,
    the_package_is_whole,
}
