//! Back ends of scripts that misbehave: HTTP servers and Redis that drip, send garbage, too much or nothing, or end
//! midway. A call ends with an err in its time, and neither other calls nor other clients notice.

mod common;

use common::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a server does to those who connect.
#[derive(Clone, Copy)]
enum Does {
    /// Sends that, and then nothing.
    Say(&'static [u8]),
    /// Sends that, and closes.
    SayAndClose(&'static [u8]),
    /// Sends the first, and then the second again and again.
    Repeat(&'static [u8], &'static [u8]),
    /// The same with a pause before each byte.
    Drip(&'static [u8], &'static [u8]),
    /// Resets the connection after that.
    Reset(&'static [u8]),
}

/// A server that answers the first thing it is sent in that way.
async fn server(does: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, does));
        }
    });
    addr
}

async fn serve(mut socket: TcpStream, does: Does) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    if socket.read(&mut [0; 4096]).await? == 0 {
        return Ok(());
    }
    match does {
        Does::Say(bytes) => {
            socket.write_all(bytes).await?;
            while socket.read(&mut [0; 4096]).await? > 0 {}
        }
        Does::SayAndClose(bytes) => socket.write_all(bytes).await?,
        Does::Repeat(first, then) => {
            socket.write_all(first).await?;
            let many = then.repeat(65_536 / then.len() + 1);
            loop {
                socket.write_all(&many).await?;
            }
        }
        Does::Drip(first, then) => {
            for byte in first.iter().chain(then.iter().cycle()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                socket.write_all(&[*byte]).await?;
            }
        }
        Does::Reset(bytes) => {
            socket.write_all(bytes).await?;
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}

/// Runs what it is sent as Lua, and answers with the text of what that returns.
const SCRIPT: &str = r#"
    function on_message(msg, conn)
      conn:send(tostring((assert(loadstring(msg.data))())))
    end
"#;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn http_servers_that_misbehave_cost_their_own_calls_only() {
    let late = "no whole response within 1s";
    let engine = TestEngine::with(SCRIPT, "", "workers: 1");
    let good = server(Does::SayAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")).await;
    let mut calls = Vec::new();
    for (what, does, err) in [
        ("accepts and never answers", Does::Say(b""), late),
        ("drips a head", Does::Drip(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), late),
        ("drips a body", Does::Drip(HEAD, b"x"), late),
        ("drips chunks", Does::Drip(CHUNKED, b"1\r\nx\r\n"), late),
        ("drips the size of a chunk", Does::Drip(CHUNKED, b"0"), ""),
        ("has headers without end", Does::Repeat(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), "message head is too large"),
        ("has a header without end", Does::Repeat(b"HTTP/1.1 200 OK\r\nx: ", b"y"), "message head is too large"),
        ("has a status line without end", Does::Repeat(b"HTTP/1.1 200 ", b"O"), "message head is too large"),
        ("promises without end", Does::Repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), late),
        ("sends a body without end", Does::Repeat(CHUNKED, b"1\r\nx\r\n"), ""),
        ("sends an extension without end", Does::Repeat(CHUNKED, b"1;x"), ""),
        (
            "sends trailers without end",
            Does::Repeat(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
            "",
        ),
        ("sends garbage", Does::Repeat(b"", b"\xFF\x00\xFEgarbage"), "invalid HTTP version parsed"),
        ("sends garbage as chunks", Does::Repeat(CHUNKED, b"\xFF"), ""),
        ("is a Redis", Does::Say(b"-ERR unknown command\r\n"), "invalid HTTP version parsed"),
        ("speaks TLS", Does::SayAndClose(b"\x15\x03\x01\x00\x02\x02\x46"), "invalid HTTP version parsed"),
        ("closes", Does::SayAndClose(b""), "connection closed before message completed"),
        (
            "closes within the head",
            Does::SayAndClose(b"HTTP/1.1 200 OK\r\nCon"),
            "connection closed before message completed",
        ),
        ("closes within the body", Does::SayAndClose(HEAD), "end of file before message length reached"),
        (
            "closes within a chunk",
            Does::SayAndClose(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx"),
            "",
        ),
        ("resets", Does::Reset(b""), ""),
        ("resets within the body", Does::Reset(HEAD), ""),
        ("says two lengths", Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"), ""),
        ("says no length", Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"), ""),
        ("says too great a length", Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx"), ""),
        ("says 2^64 - 2", Does::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551614\r\n\r\nx"), ""),
        (
            "leads itself in a circle",
            Does::SayAndClose(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
            "more than 10 redirects",
        ),
    ] {
        let addr = server(does).await;
        let mut client = engine.connect().await;
        calls.push(tokio::spawn(async move {
            let call = "mix.http.request('GET', 'http://ADDR/secret', {timeout = TIMEOUT})"
                .replace("ADDR", &addr.to_string())
                .replace("TIMEOUT", if err == late { "1" } else { "15" });
            let answer = client.ask(&format!("local resp, err = {call} return err or 'body ' .. resp.body")).await;
            assert!(answer.starts_with(&format!("http: GET http://{addr}: ")), "a server that {what}: {answer}");
            assert!(answer.ends_with(err), "a server that {what}: {answer}");
            // Who asks next has not suffered.
            client.expect_only_reply("return 1", "1").await;
        }));
    }
    let mut other = engine.connect().await;
    let ask = format!("local resp, err = mix.http.request('GET', 'http://{good}/') return err or resp.body");
    while calls.iter().any(|call| !call.is_finished()) {
        assert_eq!(other.ask(&ask).await, "good");
    }
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_servers_that_misbehave_cost_their_own_commands_only() {
    let late = "no reply within 10s";
    let garbage = "the reply is not in the protocol of Redis";
    let closed = "the server closed the connection";
    let cases = [
        // Those that take their whole time.
        ("accepts and never answers", Does::Say(b""), late),
        ("drips", Does::Drip(b"$1000\r\n", b"x"), late),
        ("drips a list", Does::Drip(b"*1000\r\n", b":1\r\n"), late),
        ("says a great list", Does::Say(b"*1000000000\r\n"), late),
        ("says a great text", Does::Say(b"$9223372036854775807\r\n"), late),
        ("says a great map", Does::Say(b"%1000000000\r\n"), late),
        // Those that are known at once.
        ("sends a text without end", Does::Repeat(b"+", b"x"), "the reply has more than 16777216 bytes"),
        ("sends garbage", Does::Say(b"\xFF\x00 what\r\n"), garbage),
        ("is an HTTP server", Does::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), garbage),
        ("nests without end", Does::Repeat(b"", b"*1\r\n"), garbage),
        ("closes", Does::SayAndClose(b""), closed),
        ("closes midway", Does::SayAndClose(b"$100\r\nabc"), closed),
        ("resets", Does::Reset(b"*2\r\n"), closed),
    ];
    let mut redis = String::new();
    for (i, (_, does, _)) in cases.iter().enumerate() {
        redis += &format!("    - {{name: r{i}, addr: '{}'}}\n", server(*does).await);
    }
    redis += &format!("    - {{name: login, addr: '{}', password: sesame}}\n", server(Does::Drip(b"+", b"x")).await);
    let good = server(Does::SayAndClose(b"+good\r\n")).await;
    let engine = format!("workers: 1\nluavm:\n  redis:\n{redis}    - {{name: good, addr: '{good}'}}");
    let engine = TestEngine::with(SCRIPT, "", &engine);
    let ask = |name: &str| {
        format!("local reply, err = mix.redis.connection('{name}'):command('get', 'k') return err or 'got ' .. reply")
    };
    let mut calls = Vec::new();
    for (name, what, err) in (0..).zip(&cases).map(|(i, (what, _, err))| (format!("r{i}"), *what, *err)).chain([(
        "login".into(),
        "drips its answer to the password",
        "no connection within 5s",
    )]) {
        let (mut client, ask) = (engine.connect().await, ask(&name));
        calls.push(tokio::spawn(async move {
            let answer = client.ask(&ask).await;
            assert!(answer.starts_with(&format!("redis {name} (")), "a Redis that {what}: {answer}");
            assert!(answer.ends_with(err), "a Redis that {what}: {answer}");
            client.expect_only_reply("return 1", "1").await;
        }));
    }
    let mut other = engine.connect().await;
    while calls.iter().any(|call| !call.is_finished()) {
        assert_eq!(other.ask(&ask("good")).await, "got good");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for call in calls {
        call.await.unwrap();
    }
}
