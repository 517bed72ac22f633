//! Tests of the upgrade request's rules.

use super::*;

const HEAD: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ANY: Rules<'_> = Rules { path: "/ws", allowed_origins: &[], subprotocols: None };

/// Parses and checks a head without its last line; gives the response's chosen protocol or the status and text.
fn judge(head: &str, rules: &Rules<'_>) -> Result<Option<String>, Refusal> {
    let bytes = format!("{head}\r\n").into_bytes();
    match parse(&bytes)? {
        Parsed::Complete { request, len } => {
            assert_eq!(len, bytes.len());
            check(&request, rules).map(|upgrade| upgrade.chosen.map(String::from))
        }
        Parsed::Incomplete => panic!("incomplete: {head}"),
    }
}

fn with(extra: &str) -> Result<Option<String>, Refusal> {
    judge(&format!("{HEAD}{extra}\r\n"), &ANY)
}

fn replaced(from: &str, to: &str) -> Result<Option<String>, Refusal> {
    assert!(HEAD.contains(from));
    judge(&HEAD.replace(from, to), &ANY)
}

#[track_caller]
fn refused(result: Result<Option<String>, Refusal>, status: u16, text: &str) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.status, status, "{refusal}");
    assert!(refusal.text.contains(text), "{refusal}");
}

#[test]
fn the_example_of_the_rfc_is_accepted() {
    let bytes = format!("{HEAD}Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\nframes");
    let Parsed::Complete { request, len } = parse(bytes.as_bytes()).unwrap() else { panic!() };
    assert_eq!(len, bytes.len() - "frames".len());
    assert_eq!((request.path(), request.query()), ("/ws", Some("room=1")));
    assert_eq!(request.header("ORIGIN"), Some(&b"http://example.com"[..]));
    assert_eq!(request.headers().next(), Some(("Host", &b"example.com"[..])));
    let upgrade = check(&request, &ANY).unwrap();
    assert_eq!(upgrade.protocols, ["chat", "superchat"]);
    assert_eq!(
        String::from_utf8(accept_response(&upgrade, Some("superchat"))).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: superchat\r\n\r\n"
    );
}

#[test]
fn every_part_of_a_head_is_incomplete() {
    let bytes = format!("{HEAD}\r\n").into_bytes();
    for end in 0..bytes.len() {
        assert!(matches!(parse(&bytes[..end]), Ok(Parsed::Incomplete)), "{end}");
    }
}

#[test]
fn malformed_requests_are_refused() {
    refused(replaced("GET /ws", "GET  /ws"), 400, "request line");
    refused(with("A B: c"), 400, "header name");
    refused(with("A: \x01"), 400, "header value");
    refused(with("A: b\r\n folded"), 400, "header name");
    assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01").unwrap_err().status, 400, "a TLS hello");
}

#[test]
fn a_head_has_a_largest_size_and_number_of_headers() {
    let line = |len: usize| format!("A: {}", "x".repeat(len));
    let fits = MAX_HEAD - HEAD.len() - "A: \r\n\r\n".len();
    assert_eq!(with(&line(fits)), Ok(None));
    refused(with(&line(fits + 1)), 431, "16384 bytes");
    refused(with(&line(fits + 1000)), 431, "16384 bytes");
    assert_eq!(with(&vec!["A: b"; MAX_HEADERS - 5].join("\r\n")), Ok(None));
    refused(with(&vec!["A: b"; MAX_HEADERS - 4].join("\r\n")), 431, "100 headers");
}

#[test]
fn other_versions_of_http_are_refused() {
    refused(replaced("HTTP/1.1", "HTTP/1.0"), 505, "proxy_http_version");
    refused(replaced("HTTP/1.1", "HTTP/2.0"), 505, "HTTP/1.1");
}

#[test]
fn other_methods_are_refused() {
    refused(replaced("GET", "POST"), 405, "GET");
    refused(replaced("GET", "get"), 405, "GET");
    // HEAD asks, and opens nothing.
    refused(replaced("GET", "HEAD"), 426, "GET");
    refused(judge(&HEAD.replace("GET", "HEAD").replace("Upgrade: websocket\r\n", ""), &ANY), 426, "Upgrade: websocket");
}

#[test]
fn other_paths_are_refused() {
    for path in ["/", "/ws/", "/WS", "/wsx", "/w%73", "*"] {
        refused(replaced("/ws", path), 404, "path");
    }
    assert_eq!(replaced("/ws?room=1", "/ws"), Ok(None));
    assert_eq!(replaced("/ws", "http://example.com/ws"), Ok(None), "RFC 9112, section 3.2.2");
    assert_eq!(judge(&HEAD.replace("/ws", "http://example.com"), &Rules { path: "/", ..ANY }), Ok(None));
}

#[test]
fn upgrade_and_connection_are_lists_of_words() {
    refused(replaced("Upgrade: websocket\r\n", ""), 426, "Upgrade: websocket");
    refused(replaced("Upgrade: websocket", "Upgrade: h2c"), 426, "Upgrade: websocket");
    refused(replaced("Connection: Upgrade\r\n", ""), 426, "Connection: Upgrade");
    refused(replaced("Connection: Upgrade", "Connection: keep-alive"), 426, "Connection: Upgrade");
    assert_eq!(replaced("Connection: Upgrade", "Connection: keep-alive, uPGRADE"), Ok(None));
    assert_eq!(replaced("Connection: Upgrade", "Connection: close\r\nconnection: upgrade"), Ok(None));
    assert_eq!(replaced("Upgrade: websocket", "Upgrade: h2c,WebSocket"), Ok(None));
}

#[test]
fn the_websocket_version_is_13() {
    refused(replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "missing");
    refused(replaced("Version: 13", "Version: 8"), 426, "not 13");
    refused(with("Sec-WebSocket-Version: 13"), 400, "Sec-WebSocket-Version is given more than once");
}

#[test]
fn the_key_is_16_bytes_in_base64() {
    refused(replaced("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "Sec-WebSocket-Key is missing");
    for bad in
        ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZ===", "dGhl IHNhbXBsZSBub25jZ=="]
    {
        refused(replaced("dGhlIHNhbXBsZSBub25jZQ==", bad), 400, "base64 of 16 bytes");
    }
    refused(with("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "more than once");
    assert_eq!(replaced("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC=="), Ok(None));
}

#[test]
fn one_host_is_named() {
    refused(replaced("Host: example.com\r\n", ""), 400, "Host");
    refused(with("Host: b"), 400, "Host is given more than once");
    for bad in ["", "a b", "a:b", "a:99999", "[::1", "a/b", "user@a", "é"] {
        refused(replaced("Host: example.com", &format!("Host: {bad}")), 400, "the Host header is not");
    }
    for good in ["a:80", "[::1]:80", "127.0.0.1", "a_b.example."] {
        assert_eq!(replaced("Host: example.com", &format!("Host: {good}")), Ok(None));
    }
    // The target's host is the one that counts; the header must be right all the same.
    refused(replaced("GET /ws", "GET http://user@example.com/ws"), 400, "target");
    refused(judge(&HEAD.replace("GET /ws", "GET http://a/ws").replace("example.com", "a b"), &ANY), 400, "Host");
    assert_eq!(replaced("GET /ws", "GET http://other.example:80/ws"), Ok(None));
}

#[test]
fn a_body_is_refused() {
    refused(with("Content-Length: 1"), 400, "Content-Length");
    refused(with("Content-Length: 0\r\nContent-Length: 5"), 400, "Content-Length");
    refused(with("Transfer-Encoding: chunked"), 400, "Transfer-Encoding");
    refused(with("Transfer-Encoding: gzip, chunked"), 501, "Transfer-Encoding");
    refused(with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"), 501, "Transfer-Encoding");
    assert_eq!(with("Content-Length: 0"), Ok(None));
}

#[test]
fn foreign_origins_are_refused() {
    let allowed = [String::from("https://example.com")];
    let judged = |extra: &str| judge(&format!("{HEAD}{extra}"), &Rules { allowed_origins: &allowed, ..ANY });
    assert_eq!(judged("Origin: HTTPS://Example.com\r\n"), Ok(None));
    assert_eq!(judged(""), Ok(None), "no browser");
    for bad in ["https://example.com.evil", "http://example.com", "null", "", "https://example.com:8443"] {
        refused(judged(&format!("Origin: {bad}\r\n")), 403, &format!("the Origin \"{bad}\""));
    }
    refused(judged("Origin: https://example.com\r\nOrigin: https://evil\r\n"), 400, "more than once");
    assert_eq!(with("Origin: https://anywhere"), Ok(None), "no list, any origin");
}

#[test]
fn the_servers_preferred_subprotocol_is_chosen() {
    let spoken = ["v2".to_string(), "v1".to_string()];
    let judged = |offer: &str| judge(&format!("{HEAD}{offer}"), &Rules { subprotocols: Some(&spoken), ..ANY });
    assert_eq!(judged("Sec-WebSocket-Protocol: v1, v2\r\n"), Ok(Some("v2".into())));
    assert_eq!(judged("Sec-WebSocket-Protocol: v0\r\nSec-WebSocket-Protocol: v1\r\n"), Ok(Some("v1".into())));
    assert_eq!(judged("Sec-WebSocket-Protocol: V1\r\n"), Ok(None), "case matters");
    assert_eq!(judged(""), Ok(None));
    assert_eq!(with("Sec-WebSocket-Protocol: , b, a"), Ok(Some("b".into())), "no list, the client's first");
    refused(with("Sec-WebSocket-Protocol: a b"), 400, "Sec-WebSocket-Protocol");
    refused(with("Sec-WebSocket-Protocol: a, \u{e9}"), 400, "Sec-WebSocket-Protocol");
}

#[test]
fn a_response_names_only_what_the_client_offered() {
    let upgrade = Upgrade { accept: "x".into(), protocols: vec!["chat"], chosen: None, deflate: None };
    let plain = accept_response(&upgrade, None);
    assert_eq!(accept_response(&upgrade, Some("other")), plain);
    assert_eq!(accept_response(&upgrade, Some("chat\r\nSet-Cookie: a=b")), plain);
    assert!(accept_response(&upgrade, Some("chat")).ends_with(b"Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n"));
}

#[test]
fn a_refusal_is_a_whole_response() {
    assert_eq!(
        String::from_utf8(refuse(503, "full\r\nX: y")).unwrap(),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 11\r\n\
         Connection: close\r\n\r\nfull\r\nX: y\n"
    );
    let text = |status| String::from_utf8(Refusal::new(status, "").response()).unwrap();
    assert!(text(405).contains("\r\nAllow: GET, HEAD\r\n"));
    let upgrade = "\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert!(text(426).contains(upgrade));
    // To HEAD without its body, but with its length.
    let to = |method| String::from_utf8(Refusal::new(404, "nothing").response_to(method)).unwrap();
    assert_eq!(to("HEAD") + "nothing\n", to("GET"));
    assert!(to("HEAD").contains("\r\nContent-Length: 8\r\n"));
}

#[test]
fn forwarded_for_is_read_from_the_nearest_proxy_back() {
    let bytes = b"GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nA: b\r\nx-forwarded-for: \xff ,, ::1\r\n\r\n";
    let Parsed::Complete { request, .. } = parse(bytes).unwrap() else { panic!() };
    assert_eq!(forwarded_for(&request).collect::<Vec<_>>(), ["::1", "", "2.2.2.2", "1.1.1.1"]);
}
