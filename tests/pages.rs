//! What web pages can make a browser send to the APIs: it has no effect unless their origin is listed. Also what any
//! request to the APIs must contain.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::raw::{self, Raw, Reply};
use common::*;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;

/// Subscribes to the channel that a message names.
const SCRIPT: &str = "\
function on_message(msg, conn)
  conn:send(conn:subscribe(msg.data) or 'ok')
end
";

const PUBLISH: &str = "/v1/mesh/publish";
const USERS: &str = "users: [{username: ann, password: secret}]";
const BODY: &str = r#"{"c":"c","d":"x"}"#;

/// An engine with these lines under `access`.
fn engine(access: &str) -> TestEngine {
    TestEngine::with_top(SCRIPT, "", "workers: 2", &format!("access: {{{access}}}"))
}

/// A request with these headers besides its length, each ending in CRLF, and nothing that is not given.
fn ask(method: &str, path: &str, headers: &str) -> String {
    match method {
        "POST" => format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{BODY}", BODY.len()),
        _ => format!("{method} {path} HTTP/1.1\r\n{headers}\r\n"),
    }
}

fn local(headers: &str) -> String {
    format!("Host: localhost\r\n{headers}")
}

/// The same for the upgrade to the WebSocket API.
fn upgrade(headers: &str) -> String {
    raw::upgrade_with(headers).replace("/ws", "/ws/v1")
}

fn basic() -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode("ann:secret"))
}

async fn reply(at: SocketAddr, request: &str) -> Reply {
    let mut raw = Raw::dial(at).await;
    raw.write(request).await;
    let head = raw.head().await;
    // Neither has a body.
    if head.status == 101 || head.status == 204 || request.starts_with("HEAD ") {
        return head;
    }
    let mut raw = Raw::dial(at).await;
    raw.call(request).await
}

async fn refused(at: SocketAddr, request: &str, status: u16, part: &str) {
    let reply = reply(at, request).await;
    assert_eq!(reply.status, status, "{request}: {reply:?}");
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None, "{reply:?}");
    if !request.starts_with("HEAD ") {
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body["E"]["c"], status, "{request}: {body}");
        assert!(body["E"]["m"].as_str().unwrap().contains(part), "{request}: {body}");
    }
}

/// Every path of both ports that answers something, and one that does not: method, path, what it is answered.
fn paths(engine: &TestEngine) -> Vec<(SocketAddr, &'static str, &'static str, u16)> {
    let (api, center) = (engine.at.api, engine.at.center);
    let mut paths = vec![
        (api, "POST", PUBLISH, 200),
        (api, "POST", "/v1/mesh/send", 400),
        (api, "GET", PUBLISH, 405),
        (api, "GET", "/ws/v1", 426),
        (center, "GET", "/version", 200),
        (center, "GET", "/v1/nodes", 200),
    ];
    for at in [api, center] {
        paths.extend([
            (at, "GET", "/metrics", 200),
            (at, "HEAD", "/metrics", 200),
            (at, "GET", "/readyz", 200),
            (at, "GET", "/none", 404),
            (at, "OPTIONS", "/none", 404),
        ]);
    }
    paths
}

/// What pages send that are not listed.
const FOREIGN: [&str; 12] = [
    "Origin: https://evil.example\r\n",
    "Origin: null\r\n",
    "Origin:\r\n",
    "Origin: http://localhost\r\n",
    "Origin: https://app.example:8443\r\n",
    "Origin: https://app.example.evil.example\r\n",
    "Origin: https://app.example\r\nOrigin: https://evil.example\r\n",
    "Origin: https://evil.example\r\nSec-Fetch-Site: same-origin\r\n",
    "Sec-Fetch-Site: cross-site\r\n",
    "Sec-Fetch-Site: same-site\r\n",
    "sec-fetch-site: none\r\nSec-Fetch-Site: cross-site\r\n",
    "Sec-Fetch-Site: something-new\r\n",
];

#[tokio::test]
async fn a_page_that_is_not_listed_may_do_nothing() {
    for access in ["", "origins: ['https://app.example']", "users: [{username: ann, password: secret}]"] {
        let engine = engine(access);
        let mut client = engine.connect().await;
        assert_eq!(client.ask("c").await, "ok");
        // A browser may know the password.
        let user = if access.starts_with("users") { basic() } else { String::new() };
        for foreign in FOREIGN {
            for (at, method, path, _) in paths(&engine) {
                refused(at, &ask(method, path, &local(&format!("{user}{foreign}"))), 403, "may not call here").await;
            }
            refused(engine.at.api, &upgrade(&format!("{user}{foreign}")), 403, "may not call here").await;
            let preflight = format!("{foreign}Access-Control-Request-Method: POST\r\n");
            refused(engine.at.api, &ask("OPTIONS", PUBLISH, &local(&preflight)), 403, "may not call here").await;
            for at in [engine.at.api, engine.at.center] {
                assert_eq!(reply(at, &ask("GET", "/healthz", &local(foreign))).await.status, 200, "a probe");
            }
        }
        client.expect_only_reply("d", "ok").await;
    }
}

#[tokio::test]
async fn what_no_page_sends_and_what_a_person_opens_is_answered_as_before() {
    let engine = engine("");
    for headers in
        ["", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: same-origin\r\n", "Referer: https://x.example/\r\n"]
    {
        for (at, method, path, status) in paths(&engine) {
            assert_eq!(
                reply(at, &ask(method, path, &local(headers))).await.status,
                status,
                "{method} {path} {headers}"
            );
        }
        assert_eq!(reply(engine.at.api, &upgrade(headers)).await.status, 101);
    }
}

#[tokio::test]
async fn a_foreign_call_behind_plain_ones_is_refused_alone() {
    let engine = engine("");
    let mut api = Raw::dial(engine.at.api).await;
    let (fine, foreign) =
        (ask("POST", PUBLISH, &local("")), ask("POST", PUBLISH, &local("Origin: https://evil.example\r\n")));
    api.write([fine.as_str(), &foreign, &fine].concat()).await;
    for status in [200, 403, 200] {
        assert_eq!(api.reply().await.status, status);
    }
}

#[tokio::test]
async fn a_listed_page_asks_first_and_then_may_call() {
    let engine = engine(&format!("{USERS}, origins: ['HTTPS://App.example:443/', 'https://münchen.example']"));
    for origin in ["https://app.example", "https://xn--mnchen-3ya.example"] {
        let page = format!("Origin: {origin}\r\nSec-Fetch-Site: cross-site\r\n");
        for path in [PUBLISH, "/v1/mesh/send", "/metrics", "/none"] {
            let wanted = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
            // Without credentials, since browsers ask so.
            let reply = reply(engine.at.api, &ask("OPTIONS", path, &local(&format!("{page}{wanted}")))).await;
            assert_eq!(reply.status, 204, "{reply:?}");
            assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(origin));
            assert_eq!(reply.header("Access-Control-Allow-Methods"), Some("GET, HEAD, POST"));
            let headers = "authorization, content-type, traceparent, tracestate";
            assert_eq!(reply.header("Access-Control-Allow-Headers"), Some(headers));
            assert_eq!(reply.header("Access-Control-Max-Age"), Some("600"));
            assert_eq!(reply.header("Vary"), Some("origin"));
        }
        let mut all = paths(&engine);
        all.extend([(engine.at.api, "GET", "/healthz", 200), (engine.at.center, "GET", "/healthz", 200)]);
        for (at, method, path, status) in all {
            let reply = reply(at, &ask(method, path, &local(&format!("{page}{}", basic())))).await;
            assert_eq!(reply.status, status, "{method} {path}");
            assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(origin), "{method} {path}");
            assert_eq!(reply.header("Vary"), Some("origin"), "{method} {path}");
        }
        // It needs its user all the same, and hears that it does.
        let reply = reply(engine.at.api, &ask("POST", PUBLISH, &local(&page))).await;
        assert_eq!((reply.status, reply.header("Access-Control-Allow-Origin")), (401, Some(origin)));
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(upgrade(&format!("{page}{}", basic()))).await;
        assert_eq!(raw.head().await.status, 101);
        assert_eq!(raw.ask("ping").await, "pong");
    }
}

#[tokio::test]
async fn a_page_that_is_listed_or_no_longer_is_so_at_once() {
    let engine = engine("origins: []");
    let file = engine.path("connmix.yaml");
    let config = fs::read_to_string(&file).unwrap();
    let page = "Origin: https://app.example\r\n";
    refused(engine.at.api, &upgrade(page), 403, "access.origins").await;
    fs::write(&file, config.replace("origins: []", "origins: ['https://app.example']")).unwrap();
    engine.engine().reload();
    let mut raw = eventually("the page is listed", async || {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(upgrade(page)).await;
        (raw.head().await.status == 101).then_some(raw)
    })
    .await;
    let mut other = Raw::dial(engine.at.api).await;
    other.write(upgrade("")).await;
    assert_eq!(other.head().await.status, 101);
    fs::write(&file, config).unwrap();
    engine.engine().reload();
    assert_eq!(raw.close_frame().await, (1008, "access was taken away".into()));
    assert_eq!(other.ask("ping").await, "pong", "it is no page's");
    refused(engine.at.api, &ask("POST", PUBLISH, &local(page)), 403, "access.origins").await;
}

/// Names under which a page's own server may come to be this machine.
const FOREIGN_NAMES: [&str; 5] =
    ["evil.example", "evil.example:6789", "localhost.evil.example", "127.0.0.1.evil.example", "connmix"];
const OWN_NAMES: [&str; 7] =
    ["localhost", "LocalHost:6789", "localhost.", "api.localhost", "127.0.0.1", "192.168.7.7:6789", "[::1]:6789"];

#[tokio::test]
async fn an_open_api_on_loopback_answers_to_its_own_names_alone() {
    let plain = engine("");
    let advertised =
        TestEngine::with_top(SCRIPT, "", "workers: 1", "cluster: {advertise: {api: 'Node-1.example:6789'}}");
    for engine in [&plain, &advertised] {
        for (at, method, path, status) in paths(engine) {
            for name in FOREIGN_NAMES {
                refused(at, &ask(method, path, &format!("Host: {name}\r\n")), 403, "is no name of this API").await;
                // The target's host is the one that counts.
                let target = format!("http://{name}{path}");
                refused(at, &ask(method, &target, &local("")), 403, "is no name of this API").await;
                let target = format!("http://localhost{path}");
                let reply = reply(at, &ask(method, &target, &format!("Host: {name}\r\n"))).await;
                assert_eq!(reply.status, status, "{target}");
            }
            for name in OWN_NAMES {
                let reply = reply(at, &ask(method, path, &format!("Host: {name}\r\n"))).await;
                assert_eq!(reply.status, status, "{method} {path} {name}");
            }
            let node = ask(method, path, "Host: node-1.EXAMPLE:6789\r\n");
            match std::ptr::eq(engine, &advertised) {
                true => assert_eq!(reply(at, &node).await.status, status),
                false => refused(at, &node, 403, "cluster.advertise").await,
            }
        }
        for at in [engine.at.api, engine.at.center] {
            let probe = ask("GET", "/healthz", "Host: evil.example\r\n");
            assert_eq!(reply(at, &probe).await.status, 200, "a probe");
        }
    }
    // Behind calls that are answered normally.
    let mut api = Raw::dial(plain.at.api).await;
    let foreign = ask("POST", PUBLISH, "Host: evil.example\r\n");
    api.write([ask("POST", PUBLISH, &local("")), foreign].concat()).await;
    assert_eq!((api.reply().await.status, api.reply().await.status), (200, 403));
    // A page of that name can't know the password.
    let users = engine(USERS);
    for name in FOREIGN_NAMES {
        refused(users.at.api, &ask("POST", PUBLISH, &format!("Host: {name}\r\n")), 401, "credentials").await;
        let known = ask("POST", PUBLISH, &format!("Host: {name}\r\n{}", basic()));
        assert_eq!(reply(users.at.api, &known).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn a_request_names_one_host_or_is_refused() {
    for access in ["", USERS] {
        let engine = engine(access);
        let user = if access.is_empty() { String::new() } else { basic() };
        let mut all = paths(&engine);
        all.extend([(engine.at.api, "GET", "/healthz", 200), (engine.at.center, "GET", "/healthz", 200)]);
        for (at, method, path, status) in all {
            for (hosts, part) in [
                ("", "Host header is missing"),
                ("Host: localhost\r\nHost: localhost\r\n", "more than once"),
                ("Host: local host\r\n", "not a host"),
                ("Host: localhost:65536\r\n", "not a host"),
                ("Host: a/b\r\n", "not a host"),
                ("Host:\r\n", "not a host"),
                ("Host: [::1\r\n", "not a host"),
            ] {
                refused(at, &ask(method, path, &format!("{user}{hosts}")), 400, part).await;
            }
            let target = format!("http://me@localhost{path}");
            refused(at, &ask(method, &target, &local(&user)), 400, "target").await;
            // HTTP/1.0 knows no Host; a wrong one is wrong there too.
            let old = |hosts: &str| ask(method, path, &format!("{user}{hosts}")).replace("HTTP/1.1", "HTTP/1.0");
            let wanted = if status == 426 { 505 } else { status };
            assert_eq!(reply(at, &old("")).await.status, wanted, "{method} {path}");
            assert_eq!(reply(at, &old("Host: localhost\r\n")).await.status, wanted, "{method} {path}");
            refused(at, &old("Host: a\r\nHost: a\r\n"), 400, "more than once").await;
        }
        refused(engine.at.api, &upgrade(&user).replace("Host: localhost\r\n", ""), 400, "Host").await;
    }
}

#[tokio::test]
async fn a_body_in_another_coding_than_chunks_is_not_read() {
    let engine = engine("");
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    for (coding, status) in [
        ("Transfer-Encoding: chunked\r\n", 200),
        ("Transfer-Encoding: Chunked\r\n", 200),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
    ] {
        let mut api = Raw::dial(engine.at.api).await;
        let reply = api.call(format!("POST {PUBLISH} HTTP/1.1\r\n{}\r\n{chunked}", local(coding))).await;
        assert_eq!(reply.status, status, "{coding}: {reply:?}");
        let mut center = Raw::dial(engine.at.center).await;
        let reply = center.call(format!("POST /version HTTP/1.1\r\n{}\r\n{chunked}", local(coding))).await;
        assert_eq!(reply.status, if status == 200 { 405 } else { status }, "{coding}: {reply:?}");
    }
}

#[tokio::test]
async fn another_version_of_websocket_is_told_which_one_is_spoken() {
    let engine = engine("");
    for request in [
        upgrade("").replace("Version: 13", "Version: 8"),
        upgrade("").replace("Sec-WebSocket-Version: 13\r\n", ""),
        upgrade("").replace("Upgrade: websocket\r\n", ""),
        upgrade("").replace("GET", "HEAD"),
    ] {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(&request).await;
        let head = raw.head().await;
        assert_eq!(head.status, 426, "{request}: {head:?}");
        for (name, value) in [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"), ("Connection", "Upgrade")] {
            assert_eq!(head.header(name), Some(value), "{head:?}");
        }
    }
    // The connection is good for more, behind HEAD too, which has no body.
    let mut raw = Raw::dial(engine.at.api).await;
    raw.write([upgrade("").replace("GET", "HEAD"), ask("GET", "/readyz", &local(""))].concat()).await;
    assert_eq!((raw.head().await.status, raw.reply().await.status), (426, 200));
}

const OWN_PUBLISH: &str = "/console/v1/mesh/publish";
/// What a browser sends of a link that was followed.
const FOLLOWED: &str = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";

#[tokio::test]
async fn pages_of_the_center_make_their_calls_and_others_can_not() {
    for access in ["", USERS, "origins: ['https://app.example']"] {
        let engine = engine(access);
        let at = engine.at.center;
        let user = if access == USERS { basic() } else { String::new() };
        let paths = [
            ("POST", OWN_PUBLISH),
            ("POST", "/console/v1/mesh/count"),
            ("GET", "/console/v1/channels"),
            ("GET", "/console/v1/figures"),
            ("GET", "/console/"),
            ("GET", "/console/main.js"),
        ];
        for (method, path) in paths {
            for own in [
                "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n",
                // Browsers tell the site only to addresses that they trust.
                "Origin: http://localhost\r\n",
                "Origin: https://LOCALHOST\r\n",
                "Sec-Fetch-Site: same-origin\r\n",
                "",
            ] {
                let reply = reply(at, &ask(method, path, &local(&format!("{user}{own}")))).await;
                assert_eq!(reply.status, 200, "{path} {own}: {reply:?}");
                assert_eq!(reply.header("Access-Control-Allow-Origin"), None, "{reply:?}");
            }
            let others = FOREIGN.into_iter().filter(|foreign| *foreign != "Origin: http://localhost\r\n");
            for foreign in others.chain([
                "Origin: http://localhost:80\r\n",
                "Origin: localhost\r\n",
                "Origin: ws://localhost\r\n",
                "Origin: http://localhost\r\nSec-Fetch-Site: same-site\r\n",
                "Origin: http://localhost\r\nOrigin: https://evil.example\r\n",
            ]) {
                refused(at, &ask(method, path, &local(&format!("{user}{foreign}"))), 403, "may not call here").await;
            }
        }
        // All else stays closed to them, on both ports.
        let own = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n";
        for (at, method, path) in
            [(at, "GET", "/version"), (at, "GET", "/v1/nodes"), (at, "GET", "/none"), (engine.at.api, "POST", PUBLISH)]
        {
            refused(at, &ask(method, path, &local(&format!("{user}{own}"))), 403, "may not call here").await;
        }
        // The engine's port has none of them.
        for path in ["/", "/console", "/console/", "/console/v1/figures", "/console/v1/channels"] {
            refused(engine.at.api, &ask("GET", path, &local(&user)), 404, "").await;
        }
    }
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_opens_no_console() {
    let engine = engine("");
    for name in FOREIGN_NAMES {
        for headers in [format!("Origin: http://{name}\r\n"), String::new(), FOLLOWED.into()] {
            for (method, path) in [("POST", OWN_PUBLISH), ("GET", "/console/"), ("GET", "/console/v1/figures")] {
                let request = ask(method, path, &format!("Host: {name}\r\n{headers}"));
                refused(engine.at.center, &request, 403, "").await;
            }
        }
    }
}

#[tokio::test]
async fn a_link_leads_to_the_console_and_to_nothing_that_it_calls() {
    let engine = engine("");
    let at = engine.at.center;
    let opened = reply(at, &ask("GET", "/console/", &local(FOLLOWED))).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    let policy = opened.header("Content-Security-Policy").unwrap();
    for part in ["default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Content-Type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(opened.header(name), Some(value), "{opened:?}");
    }
    let moved = reply(at, &ask("GET", "/console", &local(FOLLOWED))).await;
    assert_eq!((moved.status, moved.header("Location")), (308, Some("/console/")));
    let framed = FOLLOWED.replace("document", "iframe");
    refused(at, &ask("GET", "/console/", &local(&framed)), 403, "may not call here").await;
    for path in ["/console/v1/figures", "/console/v1/channels", "/v1/nodes"] {
        refused(at, &ask("GET", path, &local(FOLLOWED)), 403, "may not call here").await;
    }
    refused(at, &ask("POST", "/console/", &local(FOLLOWED)), 405, "").await;
}

#[tokio::test]
async fn the_console_is_there_unless_it_is_switched_off_or_everybody_could_use_it() {
    let status = async |engine: &TestEngine, path: &str, user: &str| {
        reply(engine.at.center, &ask("GET", path, &local(user))).await.status
    };
    let plain = engine("");
    assert_eq!(status(&plain, "/console/", "").await, 200);
    // The demo is of `dev` alone, and so is the script that it shows.
    let root = reply(plain.at.center, &ask("GET", "/", &local(""))).await;
    assert_eq!((root.status, root.header("location")), (308, Some("/console/")));
    // Or else a browser would go there in `dev`, too.
    assert_eq!(root.header("cache-control"), Some("no-store"));
    assert_eq!(status(&plain, "/demo/demo.js", "").await, 404);
    assert_eq!(status(&plain, "/console/v1/script", "").await, 404);

    let users = engine(USERS);
    for path in ["/", "/console", "/console/", "/console/console.css", "/console/v1/figures"] {
        let moved = ["/", "/console"].contains(&path);
        assert_eq!(
            (status(&users, path, "").await, status(&users, path, &basic()).await / 100),
            (401, 2 + u16::from(moved))
        );
    }

    let off = TestEngine::with_top(SCRIPT, "", "workers: 1", "console: {enabled: false}");
    for path in ["/", "/console", "/console/", "/console/v1/figures", "/console/v1/channels"] {
        assert_eq!(status(&off, path, "").await, 404);
    }
    // Live.
    let file = off.path("connmix.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("enabled: false", "enabled: true");
    fs::write(&file, text).unwrap();
    eventually("the console is on", async || (status(&off, "/console/", "").await == 200).then_some(())).await;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let open = |config: &mut connmix::config::Config| {
        config.center.addr.set_ip([0, 0, 0, 0].into());
        config.dev = true;
    };
    let open = TestEngine::try_start_with(dir, open).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], open.at.center.port()));
    for (method, path) in
        [("GET", "/"), ("GET", "/console"), ("GET", "/console/"), ("GET", "/console/v1/figures"), ("POST", OWN_PUBLISH)]
    {
        refused(at, &ask(method, path, &local("")), 403, "the console is off").await;
        let own = local("Origin: http://localhost\r\n");
        refused(at, &ask(method, path, &own), 403, "may not call here").await;
    }
    // What the console reads tells as much.
    for path in ["/v1/tail", "/v1/tail?bodies=1", "/v1/why?client=7"] {
        refused(at, &ask("GET", path, &local("")), 403, "the console is off").await;
    }
    assert_eq!(reply(at, &ask("GET", "/v1/nodes", &local(""))).await.status, 200);
}
