//! Checks `docs/openapi.yaml` against the server: every answer in it is provoked over a real socket and validated, its
//! examples are checked, and it has every status that the API's tests expect.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::raw::{Raw, Reply};
use common::*;
use connmix::config::{NodeRole, load};
use connmix::engine::{Engine, Link, Listeners};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// A method (in lower case), a path as the document spells it, and a status.
type Case = (String, String, u16);

struct Document(Value);

fn document() -> Document {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.yaml");
    Document(serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap())
}

const METHODS: [&str; 8] = ["get", "post", "put", "delete", "options", "head", "patch", "trace"];

impl Document {
    /// What a `$ref` stands for, or the value itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(link) = value.get("$ref") else { return value };
        let pointer = link.as_str().and_then(|link| link.strip_prefix('#')).unwrap_or_else(|| panic!("{link}"));
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{link} is nowhere"))
    }

    /// All operations: method, path, and what it says of them.
    fn operations(&self) -> Vec<(&str, &str, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        let of_path = |(path, item): (&'_ String, &'_ Value)| -> Vec<(String, String)> {
            let methods = item.as_object().unwrap().keys().filter(|key| METHODS.contains(&key.as_str()));
            methods.map(|method| (method.clone(), path.clone())).collect()
        };
        let found: Vec<_> = paths.iter().flat_map(of_path).collect();
        let borrowed = found.into_iter().map(|(method, path)| {
            let (path, item) = paths.get_key_value(&path).unwrap();
            let (method, operation) = item.as_object().unwrap().get_key_value(&method).unwrap();
            (method.as_str(), path.as_str(), operation)
        });
        borrowed.collect()
    }

    fn response(&self, method: &str, path: &str, status: u16) -> &Value {
        let response = &self.0["paths"][path][method]["responses"][status.to_string()];
        assert!(response.is_object(), "{method} {path} has no response {status}");
        self.resolve(response)
    }

    /// All that it promises.
    fn promised(&self) -> BTreeSet<Case> {
        let mut promised = BTreeSet::new();
        for (method, path, operation) in self.operations() {
            for status in operation["responses"].as_object().unwrap().keys() {
                promised.insert((method.to_owned(), path.to_owned(), status.parse().unwrap()));
            }
        }
        promised
    }

    /// Why a value is not as a schema says; empty: it is.
    fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        let whole = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::draft202012::new(&whole).unwrap_or_else(|e| panic!("{e}: {schema}"));
        validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
    }

    /// Asserts that a reply is what is promised for that case.
    fn hold(&self, (method, path, status): &Case, reply: &Reply) {
        assert_eq!(reply.status, *status, "{method} {path}: {reply:?}");
        let response = self.response(method, path, *status);
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let value = reply.header(name).unwrap_or_else(|| panic!("{method} {path} {status}: no {name}: {reply:?}"));
            let errors = self.errors(&header["schema"], &json!(value));
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
        match response.get("content") {
            Some(content) => {
                let (kind, content) = content.as_object().unwrap().iter().next().unwrap();
                let type_alone = |value: &str| value.split(';').next().map(str::to_owned);
                assert_eq!(reply.header("Content-Type").and_then(type_alone).as_ref(), Some(kind), "{method} {path}");
                let body = match &kind[..] {
                    "application/json" => serde_json::from_str(&reply.body).unwrap(),
                    _ => Value::String(reply.body.clone()),
                };
                let errors = self.errors(&content["schema"], &body);
                assert!(errors.is_empty(), "{method} {path} {status}: {body}: {errors:?}");
            }
            None => assert_eq!(reply.body, ""),
        }
    }

    /// Whether a body is one that the operation takes.
    fn takes(&self, path: &str, body: &str) -> bool {
        let schema = &self.0["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        serde_json::from_str(body).is_ok_and(|body| self.errors(schema, &body).is_empty())
    }
}

/// What has been provoked so far.
struct Prober<'a> {
    document: &'a Document,
    seen: BTreeSet<Case>,
}

impl Prober<'_> {
    /// Sends a request of which `path` is as the document spells it, and holds the reply against it.
    async fn probe(&mut self, at: SocketAddr, method: &str, path: &str, status: u16, request: String) -> Reply {
        let mut raw = Raw::dial(at).await;
        raw.write(request).await;
        self.read(&mut raw, method, path, status).await
    }

    /// The same of a reply of which only the head comes.
    async fn probe_head(&mut self, at: SocketAddr, method: &str, path: &str, status: u16, request: String) {
        let mut raw = Raw::dial(at).await;
        raw.write(request).await;
        let case = (method.to_owned(), path.to_owned(), status);
        self.document.hold(&case, &raw.head().await);
        self.seen.insert(case);
    }

    async fn read(&mut self, raw: &mut Raw, method: &str, path: &str, status: u16) -> Reply {
        let case = (method.to_owned(), path.to_owned(), status);
        let reply = if status == 101 { raw.head().await } else { raw.reply().await };
        self.document.hold(&case, &reply);
        self.seen.insert(case);
        reply
    }

    /// The same from an address that only guesses, until so many of its guesses wait that this one is not checked.
    async fn probe_among_guesses(&mut self, at: SocketAddr, method: &str, path: &str, request: String) {
        let mut guesses = Vec::new();
        let reply = loop {
            for _ in 0..12 {
                let mut guess = Raw::dial_from([127, 0, 0, 2].into(), at).await;
                guess.write(post(SEND, &basic("ann:wrong"), "{}")).await;
                guesses.push(guess);
            }
            let reply = Raw::dial_from([127, 0, 0, 2].into(), at).await.call(&request).await;
            if reply.status == 429 {
                break reply;
            }
        };
        let case = (method.to_owned(), path.to_owned(), 429);
        self.document.hold(&case, &reply);
        self.seen.insert(case);
    }
}

const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'id' then conn:send(conn:client_id()) return end
  conn:send(conn:subscribe(msg.data) or 'ok')
end
function on_close() mix.sleep(1) end
";

const USERS: &str = "
shutdownTimeout: 5
access:
  users:
    - {username: ann, password: secret, roles: [read, write], host: '*'}
    - {username: reader, password: r, roles: [read], host: '*'}
    - {username: writer, password: w, roles: [write], host: '*'}
    - {username: faraway, password: f, roles: [read, write], host: '10.*.*.*'}
";

/// An engine with these users, small bodies and little patience for them.
fn engine() -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", "workers: 1\nchannels: [{match: news, presence: true, history: {size: 9}}]", USERS);
    let config = fs::read_to_string(&file).unwrap();
    let before = "engine:\n  apiServer: {port: 0, bind: 127.0.0.1";
    assert!(config.contains(before));
    fs::write(&file, config.replace(before, &format!("{before}, maxBodySize: 30000, readTimeout: 1"))).unwrap();
    TestEngine::start(dir)
}

fn basic(credentials: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials))
}

/// A request with these further headers, each ending in CRLF.
fn ask(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    ask("POST", path, &format!("{headers}Content-Length: {}\r\n", body.len())) + body
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const PUBLISH: &str = "/v1/mesh/publish";
const SEND: &str = "/v1/mesh/send";
const COUNT: &str = "/v1/mesh/count";
const CLOSE: &str = "/v1/mesh/close";
const CONN: &str = "/v1/conn/call";
/// All calls that have a body.
const CALLS: [&str; 7] = [PUBLISH, SEND, COUNT, CLOSE, CONN, PRESENCE, HISTORY];
const HISTORY: &str = "/v1/mesh/history";
const PRESENCE: &str = "/v1/mesh/presence";
const CHANNELS: &str = "/v1/channels";
/// As the document spells it.
const CLIENT: &str = "/v1/clients/{id}";
const TAIL: &str = "/v1/tail";
const WHY: &str = "/v1/why";
const WS: &str = "/ws/v1";

#[tokio::test]
async fn the_server_answers_as_the_document_says_and_in_no_other_way() {
    let document = document();
    let mut prober = Prober { document: &document, seen: BTreeSet::new() };
    let engine = engine();
    let (api, center) = (engine.at.api, engine.at.center);
    let ann = basic("ann:secret");
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    assert_eq!(client.ask("news").await, "ok");

    // What is right, and what is wrong; the document tells one from the other as the server does.
    let many = json!({"c": vec!["x"; 1001], "d": ""}).to_string();
    let publishes = [
        (200, r#"{"c":"news","d":"x","i":7}"#.to_owned()),
        (200, r#"{"c":"news","d":"eA==","t":"binary","i":"x","more":[{}]}"#.to_owned()),
        (200, r#"{"c":["news","none"],"d":"x","t":null,"id":"1"}"#.to_owned()),
        (200, r#"{"c":"news","d":"x","x":["7",8]}"#.to_owned()),
        (200, r#"{"c":"news","d":"x","x":null}"#.to_owned()),
        (400, r#"{"c":"news","d":"x","x":["me"]}"#.to_owned()),
        (200, r#"[{"c":"news","d":"x","i":-1},{"c":["news"],"d":"x","id":null,"i":[]}]"#.to_owned()),
        (400, r#"{"c":"news"}"#.to_owned()),
        (400, r#"{"c":"a b","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\u0085","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\u0000","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\u007f","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\u00a0b","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\u2028b","d":"x"}"#.to_owned()),
        (400, r#"{"c":"a\nb","d":"x"}"#.to_owned()),
        (200, r#"{"c":"弹幕-é😀\u00ad","d":"x"}"#.to_owned()),
        (400, r#"{"c":"","d":"x"}"#.to_owned()),
        (400, r#"{"c":[],"d":"x"}"#.to_owned()),
        (400, r#"{"c":["a",7],"d":"x"}"#.to_owned()),
        (400, r#"{"c":"a","d":7,"i":"mark"}"#.to_owned()),
        (400, r#"{"c":"a","d":"x","t":"json"}"#.to_owned()),
        (400, r#"{"c":"a","d":"x","id":7}"#.to_owned()),
        (400, r#"{"c":"a","d":"x","id":""}"#.to_owned()),
        (400, many),
        (400, format!(r#"{{"c":"{}","d":"x"}}"#, "x".repeat(256))),
        (400, "[]".to_owned()),
        (400, "7".to_owned()),
        (400, "no json".to_owned()),
    ];
    for (status, body) in &publishes {
        prober.probe(api, "post", PUBLISH, *status, post(PUBLISH, &ann, body)).await;
        assert_eq!(document.takes(PUBLISH, body), *status == 200, "{body}");
    }
    // Of an array's items each has its own answer, right or wrong.
    let body = r#"[{"c":"news"},7,{"c":"news","d":"x"}]"#;
    prober.probe(api, "post", PUBLISH, 200, post(PUBLISH, &ann, body)).await;
    let sends = [
        (200, format!(r#"{{"c":"{id}","d":"x"}}"#)),
        (200, format!(r#"{{"c":{id},"d":"eA==","t":"binary","i":7}}"#)),
        (400, r#"{"c":"x","d":"x"}"#.to_owned()),
        (400, r#"{"c":0,"d":"x"}"#.to_owned()),
        (400, r#"{"c":"000","d":"x"}"#.to_owned()),
        (400, r#"{"c":"123456789012345678901","d":"x"}"#.to_owned()),
        (400, r#"{"c":7}"#.to_owned()),
        (400, r#"{"c":[7],"d":"x"}"#.to_owned()),
        (400, r#"[{"c":7,"d":"x"}]"#.to_owned()),
    ];
    for (status, body) in &sends {
        prober.probe(api, "post", SEND, *status, post(SEND, &ann, body)).await;
        assert_eq!(document.takes(SEND, body), *status == 200, "{body}");
    }
    for c in ["\"7\"", "\"1234567890123456789\"", "1234567890123456789", "18446744073709551615"] {
        let body = format!(r#"{{"c":{c},"d":"x","i":"m"}}"#);
        prober.probe(api, "post", SEND, 404, post(SEND, &ann, &body)).await;
        assert!(document.takes(SEND, &body), "{body}");
    }

    for (status, path, body) in [
        (200, COUNT, r#"{"c":"news"}"#.to_owned()),
        (200, COUNT, r#"{"c":["news","none"],"i":7}"#.to_owned()),
        (400, COUNT, r#"{"c":[]}"#.to_owned()),
        (400, COUNT, r#"{"c":7}"#.to_owned()),
        (400, COUNT, "{}".to_owned()),
        (200, PRESENCE, r#"{"c":"news"}"#.to_owned()),
        (200, PRESENCE, r#"{"c":"news","limit":1,"after":"7","i":7}"#.to_owned()),
        (200, PRESENCE, r#"{"c":"news","limit":null,"after":null}"#.to_owned()),
        (400, PRESENCE, r#"{"c":"news","limit":0}"#.to_owned()),
        (400, PRESENCE, r#"{"c":"news","limit":1001}"#.to_owned()),
        (400, PRESENCE, r#"{"c":"news","limit":"1"}"#.to_owned()),
        (400, PRESENCE, r#"{"c":"news","after":"x"}"#.to_owned()),
        (400, PRESENCE, r#"{"c":["news"]}"#.to_owned()),
        (400, PRESENCE, "{}".to_owned()),
        (200, HISTORY, r#"{"c":"news"}"#.to_owned()),
        (200, HISTORY, r#"{"c":"news","limit":1,"since":"7yxwcgl8g7-1f","i":7}"#.to_owned()),
        (200, HISTORY, r#"{"c":"news","limit":null,"since":null}"#.to_owned()),
        (400, HISTORY, r#"{"c":"news","limit":0}"#.to_owned()),
        (400, HISTORY, r#"{"c":"news","since":7}"#.to_owned()),
        (400, HISTORY, r#"{"c":["news"]}"#.to_owned()),
        (400, HISTORY, "{}".to_owned()),
        (200, CLOSE, r#"{"ch":"none","code":4000,"reason":"bye"}"#.to_owned()),
        (200, CLOSE, r#"{"ch":["none"],"c":null,"code":null,"i":"x"}"#.to_owned()),
        (200, CLOSE, r#"{"c":"7","ch":null}"#.to_owned()),
        (400, CLOSE, r#"{"c":"7","ch":"none"}"#.to_owned()),
        (400, CLOSE, r#"{"ch":"none","code":1005}"#.to_owned()),
        (400, CLOSE, format!(r#"{{"ch":"none","reason":"{}"}}"#, "x".repeat(124))),
        (400, CLOSE, "{}".to_owned()),
        (200, CONN, format!(r#"{{"c":"{id}","f":"subscribe","a":["more"],"i":7}}"#)),
        (200, CONN, format!(r#"{{"c":{id},"f":"set_context","a":[{{}}]}}"#)),
        (400, CONN, format!(r#"{{"c":{id},"f":"destroy"}}"#)),
        (400, CONN, format!(r#"{{"c":{id},"f":"close","a":{{}}}}"#)),
        (400, CONN, r#"{"f":"close"}"#.to_owned()),
    ] {
        prober.probe(api, "post", path, status, post(path, &ann, &body)).await;
        assert_eq!(document.takes(path, &body), status == 200, "{path} {body}");
    }
    // No rule says presence.
    prober.probe(api, "post", PRESENCE, 400, post(PRESENCE, &ann, r#"{"c":"none"}"#)).await;
    for (status, query) in [
        (200, ""),
        (200, "?prefix=ne&limit=1"),
        (200, "?prefix=n%65&after=a&more=1"),
        (400, "?limit=0"),
        (400, "?limit=x"),
        (400, "?prefix=%ff"),
    ] {
        prober.probe(api, "get", CHANNELS, status, ask("GET", &format!("{CHANNELS}{query}"), &ann)).await;
    }
    for (status, id) in [(200, id.as_str()), (404, "7"), (404, "1234567890123456789"), (400, "x"), (400, "")] {
        prober.probe(api, "get", CLIENT, status, ask("GET", &CLIENT.replace("{id}", id), &ann)).await;
    }
    for query in [&format!("client={id}&channel=news"), "client=7", "client=1234567890123456789&message=1"] {
        for at in [api, center] {
            prober.probe(at, "get", WHY, 200, ask("GET", &format!("{WHY}?{query}"), &ann)).await;
        }
    }
    for query in ["", "?client=x", "?client=7&channel=a%20b"] {
        prober.probe(api, "get", WHY, 400, ask("GET", &format!("{WHY}{query}"), &ann)).await;
    }
    // One without an end: only its head is read.
    for at in [api, center] {
        prober.probe_head(at, "get", TAIL, 200, ask("HEAD", TAIL, &ann)).await;
    }
    for query in ["?client=x", "?channel=", "?errors=yes"] {
        prober.probe(api, "get", TAIL, 400, ask("GET", &format!("{TAIL}{query}"), &ann)).await;
    }
    prober.probe(api, "get", TAIL, 403, ask("GET", &format!("{TAIL}?bodies=1"), &basic("reader:r"))).await;
    for (path, named) in [(CHANNELS, CHANNELS), ("/v1/clients/7", CLIENT), (TAIL, TAIL), (WHY, WHY)] {
        prober.probe(api, "get", named, 401, ask("GET", path, "")).await;
        prober.probe(api, "get", named, 403, ask("GET", path, &basic("writer:w"))).await;
        prober.probe(api, "get", named, 405, post(path, &ann, "{}")).await;
    }
    // There is no such client.
    prober.probe(api, "post", CONN, 400, post(CONN, &ann, r#"{"c":"7","f":"close"}"#)).await;

    // What any request must be, and what none may be.
    for (method, path) in CALLS.map(|path| ("POST", path)) {
        let host = |hosts: &str| ask(method, path, &ann).replace("Host: localhost\r\n", hosts);
        prober.probe(api, "post", path, 400, host("")).await;
        prober.probe(api, "post", path, 400, host("Host: a\r\nHost: a\r\n")).await;
        prober
            .probe(api, "post", path, 403, ask(method, path, &format!("{ann}Origin: https://evil.example\r\n")))
            .await;
        let coding = format!("{ann}Transfer-Encoding: gzip, chunked\r\n");
        prober.probe(api, "post", path, 501, ask(method, path, &coding) + "0\r\n\r\n").await;
    }
    for (at, path) in
        [(api, "/healthz"), (api, "/readyz"), (api, "/metrics"), (center, "/version"), (center, "/v1/nodes")]
    {
        prober.probe(at, "get", path, 400, ask("GET", path, &ann).replace("localhost", "local host")).await;
        if path != "/healthz" {
            prober.probe(at, "get", path, 403, ask("GET", path, "Sec-Fetch-Site: cross-site\r\n")).await;
        }
    }
    prober.probe(api, "get", "/{other}", 400, ask("GET", "/x", &ann).replace("Host: localhost\r\n", "")).await;
    prober.probe(api, "get", "/{other}", 403, ask("GET", "/x", &format!("{ann}Origin: null\r\n"))).await;

    // Who may, how, how much and how long.
    let mut late = Vec::new();
    for path in CALLS {
        let mut raw = Raw::dial(api).await;
        raw.write(ask("POST", path, &format!("{ann}Content-Length: 9\r\n"))).await;
        late.push((raw, path));
    }
    for path in CALLS {
        prober.probe(api, "post", path, 401, post(path, "", "{}")).await;
        prober.probe(api, "post", path, 401, post(path, &basic("ann:wrong"), "{}")).await;
        let other = if [COUNT, PRESENCE, HISTORY].contains(&path) { "writer:w" } else { "reader:r" };
        prober.probe(api, "post", path, 403, post(path, &basic(other), "{}")).await;
        prober.probe(api, "post", path, 403, post(path, &basic("faraway:f"), "{}")).await;
        for method in ["GET", "PUT", "DELETE"] {
            let reply = prober.probe(api, "post", path, 405, ask(method, path, &ann)).await;
            assert_eq!(reply.header("Allow"), Some("POST"));
        }
        prober.probe(api, "post", path, 413, post(path, &ann, &"x".repeat(30_001))).await;
    }
    for (mut raw, path) in late {
        prober.read(&mut raw, "post", path, 408).await;
    }

    // The WebSocket API's handshake.
    let open = |headers: &str| ask("GET", WS, &format!("{ann}{headers}"));
    prober.probe(api, "get", WS, 101, open(&format!("{UPGRADE}{KEY}"))).await;
    prober.probe(api, "get", WS, 400, open(UPGRADE)).await;
    prober.probe(api, "get", WS, 401, ask("GET", WS, UPGRADE)).await;
    prober.probe(api, "get", WS, 403, ask("GET", WS, &basic("reader:r"))).await;
    prober.probe(api, "get", WS, 405, ask("DELETE", WS, &ann)).await;
    prober.probe(api, "get", WS, 426, open("")).await;
    prober.probe(api, "get", WS, 426, open(&format!("{UPGRADE}{KEY}").replace("13", "12"))).await;
    prober.probe(api, "get", WS, 505, open(UPGRADE).replace("HTTP/1.1", "HTTP/1.0")).await;

    for at in [api, center] {
        for path in ["/healthz", "/readyz"] {
            prober.probe(at, "get", path, 200, ask("GET", path, "")).await;
            prober.probe(at, "get", path, 405, post(path, "", "")).await;
        }
        for method in ["GET", "POST"] {
            for path in ["/v", "/v1", "/healthz/"] {
                prober.probe(at, "get", "/{other}", 404, ask(method, path, &ann)).await;
                prober.probe(at, "get", "/{other}", 401, ask(method, path, "")).await;
                prober.probe(at, "get", "/{other}", 403, ask(method, path, &basic("writer:w"))).await;
            }
        }
    }
    for at in [api, center] {
        prober.probe(at, "get", "/metrics", 200, ask("GET", "/metrics", &ann)).await;
        prober.probe(at, "get", "/metrics", 401, ask("GET", "/metrics", "")).await;
        prober.probe(at, "get", "/metrics", 403, ask("GET", "/metrics", &basic("writer:w"))).await;
        prober.probe(at, "get", "/metrics", 405, post("/metrics", &ann, "")).await;
    }
    for path in ["/version", "/v1/nodes"] {
        prober.probe(center, "get", path, 200, ask("GET", path, &ann)).await;
        prober.probe(center, "get", path, 401, ask("GET", path, "")).await;
        prober.probe(center, "get", path, 403, ask("GET", path, &basic("writer:w"))).await;
        prober.probe(center, "get", path, 405, post(path, &ann, "{}")).await;
    }

    // Credentials that are not checked.
    for path in CALLS {
        prober.probe_among_guesses(api, "post", path, post(path, &ann, "{}")).await;
    }
    let reads = [(CHANNELS, CHANNELS), ("/v1/clients/7", CLIENT), (TAIL, TAIL), (WHY, WHY)];
    for (path, named) in [(WS, WS), ("/metrics", "/metrics"), ("/x", "/{other}")].into_iter().chain(reads) {
        prober.probe_among_guesses(api, "get", named, ask("GET", path, &ann)).await;
    }
    for path in ["/version", "/v1/nodes"] {
        prober.probe_among_guesses(center, "get", path, ask("GET", path, &ann)).await;
    }

    // The end: requests that have begun before it are answered while a hook of the client's keeps the engine up.
    let mut begun = Vec::new();
    for (path, headers) in
        [("/healthz", String::new()), ("/readyz", String::new()), (WS, format!("{ann}{UPGRADE}{KEY}"))]
    {
        let mut raw = Raw::dial(api).await;
        raw.write(ask("GET", path, &headers).trim_end_matches("\r\n")).await;
        begun.push((raw, path));
    }
    let mut consumer = Raw::dial(api).await;
    assert_eq!(consumer.call(ask("GET", WS, &format!("{ann}{UPGRADE}{KEY}"))).await.status, 101);
    // They have been accepted: later ones have been served.
    assert_eq!(get(api, "/healthz").await.0, 200);
    let stopping = tokio::spawn(engine.shutdown());
    while !client.next().await.unwrap().is_close() {}
    // Clients are closed before everything ends; consumers then.
    consumer.close_frame().await;
    for (mut raw, path) in begun {
        raw.write("\r\n\r\n").await;
        prober.read(&mut raw, "get", path, 503).await;
    }
    drop(stopping);

    // A node of a cluster that has not found the others.
    let (_dir, lonely) = lonely_node();
    let body = r#"{"c":"7","d":"x"}"#;
    for path in CALLS {
        prober.probe(lonely.addresses().api, "post", path, 503, post(path, "", body)).await;
    }
    for (path, named) in reads {
        prober.probe(lonely.addresses().api, "get", named, 503, ask("GET", path, "")).await;
    }
    let upgrade = ask("GET", WS, &format!("{UPGRADE}{KEY}"));
    prober.probe(lonely.addresses().api, "get", WS, 503, upgrade).await;
    prober.probe(lonely.addresses().api, "get", "/readyz", 503, ask("GET", "/readyz", "")).await;
    tokio::task::spawn_blocking(|| lonely.shutdown()).await.unwrap();
    assert_eq!(prober.seen, document.promised(), "left: provoked; right: promised");
}

/// An engine whose center is nowhere.
fn lonely_node() -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), "function on_message() end").unwrap();
    let file = dir.path().join("connmix.yaml");
    common::write_config(&file, "", "workers: 1\nmeshPoint: {port: 0}", "");
    let config = load::load(&file).unwrap().for_role(NodeRole { engine: true, center: false });
    let listeners = Listeners::bind(&config).unwrap();
    let engine = Engine::start_on(Link::Memory(Arc::default()), config, listeners, None, Box::new(|_| ()));
    (dir, engine.unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn every_example_is_valid_and_every_link_leads_somewhere() {
    let document = document();
    assert_eq!(document.0["openapi"], "3.1.0");
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut links = Vec::new();
    walk(&document.0, &mut |value| {
        if value.get("$ref").is_some() {
            links.push(document.resolve(value));
        }
    });
    assert!(links.len() > 30);
    // Each content has an example at least, and each answer to a call a description.
    let mut examples = 0;
    walk(&document.0, &mut |value| {
        let Some(media) = value.get("application/json") else { return };
        let given = media["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        let given: Vec<_> = given.chain(media.get("example")).collect();
        assert!(!given.is_empty(), "no example: {media}");
        for example in given {
            let errors = document.errors(&media["schema"], example);
            assert!(errors.is_empty(), "{example}: {errors:?}");
            examples += 1;
        }
    });
    assert!(examples > 20);
    let mut names = BTreeSet::new();
    for (method, path, operation) in document.operations() {
        let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operationId"));
        assert!(names.insert(name), "{name} is there twice");
        assert!(operation["summary"].is_string(), "{name}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(document.resolve(response)["description"].is_string(), "{name} {status}");
        }
    }
}

/// What regular expressions of JavaScript, Python, Go, Java and Rust read alike. Some of them know no `\p{..}`.
#[test]
fn patterns_are_of_the_part_that_every_engine_reads() {
    let document = document();
    let mut patterns = Vec::new();
    walk(&document.0, &mut |value| patterns.extend(value.get("pattern").and_then(Value::as_str)));
    assert!(patterns.len() > 3);
    for pattern in patterns {
        let mut rest = pattern;
        while let Some((_, after)) = rest.split_once('\\') {
            let escape = after.chars().next().unwrap_or_else(|| panic!("{pattern} ends in an escape"));
            assert!("sdwx.".contains(escape), "{pattern}: \\{escape}");
            if escape == 'x' {
                assert!(after[1..3].bytes().all(|b| b.is_ascii_hexdigit()), "{pattern}");
            }
            rest = &after[1..];
        }
        assert!(!pattern.contains("(?") && pattern.starts_with('^'), "{pattern}");
    }
}

fn walk<'a>(value: &'a Value, see: &mut impl FnMut(&'a Value)) {
    see(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, see)),
        Value::Object(fields) => fields.values().for_each(|item| walk(item, see)),
        _ => {}
    }
}

#[test]
fn every_error_that_the_tests_of_the_api_expect_is_documented() {
    let document = document();
    // The status and the code of each error that is promised.
    let mut promised = BTreeSet::new();
    for (method, path, status) in document.promised() {
        let response = document.response(&method, &path, status);
        let code = response.pointer("/content/application~1json/example/E/c").and_then(Value::as_u64);
        promised.insert((u64::from(status), code.unwrap_or_default()));
    }
    let statuses: BTreeSet<u64> = promised.iter().map(|(status, _)| *status).collect();
    let (mut errors, mut expected) = (0, 0);
    for file in ["api.rs", "ws_api.rs", "batch.rs", "shutdown.rs"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file)).unwrap();
        for line in text.lines() {
            let numbers = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
            let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
            if let Some((_, call)) = line.split_once("assert_error(&") {
                // Two arguments that are numbers.
                let arguments: Vec<Option<u64>> = call.split(", ").map(|word| word.parse().ok()).collect();
                let pair = arguments.windows(2).find_map(|pair| Some((pair[0]?, pair[1]?)));
                if let Some(pair) = pair {
                    assert!(promised.contains(&pair), "{file}: {pair:?}: {line}");
                    errors += 1;
                }
            } else if line.contains("status") && line.contains("assert_eq!") {
                // An answer before the answer is none of its own.
                for status in numbers.into_iter().filter(|n| (101..600).contains(n)) {
                    assert!(statuses.contains(&status), "{file}: {status}: {line}");
                    expected += 1;
                }
            }
        }
    }
    assert!(errors > 10 && expected > 20, "{errors} and {expected}: the tests are read");
}
