//! The attacks, each as small as it can be and still costs something. What a client has goes with it at the end of each.

use super::common::raw::{BINARY, CLOSE, CONTINUE, FIN, PING, Raw, TEXT, frame, text, upgrade, upgrade_with};
use super::common::tls::Trusting;
use super::common::{PATIENCE, TestEngine, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compress, Compression, FlushCompress};
use futures_util::future::{FutureExt, LocalBoxFuture};
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// Where the engine is.
#[derive(Clone)]
pub struct Site {
    plain: SocketAddr,
    tls: SocketAddr,
    proxied: SocketAddr,
    lines: SocketAddr,
    api: SocketAddr,
    entry: PathBuf,
    trusting: Trusting,
}

impl Site {
    pub fn new(engine: &TestEngine, trusting: Trusting) -> Site {
        let servers = &engine.at.servers;
        let [plain, tls, proxied, lines] = servers[..] else { panic!("{servers:?}") };
        Site { plain, tls, proxied, lines, api: engine.at.api, entry: engine.path("entry.lua"), trusting }
    }
}

pub type Attack = fn(Site) -> LocalBoxFuture<'static, ()>;

/// All of them by name.
pub fn attacks() -> Vec<(&'static str, Attack)> {
    macro_rules! list {
        ($($name:ident),* $(,)?) => { vec![$((stringify!($name), |site| $name(site).boxed_local())),*] };
    }
    list![
        half_handshakes,
        garbage,
        broken_frames,
        connects,
        floods,
        stalled_readers,
        slow_readers_of_the_latest,
        unfinished_messages,
        fragments,
        bombs,
        half_tls,
        tls_and_gone,
        heavy_handlers,
        looping_handlers,
        failing_handlers,
        waiting_handlers,
        wrong_passwords,
        half_bodies,
        deaf_callers,
        websocket_floods,
        wrong_calls,
        event_streams,
        channels,
        rooms,
        rooms_with_too_much,
        history,
        shared,
        queue,
        timers,
        proxies,
        many_addresses,
        requests_that_hang,
        watchers,
    ]
}

/// Fills what remembers the newest of something, and opens one connection of each kind.
pub async fn warm_up(site: Site) {
    for _ in 0..10 {
        connects(site.clone()).await;
    }
    let mut client = Raw::open(site.plain).await;
    let leave = "for i = 1, 1000 do conn:subscribe('c' .. i) conn:unsubscribe('c' .. i) end";
    assert_eq!(client.ask(leave).await, "= nil nil nil");
}

/// So many open connections at once.
async fn many(at: SocketAddr, count: usize) -> Vec<Raw> {
    futures_util::future::join_all((0..count).map(|_| Raw::open(at))).await
}

/// Runs that in each of these connections; the results of one are awaited.
async fn run(clients: &mut [Raw], code: &str) -> String {
    for client in &mut *clients {
        client.write(text(code)).await;
    }
    let mut last = String::new();
    for client in clients {
        last = answer(client).await;
    }
    last
}

/// The results of what a client has sent; what is delivered before them is passed over.
async fn answer(client: &mut Raw) -> String {
    loop {
        let text = client.text().await;
        if text.starts_with("= ") {
            return text;
        }
    }
}

fn noise(seed: usize, bytes: usize) -> Vec<u8> {
    let mut state = (seed as u32).wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn request(password: &str, path: &str, body: &str) -> String {
    let login = STANDARD.encode(format!("bench:{password}"));
    let (method, length) = (if body.is_empty() { "GET" } else { "POST" }, body.len());
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A call, and what came of it.
async fn call(site: &Site, path: &str, params: Value) -> Value {
    let reply = Raw::dial(site.api).await.call(request("bench", path, &params.to_string())).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

async fn publish(site: &Site, params: Value) {
    let reply = call(site, "/v1/mesh/publish", params).await;
    assert_eq!(reply["E"], Value::Null, "{reply}");
}

/// A WebSocket of the API.
async fn back_end(site: &Site) -> Raw {
    let mut raw = Raw::dial(site.api).await;
    let login = STANDARD.encode("bench:bench");
    raw.write(upgrade_with(&format!("Authorization: Basic {login}\r\n")).replace("/ws", "/ws/v1")).await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

/// A connection to the server that limits much.
async fn proxied(site: &Site) -> Raw {
    let mut raw = Raw::dial(site.proxied).await;
    raw.write(b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 80\r\n").await;
    raw.opened().await
}

/// Writes as much as is taken, for a moment.
async fn pour(raw: &mut Raw, what: &[u8], rounds: usize) {
    for _ in 0..rounds {
        let Ok(Ok(())) = timeout(Duration::from_millis(50), raw.stream.write_all(what)).await else { return };
    }
}

async fn half_handshakes(site: Site) {
    let mut all = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::dial([site.plain, site.proxied][n % 2]).await;
        let head = format!("{}X-Filling: {}\r\n", upgrade().trim_end_matches("\r\n"), "x".repeat(4000));
        raw.write(&head.as_bytes()[..50 + n * 20]).await;
        all.push(raw);
    }
}

async fn garbage(site: Site) {
    for n in 0..120 {
        let at = [site.plain, site.tls, site.proxied, site.lines, site.api][n % 5];
        let mut raw = Raw::dial(at).await;
        raw.write_into_the_dark(noise(n, 100 + n * 50)).await;
        raw.write_into_the_dark("\r\n\r\n\n").await;
        let _ = raw.stream.shutdown().await;
        let _ = timeout(PATIENCE, raw.rest()).await;
    }
}

async fn broken_frames(site: Site) {
    for wrong in [
        frame(0x70 | FIN | TEXT, b"x"),
        frame(FIN | CONTINUE, b"x"),
        frame(FIN | TEXT, b"abc\xff"),
        frame(FIN | PING, &[1; 126]),
        frame(FIN | CLOSE, b"\x03"),
        b"\x82\xff\0\0\0\x7f\xff\xff\xff\xff\0\0\0\0".to_vec(),
        b"\x81\x05Hello".to_vec(),
    ] {
        for mut client in many(site.plain, 10).await {
            client.write_into_the_dark([&text("return 1")[..], &wrong[..]].concat()).await;
            client.rest().await;
        }
    }
}

async fn connects(site: Site) {
    let clients = many(site.plain, 100).await;
    for (n, mut client) in clients.into_iter().enumerate() {
        if n % 2 == 0 {
            client.write(frame(FIN | CLOSE, b"\x03\xe8")).await;
            client.rest().await;
        }
    }
}

async fn floods(site: Site) {
    let mut clients = many(site.plain, 10).await;
    let much = text("return ('x'):rep(100)").repeat(300);
    for client in &mut clients {
        pour(client, &much, 5).await;
    }
    // Where a client has a rate, it is not read.
    pour(&mut proxied(&site).await, &much, 5).await;
}

async fn stalled_readers(site: Site) {
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::narrow(site.plain).await.opened().await;
        run(std::slice::from_mut(&mut raw), "return conn:subscribe('news')").await;
        stalled.push(raw);
    }
    for n in 0..30 {
        publish(&site, json!({"c": "news", "d": format!("{n} {}", "x".repeat(10_000))})).await;
    }
}

async fn slow_readers_of_the_latest(site: Site) {
    let mut stalled = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::narrow(site.plain).await.opened().await;
        run(std::slice::from_mut(&mut raw), "return conn:subscribe('late:1')").await;
        stalled.push(raw);
    }
    for n in 0..300 {
        let data = format!("{n} {}", "x".repeat(1000));
        let message = json!({"c": "late:1", "d": data, "k": format!("key {}", n % 50)});
        publish(&site, message).await;
    }
}

async fn unfinished_messages(site: Site) {
    let message = frame(FIN | BINARY, &noise(1, 1 << 20));
    let mut clients = many(site.plain, 20).await;
    for client in &mut clients {
        client.write(&message[..500_000]).await;
    }
    // And whole ones, as large as may be.
    clients[0].write(&message[500_000..]).await;
    assert_eq!(clients[0].text().await, (1 << 20).to_string());
    let mut lines = Raw::dial(site.lines).await;
    lines.write(vec![b'x'; 500_000]).await;
}

async fn fragments(site: Site) {
    let one = |last: u8| [frame(TEXT, b"-"), frame(CONTINUE, b"-").repeat(3000), frame(last, b"-")].concat();
    let mut clients = many(site.plain, 10).await;
    for client in &mut clients {
        client.write([one(FIN | CONTINUE), one(CONTINUE)].concat()).await;
    }
    for client in &mut clients {
        assert!(answer(client).await.starts_with("= nil"));
    }
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1000);
    Compress::new(Compression::new(6), false).compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    out.truncate(out.len() - 4);
    out
}

async fn bombs(site: Site) {
    let bomb = deflate(&vec![b'x'; 20 << 20]);
    assert!(bomb.len() < 100_000);
    for (first, payload) in [(FIN | BINARY, &bomb[..]), (BINARY, &bomb[..]), (FIN | TEXT, &noise(7, 5000)[..])] {
        for _ in 0..5 {
            let mut raw = Raw::dial(site.plain).await;
            raw.write(upgrade_with("Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
            assert_eq!(raw.head().await.status, 101);
            raw.write_into_the_dark(frame(0x40 | first, payload)).await;
            if first & FIN != 0 {
                raw.rest().await;
            }
        }
    }
}

async fn half_tls(site: Site) {
    let mut all = Vec::new();
    for n in 0..100 {
        let mut raw = Raw::dial(site.tls).await;
        // The beginning of a client hello, or of a record that is never complete.
        raw.write([&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(n, n * 4)].concat()).await;
        all.push(raw);
    }
}

async fn tls_and_gone(site: Site) {
    for n in 0..20 {
        let mut stream = site.trusting.dial(site.tls, "localhost").await.unwrap();
        if n % 2 == 0 {
            stream.write_all(upgrade().as_bytes()).await.unwrap();
            stream.write_all(&text("return conn:subscribe('news')")).await.unwrap();
        }
    }
    publish(&site, json!({"c": "news", "d": "x".repeat(50_000)})).await;
}

async fn heavy_handlers(site: Site) {
    let mut clients = many(site.plain, 5).await;
    let heavy = "local t = {} for i = 1, 20000 do t[i] = {i} end return #t";
    for client in &mut clients {
        client.write(text(heavy).repeat(4)).await;
    }
    for client in &mut clients {
        assert_eq!(answer(client).await, "= 20000 nil nil");
    }
}

async fn looping_handlers(site: Site) {
    for _ in 0..2 {
        let mut client = proxied(&site).await;
        client.write(text("while true do end")).await;
        client.rest().await;
    }
}

async fn failing_handlers(site: Site) {
    for (n, mut client) in many(site.plain, 50).await.into_iter().enumerate() {
        client.write(text(&format!("error('failure {n}: ' .. ('x'):rep(1000))"))).await;
        client.rest().await;
    }
}

async fn waiting_handlers(site: Site) {
    let mut clients = many(site.plain, 100).await;
    for client in &mut clients {
        client.write(text("local t = ('x'):rep(1000) mix.sleep(30) return t").repeat(3)).await;
    }
    // All of them have begun.
    run(&mut clients[..0], "").await;
    let mut other = Raw::open(site.plain).await;
    run(std::slice::from_mut(&mut other), "return 1").await;
}

async fn wrong_passwords(site: Site) {
    let guess = async |n: usize| {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 1, n as u8 + 1));
        let mut raw = Raw::dial_from(ip, site.api).await;
        raw.write(request(&format!("guess {n}"), "/v1/mesh/publish", "{}").repeat(3)).await;
        assert!([401, 429].contains(&raw.head().await.status));
    };
    futures_util::future::join_all((0..30).map(guess)).await;
}

async fn half_bodies(site: Site) {
    let mut all = Vec::new();
    for n in 0..100 {
        let mut raw = Raw::dial(site.api).await;
        let whole = request("bench", ["/v1/mesh/publish", "/v1/other"][n % 2], &"x".repeat(100_000));
        raw.write(&whole.as_bytes()[..whole.len() - 50_000 - n * 400]).await;
        all.push(raw);
    }
    let mut heads = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::dial(site.api).await;
        raw.write(format!("GET /metrics HTTP/1.1\r\nX-Filling: {}", "x".repeat(n * 2000))).await;
        heads.push(raw);
    }
}

async fn deaf_callers(site: Site) {
    let mut callers = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::narrow(site.api).await;
        let one = request("bench", "/v1/mesh/publish", r#"{"c":"nobody","d":"x"}"#).repeat(200);
        pour(&mut raw, one.as_bytes(), 5).await;
        pour(&mut raw, request("bench", "/metrics", "").repeat(20).as_bytes(), 1).await;
        callers.push(raw);
    }
}

async fn websocket_floods(site: Site) {
    let mut back_ends = Vec::new();
    let mut clients = many(site.plain, 10).await;
    run(&mut clients, "return conn:subscribe('crowd')").await;
    for n in 0..5 {
        let mut raw = back_end(&site).await;
        let channels = ["crowd".to_owned()].into_iter().chain((0..99).map(|i| format!("nobody:{n}:{i}")));
        let params = json!({"c": channels.collect::<Vec<_>>(), "d": "x".repeat(200)});
        pour(&mut raw, &text(&json!({"m": "mesh.publish", "p": params}).to_string()).repeat(20), 3).await;
        back_ends.push(raw);
    }
}

async fn wrong_calls(site: Site) {
    let mut api = back_end(&site).await;
    for params in ["[1]", "{}", r#"{"c":"a b","d":1}"#, r#"{"c":"1","f":"set_context","a":[{"k":[[[1]]]}]}"#, "null"] {
        for method in ["mesh.publish", "mesh.send", "conn.call", "mesh.presence", "mesh.history", "queue.pop", "none"] {
            api.write(text(&format!(r#"{{"m":"{method}","p":{params},"i":7}}"#))).await;
            api.text().await;
            let path = format!("/v1/{}", method.replace('.', "/"));
            Raw::dial(site.api).await.call(request("bench", &path, params)).await;
        }
    }
    for n in 0..100 {
        let nobody = json!({"c": (1u64 << 50) + n, "f": "subscribe", "a": ["x"]}).to_string();
        api.write(text(&format!(r#"{{"m":"conn.call","p":{nobody}}}"#))).await;
        api.text().await;
    }
}

async fn event_streams(site: Site) {
    let mut streams = Vec::new();
    for n in 0..50 {
        let mut raw = Raw::dial(site.plain).await;
        raw.write("GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
        assert_eq!(raw.head().await.status, 200);
        let mut post = Raw::dial(site.plain).await;
        let head = "POST /ws HTTP/1.1\r\nHost: localhost\r\nConnmix-Client: 7\r\nConnmix-Token: 7\r\n";
        post.write(format!("{head}Content-Length: 100000\r\n\r\n{}", "x".repeat(n * 1000))).await;
        streams.push((raw, post));
    }
}

async fn channels(site: Site) {
    let mut clients = many(site.plain, 5).await;
    let code = "for i = 1, 1000 do conn:subscribe(conn:client_id() .. ':' .. i) end return conn:set_context_value('x', ('x'):rep(10000))";
    run(&mut clients, code).await;
}

async fn rooms(site: Site) {
    let mut clients = many(site.plain, 30).await;
    run(&mut clients, "return conn:subscribe('room:1', {info = ('x'):rep(500)})").await;
    for path in ["/v1/mesh/presence", "/v1/mesh/count"] {
        call(&site, path, json!({"c": "room:1"})).await;
    }
}

async fn rooms_with_too_much(site: Site) {
    let mut clients = many(site.plain, 5).await;
    run(&mut clients, "return conn:subscribe('much:1')").await;
    for n in 0..200 {
        let channel = format!("much:{}", n % 100);
        publish(&site, json!({"c": channel, "d": "x".repeat(500), "k": format!("key {}", n % 40)})).await;
        publish(&site, json!({"c": "much:1", "d": format!("like {}", n % 20), "k": "like"})).await;
    }
}

async fn history(site: Site) {
    let mut clients = many(site.plain, 5).await;
    for n in 0..300 {
        let data = format!("{n} {}", "x".repeat(3000));
        publish(&site, json!({"c": [format!("kept:{n}"), "kept:all"], "d": data})).await;
    }
    run(&mut clients, "local err, at = conn:subscribe('kept:all', {last = 20}) return at and at.count").await;
    call(&site, "/v1/mesh/history", json!({"c": "kept:all"})).await;
}

async fn shared(site: Site) {
    let mut clients = many(site.plain, 1).await;
    let fill =
        "for i = 1, 3000 do local err = mix.shared.set('k' .. i, ('x'):rep(1000)) if err then return err end end";
    assert!(run(&mut clients, fill).await.contains("sharedLimit"));
    let empty = "for _, key in ipairs(mix.shared.keys('k')) do mix.shared.delete(key) end return #mix.shared.keys('k')";
    assert_eq!(run(&mut clients, empty).await, "= 0 nil nil");
}

async fn queue(site: Site) {
    let mut clients = many(site.plain, 1).await;
    let fill =
        "for i = 1, 2001 do local n, err = mix.queue.push('topic', {i, ('x'):rep(500)}) if err then return i end end";
    assert_eq!(run(&mut clients, fill).await, "= 2001 nil nil");
    let mut api = back_end(&site).await;
    api.write(text(r#"{"m":"queue.pop","p":{"t":["topic"]}}"#)).await;
    for _ in 0..=2000 {
        api.text().await;
    }
}

async fn timers(site: Site) {
    let mut clients = many(site.plain, 2).await;
    let code = "function tick() end for i = 1, 500 do local id = mix.timer.after(3600, 'tick', ('x'):rep(500)) mix.timer.cancel(id) end
        for i = 1, 200 do mix.timer.after(0.01, 'tick', {connection = conn}, i) end";
    run(&mut clients, code).await;
}

async fn proxies(site: Site) {
    for n in 0..60 {
        let mut raw = Raw::dial(site.proxied).await;
        raw.write_into_the_dark([&b"PROXY TCP4 999.1.1.1 "[..], &noise(n, 100), b"\r\n"].concat()).await;
        raw.rest().await;
    }
    let mut half = Vec::new();
    for n in 0..50 {
        let mut raw = Raw::dial(site.proxied).await;
        raw.write(&b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 80\r\n"[..n % 40]).await;
        half.push(raw);
    }
}

async fn many_addresses(site: Site) {
    let mut all = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::dial(site.proxied).await;
        raw.write(format!("PROXY TCP4 198.51.{}.7 127.0.0.1 40000 80\r\n{}", n % 100, upgrade())).await;
        all.push(raw);
    }
    for raw in &mut all {
        assert!([101, 429].contains(&raw.head().await.status));
    }
}

async fn requests_that_hang(site: Site) {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = hangs.local_addr().unwrap();
    let mut clients = many(site.plain, 10).await;
    let code = format!(
        "return (select(2, mix.http.request('POST', 'http://{at}/', {{timeout = 0.2, body = ('x'):rep(50000)}})))"
    );
    let accepting = async {
        let mut taken = Vec::new();
        loop {
            taken.push(hangs.accept().await.unwrap());
        }
    };
    tokio::select! {
        last = run(&mut clients, &code) => assert_ne!(last, "= nil nil nil"),
        () = accepting => {}
    }
}

async fn watchers(site: Site) {
    let mut tail = Raw::dial(site.api).await;
    tail.write(request("bench", "/v1/tail?channel=*&bodies=1", "")).await;
    assert_eq!(tail.head().await.status, 200);
    let mut clients = many(site.plain, 10).await;
    run(&mut clients, "return conn:subscribe('seen')").await;
    for _ in 0..100 {
        publish(&site, json!({"c": "seen", "d": "x".repeat(500)})).await;
    }
    for id in 0..20 {
        let path = format!("/v1/why?client={}&channel=seen", (1u64 << 45) + id);
        Raw::dial(site.api).await.call(request("bench", &path, "")).await;
    }
}

/// A save of the script, while handlers of the version before wait.
pub async fn saves(site: Site) {
    static VERSION: AtomicUsize = AtomicUsize::new(0);
    let version = VERSION.fetch_add(1, Relaxed);
    let script = fs::read_to_string(&site.entry).unwrap();
    let script = script.split("\nversion = ").next().unwrap();
    let mut clients = many(site.plain, 5).await;
    for client in &mut clients {
        client.write(text("mix.sleep(0.3) return version")).await;
    }
    fs::write(&site.entry, format!("{script}\nversion = {version}")).unwrap();
    let mut other = Raw::open(site.plain).await;
    let other = std::slice::from_mut(&mut other);
    let new = format!("= {version} nil nil");
    eventually("the new version", async || (run(other, "return version").await == new).then_some(())).await;
}
