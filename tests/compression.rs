//! permessage-deflate over real sockets: what is agreed, what is compressed for whom, and what clients may send.

mod common;

use common::raw::*;
use common::*;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The first byte's bit of a compressed message.
const COMPRESSED: u8 = 0x40;
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Echoes, but for "!sub CHANNEL" and "!wait".
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local channel = msg.data:match("^!sub (%S+)$")
  if channel then
    conn:subscribe(channel)
    conn:send("ok")
  elseif msg.data == "!wait" then
    conn:send("waiting")
    mix.sleep(0.1)
  else
    conn:send(msg.data, msg.type)
  end
end
"#;

fn engine(server: &str) -> TestEngine {
    TestEngine::with(SCRIPT, server, "workers: 1")
}

/// A connection that was offered so, and what was answered.
async fn open(engine: &TestEngine, offer: &str) -> (Raw, Option<String>) {
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write(upgrade_with(&format!("Sec-WebSocket-Extensions: {offer}\r\n"))).await;
    let head = raw.head().await;
    assert_eq!(head.status, 101, "{head:?}");
    (raw, head.header("Sec-WebSocket-Extensions").map(str::to_owned))
}

async fn agreed(engine: &TestEngine) -> Raw {
    let (raw, answer) = open(engine, OFFER).await;
    assert_eq!(answer.as_deref(), Some(AGREED));
    raw
}

/// A message as a client compresses it.
fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + payload.len() / 8 + 100);
    Compress::new(Compression::new(6), false).compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(b"\x00\x00\xff\xff").expect("it had room").to_vec()
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let payload = [payload, b"\x00\x00\xff\xff"].concat();
    Decompress::new(false).decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
    out
}

/// The next frame: its first byte and its payload.
async fn next(raw: &mut Raw) -> (u8, Vec<u8>) {
    let head = raw.take(2).await;
    let len = match head[1] {
        126 => raw.take(2).await,
        127 => raw.take(8).await,
        len => vec![len],
    };
    let len = len.iter().fold(0, |len, b| len << 8 | usize::from(*b));
    (head[0], raw.take(len).await)
}

/// The next frame, compressed: what it holds.
async fn inflated(raw: &mut Raw, first: u8) -> Vec<u8> {
    let (begins, payload) = next(raw).await;
    assert_eq!(begins, first | COMPRESSED);
    inflate(&payload)
}

/// Text like that of real messages.
fn json(len: usize) -> String {
    let line = |n: usize| format!("{{\"uid\":{n},\"name\":\"user {}\",\"msg\":\"hello\"}},", n * 7919 % 1000);
    let mut text: String = (0..len / 20 + 1).map(line).collect();
    text.truncate(len);
    text
}

async fn figure(engine: &TestEngine, sample: &str) -> u64 {
    engine.figure(sample).await as u64
}

#[tokio::test]
async fn it_is_off_unless_it_is_turned_on_which_counts_for_new_connections() {
    let engine = engine("");
    let (mut before, answer) = open(&engine, OFFER).await;
    assert_eq!(answer, None);
    let long = json(1000);
    assert_eq!(before.ask(&long).await, long);

    write_config(&engine.path("connmix.yaml"), "compression: on", "workers: 1", "");
    engine.engine().reload();
    let mut after = eventually("an offer is taken", async || {
        let (raw, answer) = open(&engine, OFFER).await;
        answer.map(|_| raw)
    })
    .await;
    after.write(text(&long)).await;
    assert_eq!(inflated(&mut after, FIN | TEXT).await, long.as_bytes());
    before.write(frame(FIN | TEXT | COMPRESSED, &deflate(b"Hello"))).await;
    assert_eq!(before.close_frame().await.0, 1002, "it was not agreed there");

    write_config(&engine.path("connmix.yaml"), "compression: on\ncompressAbove: 1000", "workers: 1", "");
    engine.engine().reload();
    eventually("up to 1000 bytes are sent as they are", async || {
        after.write(text(&long)).await;
        let (first, payload) = next(&mut after).await;
        (first == FIN | TEXT && payload == long.as_bytes()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn offers_are_answered_or_declined() {
    let engine = engine("compression: on");
    let long = json(5000);
    for (offer, more) in [
        ("permessage-deflate", Some("")),
        ("permessage-deflate; server_no_context_takeover", Some("")),
        ("permessage-deflate; server_max_window_bits=9", Some("; server_max_window_bits=9")),
        (
            "permessage-deflate; client_max_window_bits=15; server_max_window_bits=12",
            Some("; server_max_window_bits=12"),
        ),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Some("")),
        ("permessage-deflate; mystery, x-webkit-deflate-frame", None),
        ("", None),
    ] {
        let (mut raw, answer) = open(&engine, offer).await;
        assert_eq!(answer, more.map(|more| format!("{AGREED}{more}")), "{offer}");
        match more {
            Some(_) => {
                raw.write(frame(FIN | TEXT | COMPRESSED, &deflate(long.as_bytes()))).await;
                assert_eq!(inflated(&mut raw, FIN | TEXT).await, long.as_bytes(), "{offer}");
            }
            None => assert_eq!(raw.ask(&long).await, long, "{offer}"),
        }
    }
    let mut raw = Raw::dial(engine.ws()).await;
    let reply = raw.call(upgrade_with("Sec-WebSocket-Extensions: permessage-deflate;\r\n")).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Sec-WebSocket-Extensions"), "{reply:?}");
}

#[tokio::test]
async fn a_publish_is_compressed_once_for_all_who_take_it_so() {
    let engine = engine("compression: on");
    let mut plain = [Raw::open(engine.ws()).await, Raw::open(engine.ws()).await];
    let mut compressed = [agreed(&engine).await, agreed(&engine).await, agreed(&engine).await];
    let (mut small, answer) = open(&engine, "permessage-deflate; server_max_window_bits=9").await;
    assert!(answer.unwrap().ends_with("=9"));
    for raw in plain.iter_mut().chain(&mut compressed).chain([&mut small]) {
        assert_eq!(raw.ask("!sub all").await, "ok");
    }
    // Of two windows.
    let long = json(2000);
    engine.publish_to("all", &long, 6).await;
    let mut frames = Vec::new();
    for raw in &mut compressed {
        frames.push(next(raw).await);
    }
    assert!(frames.iter().all(|frame| *frame == frames[0]), "the same frame for all");
    assert_eq!((frames[0].0, inflate(&frames[0].1)), (FIN | TEXT | COMPRESSED, long.clone().into_bytes()));
    assert_eq!(inflated(&mut small, FIN | TEXT).await, long.as_bytes());
    for raw in &mut plain {
        assert_eq!(raw.text().await, long);
    }
    assert_eq!(figure(&engine, "connmix_engine_compressed_messages_total{direction=\"out\"}").await, 2);
    let bytes = async |form: &str| {
        let labels = format!("{{direction=\"out\",form=\"{form}\"}}");
        figure(&engine, &format!("connmix_engine_compression_bytes_total{labels}")).await
    };
    assert_eq!(bytes("plain").await, 4000);
    assert!(bytes("compressed").await < 2000);

    // What is small goes out as it is, to all.
    let small_message = json(256);
    engine.publish_to("all", &small_message, 6).await;
    for raw in plain.iter_mut().chain(&mut compressed).chain([&mut small]) {
        assert_eq!(raw.text().await, small_message);
    }
}

/// Sizes, kinds, fragments and parameters as conformance suites vary them.
#[tokio::test]
async fn messages_of_all_sizes_come_back_whole_and_in_fragments() {
    let engine = engine("compression: on");
    for offer in ["permessage-deflate", OFFER, "permessage-deflate; server_max_window_bits=9"] {
        let (mut raw, _) = open(&engine, offer).await;
        for (at, len) in [0, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072].into_iter().enumerate() {
            let (kind, message) = match at % 2 {
                0 => (TEXT, json(len).into_bytes()),
                _ => (BINARY, (0..len).map(|n| (n / 7 % 251) as u8).collect()),
            };
            let payload = deflate(&message);
            for fragment in [usize::MAX, 1024, 256, payload.len() / 3 + 1] {
                let mut first = kind | COMPRESSED;
                let mut parts = payload.chunks(fragment).peekable();
                while let Some(part) = parts.next() {
                    let last = parts.peek().is_none();
                    raw.write(frame(first | if last { FIN } else { 0 }, part)).await;
                    first = CONTINUE;
                    if !last {
                        raw.write(frame(FIN | PING, b"between")).await;
                        assert_eq!(next(&mut raw).await, (FIN | PONG, b"between".to_vec()));
                    }
                }
                let echo = match len {
                    0..=256 => {
                        let (first, payload) = next(&mut raw).await;
                        assert_eq!(first, FIN | kind, "{len}");
                        payload
                    }
                    _ => inflated(&mut raw, FIN | kind).await,
                };
                assert!(echo == message, "{len} bytes in fragments of {fragment}");
            }
        }
    }
    assert_eq!(figure(&engine, "connmix_engine_compressed_messages_total{direction=\"in\"}").await, 3 * 11 * 4);
}

#[tokio::test]
async fn what_a_client_may_not_send_closes_its_connection() {
    let engine = engine("compression: on\nmaxMessageSize: 10000");
    let bomb = deflate(&vec![b' '; 1_000_000]);
    assert!(bomb.len() < 2000);
    let hello = deflate(b"Hello");
    for (frames, code, what) in [
        (frame(FIN | TEXT | COMPRESSED, &bomb), 1009, "larger than 10000 bytes"),
        (frame(FIN | BINARY | COMPRESSED, &[0; 11_400])[..8].to_vec(), 1009, "larger than 10000 bytes"),
        (frame(FIN | TEXT | COMPRESSED, b"\xff\xff"), 1007, "DEFLATE"),
        (frame(FIN | TEXT | COMPRESSED, &hello[..3]), 1007, "DEFLATE"),
        (frame(FIN | TEXT | COMPRESSED, &deflate(b"caf\xe9")), 1007, "UTF-8"),
        (frame(FIN | PING | COMPRESSED, b"x"), 1002, "reserved bit"),
        (frame(FIN | TEXT | 0x20, b"x"), 1002, "reserved bit"),
        (
            [frame(TEXT | COMPRESSED, &hello[..3]), frame(FIN | CONTINUE | COMPRESSED, &hello[3..])].concat(),
            1002,
            "reserved bit",
        ),
        ([frame(TEXT, b"Hel"), frame(FIN | CONTINUE | COMPRESSED, b"lo")].concat(), 1002, "reserved bit"),
    ] {
        let mut raw = agreed(&engine).await;
        raw.write(&frames).await;
        let (closed, reason) = raw.close_frame().await;
        assert_eq!(closed, code, "{reason}");
        assert!(reason.contains(what), "{reason}");
    }
    // The largest message, in whatever way it was compressed.
    let mut raw = agreed(&engine).await;
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let random: Vec<u8> = (0..10_000).map(|_| random()).collect();
    for (message, shorter) in [(random, false), (vec![b' '; 10_000], true)] {
        raw.write(frame(FIN | BINARY | COMPRESSED, &deflate(&message))).await;
        let (first, payload) = next(&mut raw).await;
        assert_eq!(first & COMPRESSED != 0, shorter, "what gets no shorter is sent as it is");
        assert!(message == if shorter { inflate(&payload) } else { payload });
    }
    // A client may send some as they are.
    raw.write(text("plain")).await;
    assert_eq!(raw.text().await, "plain");
}

#[tokio::test]
async fn messages_wait_for_a_handler_decompressed_and_in_order() {
    let engine = engine("compression: on");
    let mut raw = agreed(&engine).await;
    let long = json(3000);
    let compressed = |text: &str| frame(FIN | TEXT | COMPRESSED, &deflate(text.as_bytes()));
    raw.write([compressed("!wait"), compressed(&long), text("plain")].concat()).await;
    assert_eq!(raw.text().await, "waiting");
    assert_eq!(inflated(&mut raw, FIN | TEXT).await, long.as_bytes());
    assert_eq!(raw.text().await, "plain");
}

#[tokio::test]
async fn a_message_larger_than_clients_may_send_is_not_compressed() {
    let engine = engine("compression: on\nmaxMessageSize: 1000");
    let mut raw = agreed(&engine).await;
    assert_eq!(raw.ask("!sub all").await, "ok");
    let (fits, larger) = (json(1000), json(1001));
    engine.publish_to("all", &fits, 1).await;
    assert_eq!(inflated(&mut raw, FIN | TEXT).await, fits.as_bytes());
    engine.publish_to("all", &larger, 1).await;
    assert_eq!(raw.text().await, larger);
}
