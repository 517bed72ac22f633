//! The PROXY protocol: servers that a proxy tells whom it connects for.

mod common;

use common::raw::{Raw, text, upgrade, upgrade_with};
use common::{TestEngine, eventually, get};
use std::time::Duration;

const WHO: &str = "function on_message(msg, conn) conn:send(conn:remote_addr()) end";
const SOCKET: &str = "function protocol_input(buf) return buf:length() end
    function protocol_decode(data) return data end
    function protocol_encode(data) return data end
    function on_message(msg, conn) conn:send(conn:remote_addr()) end";
const V1: &str = "PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xcb\0\x71\x07\x0a\0\0\x01\x12\x67\x01\xbb\x04\0\0";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const TRUSTED: &str = "trustedProxies: [127.0.0.1]";

fn engine(script: &str, server: &str, top: &str) -> TestEngine {
    let server = format!("proxyProtocol: v1v2\n{server}");
    match script == SOCKET {
        true => TestEngine::socket(script, &server, top),
        false => TestEngine::with_top(script, &server, "workers: 2", top),
    }
}

async fn refused(engine: &TestEngine, cause: &str) -> f64 {
    let (_, page) = get(engine.at.api, "/metrics").await;
    let label = format!("cause=\"{cause}\"}}");
    let line = page.lines().find(|line| line.contains("connections_refused_total") && line.contains(&label));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The client's address as the script sees it, after a header and an upgrade request with these headers.
async fn who(engine: &TestEngine, header: &[u8], headers: &str) -> String {
    let mut raw = Raw::dial(engine.ws()).await;
    let own = raw.stream.local_addr().unwrap().to_string();
    // The first message with the rest, so that nothing but the header may be taken.
    raw.write([header, upgrade_with(headers).as_bytes(), &text("who")].concat()).await;
    assert_eq!(raw.head().await.status, 101);
    raw.text().await.replace(&own, "own")
}

#[tokio::test]
async fn a_websocket_client_has_the_address_that_its_proxy_tells() {
    let engine = engine(WHO, "", TRUSTED);
    assert_eq!(who(&engine, V1.as_bytes(), "").await, "203.0.113.7:4711");
    assert_eq!(who(&engine, V2, "").await, "203.0.113.7:4711");
    assert_eq!(who(&engine, b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "").await, "[2001:db8::7]:4711");
    assert_eq!(who(&engine, b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n", "").await, "203.0.113.7:4711");
    // The proxy's own connection, and a client without an address.
    assert_eq!(who(&engine, LOCAL, "").await, "own");
    assert_eq!(who(&engine, b"PROXY UNKNOWN\r\n", "").await, "own");
    // A client's word counts only where the address that the proxy tells is a proxy's, too.
    assert_eq!(who(&engine, V1.as_bytes(), "X-Forwarded-For: 198.51.100.1\r\n").await, "203.0.113.7:4711");
    let two = "PROXY TCP4 127.0.0.1 10.0.0.1 4711 443\r\n";
    assert_eq!(who(&engine, two.as_bytes(), "X-Forwarded-For: 198.51.100.1\r\n").await, "198.51.100.1:0");
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let engine = engine(WHO, "", TRUSTED);
    for header in [V1.as_bytes(), V2] {
        let mut raw = Raw::dial(engine.ws()).await;
        for byte in header {
            raw.write([*byte]).await;
            tokio::task::yield_now().await;
        }
        raw.write([upgrade().as_bytes(), &text("who")].concat()).await;
        assert_eq!(raw.head().await.status, 101);
        assert_eq!(raw.text().await, "203.0.113.7:4711");
    }
}

#[tokio::test]
async fn a_socket_client_has_the_address_that_its_proxy_tells() {
    let engine = engine(SOCKET, "", TRUSTED);
    for (header, want) in [(V1.as_bytes(), "203.0.113.7:4711"), (V2, "203.0.113.7:4711"), (LOCAL, "own")] {
        let mut raw = Raw::dial(engine.ws()).await;
        let own = raw.stream.local_addr().unwrap().to_string();
        raw.write([header, b"x"].concat()).await;
        let want = want.replace("own", &own);
        assert_eq!(raw.take(want.len()).await, want.as_bytes());
    }
}

#[tokio::test]
async fn without_a_header_or_from_elsewhere_a_connection_is_closed_at_once() {
    for script in [WHO, SOCKET] {
        let engine = engine(script, "", TRUSTED);
        for wrong in
            [upgrade().as_bytes(), b"PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0", b"x"]
        {
            let mut raw = Raw::dial(engine.ws()).await;
            raw.write_into_the_dark(wrong).await;
            assert_eq!(raw.rest_of(1).await, b"");
        }
        // What it says is not believed, nor is it taken for a client.
        for said in [[V1, &upgrade()].concat(), upgrade()] {
            let mut raw = Raw::dial_from("127.0.0.2".parse().unwrap(), engine.ws()).await;
            raw.write_into_the_dark(said).await;
            assert_eq!(raw.rest_of(1).await, b"");
        }
        assert_eq!(refused(&engine, "proxy_header").await, 6.0);
    }
    // Nobody is trusted.
    let engine = engine(WHO, "", "");
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write_into_the_dark([V1, &upgrade()].concat()).await;
    assert_eq!(raw.rest_of(1).await, b"");
}

#[tokio::test]
async fn a_header_has_as_long_as_a_handshake() {
    for script in [WHO, SOCKET] {
        let engine = engine(script, "handshakeTimeout: 100ms", TRUSTED);
        let mut silent = Raw::dial(engine.ws()).await;
        let mut half = Raw::dial(engine.ws()).await;
        half.write_into_the_dark(&V2[..20]).await;
        assert_eq!((silent.rest_of(1).await, half.rest_of(1).await), (vec![], vec![]));
        eventually("both are counted", async || (refused(&engine, "proxy_header").await == 2.0).then_some(())).await;
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_headers() {
    let engine = engine(SOCKET, "handshakeTimeout: 1h", TRUSTED);
    let mut silent = Raw::dial(engine.ws()).await;
    let mut met = Raw::dial(engine.ws()).await;
    met.write([V1.as_bytes(), b"x"].concat()).await;
    met.take(1).await;
    let stopped = tokio::time::timeout(Duration::from_secs(8), engine.shutdown()).await;
    assert_eq!(stopped, Ok(true));
    silent.ends().await;
}

#[tokio::test]
async fn rates_count_the_address_that_the_proxy_tells() {
    let engine = engine(WHO, "rate: {perAddress: 1/1h}\nmaxConnectionsPerAddress: 5", TRUSTED);
    let status = async |header: &[u8]| {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write_into_the_dark([header, upgrade().as_bytes()].concat()).await;
        raw.head().await.status
    };
    let other = V1.replace("203.0.113.7", "203.0.113.8");
    let mut met = Vec::new();
    for header in [V1.as_bytes(), V2, other.as_bytes(), V1.as_bytes(), LOCAL, LOCAL] {
        met.push(status(header).await);
    }
    assert_eq!(met, [101, 429, 101, 429, 101, 101]);
    assert_eq!(refused(&engine, "address_rate").await, 2.0);
}
