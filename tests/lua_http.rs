//! `mix.http` against real HTTP servers of the test's own: what they are sent, what scripts get back, and what happens
//! when they are slow, wrong, too generous or gone.

mod common;

use common::process::Process;
use common::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Requests that were read whole.
    requests: AtomicUsize,
    /// Connections whose client has left.
    left: AtomicUsize,
}

struct Server {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    async fn start() -> Server {
        Server::start_with(None).await
    }

    async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let shared = seen.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (seen, tls) = (shared.clone(), tls.clone());
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, &seen).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serve(stream, &seen).await,
                            Err(_) => None,
                        },
                    };
                    seen.left.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Server { addr, seen }
    }

    fn count(&self, of: fn(&Seen) -> &AtomicUsize) -> usize {
        of(&self.seen).load(Ordering::SeqCst)
    }
}

/// Answers requests until the client leaves.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Seen) -> Option<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(input[..end].to_vec()).unwrap();
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.parse().unwrap()))
            .unwrap_or(0);
        while input.len() < end + 4 + length {
            if stream.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        }
        let body = input[end + 4..end + 4 + length].to_vec();
        input.drain(..end + 4 + length);
        seen.requests.fetch_add(1, Ordering::SeqCst);
        answer(&mut stream, &head, &body).await?;
    }
}

async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str, body: &[u8]) -> Option<()> {
    let target = head.split(' ').nth(1).unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let redirect =
        |status: u16, to: &str| format!("HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let whole = match path {
        // What was asked, as it arrived.
        "/echo" => {
            let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len() + 2 + body.len());
            reply += head;
            [reply.as_bytes(), b"\n\n", body].concat()
        }
        "/chunked" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
            for piece in ["3\r\na\0b\r\n", "10\r\n0123456789abcdef\r\n", "0\r\n\r\n"] {
                stream.flush().await.ok()?;
                tokio::task::yield_now().await;
                stream.write_all(piece.as_bytes()).await.ok()?;
            }
            Vec::new()
        }
        "/headers" => b"HTTP/1.1 404 Not There\r\nx-one: 1\r\nX-MANY: a\r\nx-many: b\r\nSet-Cookie: id=5; Path=/; HttpOnly\r\n\
             Set-Cookie: name=\"a b\"; Max-Age=1\r\nset-cookie: id=6\r\nset-cookie: nothing\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
        "/too-many-headers" => {
            let headers: String = (0..200).map(|i| format!("x-{i}: {i}\r\n")).collect();
            format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes()
        }
        // Says that it keeps the connection for so many seconds.
        "/keep" => format!("HTTP/1.1 200 OK\r\nKeep-Alive: max=9, timeout={query}\r\nContent-Length: 4\r\n\r\nkept").into_bytes(),
        "/declared" => format!("HTTP/1.1 200 OK\r\nContent-Length: {query}\r\n\r\nx").into_bytes(),
        "/sized" => {
            let length: usize = query.parse().unwrap();
            let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            reply.resize(reply.len() + length, b'x');
            reply
        }
        // A body without end.
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
            let chunk = [&b"10000\r\n"[..], &[b'x'; 65536], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
        // A body that trickles.
        "/slow" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(b"x").await.ok()?;
                stream.flush().await.ok()?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        "/silent" => {
            stream.read_u8().await.ok()?;
            return None;
        }
        "/drop" => return None,
        // Keeps the connection by its words, and then ends it; gone is it when the client has seen that.
        "/bye" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbye").await.ok()?;
            stream.shutdown().await.ok()?;
            stream.read_u8().await.ok()?;
            return None;
        }
        "/nonsense" => b"what do you want\r\n\r\n".to_vec(),
        "/to" => redirect(302, query).into_bytes(),
        "/see-other" => redirect(303, "/echo").into_bytes(),
        "/same" => redirect(307, "/echo").into_bytes(),
        _ => match path.strip_prefix("/hops/").map(|n| n.parse::<usize>().unwrap()) {
            Some(0) => redirect(302, "/echo").into_bytes(),
            Some(n) => redirect(302, &format!("/hops/{}", n - 1)).into_bytes(),
            None => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain".to_vec(),
        },
    };
    stream.write_all(&whole).await.ok()?;
    stream.flush().await.ok()
}

/// Runs what it is sent as Lua, with the server's place as `url`, and answers with the text of its first result.
fn script(server: &Server) -> String {
    script_at(&format!("http://{}", server.addr))
}

fn script_at(url: &str) -> String {
    format!(
        r#"
        url = "{url}"
        function on_message(msg, conn)
          conn:send(tostring((assert(loadstring(msg.data))())))
        end
        function on_close()
          closed = (closed or 0) + 1
        end"#
    )
}

/// The body or the err of a request with these arguments.
fn ask(arguments: &str) -> String {
    format!("local resp, err = mix.http.request({arguments}) return err or resp.body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_sent_as_its_options_say() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let sent = client.ask(&ask("'get', url .. '/echo'")).await;
    assert!(sent.starts_with("GET /echo HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains(&format!("\r\nhost: {}", server.addr)), "{sent}");
    assert!(sent.contains("\r\nuser-agent: connmix/"), "{sent}");
    let sent = client
        .ask(&ask(r#""Patch", url .. "/echo?a=1", {query = "b=2&c=x%20y", body = "a\0bc", timeout = "5s", unknown = 1,
            headers = {["X-Mine"] = "yes", ["Content-Type"] = "text/plain", ["content-length"] = "999", N = 7},
            cookies = {id = "5", ["a-b"] = 6}, auth = {username = "bob", password = "se:same"}}"#))
        .await;
    let lines: Vec<&str> = sent.lines().collect();
    assert_eq!(lines[0], "PATCH /echo?a=1&b=2&c=x%20y HTTP/1.1");
    for line in [
        "x-mine: yes",
        "n: 7",
        "content-type: text/plain",
        "content-length: 4",
        "cookie: a-b=6; id=5",
        "authorization: Basic Ym9iOnNlOnNhbWU=",
    ] {
        assert_eq!(lines.iter().filter(|l| **l == line).count(), 1, "{line} in {lines:?}");
    }
    // Bytes of any kind, both ways.
    client
        .send(
            "local resp = mix.http.request('POST', url .. '/echo', {body = 'a\\0b\\200'})
             mix.websocket():send(resp.body:sub(-4), 'binary') return 'sent'",
        )
        .await;
    assert_eq!(client.next().await.unwrap().into_data().as_ref(), b"a\0b\xC8");
    assert_eq!(client.text().await, "sent");
    for (arguments, line) in [
        ("'GET', url .. '/echo', {query = '?x=1'}", "GET /echo?x=1 HTTP/1.1"),
        ("'GET', url .. '/echo?', {query = 'x=1'}", "GET /echo?x=1 HTTP/1.1"),
        ("'GET', url .. '/echo?a', {query = 'b#c d'}", "GET /echo?a&b%23c%20d HTTP/1.1"),
        ("'GET', url .. '/echo#there'", "GET /echo HTTP/1.1"),
        ("'PURGE', url .. '/echo'", "PURGE /echo HTTP/1.1"),
        ("'GET', (url:gsub('//', '//bob:pw@')) .. '/echo'", "authorization: Basic Ym9iOnB3"),
        ("'GET', url .. '/echo', {cookies = {a = 1}, headers = {Cookie = 'b=2'}}", "cookie: b=2; a=1"),
        ("'GET', url .. '/echo', {headers = {Host = 'other', Accept = 'x/y', ['User-Agent'] = 'me'}}", "host: other"),
        (
            "'GET', (url:gsub('//', '//b%%3Aob:p%%40w@')) .. '/echo', {headers = {Authorization = 'mine'}}",
            "authorization: mine",
        ),
        ("'GET', (url:gsub('//', '//bob:p%%40w@')) .. '/echo'", "authorization: Basic Ym9iOnBAdw=="),
        ("'POST', url .. '/echo'", "content-length: 0"),
        ("'PUT', url .. '/echo', {body = ''}", "content-length: 0"),
        ("'PATCH', url .. '/echo'", "content-length: 0"),
    ] {
        let sent = client.ask(&ask(arguments)).await;
        assert_eq!(sent.lines().filter(|l| *l == line).count(), 1, "{arguments}: {sent}");
    }
    for arguments in ["'GET', url .. '/echo'", "'DELETE', url .. '/echo'", "'POST', url .. '/see-other'"] {
        let sent = client.ask(&ask(arguments)).await;
        assert!(!sent.contains("content-length"), "{arguments}: {sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_has_body_headers_cookies_status_and_url() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let get = |path: &str, result: &str| {
        format!("local resp, err = mix.http.request('GET', url .. '{path}') if err then return err end return {result}")
    };
    for (path, result, wanted) in [
        ("/", "resp.body .. resp.body_size .. resp.status_code", "plain5200".to_owned()),
        ("/x?y=1", "resp.url", format!("http://{}/x?y=1", server.addr)),
        ("/headers", "resp.status_code .. #resp.body .. resp.body_size", "40400".into()),
        ("/headers", "resp.headers['X-One'] .. resp.headers['x-one'] .. resp.headers['X-ONE']", "111".into()),
        ("/headers", "resp.headers['x-many']", "a, b".into()),
        ("/headers", "tostring(resp.headers['x-none'])", "nil".into()),
        ("/headers", "rawget(resp.headers, 'X-Many')", "a, b".into()),
        ("/headers", "resp.cookies.id .. resp.cookies.name .. tostring(resp.cookies.nothing)", "6a bnil".into()),
        (
            "/headers",
            "resp.headers['Set-Cookie']:gsub('\\n', ' | ')",
            "id=5; Path=/; HttpOnly | name=\"a b\"; Max-Age=1 | id=6 | nothing".into(),
        ),
        ("/chunked", "resp.body_size .. resp.body:gsub('%z', '0')", "19a0b0123456789abcdef".into()),
        ("/sized?16777216", "resp.body_size", "16777216".into()),
    ] {
        assert_eq!(client.ask(&get(path, result)).await, wanted, "{path} {result}");
    }
    assert_eq!(client.ask("return (mix.http.request('HEAD', url .. '/headers')).status_code").await, "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_sent_is_an_err_and_a_wrong_type_raises() {
    let server = Server::start().await;
    // A body of megabytes takes its time.
    let engine = TestEngine::with(&script(&server), "handlerTimeout: 10", "");
    let mut client = engine.connect().await;
    for (arguments, err) in [
        ("'GET', 'ftp://x/'", "http: a URL begins with http:// or https://, not with ftp:"),
        ("'GET', '/echo'", "http: no URL: relative URL without a base"),
        ("'GET', 'http://'", "http: no URL: empty host"),
        ("'GET', url .. '/a\\r\\nX: y'", "http: the URL holds a line break or another control character"),
        ("'GET', url .. '/' .. ('x'):rep(20000)", "http: the URL has more than 16384 bytes"),
        ("'GET', url, {query = ('x'):rep(20000)}", "http: the URL has more than 16384 bytes"),
        ("'G T', url", "http: no method of HTTP: \"G T\""),
        ("'', url", "http: no method of HTTP: \"\""),
        (
            "'GET', url, {headers = {a = 'x\\r\\nb: y'}}",
            "http: the header a holds a line break or another control character",
        ),
        ("'GET', url, {headers = {['a: b\\r\\n'] = 'x'}}", "http: no name of a header: \"a: b\\r\\n\""),
        ("'GET', url, {cookies = {a = 'x; b=y'}}", "http: the cookie a holds a semicolon or a control character"),
        ("'GET', url, {cookies = {a = 'x\\n'}}", "http: the cookie a holds a semicolon or a control character"),
        ("'GET', url, {auth = {username = 'a:b'}}", "http: a username can't hold a colon"),
        (
            "'GET', url, {headers = {a = ('x'):rep(70000)}}",
            "http: more than 100 headers, or headers of more than 65536 bytes",
        ),
        (
            "'GET', url, {headers = (function() local t = {} for i = 1, 40000 do t['x' .. i] = i end return t end)()}",
            "http: more than 100 headers, or headers of more than 65536 bytes",
        ),
        (
            "'GET', url, {cookies = (function() local t = {} for i = 1, 1001 do t['x' .. i] = i end return t end)()}",
            "http: more than 1000 cookies",
        ),
        ("'PUT', url, {body = ('x'):rep(17e6)}", "http: the body has 17000000 bytes, more than 16777216"),
    ] {
        assert_eq!(client.ask(&ask(arguments)).await, err, "{arguments}");
    }
    assert_eq!(server.count(|s| &s.connections), 0, "nothing was sent");
    for (arguments, problem) in [
        ("nil, url", "bad argument #1 to 'request' (string expected, got nil)"),
        ("'GET'", "bad argument #2 to 'request' (string expected, got no value)"),
        ("'GET', url, 5", "bad argument #3 to 'request' (table expected, got number)"),
        ("'GET', url, {body = {}}", "bad argument #3 to 'request' (body: string expected, got table)"),
        ("'GET', url, {headers = 'a: b'}", "bad argument #3 to 'request' (headers: table expected, got string)"),
        (
            "'GET', url, {headers = {a = true}}",
            "bad argument #3 to 'request' (headers[\"a\"]: string expected, got boolean)",
        ),
        (
            "'GET', url, {timeout = 'soon'}",
            "bad argument #3 to 'request' (timeout: more than 0 s, at most 24 h, expected as seconds or as \"500ms\", got \"soon\")",
        ),
        ("'GET', url, {timeout = 0}", "got 0)"),
        ("'GET', url, {idle = true}", "(idle: 0 s to 1 h expected as seconds or as \"500ms\", got boolean)"),
        ("'GET', url, {idle = 3601}", "got 3601)"),
        ("'GET', url, {idle = -1}", "got -1)"),
        ("'GET', url, {follow = 11}", "(follow: 0 to 10 expected, got number out of range)"),
    ] {
        let answer = client
            .ask(&format!("return select(2, pcall(function() local r = mix.http.request({arguments}) end))"))
            .await;
        assert!(answer.ends_with(problem), "{arguments}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_as_far_as_asked_and_keep_secrets_at_home() {
    let (server, other) = (Server::start().await, Server::start().await);
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let place = format!("GET http://{}", server.addr);
    let result = |arguments: &str| {
        format!("local resp, err = mix.http.request({arguments}) return err or resp.status_code .. ' ' .. resp.url")
    };
    let (echo, url) = (format!("200 http://{}/echo", server.addr), format!("http://{}", server.addr));
    for (arguments, wanted) in [
        ("'GET', url .. '/hops/0'", echo.clone()),
        ("'GET', url .. '/hops/9'", echo.clone()),
        ("'GET', url .. '/hops/10'", format!("http: {place}: more than 10 redirects")),
        ("'GET', url .. '/hops/1', {follow = 2}", echo.clone()),
        ("'GET', url .. '/hops/2', {follow = 2}", format!("http: {place}: more than 2 redirects")),
        ("'GET', url .. '/hops/2', {follow = 0}", format!("302 {url}/hops/2")),
        ("'GET', url .. '/hops/2', {follow = false}", format!("302 {url}/hops/2")),
    ] {
        assert_eq!(client.ask(&result(arguments)).await, wanted, "{arguments}");
    }
    // 303 asks with GET, 307 as before.
    let sent = client.ask(&ask("'POST', url .. '/see-other', {body = 'data'}")).await;
    assert!(sent.starts_with("GET /echo") && !sent.contains("data"), "{sent}");
    let sent = client.ask(&ask("'POST', url .. '/same', {body = 'data'}")).await;
    assert!(sent.starts_with("POST /echo") && sent.ends_with("\n\ndata"), "{sent}");
    // Another server gets neither password nor cookies, and no referrer.
    let secret = "{auth = {username = 'u', password = 'p'}, cookies = {id = 1}, headers = {['X-Kept'] = 'yes'}}";
    let sent = client.ask(&ask(&format!("'GET', url .. '/hops/0', {secret}"))).await;
    assert!(sent.contains("authorization: ") && sent.contains("cookie: "), "{sent}");
    let sent = client.ask(&ask(&format!("'GET', url .. '/to?http://{}/echo', {secret}", other.addr))).await;
    assert!(sent.contains(&format!("host: {}", other.addr)) && sent.contains("x-kept: yes"), "{sent}");
    for name in ["authorization", "cookie", "referer"] {
        assert!(!sent.contains(name), "{name} in {sent}");
    }
    // What is no HTTP is not followed.
    let answer = client.ask(&result("'GET', url .. '/to?file:///etc/passwd'")).await;
    assert_eq!(answer, format!("302 {url}/to?file:///etc/passwd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_covers_all_of_a_request() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    for (path, timeout) in [("/silent", "'200ms'"), ("/slow", "0.2"), ("/slow", "'0.2'")] {
        let asked = Instant::now();
        let answer = client.ask(&ask(&format!("'GET', url .. '{path}?secret', {{timeout = {timeout}}}"))).await;
        assert_eq!(answer, format!("http: GET http://{}: no whole response within 200ms", server.addr));
        let took = asked.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{path}: {took:?}");
    }
    eventually("the connections are closed", async || (server.count(|s| &s.left) == 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_fail_are_an_err_that_names_them_and_no_secret() {
    let server = Server::start().await;
    let nobody = common::ports::free_addr();
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let place = format!("http: GET http://{}: ", server.addr);
    for (path, why) in [
        ("/drop", "connection closed before message completed"),
        ("/nonsense", "invalid HTTP version parsed"),
        ("/too-many-headers", "message head is too large"),
        ("/declared?20000000", "the response's body has more than 16777216 bytes"),
        ("/endless", "the response's body has more than 16777216 bytes"),
    ] {
        let answer = client.ask(&ask(&format!("'GET', url .. '{path}', {{auth = {{password = 'sesame'}}}}"))).await;
        assert_eq!(answer, format!("{place}{why}"), "{path}");
    }
    let answer = client.ask(&ask(&format!("'GET', 'http://u:sesame@{nobody}/x?token=sesame'"))).await;
    assert_eq!(answer, format!("http: GET http://{nobody}: Connection refused (os error 111)"));
    let answer = client.ask(&ask("'GET', 'http://no.such.host.invalid/'")).await;
    assert!(answer.starts_with("http: GET http://no.such.host.invalid: failed to lookup"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_by_all_workers() {
    let server = Server::start().await;
    let engine = TestEngine::with(&script(&server), "", "workers: 3");
    for _ in 0..6 {
        let mut client = engine.connect().await;
        for _ in 0..5 {
            assert_eq!(client.ask(&ask("'GET', url")).await, "plain");
        }
        client.close().await;
    }
    assert_eq!(server.count(|s| &s.requests), 30);
    // One that has just been answered may not be back yet when the next is asked.
    assert!(server.count(|s| &s.connections) <= 3, "{} connections", server.count(|s| &s.connections));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_server_has_ended_is_not_used() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    for i in 1..=50 {
        assert_eq!(client.ask(&ask("'POST', url .. '/bye', {body = 'x'}")).await, "bye");
        eventually("the server has ended it", async || (server.count(|s| &s.left) == i).then_some(())).await;
    }
    assert_eq!(server.count(|s| &s.connections), 50);
}

/// A server that closes its connections without a word, at the worst moment: each so long after its first answer as the
/// query says, in microseconds, unless the next request is there already. The body of the answer is that of the request.
async fn closing_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = requests.clone();
    // Threads, since a task may be kept from running between the answer and the close.
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let requests = counted.clone();
                let serve = async move {
                    let mut input = Vec::new();
                    loop {
                        let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else {
                            let Ok(1..) = socket.read_buf(&mut input).await else { return };
                            continue;
                        };
                        let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
                        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                        let length: usize = length.unwrap_or(0);
                        while input.len() < end + length {
                            let Ok(1..) = socket.read_buf(&mut input).await else { return };
                        }
                        requests.fetch_add(1, Ordering::SeqCst);
                        let pause: u64 = head.split(['?', ' ']).nth(2).unwrap().parse().unwrap();
                        let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
                        reply.extend_from_slice(&input[end..end + length]);
                        input.drain(..end + length);
                        socket.write_all(&reply).await.unwrap();
                        let until = Instant::now() + Duration::from_micros(pause);
                        while Instant::now() < until {
                            tokio::task::yield_now().await;
                        }
                        match socket.try_read_buf(&mut input) {
                            Ok(1..) => {}
                            _ => return,
                        }
                    }
                };
                tokio::spawn(serve);
            }
        });
    });
    (addr, requests)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_to_a_server_that_closes_at_the_worst_moment() {
    const REQUESTS: usize = 300;
    let (addr, requests) = closing_server().await;
    let engine = TestEngine::with(&script_at(&format!("http://{addr}")), "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    for method in ["GET", "PUT", "DELETE", "POST", "PATCH"] {
        let before = requests.load(Ordering::SeqCst);
        let lost = client
            .ask(&format!(
                "local lost, why = 0, ''
                 for i = 1, {REQUESTS} do
                   local resp, err = mix.http.request('{method}', url .. '/?' .. i % 10 * 40, {{body = 'number ' .. i}})
                   if not resp or resp.body ~= 'number ' .. i then
                     lost, why = lost + 1, err or resp.body
                   end
                 end
                 return lost .. ' lost ' .. why"
            ))
            .await;
        assert_eq!(lost, "0 lost ", "{method}");
        let handled = requests.load(Ordering::SeqCst) - before;
        let once = ["POST", "PATCH"].contains(&method);
        assert!(handled == REQUESTS || !once && handled > REQUESTS, "{method}: {handled} were handled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_may_have_done_is_asked_twice_only_where_that_does_no_harm() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let place = format!("http: POST http://{}: connection closed before message completed", server.addr);
    let key = "headers = {['Idempotency-Key'] = '1'}";
    for (method, options, sent) in
        [("POST", "", 1), ("PATCH", "", 1), ("GET", "", 2), ("PUT", "", 2), ("POST", key, 2), ("PATCH", key, 2)]
    {
        // A connection that has proved to be kept.
        for _ in 0..2 {
            assert_eq!(client.ask(&ask("'GET', url")).await, "plain");
        }
        let before = (server.count(|s| &s.requests), server.count(|s| &s.connections));
        let answer = client.ask(&ask(&format!("'{method}', url .. '/drop', {{{options}}}"))).await;
        assert_eq!(answer, place.replace("POST", method));
        assert_eq!(server.count(|s| &s.requests) - before.0, sent, "{method} {options}");
        assert_eq!(server.count(|s| &s.connections) - before.1, sent - 1, "{method} {options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_connection_may_be_idle_is_the_requests_choice_and_the_servers() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let mut client = engine.connect().await;
    let connections = || server.count(|s| &s.connections);
    for i in 1..=3 {
        assert_eq!(client.ask(&ask("'GET', url, {idle = 0}")).await, "plain");
        assert_eq!(connections(), i, "each has its own");
        eventually("and ends it", async || (server.count(|s| &s.left) == i).then_some(())).await;
    }
    for idle in ["'1h'", "60", "nil", "'500s'"] {
        assert_eq!(client.ask(&ask(&format!("'GET', url, {{idle = {idle}}}"))).await, "plain");
        assert_eq!(connections(), 4, "{idle}");
    }
    assert_eq!(client.ask("mix.sleep(0.05) return 'slept'").await, "slept");
    assert_eq!(client.ask(&ask("'GET', url, {idle = '20ms'}")).await, "plain");
    assert_eq!(connections(), 5, "one that was idle for longer is not used");
    eventually("what is kept for a short time ends", async || (server.count(|s| &s.left) == 4).then_some(())).await;
    assert_eq!(client.ask(&ask("'GET', url .. '/keep?1', {idle = false}")).await, "kept");
    assert_eq!(client.ask(&ask("'GET', url .. '/keep?1'")).await, "kept");
    let before = connections();
    assert_eq!(client.ask(&ask("'GET', url")).await, "plain");
    assert_eq!(connections(), before + 1, "the server's word counts too");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_request_waits_others_are_served_and_its_client_may_leave() {
    let server = Server::start().await;
    let engine = TestEngine::new(&script(&server));
    let (mut waiting, mut other) = (engine.connect().await, engine.connect().await);
    waiting.send("local r, e = mix.http.request('GET', url .. '/silent', {timeout = '1h'}) err = e return e").await;
    eventually("it has been asked", async || (server.count(|s| &s.requests) == 1).then_some(())).await;
    assert_eq!(other.ask(&ask("'GET', url")).await, "plain");
    waiting.close().await;
    eventually("the request is given up", async || (server.count(|s| &s.left) == 1).then_some(())).await;
    eventually("the handler has ended", async || (other.ask("return closed").await == "1").then_some(())).await;
    assert_eq!(other.ask("return err").await, "the connection has closed");
    // Nor does a stop wait for it.
    other.send("mix.http.request('GET', url .. '/silent', {timeout = '1h'})").await;
    eventually("it has been asked", async || (server.count(|s| &s.requests) == 3).then_some(())).await;
    let leaving = tokio::spawn(async move {
        let (code, _) = other.close_frame().await;
        other.close().await;
        code
    });
    assert!(engine.shutdown().await, "the engine ends in time");
    assert_eq!(leaving.await.unwrap(), 1012);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_requests_are_under_way_at_once() {
    let server = Server::start().await;
    let engine = TestEngine::new(
        &(script(&server)
            + r#"
        function on_handshake(client_id, headers, server, conn)
          conn:set_context_value("n", 1)
        end"#),
    );
    let mut clients = Vec::new();
    for _ in 0..1025 {
        let mut client = engine.connect().await;
        client.send("local r, e = mix.http.request('GET', url .. '/silent', {timeout = 600}) return e").await;
        clients.push(client);
    }
    let mut last = clients.pop().unwrap();
    assert_eq!(last.text().await, "http: 1024 HTTP requests are under way already");
    clients.pop().unwrap().close().await;
    eventually("one that ends makes room", async || (last.ask(&ask("'GET', url")).await == "plain").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_fit_into_lua_costs_only_its_connection() {
    let server = Server::start().await;
    let engine = TestEngine::with(&script(&server), "", "workers: 1\nluavm: {memoryLimit: 4MiB}");
    let (mut greedy, mut other) = (engine.connect().await, engine.connect().await);
    greedy.send(&ask("'GET', url .. '/sized?16000000'")).await;
    assert_eq!(greedy.close_frame().await.0, 1011);
    assert_eq!(other.ask(&ask("'GET', url")).await, "plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn https_needs_a_certificate_that_is_trusted() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = tokio_rustls::rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let server = Server::start_with(Some(Arc::new(config).into())).await;
    let url = format!("https://localhost:{}", server.addr.port());

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script_at(&url)).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let trusted = dir.path().join("trusted.pem");
    std::fs::write(&trusted, made.cert.pem()).unwrap();

    let process = Process::start_with(dir.path(), &["dev"], &[("SSL_CERT_FILE", &trusted)]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask(&ask("'GET', url .. '/x'")).await, "plain");
    assert!(client.ask(&ask("'GET', url .. '/echo'")).await.starts_with("GET /echo HTTP/1.1"));
    // The name counts too.
    let answer = client.ask(&ask("'GET', (url:gsub('localhost', '127.0.0.1'))")).await;
    assert!(answer.contains("not valid for name"), "{answer}");

    // The log, which shows everything in this mode, tells no secrets.
    let secret = "auth = {username = 'u', password = 'sesame'}, headers = {['X-Token'] = 'sesame'}";
    for path in ["/echo?sesame", "/to?/echo?sesame", "/drop?sesame"] {
        client.ask(&ask(&format!("'GET', url .. '{path}', {{{secret}}}"))).await;
    }
    assert_eq!(client.ask("mix.log(mix.INFO, 'said') return 'logged'").await, "logged");
    process.line("said");
    assert!(!process.lines().iter().any(|line| line.contains("sesame")), "{:?}", process.lines());

    let process = Process::ready(dir.path(), &["dev"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let answer = client.ask(&ask("'GET', url .. '/x'")).await;
    assert_eq!(answer, format!("http: GET {url}: invalid peer certificate: UnknownIssuer"));
}
