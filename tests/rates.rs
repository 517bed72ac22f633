//! Rates and bounds of a server's clients: connects, connects and connections of an address, messages and bytes of a client.

mod common;

use common::raw::{FIN, PING, PONG, Raw, close, frame, text, upgrade, upgrade_with};
use common::{Client, TestEngine, eventually, get, write_config};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data) end";
/// The first message joins the channel, all are answered.
const JOIN: &str = "function on_message(msg, conn) conn:subscribe('all') conn:send(msg.data) end";

fn engine(server: &str) -> TestEngine {
    TestEngine::with(ECHO, server, "workers: 2")
}

/// The sum of a metric's samples that have this label.
async fn figure(engine: &TestEngine, name: &str, label: &str) -> f64 {
    let (_, page) = get(engine.at.api, "/metrics").await;
    let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

async fn refused(engine: &TestEngine, cause: &str) -> f64 {
    figure(engine, "connmix_engine_connections_refused_total", &format!("cause=\"{cause}\"")).await
}

/// Takes the file with other lines for the server.
async fn configure(engine: &TestEngine, server: &str, until: impl AsyncFnMut() -> Option<()>) {
    write_config(&engine.path("connmix.yaml"), server, "workers: 2", "");
    engine.engine().reload();
    eventually("the configuration is in force", until).await;
}

/// The status of an upgrade request.
async fn status(raw: &mut Raw, headers: &str) -> u16 {
    raw.write_into_the_dark(upgrade_with(headers)).await;
    raw.head().await.status
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn connects_beyond_the_rate_get_a_429_and_cost_the_others_nothing() {
    let engine = engine("rate: {connects: 3/1h}");
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(engine.connect().await);
    }
    for _ in 0..5 {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write_into_the_dark(upgrade()).await;
        let reply = raw.reply().await;
        assert_eq!((reply.status, reply.body.trim()), (429, "too many clients connect (rate.connects)"));
    }
    assert_eq!(refused(&engine, "rate").await, 5.0);
    assert_eq!(clients[0].ask("still here").await, "still here");
    configure(&engine, "rate: {connects: 0/s}", async || {
        Client::try_connect(engine.ws(), "/ws").await.is_ok().then_some(())
    })
    .await;
}

#[tokio::test]
async fn connects_of_one_address_beyond_its_rate_get_a_429() {
    let engine = engine("rate: {perAddress: 2/1h}");
    let connect = async |from: &str| status(&mut Raw::dial_from(ip(from), engine.ws()).await, "").await;
    let mut met = Vec::new();
    for from in ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2"] {
        met.push(connect(from).await);
    }
    assert_eq!(met, [101, 101, 429, 101, 429]);
    assert_eq!(refused(&engine, "address_rate").await, 2.0);
}

#[tokio::test]
async fn behind_trusted_proxies_the_address_is_the_one_they_name_and_a_network_of_ipv6_is_one() {
    let engine = TestEngine::with_top(ECHO, "rate: {perAddress: 2/1h}", "workers: 2", "trustedProxies: [127.0.0.1]");
    let connect = async |forwarded: &str| {
        let headers = match forwarded {
            "" => String::new(),
            address => format!("X-Forwarded-For: {address}\r\n"),
        };
        status(&mut Raw::dial(engine.ws()).await, &headers).await
    };
    for (forwarded, want) in [
        ("10.0.0.1", 101),
        ("10.0.0.1", 101),
        ("10.0.0.1", 429),
        ("10.0.0.2", 101),
        ("2001:db8::1", 101),
        ("2001:db8::2", 101),
        ("2001:db8::3", 429),
        ("2001:db8:0:1::3", 101),
        // A proxy that names nobody stands for all of its clients.
        ("", 101),
        ("", 101),
        ("", 101),
        ("", 101),
    ] {
        assert_eq!(connect(forwarded).await, want, "{forwarded:?}");
    }
    // Wrong requests count, too.
    let mut met = Vec::new();
    for _ in 0..3 {
        let wrong = "GET /elsewhere HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.3\r\n\r\n";
        met.push(Raw::dial(engine.ws()).await.call(wrong).await.status);
    }
    assert_eq!(met, [404, 404, 429]);
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_a_place_back_with_each_end() {
    let engine = engine("maxConnectionsPerAddress: 2");
    let mut first = Raw::open(engine.ws()).await;
    let _second = Raw::open(engine.ws()).await;
    let mut third = Raw::dial(engine.ws()).await;
    assert_eq!(status(&mut third, "").await, 429);
    assert_eq!(refused(&engine, "address_connections").await, 1.0);
    assert_eq!(status(&mut Raw::dial_from(ip("127.0.0.9"), engine.ws()).await, "").await, 101);
    first.write(close(1000)).await;
    first.rest().await;
    eventually("there is a place again", async || {
        (status(&mut Raw::dial(engine.ws()).await, "").await == 101).then_some(())
    })
    .await;
    // A connection that is refused for another reason gives its place back, too.
    let engine = TestEngine::with(ECHO, "maxConnectionsPerAddress: 1", "workers: 1");
    for _ in 0..3 {
        let reply = Raw::dial(engine.ws()).await.call("GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(reply.status, 404, "{reply:?}");
    }
    let _one = Raw::open(engine.ws()).await;
}

#[tokio::test]
async fn of_a_socket_server_what_is_beyond_is_closed() {
    let script = "function protocol_input(buf) return buf:length() end
        function protocol_decode(data) return data end
        function protocol_encode(data) return data end
        function on_message(msg, conn) conn:send(msg) end";
    let engine = TestEngine::socket(script, "rate: {perAddress: 2/1h}\nmaxConnectionsPerAddress: 3", "");
    let dial = async |from: &str| {
        let mut raw = Raw::dial_from(ip(from), engine.ws()).await;
        raw.write_into_the_dark("x").await;
        raw.rest_of(1).await
    };
    let mut met = Vec::new();
    for from in ["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3"] {
        met.push(dial(from).await);
    }
    assert_eq!(met, [&b"x"[..], b"x", b"", b"x"]);
    assert_eq!(refused(&engine, "address_rate").await, 1.0);
}

#[tokio::test]
async fn a_client_that_sends_more_messages_is_read_later_and_loses_none() {
    // One worker: others are not held up.
    let engine = TestEngine::with(ECHO, "rate: {messages: 10/200ms}", "workers: 1");
    let mut eager = Raw::open(engine.ws()).await;
    let began = Instant::now();
    let all: Vec<u8> = (0..50).flat_map(|n| text(&n.to_string())).collect();
    eager.write(all).await;
    eager.write(frame(FIN | PING, b"also read")).await;
    let mut calm = engine.connect().await;
    for n in 0..5 {
        assert_eq!(calm.ask(&n.to_string()).await, n.to_string());
        assert_eq!(eager.text().await, n.to_string());
    }
    for n in 5..50 {
        assert_eq!(eager.text().await, n.to_string());
    }
    // Ten at once, and forty at their rate; a part of the last pause may be spared.
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(eager.frame().await, Some((PONG, b"also read".to_vec())));
    assert!(figure(&engine, "connmix_engine_rate_pauses_total", "limit=\"messages\"").await >= 1.0);
    assert_eq!(figure(&engine, "connmix_engine_rate_pauses_total", "limit=\"bytes\"").await, 0.0);
}

#[tokio::test]
async fn a_client_that_sends_more_bytes_is_read_later() {
    let engine = engine("rate: {bytes: 64KiB/s}");
    let mut client = engine.connect().await;
    let began = Instant::now();
    let large = "x".repeat(64 * 1024);
    for _ in 0..2 {
        assert_eq!(client.ask(&large).await.len(), large.len());
    }
    // The first 64 KiB at once, the next at their rate.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(figure(&engine, "connmix_engine_rate_pauses_total", "limit=\"bytes\"").await >= 1.0);
}

#[tokio::test]
async fn bytes_that_come_with_the_request_count() {
    let engine = engine("rate: {bytes: 4KiB/1h}");
    let mut client = Raw::dial(engine.ws()).await;
    client.write([upgrade().into_bytes(), text(&"x".repeat(5000))].concat()).await;
    assert_eq!(client.head().await.status, 101);
    let paused = async || figure(&engine, "connmix_engine_rate_pauses_total", "limit=\"bytes\"").await >= 1.0;
    eventually("it is not read for now", async || paused().await.then_some(())).await;
}

#[tokio::test]
async fn the_end_of_a_client_that_is_not_read_is_noticed_and_what_was_beyond_is_not_handled() {
    let engine = TestEngine::with(JOIN, "rate: {messages: 2/1h}", "workers: 2");
    let open = async || {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write((0..10).flat_map(|n| text(&n.to_string())).collect::<Vec<u8>>()).await;
        assert_eq!((raw.text().await, raw.text().await), ("0".into(), "1".into()));
        raw
    };
    let (mut closing, leaving, stays) = (open().await, open().await, open().await);
    engine.publish_to("all", "x", 3).await;
    closing.write_into_the_dark(close(1000)).await;
    drop(leaving);
    eventually("two are gone", async || (engine.publish("all", "x").await["r"]["s"] == 1).then_some(())).await;
    let read = figure(&engine, "connmix_engine_servers_read_messages_total", "").await;
    assert_eq!(read, 6.0, "two of each");
    drop(stays);
    eventually("all are gone", async || (engine.publish("all", "x").await["r"]["s"] == 0).then_some(())).await;
}

#[tokio::test]
async fn packages_of_socket_servers_have_the_rate_too() {
    let script = "function protocol_input(buf) return 1 end
        function protocol_decode(data) return data end
        function protocol_encode(data) return data end
        function on_message(msg, conn) conn:send(msg) end";
    let engine = TestEngine::socket(script, "rate: {messages: 5/100ms}", "");
    let mut raw = Raw::dial(engine.ws()).await;
    let began = Instant::now();
    raw.write("abcdefghijklmnopqrstuvwxyz").await;
    assert_eq!(raw.take(26).await, b"abcdefghijklmnopqrstuvwxyz");
    assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
}

#[tokio::test]
async fn rates_begin_and_end_for_clients_that_are_there() {
    let engine = engine("");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("free").await, "free");
    configure(&engine, "rate: {messages: 1/1h}\nmaxConnectionsPerAddress: 1", async || {
        // The first message that counts is let through, and the second is not.
        client.send("x").await;
        (figure(&engine, "connmix_engine_rate_pauses_total", "messages").await > 0.0).then_some(())
    })
    .await;
    // Those that were there before are not counted.
    let mut late = engine.connect().await;
    assert_eq!(late.ask("one").await, "one");
    assert_eq!(status(&mut Raw::dial(engine.ws()).await, "").await, 429);
    configure(&engine, "", async || Client::try_connect(engine.ws(), "/ws").await.is_ok().then_some(())).await;
    assert_eq!(late.ask("two").await, "two");
}
