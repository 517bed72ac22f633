//! Traces: what spans a collector gets of publishes and handlers, whose traces they belong to, and that nobody notices a
//! collector that is slow, wrong or gone.

mod common;

use common::cluster::Nodes;
use common::collector::{Collector, SILENCE, attribute, header};
use common::process::Process;
use common::raw::{Raw, upgrade_with};
use common::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use tokio::net::TcpListener;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// The `traceparent` of [`TRACE`] and [`PARENT`].
fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// "join CHANNEL", "publish CHANNEL", "uncounted CHANNEL", "get URL", "own URL", "wait", "parent", "boom".
const SCRIPT: &str = r#"
function on_handshake(client_id, headers)
  if headers["x-ask"] then assert(mix.http.request("GET", headers["x-ask"])) end
end
function on_message(msg, conn)
  local what, rest = msg.data:match("^(%S+) ?(.*)$")
  if what == "join" then assert(not conn:subscribe(rest)) end
  if what == "publish" then assert(mix.mesh.publish(rest, "hello")) end
  if what == "uncounted" then mix.mesh.publish(rest, "hello", "text", {counts = false}) end
  if what == "get" then assert(mix.http.request("GET", rest)) end
  if what == "own" then assert(mix.http.request("GET", rest, {headers = {TraceParent = "mine"}})) end
  if what == "wait" then mix.sleep(0.01); mix.mesh.publish("nobody", "hello") end
  if what == "parent" then conn:send(tostring(mix.traceparent())) end
  if what == "boom" then error("boom it is") end
  conn:send("ok")
end
function on_close() end
"#;

/// An engine that sends its spans there, with further keys of `tracing`.
fn engine(collector: &Collector, tracing: &str) -> TestEngine {
    let top = format!("tracing:\n  endpoint: http://{}\n{tracing}", collector.addr);
    TestEngine::with_top(SCRIPT, "", "workers: 1", &top)
}

/// A publish over HTTP with these headers, each ending in CRLF; by the fast path unless a header prevents that.
async fn publish(engine: &TestEngine, headers: &str, body: &Value) -> Value {
    let body = body.to_string();
    let length = body.len();
    let request =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    let reply = Raw::dial(engine.at.api).await.call(request).await;
    serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {reply:?}"))
}

/// A figure of `connmix_engine_spans_total`.
async fn figure(engine: &TestEngine, result: &str) -> u64 {
    let (_, page) = get(engine.at.api, "/metrics").await;
    let name = format!("connmix_engine_spans_total{{result=\"{result}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<f64>().unwrap() as u64
}

/// Waits until a figure is that.
async fn counted(engine: &TestEngine, result: &str, want: u64) {
    eventually(result, async || (figure(engine, result).await == want).then_some(())).await;
}

fn assert_child(span: &Value) {
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)), "{span:#}");
    let id = span["spanId"].as_str().unwrap();
    assert!(id.len() == 16 && id != PARENT && id.bytes().all(|b| b.is_ascii_hexdigit()), "{span:#}");
    let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(time("startTimeUnixNano") > 1_700_000_000_000_000_000);
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
}

/// The only event of a publish: reached and not reached.
fn deliveries(span: &Value) -> (String, String) {
    let events = span["events"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["name"]), (1, &json!("deliveries")), "{span:#}");
    (attribute(&events[0], "connmix.reached").unwrap(), attribute(&events[0], "connmix.failed").unwrap())
}

#[tokio::test]
async fn a_publish_is_a_span_of_its_callers_trace_with_its_deliveries_as_an_event() {
    let collector = Collector::start().await;
    // Clients' messages begin traces of their own, and none of these is recorded.
    let engine = engine(&collector, "  serviceName: rooms\n  sampleRatio: 0\n");
    let (mut a, mut b) = (engine.connect().await, engine.connect().await);
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask("join news").await, "ok");
    }
    let one = json!({"c": "news", "d": "x"});
    let several = json!({"c": ["news", "nobody", "news"], "d": "x"});
    let array = json!([{"c": "news", "d": "x", "id": "7"}, {"c": "nobody", "d": "x"}, {"c": "a b", "d": "x"}]);
    let parent = format!("traceparent: {}\r\ntracestate: a=1\r\ntracestate: b=2\r\n", traceparent("01"));
    let general = "Connection: close\r\n";
    let mut count = 0;
    for headers in ["", general] {
        for (body, want) in [(&one, vec!["2"]), (&several, vec!["4"]), (&array, vec!["2", "0"])] {
            publish(&engine, &format!("{parent}{headers}"), body).await;
            count += want.len();
            let spans = eventually("spans", async || {
                let spans: Vec<Value> = collector.spans();
                (spans.iter().filter(|span| !span["events"][0].is_null()).count() == count).then_some(spans)
            })
            .await;
            let done: Vec<&Value> = spans.iter().filter(|span| !span["events"][0].is_null()).collect();
            for (span, reached) in done[count - want.len()..].iter().zip(want) {
                assert_child(span);
                assert_eq!(deliveries(span), (reached.to_owned(), "0".to_owned()));
                assert_eq!(
                    (&span["name"], &span["kind"], &span["traceState"]),
                    (&json!("publish"), &json!(2), &json!("a=1,b=2"))
                );
                assert_eq!(attribute(span, "messaging.system").unwrap(), "connmix");
                match attribute(span, "messaging.batch.message_count") {
                    Some(channels) => assert_eq!((channels.as_str(), reached), ("3", "4")),
                    None => {
                        let want = if reached == "0" { "nobody" } else { "news" };
                        assert_eq!(attribute(span, "messaging.destination.name").unwrap(), want);
                    }
                }
            }
        }
    }
    // What was wrong with the last of each array, whose spans have no event.
    let all = collector.all("publish", count + 2).await;
    let failed: Vec<Value> = all.into_iter().filter(|span| span["events"][0].is_null()).collect();
    assert_eq!(failed.len(), 2);
    for span in &failed {
        assert_child(span);
        assert_eq!(span["status"]["code"], 2);
        assert!(span["status"]["message"].as_str().unwrap().starts_with("field \"c\": "), "{span:#}");
    }
    let request = collector.received().remove(0);
    assert!(request.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(header(&request.head, "content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&request.body).unwrap();
    let resource = &body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name").unwrap(), "rooms");
    assert_eq!(attribute(resource, "service.version").unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(attribute(resource, "service.instance.id").unwrap().parse::<u64>().is_ok());
    counted(&engine, "exported", count as u64 + 2).await;
}

#[tokio::test]
async fn a_request_over_websocket_names_its_trace_in_its_json() {
    let collector = Collector::start().await;
    let engine = engine(&collector, "  sampleRatio: 0\n");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("join news").await, "ok");
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let (parent, one) = (traceparent("01"), json!({"c": "news", "d": "x"}));
    for (request, want) in [
        (
            json!({"m": "mesh.publish", "p": one, "i": 1, "traceparent": parent, "tracestate": "a=1"}),
            json!({"s": 1, "f": 0, "t": 1}),
        ),
        (
            json!({"m": "mesh.publish", "p": {"c": ["news"], "d": "x"}, "i": 2, "traceparent": parent}),
            json!([{"s": 1, "f": 0}]),
        ),
        (json!({"m": "mesh.publish", "p": one, "i": 3}), json!({"s": 1, "f": 0, "t": 1})),
        (json!({"m": "mesh.publish", "p": one, "i": 4, "traceparent": 7}), json!({"s": 1, "f": 0, "t": 1})),
        (
            json!({"m": "mesh.publish", "p": one, "i": 5, "traceparent": traceparent("00")}),
            json!({"s": 1, "f": 0, "t": 1}),
        ),
    ] {
        let reply: Value = serde_json::from_str(&api.ask(&request.to_string()).await).unwrap();
        assert_eq!((&reply["i"], &reply["r"]), (&request["i"], &want), "{reply}");
    }
    let wrong = json!({"m": "mesh.publish", "p": {"c": "news"}, "i": 6, "traceparent": parent});
    let reply: Value = serde_json::from_str(&api.ask(&wrong.to_string()).await).unwrap();
    assert_eq!(reply["E"]["c"], 101, "{reply}");
    let spans = collector.all("publish", 3).await;
    spans.iter().for_each(assert_child);
    assert_eq!((deliveries(&spans[0]), &spans[0]["traceState"]), (("1".into(), "0".into()), &json!("a=1")));
    assert_eq!((deliveries(&spans[1]), &spans[1]["traceState"]), (("1".into(), "0".into()), &Value::Null));
    assert_eq!(spans[2]["status"]["code"], 2);
}

/// An event stream, and what its client sends by.
struct Stream {
    raw: Raw,
    at: SocketAddr,
    /// The headers that say who it is.
    who: String,
}

impl Stream {
    async fn open(engine: &TestEngine, headers: &str) -> Stream {
        let mut raw = Raw::dial(engine.ws()).await;
        let head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n";
        raw.write(format!("{head}{headers}\r\n")).await;
        assert_eq!(raw.head().await.status, 200);
        let mut stream = Stream { raw, at: engine.ws(), who: String::new() };
        let connected = stream.until("}\n\n").await;
        let word = |name: &str| connected.split(&format!("\"{name}\":\"")).nth(1).unwrap().split('"').next().unwrap();
        stream.who = format!("Connmix-Client: {}\r\nConnmix-Token: {}\r\n", word("client"), word("token"));
        stream
    }

    async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        while !got.ends_with(end.as_bytes()) {
            got.extend(self.raw.take(1).await);
        }
        String::from_utf8(got).unwrap()
    }

    /// Sends "wait" with these headers; once its handler has ended.
    async fn wait(&mut self, headers: &str) {
        let head = format!("POST /ws HTTP/1.1\r\nHost: localhost\r\n{}{headers}", self.who);
        let reply = Raw::dial(self.at).await.call(format!("{head}Content-Length: 4\r\n\r\nwait")).await;
        assert_eq!(reply.status, 204, "{reply:?}");
        self.until("data: ok\n\n").await;
    }
}

#[tokio::test]
async fn a_message_to_an_event_stream_belongs_to_the_trace_of_its_request() {
    const OTHER: &str = "11111111111111111111111111111111";
    let collector = Collector::start().await;
    let engine = |more: &str| {
        let top = format!("tracing: {{endpoint: 'http://{}', sampleRatio: 0{more}}}", collector.addr);
        TestEngine::with_top(SCRIPT, "eventStream: on", "workers: 2", &top)
    };
    let own = format!("traceparent: {}\r\n", traceparent("01"));
    let strict = engine(", fromClients: false");
    Stream::open(&strict, "").await.wait(&own).await;

    let engine = engine("");
    let mut stream = Stream::open(&engine, &own.replace(TRACE, OTHER)).await;
    stream.wait(&format!("{own}tracestate: a=1\r\n")).await;
    // One that says nothing, or nothing valid, belongs to the stream's; one that says no, to none that is recorded.
    stream.wait("").await;
    stream.wait("traceparent: x\r\n").await;
    stream.wait(&format!("traceparent: {}\r\n", traceparent("00"))).await;
    stream.wait("").await;
    let spans = collector.all("on_message", 4).await;
    assert_child(&spans[0]);
    assert_eq!(spans[0]["traceState"], "a=1");
    assert!(spans[1..].iter().all(|span| span["traceId"] == OTHER), "{spans:#?}");
    let publishes = collector.all("publish", 4).await;
    for (publish, of) in publishes.iter().zip(&spans) {
        assert_eq!((&publish["traceId"], &publish["parentSpanId"]), (&of["traceId"], &of["spanId"]), "{publish:#}");
    }
}

#[tokio::test]
async fn a_traceparent_that_is_not_valid_is_none_and_its_flag_decides() {
    let collector = Collector::start().await;
    let engine = engine(&collector, "");
    let one = json!({"c": "news", "d": "x"});
    for flags in ["00", "02"] {
        publish(&engine, &format!("traceparent: {}\r\n", traceparent(flags)), &one).await;
    }
    let twice = format!("traceparent: {0}\r\ntraceparent: {0}\r\n", traceparent("01"));
    let upper = format!("traceparent: {}\r\n", traceparent("01").to_uppercase());
    let zero = format!("traceparent: 00-{}-{PARENT}-01\r\n", "0".repeat(32));
    for headers in ["", &twice, &upper, &zero, "traceparent: x\r\n", "traceparent:\r\n", "tracestate: a=1\r\n"] {
        publish(&engine, headers, &one).await;
    }
    // Each begins a trace.
    let spans = collector.all("publish", 7).await;
    let traces: BTreeSet<&str> = spans.iter().map(|span| span["traceId"].as_str().unwrap()).collect();
    assert_eq!(traces.len(), 7);
    assert!(spans.iter().all(|span| span["parentSpanId"].is_null() && span["traceId"] != TRACE), "{spans:#?}");
}

#[tokio::test]
async fn the_messages_of_a_connection_belong_to_the_trace_of_its_handshake() {
    let (collector, server) = (Collector::start().await, Collector::start().await);
    let engine = engine(&collector, "  sampleRatio: 0\n");
    let url = format!("http://{}/x?secret=1", server.addr);
    let parent = format!("traceparent: {}\r\ntracestate: a=1\r\nx-ask: {url}\r\n", traceparent("01"));
    let mut client = Raw::dial(engine.ws()).await;
    assert_eq!(client.call(upgrade_with(&parent)).await.status, 101);
    for text in ["join news", "publish news", "uncounted nobody", &format!("get {url}"), "wait", &format!("own {url}")]
    {
        client.write(raw::text(text)).await;
        while client.text().await != "ok" {}
    }
    let messages = collector.all("on_message", 6).await;
    let handshake = collector.span("on_handshake").await;
    for span in messages.iter().chain([&handshake]) {
        assert_child(span);
        assert_eq!(span["traceState"], "a=1");
        assert!(attribute(span, "connmix.client_id").is_some());
    }
    assert_eq!((&handshake["kind"], &messages[0]["kind"]), (&json!(2), &json!(5)));
    // What handlers do is a part of them.
    let publishes = collector.all("publish", 3).await;
    for (publish, message) in publishes.iter().zip([&messages[1], &messages[2], &messages[4]]) {
        assert_eq!((&publish["traceId"], &publish["parentSpanId"]), (&json!(TRACE), &message["spanId"]), "{publish:#}");
        assert_eq!(publish["kind"], 4);
    }
    assert_eq!(deliveries(&publishes[0]).0, "1");
    assert!(publishes[1]["events"].as_array().unwrap().is_empty(), "nobody counted");
    assert_eq!(attribute(&publishes[1], "messaging.destination.name").unwrap(), "nobody");
    // The servers that they ask are told of it.
    let requests = collector.all("GET", 3).await;
    for (request, of) in requests.iter().zip([&handshake, &messages[3], &messages[5]]) {
        assert_eq!((&request["parentSpanId"], &request["kind"]), (&of["spanId"], &json!(3)));
        assert_eq!(attribute(request, "http.response.status_code").unwrap(), "200");
        assert_eq!(attribute(request, "server.port").unwrap(), server.addr.port().to_string());
        assert!(!request.to_string().contains("secret"));
    }
    let asked = server.received();
    for (asked, request) in asked.iter().zip(&requests[..2]) {
        let told = format!("00-{TRACE}-{}-01", request["spanId"].as_str().unwrap());
        assert_eq!(header(&asked.head, "traceparent"), Some(&*told));
        assert_eq!(header(&asked.head, "tracestate"), Some("a=1"));
    }
    assert_eq!(header(&asked[2].head, "traceparent"), Some("mine"), "the script's own");
    // Scripts can tell others, too.
    let told = client.ask("parent").await;
    let spans = collector.all("on_message", 7).await;
    assert_eq!(told, format!("00-{TRACE}-{}-01", spans[6]["spanId"].as_str().unwrap()));
    assert_eq!(client.text().await, "ok");
    // A handler that fails.
    client.write(raw::text("boom")).await;
    let spans = collector.all("on_message", 8).await;
    let why = spans[7]["status"]["message"].as_str().unwrap();
    assert!(why.contains("boom it is"), "{why}");
    assert_child(&collector.span("on_close").await);
}

#[tokio::test]
async fn a_trace_that_is_not_recorded_goes_on_to_others_as_such() {
    let (collector, server) = (Collector::start().await, Collector::start().await);
    let engine = engine(&collector, "  fromClients: false\n  sampleRatio: 0\n");
    let url = format!("http://{}/", server.addr);
    let mut client = Raw::dial(engine.ws()).await;
    let parent = format!("traceparent: {}\r\n", traceparent("01"));
    assert_eq!(client.call(upgrade_with(&parent)).await.status, 101);
    assert_eq!(client.ask(&format!("get {url}")).await, "ok");
    assert_eq!(client.ask("publish nobody").await, "ok");
    let told = server.received().remove(0).head;
    let told = header(&told, "traceparent").unwrap();
    assert!(told.ends_with("-00") && !told.contains(TRACE), "{told}");
    // The collector gets this one alone.
    publish(&engine, &parent, &json!({"c": "news", "d": "x"})).await;
    assert_child(&collector.span("publish").await);
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
async fn off_nothing_is_sent_and_nobody_is_told() {
    let server = Collector::start().await;
    let engine = TestEngine::new(SCRIPT);
    let mut client = Raw::dial(engine.ws()).await;
    let parent = format!("traceparent: {}\r\n", traceparent("01"));
    assert_eq!(client.call(upgrade_with(&parent)).await.status, 101);
    assert_eq!(client.ask(&format!("get http://{}/", server.addr)).await, "ok");
    publish(&engine, &parent, &json!({"c": "news", "d": "x"})).await;
    assert_eq!(header(&server.received()[0].head, "traceparent"), None);
    assert_eq!(client.ask("parent").await, "nil");
    for result in ["exported", "rejected", "failed", "dropped"] {
        assert_eq!(figure(&engine, result).await, 0);
    }
}

#[tokio::test]
async fn a_reload_turns_tracing_on_and_off() {
    let collector = Collector::start().await;
    let engine = TestEngine::new(SCRIPT);
    let file = engine.path("connmix.yaml");
    let before = fs::read_to_string(&file).unwrap();
    let one = json!({"c": "news", "d": "x"});
    fs::write(&file, format!("tracing: {{endpoint: 'http://{}'}}\n{before}", collector.addr)).unwrap();
    eventually("it is on", async || {
        publish(&engine, "", &one).await;
        collector.spans().first().cloned()
    })
    .await;
    fs::write(&file, &before).unwrap();
    // A request that a script makes tells its server of the trace, or does not.
    let server = Collector::start().await;
    let mut client = engine.connect().await;
    eventually("it is off", async || {
        assert_eq!(client.ask(&format!("get http://{}/", server.addr)).await, "ok");
        let told = server.received().pop().unwrap();
        header(&told.head, "traceparent").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_deliveries_of_a_publish_are_those_of_all_nodes() {
    let collector = Collector::start().await;
    let top =
        format!("cluster: {{secret: s3cret}}\ntracing: {{endpoint: 'http://{}', sampleRatio: 0}}", collector.addr);
    let nodes = Nodes::with(2, &top).await;
    let (mut here, mut there) = (nodes.engines[0].connect().await, nodes.engines[1].connect().await);
    for client in [&mut here, &mut there] {
        assert_eq!(client.ask("join news").await, "joined news");
    }
    let parent = format!("traceparent: {}\r\n", traceparent("01"));
    publish(&nodes.engines[0], &parent, &json!({"c": "news", "d": "x"})).await;
    let span = collector.span("publish").await;
    assert_child(&span);
    assert_eq!(deliveries(&span), ("2".to_owned(), "0".to_owned()));
    assert_eq!([here.text().await, there.text().await], ["x", "x"]);
}

#[tokio::test]
async fn a_collector_that_can_take_nothing_now_is_asked_again_and_one_that_refuses_is_not() {
    let collector = Collector::start().await;
    let engine = engine(&collector, "");
    let one = json!({"c": "news", "d": "x"});
    let status = |line: &str| format!("HTTP/1.1 {line}\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n");
    let again = ["429 Too Many Requests", "503 Service Unavailable", "502 Bad Gateway"].map(status);
    collector.answer(&["garbage\r\n\r\n", &again[0], &again[1], &again[2]]);
    publish(&engine, "", &one).await;
    counted(&engine, "exported", 1).await;
    let bodies: BTreeSet<String> = collector.received().into_iter().map(|request| request.body).collect();
    assert_eq!((collector.received().len(), bodies.len()), (5, 1), "the same five times");
    // Five times is enough.
    collector.answer(&[0; 5].map(|_| &*again[1]));
    publish(&engine, "", &one).await;
    counted(&engine, "failed", 1).await;
    assert_eq!(collector.received().len(), 10);
    // These mean no.
    for (sent, line) in
        ["400 Bad Request", "401 Unauthorized", "404 Not Found", "500 Oh", "302 Found"].iter().enumerate()
    {
        let redirect = format!("HTTP/1.1 {line}\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n");
        collector.answer(&[&redirect]);
        publish(&engine, "", &one).await;
        counted(&engine, "failed", sent as u64 + 2).await;
        assert_eq!(collector.received().len(), 11 + sent);
    }
    // So does a part of an answer that is yes.
    let partial = r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}"#;
    let length = partial.len();
    collector.answer(&[&format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{partial}")]);
    publish(&engine, "", &one).await;
    counted(&engine, "rejected", 1).await;
    // And it goes on.
    publish(&engine, "", &one).await;
    counted(&engine, "exported", 2).await;
    assert_eq!(figure(&engine, "dropped").await, 0);
}

#[tokio::test]
async fn while_a_collector_hangs_spans_are_dropped_and_publishes_go_on() {
    let collector = Collector::start().await;
    collector.answer(&[SILENCE; 5]);
    let engine = engine(&collector, "");
    let many: Value = vec![json!({"c": "news", "d": "x"}); 1000].into();
    let mut api = Raw::dial(engine.at.api).await;
    let body = many.to_string();
    let request =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut published = 0;
    while figure(&engine, "dropped").await == 0 {
        published += 1000;
        assert!(published <= 20_000, "nothing is dropped");
        assert_eq!(api.call(&request).await.status, 200);
    }
    // The queue, and the batch that is under way.
    assert!(published > 8192 && figure(&engine, "dropped").await < 1512);
    assert!(engine.shutdown().await, "the stop does not wait for it");
}

#[tokio::test]
async fn a_collector_that_comes_later_gets_what_fits_and_a_stop_sends_the_rest() {
    let addr = ports::free_addr();
    let listener = TcpListener::bind(addr).await.unwrap();
    let top = format!("tracing: {{endpoint: 'http://{addr}/'}}");
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", &top);
    publish(&engine, "", &json!({"c": "first", "d": "x"})).await;
    // It goes away when it is asked.
    drop(listener.accept().await.unwrap());
    drop(listener);
    let collector = Collector::on(TcpListener::bind(addr).await.unwrap());
    collector.span("publish").await;
    publish(&engine, "", &json!({"c": "last", "d": "x"})).await;
    assert!(engine.shutdown().await);
    let channels: BTreeSet<String> =
        collector.spans().iter().filter_map(|span| attribute(span, "messaging.destination.name")).collect();
    assert_eq!(channels, ["first", "last"].map(String::from).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_configures_it_and_secrets_in_headers_are_never_shown() {
    let collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let top = "tracing: {headers: [{name: Authorization, value: 'Bearer ${COLLECTOR_TOKEN}'}]}";
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", top);
    let text = fs::read_to_string(dir.path().join("connmix.yaml")).unwrap();
    fs::write(dir.path().join("connmix.yaml"), text.replace("filename: ''", "filename: '', level: debug")).unwrap();
    let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 12\r\n\r\nswordfish-17";
    collector.answer(&[refused]);
    let endpoint = format!("http://{}", collector.addr);
    let env: [(&str, &std::path::Path); 4] = [
        ("COLLECTOR_TOKEN", "swordfish-17".as_ref()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_ref()),
        ("OTEL_SERVICE_NAME", "of-the-environment".as_ref()),
        ("OTEL_TRACES_SAMPLER_ARG", "1".as_ref()),
    ];
    let process = Process::start_with(dir.path(), &["single"], &env);
    process.line(" is ready; ");
    let api = process.api();
    let send = || post(api, "/v1/mesh/publish", r#"{"c":"news","d":"x"}"#);
    assert_eq!(send().await.0, 200);
    let line = process.line("spans were not sent");
    assert!(line.contains("spans were not sent (1): the collector answered with status 403"), "{line}");
    assert_eq!(send().await.0, 200);
    collector.all("publish", 2).await;
    for request in collector.received() {
        assert_eq!(header(&request.head, "authorization"), Some("Bearer swordfish-17"));
        assert!(request.body.contains("of-the-environment"));
    }
    let config = Process::start_with(dir.path(), &["config"], &env).ended();
    assert!(config.out.contains("Authorization") && !config.out.contains("swordfish-17"), "{}", config.out);
    let ended = process.stop();
    assert!(!format!("{}{}", ended.out, ended.err).contains("swordfish-17"), "{}", ended.out);
}
