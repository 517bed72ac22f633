//! `GET /metrics`: what is on the page, that it counts right, who gets it, and what wrong credentials cost.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::raw::{Raw, Reply};
use common::*;
use connmix::telemetry::metrics::labels::{ApiCall, CallResult, DropCause, EndReason, Handshake, Label, ReloadResult};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const SCRIPT: &str = r#"
function on_handshake(client_id, headers)
  if headers["x-refuse"] then return false, 403 end
end
function on_message(msg, conn)
  local what, rest = msg.data:match("^(%S+) ?(.*)$")
  if what == "boom" then error("boom it is") end
  if what == "spin" then while true do end end
  if what == "sleep" then mix.sleep(tonumber(rest)) end
  if what == "join" then assert(not conn:subscribe(rest)) end
  if what == "publish" then mix.mesh.publish(rest, "from a script") end
  if what == "uncounted" then mix.mesh.publish(rest, "from a script", "text", {counts = false}) end
  if what == "push" then assert(mix.queue.push(rest, "task")) end
  if what == "id" then return conn:send(conn:client_id()) end
  if what == "bye" then return conn:close(4000, "bye") end
  conn:send("ok")
end
"#;

/// Lines; one that begins with "bad" can't be encoded.
const LINES: &str = r#"
function protocol_input(buf)
  local at = buf:find("\n")
  return at or 0
end
function protocol_decode(line) return line:sub(1, -2) end
function protocol_encode(data)
  if data:sub(1, 3) == "bad" then error("not that") end
  return data .. "\n"
end
function on_message(msg, conn)
  assert(not conn:subscribe(msg))
  conn:send("ok\n")
end
"#;

/// An engine with a WebSocket server at `/ws` and a socket server.
fn engine(server: &str, top: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    fs::write(dir.path().join("lines.lua"), LINES).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, server, "workers: 2", top);
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config + "    - {port: 0, bind: 127.0.0.1, protocol: socket, entry: lines.lua}\n").unwrap();
    TestEngine::start(dir)
}

/// A page, read.
#[derive(Debug, Default)]
struct Page {
    text: String,
    types: BTreeMap<String, String>,
    /// By name and labels as they are written.
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn parse(text: String) -> Page {
        let mut page = Page::default();
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split(' ').next().unwrap().to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped, "each has a help");
                assert!(page.types.insert(name.into(), kind.into()).is_none(), "{name} is there twice");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(page.samples.insert(name.into(), value.parse().unwrap()).is_none(), "{name} is there twice");
            }
        }
        page.text = text;
        page
    }

    /// A sample's value; it must be there.
    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not in\n{}", self.text))
    }

    /// All samples of that name together, whatever their labels.
    fn sum(&self, name: &str) -> f64 {
        let of_it = |sample: &str| sample.split('{').next() == Some(name);
        self.samples.iter().filter(|(sample, _)| of_it(sample)).map(|(_, value)| value).sum()
    }

    /// The metric that a sample is of.
    fn family<'a>(&'a self, sample: &'a str) -> &'a str {
        let name = sample.split('{').next().unwrap();
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        parts.into_iter().find(|base| self.types.contains_key(*base)).unwrap_or(name)
    }

    /// The metrics, each with its type and its labels but those that the type brings.
    fn table(&self) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut table: BTreeMap<String, (String, BTreeSet<String>)> =
            self.types.iter().map(|(name, kind)| (name.clone(), (kind.clone(), BTreeSet::new()))).collect();
        for sample in self.samples.keys() {
            let labels = sample.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            let row = table.get_mut(self.family(sample)).unwrap_or_else(|| panic!("{sample} has no type"));
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            row.1.extend(names.filter(|name| !["le", "quantile"].contains(&name.as_str())));
        }
        table
    }
}

async fn scrape(addr: SocketAddr) -> Page {
    let reply = Raw::dial(addr).await.call("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Page::parse(reply.body)
}

fn docs(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The table of `docs/metrics.md`.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = docs("metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        let (name, kind, labels) = (cells.next()?, cells.next()?, cells.next()?);
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        Some((name, (kind, labels.filter(|label| !label.is_empty()).collect())))
    });
    rows.collect()
}

#[test]
fn the_values_of_labels_are_those_of_the_documentation() {
    fn words<L: Label>(name: &str) -> (String, Vec<String>) {
        (name.to_owned(), L::ALL.iter().map(|label| label.word().to_owned()).collect())
    }
    let lists = [
        words::<ApiCall>("`call`"),
        words::<CallResult>("`result` of a call"),
        words::<ReloadResult>("`result` of a reload"),
        words::<Handshake>("`result` of a TLS handshake"),
        words::<EndReason>("`reason`"),
        words::<DropCause>("`cause`"),
    ];
    let text = docs("metrics.md");
    let documented =
        text.lines().filter_map(|line| line.strip_prefix("- `")?.split_once(": ")).map(|(label, values)| {
            (format!("`{label}"), values.split(", ").map(|value| value.trim_matches('`').to_owned()).collect())
        });
    assert_eq!(documented.collect::<Vec<_>>(), lists);
    // Of the last two the table says what they mean, too.
    for (name, words) in &lists[4..] {
        let row = text.lines().find(|line| line.starts_with("| ") && line.contains(&format!("{name} |"))).unwrap();
        assert!(words.iter().all(|word| row.contains(&format!("`{word}`"))), "{row}");
    }
}

#[tokio::test]
async fn the_page_and_its_table_in_the_documentation_are_the_same() {
    let engine = engine("", "");
    assert_eq!(engine.connect().await.ask("push tasks").await, "ok");
    let page = scrape(engine.at.api).await;
    // Alone: what is about other nodes is not there.
    let mut alone = documented();
    alone.retain(|name, _| !name.starts_with("connmix_engine_mesh_"));
    // Nor are certificates, where there are none.
    alone.remove("connmix_tls_certificate_expires_seconds");
    assert_eq!(page.table(), alone);
    assert_eq!(page.get("connmix_engine_queue_messages{topic=\"tasks\"}"), 1.0);
    assert!(documented().len() > 30);

    // The center's own page is the part that its documentation says.
    let center = scrape(engine.at.center).await.table();
    let parts = ["connmix_center_", "connmix_api_", "connmix_tls_", "connmix_log_", "connmix_build_info", "process_"];
    let mut want = documented();
    want.retain(|name, _| parts.iter().any(|part| name.starts_with(part)));
    want.remove("connmix_tls_certificate_expires_seconds");
    assert_eq!(center, want);
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let known = documented();
    let dashboard: serde_json::Value = serde_json::from_str(&docs("grafana/connmix.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut used = BTreeSet::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        let words: Vec<&str> = expression.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let mut labels: BTreeSet<&str> = ["instance", "le", "quantile"].into();
        for word in words.iter().filter(|word| word.starts_with("connmix_") || word.starts_with("process_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            let (_, own) = known.get(name).unwrap_or_else(|| panic!("{word} in {expression}"));
            labels.extend(own.iter().map(String::as_str));
            used.insert(name.to_owned());
        }
        // What is grouped by.
        for list in expression.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            list.split(", ").for_each(|label| assert!(labels.contains(label), "{label} in {expression}"));
        }
        for matcher in expression.split(['{', ',']).filter_map(|part| part.split_once('=')) {
            assert!(labels.contains(matcher.0), "{} in {expression}", matcher.0);
        }
    }
    assert!(used.len() > 15, "{used:?}");
}

#[test]
fn the_alerts_ask_for_metrics_that_exist_and_each_has_its_test() {
    let known = documented();
    let rules: serde_json::Value = serde_yaml::from_str(&docs("prometheus/connmix.rules.yml")).unwrap();
    let tests = docs("prometheus/connmix.rules.test.yml");
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 10);
    for rule in rules {
        let (alert, expression) = (rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap());
        let names = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
        for name in names.filter(|name| name.starts_with("connmix_") || name.starts_with("process_")) {
            let family = name.strip_suffix("_count").unwrap_or(name);
            assert!(known.contains_key(name) || known.contains_key(family), "{name} in {alert}");
        }
        // One where nothing is wrong, and one where it is.
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert}");
        assert!(tests.contains(&format!("  - name: {alert}\n")), "{alert}");
        let texts = &rule["annotations"];
        assert!(texts["summary"].is_string() && texts["description"].is_string(), "{alert}");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{alert}");
    }
}

#[tokio::test]
async fn messages_deliveries_and_connections_are_counted() {
    let engine = engine("", "");
    let ws = engine.ws();
    let (mut a, mut b) = (engine.connect().await, engine.connect().await);
    let mut line = Raw::dial(engine.at.servers[1]).await;
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask("join c").await, "ok");
    }
    assert_eq!(a.ask("join d").await, "ok");
    line.write("c\n").await;
    assert_eq!(line.take(3).await, b"ok\n");

    engine.publish_to("c", "one", 3).await;
    engine.publish_to("d", "two", 1).await;
    engine.publish_to("nobody", "three", 0).await;
    assert_eq!(engine.publish("c", "bad").await["r"], serde_json::json!({"s": 2, "f": 1}));
    for text in ["one", "two", "bad"] {
        assert_eq!(a.text().await, text);
    }
    let id = b.ask_past("id", 2).await;
    for (c, status) in [(id.as_str(), 200), ("17", 404)] {
        let body = serde_json::json!({"c": c, "d": "to you"}).to_string();
        assert_eq!(post(engine.at.api, "/v1/mesh/send", &body).await.0, status);
    }
    assert_eq!(b.text().await, "to you");
    // From scripts; the answer comes after what is published to all three.
    for publish in ["publish c", "uncounted c"] {
        a.send(publish).await;
        let mut got = [a.text().await, a.text().await];
        got.sort();
        assert_eq!(got, ["from a script", "ok"]);
    }
    assert_eq!([b.text().await, b.text().await], ["from a script", "from a script"]);
    line.take("one\nfrom a script\nfrom a script\n".len()).await;

    let page = scrape(engine.at.api).await;
    for (sample, want) in [
        ("connmix_engine_servers_clients", 3.0),
        ("connmix_center_registry_clients", 3.0),
        ("connmix_center_registry_engine_nodes", 1.0),
        ("connmix_center_registry_channels_total", 2.0),
        ("connmix_engine_channels", 2.0),
        ("connmix_engine_subscriptions", 4.0),
        ("connmix_engine_workers", 2.0),
        // Three joins, an id, two publishes.
        ("connmix_engine_servers_read_messages_total{protocol=\"websocket\"}", 6.0),
        ("connmix_engine_servers_read_messages_total{protocol=\"socket\"}", 1.0),
        // Their six answers, and what was delivered.
        ("connmix_engine_servers_send_messages_total{protocol=\"websocket\"}", 16.0),
        ("connmix_engine_servers_send_messages_total{protocol=\"socket\"}", 4.0),
        // c: 2, d: 1, the bad one: 2, the send: 1, two from a script: 2 each.
        ("connmix_engine_deliveries_total{protocol=\"websocket\"}", 10.0),
        ("connmix_engine_deliveries_total{protocol=\"socket\"}", 3.0),
        ("connmix_engine_servers_send_errors_total{protocol=\"websocket\"}", 0.0),
        ("connmix_engine_servers_send_errors_total{protocol=\"socket\"}", 1.0),
        ("connmix_engine_dropped_messages_total{cause=\"encode\"}", 1.0),
        ("connmix_engine_dropped_messages_total{cause=\"no_client\"}", 1.0),
        ("connmix_engine_dropped_messages_total{cause=\"too_slow\"}", 0.0),
        ("connmix_engine_publishes_total{origin=\"api\"}", 4.0),
        ("connmix_engine_publishes_total{origin=\"script\"}", 2.0),
        ("connmix_api_calls_total{call=\"mesh.publish\",result=\"ok\"}", 4.0),
        ("connmix_api_calls_total{call=\"mesh.send\",result=\"ok\"}", 1.0),
        ("connmix_api_calls_total{call=\"mesh.send\",result=\"not_sent\"}", 1.0),
    ] {
        assert_eq!(page.get(sample), want, "{sample} in\n{}", page.text);
    }
    let hook = |what: &str, server: SocketAddr, hook: &str| {
        page.get(&format!("connmix_engine_handler_{what}{{server=\"{server}\",hook=\"{hook}\"}}"))
    };
    assert_eq!(hook("duration_seconds_count", ws, "on_message"), 6.0);
    assert_eq!(hook("duration_seconds_count", ws, "on_handshake"), 2.0);
    assert_eq!(hook("duration_seconds_count", ws, "on_close"), 0.0, "the script has none");
    assert_eq!(hook("duration_seconds_count", engine.at.servers[1], "protocol_encode"), 4.0);
    assert_eq!(hook("errors_total", engine.at.servers[1], "protocol_encode"), 1.0);
    assert_eq!(hook("timeouts_total", engine.at.servers[1], "protocol_encode"), 0.0);
    assert!(page.get("process_resident_memory_bytes") > 1e6);
    assert_eq!(page.get(&format!("connmix_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
}

impl Client {
    /// Asks, and passes over as many messages that come before the answer.
    async fn ask_past(&mut self, question: &str, others: usize) -> String {
        self.send(question).await;
        for _ in 0..others {
            self.text().await;
        }
        self.text().await
    }
}

#[tokio::test]
async fn failures_and_ends_are_counted_by_what_they_were() {
    let engine = engine("", "");
    let ws = engine.ws();
    for (message, code) in [("boom", 1011), ("boom", 1011), ("spin", 1011), ("bye", 4000)] {
        let mut client = engine.connect().await;
        client.send(message).await;
        assert_eq!(client.close_frame().await.0, code);
    }
    engine.connect().await.close().await;
    drop(Raw::open(ws).await);
    let mut raw = Raw::open(ws).await;
    raw.write([0xFF, 0]).await;
    assert_eq!(raw.close_frame().await.0, 1002);
    let refusals = [
        "GET /elsewhere HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        common::raw::upgrade_with("X-Refuse: yes\r\n"),
        "nonsense\r\n\r\n".to_owned(),
    ];
    for refused in refusals {
        let reply = Raw::dial(ws).await.call(refused).await;
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }
    let want = BTreeMap::from([
        ("handler_failed", 3.0),
        ("requested", 1.0),
        ("peer", 1.0),
        ("lost", 1.0),
        ("violation", 1.0),
        ("too_slow", 0.0),
        ("internal_error", 0.0),
    ]);
    let closed = |page: &Page, reason: &str| {
        page.get(&format!("connmix_engine_connections_closed_total{{server=\"{ws}\",reason=\"{reason}\"}}"))
    };
    let page = eventually("seven ends", async || {
        let page = scrape(engine.at.api).await;
        (page.sum("connmix_engine_connections_closed_total") == 7.0).then_some(page)
    })
    .await;
    for (reason, n) in want {
        assert_eq!(closed(&page, reason), n, "{reason}");
    }
    assert_eq!(page.get(&format!("connmix_engine_connections_opened_total{{server=\"{ws}\"}}")), 7.0);
    assert_eq!(page.sum("connmix_engine_connections_refused_total"), 3.0);
    let hook = |what: &str| page.get(&format!("connmix_engine_handler_{what}{{server=\"{ws}\",hook=\"on_message\"}}"));
    assert_eq!((hook("errors_total"), hook("timeouts_total")), (3.0, 1.0));
    assert_eq!(hook("duration_seconds_count"), 4.0);
    assert!(hook("duration_seconds_sum") >= 0.2, "one was stopped after 200 ms");
    let bucket = |le: &str| {
        page.get(&format!(
            "connmix_engine_handler_duration_seconds_bucket{{server=\"{ws}\",hook=\"on_message\",le=\"{le}\"}}"
        ))
    };
    assert!(bucket("0.1") <= 3.0 && bucket("+Inf") == 4.0, "{}", page.text);
}

#[tokio::test]
async fn calls_over_a_websocket_are_counted_as_those_over_http() {
    let engine = engine("", "");
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    for request in [
        r#"{"m":"mesh.publish","p":{"c":"c","d":"x"}}"#,
        r#"{"m":"mesh.publish","p":{"c":"c","d":"x"}}"#,
        r#"{"m":"mesh.publish","p":{"c":"c"}}"#,
        r#"{"m":"conn.call","p":{"c":17,"f":"close","a":[]}}"#,
        r#"{"m":"queue.pop","p":["t"]}"#,
        r#"{"m":"queue.pop","p":["t"]}"#,
        r#"{"m":"queue.unpop","p":["u"]}"#,
        r#"{"m":"nodes"}"#,
        "[]",
    ] {
        api.ask(request).await;
    }
    assert_eq!(api.ask("ping").await, "pong");
    let page = scrape(engine.at.api).await;
    let want = [
        ("mesh.publish", "ok", 2.0),
        ("mesh.publish", "invalid", 1.0),
        ("conn.call", "not_obeyed", 1.0),
        ("queue.pop", "ok", 1.0),
        ("queue.pop", "already_popped", 1.0),
        ("queue.unpop", "not_consumed", 1.0),
        ("other", "invalid", 2.0),
        ("ws", "ok", 1.0),
    ];
    for (call, result, n) in want {
        assert_eq!(page.get(&format!("connmix_api_calls_total{{call=\"{call}\",result=\"{result}\"}}")), n, "{call}");
    }
    assert_eq!(page.sum("connmix_api_calls_total"), 10.0, "{}", page.text);
    assert_eq!(page.get("connmix_engine_publishes_total{origin=\"api\"}"), 2.0);
}

#[tokio::test]
async fn a_publish_counts_once_for_each_message_and_channel_whatever_the_call() {
    let engine = engine("", "");
    let published = async || scrape(engine.at.api).await.get("connmix_engine_publishes_total{origin=\"api\"}");
    let messages: Vec<_> = (0..100).map(|_| json!({"c": "c", "d": "x"})).collect();
    let repeats: Vec<_> = (0..50).map(|_| json!({"c": "c", "d": "x", "id": "again"})).collect();
    let mut ws = Client::connect(engine.at.api, "/ws/v1").await;
    let mut want = 0.0;
    for (body, n) in [
        (json!({"c": "c", "d": "x"}), 1.0),
        (json!(messages), 100.0),
        (json!({"c": ["a", "b", "a"], "d": "x"}), 3.0),
        (json!(repeats), 1.0),
        // Known already, and what is wrong.
        (json!({"c": ["d", "e"], "d": "x", "id": "again"}), 0.0),
        (json!({"c": "c"}), 0.0),
        (json!([{"c": "c"}, {"c": "c", "d": "x"}]), 1.0),
    ] {
        post(engine.at.api, "/v1/mesh/publish", &body.to_string()).await;
        want += n;
        assert_eq!(published().await, want, "over HTTP: {body}");
        if body.is_object() {
            ws.ask(&json!({"m": "mesh.publish", "p": body}).to_string()).await;
            want += n;
            assert_eq!(published().await, want, "over WebSocket: {body}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_a_drop() {
    let engine = engine("outboxLimit: 64KiB", "");
    let mut slow = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(slow.ask("join c").await, "ok");
    let data = "x".repeat(60_000);
    let (mut reached, mut failed) = (0.0, 0.0);
    while failed == 0.0 {
        let reply = engine.publish("c", &data).await;
        reached += reply["r"]["s"].as_f64().unwrap();
        failed += reply["r"]["f"].as_f64().unwrap();
    }
    let page = eventually("the slow client's end", async || {
        let page = scrape(engine.at.api).await;
        (page.sum("connmix_engine_connections_closed_total") == 1.0).then_some(page)
    })
    .await;
    assert_eq!(page.get("connmix_engine_dropped_messages_total{cause=\"too_slow\"}"), failed);
    assert_eq!(page.get("connmix_engine_servers_send_errors_total{protocol=\"websocket\"}"), failed);
    assert_eq!(page.get("connmix_engine_deliveries_total{protocol=\"websocket\"}"), reached);
    let ws = engine.ws();
    assert_eq!(
        page.get(&format!("connmix_engine_connections_closed_total{{server=\"{ws}\",reason=\"too_slow\"}}")),
        1.0
    );
    // Nothing is left of what it was in.
    assert_eq!((page.get("connmix_engine_subscriptions"), page.get("connmix_engine_channels")), (0.0, 0.0));
}

#[tokio::test]
async fn delays_are_quantiles_over_the_window() {
    let engine = engine("", "prometheus: {summary: {maxAge: 1s, ageBuckets: 4}}");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("join c").await, "ok");
    let delay = "connmix_engine_servers_send_duration_seconds";
    let at = |page: &Page, scenario: &str, quantile: &str| {
        page.get(&format!("{delay}{{protocol=\"websocket\",scenario=\"{scenario}\",quantile=\"{quantile}\"}}"))
    };
    let count = |page: &Page| page.get(&format!("{delay}_count{{protocol=\"websocket\",scenario=\"local\"}}"));
    let page = scrape(engine.at.api).await;
    assert!(at(&page, "local", "0.5").is_nan() && count(&page) == 0.0, "{}", page.text);
    engine.publish_to("nobody", "x", 0).await;
    let mut published = 0.0;
    // Again if the machine was so slow that the window has passed meanwhile.
    let page = eventually("delays are told", async || {
        for _ in 0..20 {
            engine.publish_to("c", "x", 1).await;
        }
        published += 20.0;
        let page = scrape(engine.at.api).await;
        (!at(&page, "local", "0.5").is_nan()).then_some(page)
    })
    .await;
    let (half, most) = (at(&page, "local", "0.5"), at(&page, "local", "0.99"));
    assert!(0.0 < half && half <= most && most < 5.0, "{half} {most}");
    assert_eq!(count(&page), published);
    let sum = page.get(&format!("{delay}_sum{{protocol=\"websocket\",scenario=\"local\"}}"));
    assert!(sum >= half * 9.0, "{sum} for half of it {half}");
    assert!(at(&page, "forward", "0.99").is_nan());
    let page = eventually("the window has passed", async || {
        let page = scrape(engine.at.api).await;
        at(&page, "local", "0.5").is_nan().then_some(page)
    })
    .await;
    assert_eq!(count(&page), published, "what there has ever been stays");
}

#[tokio::test]
async fn waiting_handlers_and_lua_memory_are_told_by_worker() {
    let engine = engine("pingInterval: 80ms", "");
    let mut client = engine.connect().await;
    client.send("sleep 1000").await;
    let page = eventually("a handler waits", async || {
        let page = scrape(engine.at.api).await;
        (page.sum("connmix_engine_waiting_handlers") == 1.0).then_some(page)
    })
    .await;
    for worker in 0..2 {
        let memory = page.get(&format!("connmix_engine_lua_memory_bytes{{worker=\"{worker}\"}}"));
        assert!(memory > 50_000.0, "worker {worker}: {memory}\n{}", page.text);
    }
    assert!(page.sum("connmix_engine_worker_busy_seconds_total") > 0.0);
}

#[tokio::test]
async fn reloads_are_counted_by_result() {
    let engine = engine("", "");
    let at = |page: &Page, what: &str, result: &str| {
        page.get(&format!("connmix_engine_reloads_total{{what=\"{what}\",result=\"{result}\"}}"))
    };
    let reached = async |what: &str, result: &str| {
        eventually(&format!("{what} {result}"), async || {
            let page = scrape(engine.at.api).await;
            (at(&page, what, result) == 1.0).then_some(page)
        })
        .await
    };
    fs::write(engine.path("entry.lua"), "this is no Lua").unwrap();
    reached("script", "error").await;
    fs::write(engine.path("entry.lua"), SCRIPT).unwrap();
    reached("script", "ok").await;
    engine.engine().reload();
    let page = reached("config", "ok").await;
    assert_eq!((at(&page, "script", "error"), at(&page, "config", "error")), (1.0, 0.0));
    let config = fs::read_to_string(engine.path("connmix.yaml")).unwrap();
    fs::write(engine.path("connmix.yaml"), config + "nonsense: true\n").unwrap();
    reached("config", "error").await;
}

const USERS: &str = "\
access:
  users:
    - {username: reader, password: r, roles: [read]}
    - {username: writer, password: w, roles: [write]}
";

fn metrics(credentials: &str) -> String {
    format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{}\r\n", basic(credentials))
}

fn basic(credentials: &str) -> String {
    match credentials {
        "" => String::new(),
        some => format!("Authorization: Basic {}\r\n", STANDARD.encode(some)),
    }
}

fn publish(credentials: &str) -> String {
    let body = r#"{"c":"c","d":"x"}"#;
    let length = body.len();
    format!(
        "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {length}\r\n\r\n{body}",
        basic(credentials)
    )
}

#[tokio::test]
async fn the_page_is_for_readers() {
    let engine = engine("", USERS);
    for addr in [engine.at.api, engine.at.center] {
        let mut raw = Raw::dial(addr).await;
        assert_eq!(raw.call(metrics("reader:r")).await.status, 200);
        assert_eq!(raw.call(metrics("writer:w")).await.status, 403);
        assert_eq!(raw.call(metrics("")).await.status, 401);
        assert_eq!(raw.call(metrics("reader:wrong")).await.status, 401);
        let head = raw.call(metrics("reader:r").replace("GET", "POST")).await;
        assert_eq!((head.status, head.header("Allow")), (405, Some("GET, HEAD")));
    }
    let page = Page::parse(Raw::dial(engine.at.api).await.call(metrics("reader:r")).await.body);
    assert_eq!(page.get("connmix_api_calls_total{call=\"metrics\",result=\"unauthorized\"}"), 4.0);
    assert_eq!(page.get("connmix_api_calls_total{call=\"metrics\",result=\"forbidden\"}"), 2.0);
    assert_eq!(page.get("connmix_api_failed_logins_total"), 2.0);
}

#[tokio::test]
async fn whoever_guesses_passwords_waits_and_nobody_else_does() {
    let engine = engine("", USERS);
    let mut raw = Raw::dial(engine.at.api).await;
    // Without credentials nobody guesses anything.
    for _ in 0..10 {
        assert_eq!(raw.call(publish("")).await.status, 401);
    }
    for request in [publish("writer:1"), metrics("reader:2"), publish("writer:3"), metrics("reader:4")] {
        assert_eq!(Raw::dial(engine.at.api).await.call(request).await.status, 401);
    }
    let delayed = async || {
        let page = Page::parse(Raw::dial(engine.at.api).await.call(metrics("reader:r")).await.body);
        page.get("connmix_api_delayed_logins_total")
    };
    for request in [publish("writer:5"), metrics("reader:6")] {
        // The guess must still wait when the right login of the same address has been answered. A machine that stalls for as
        // long as the guess waits proves nothing, so there is more than one try.
        let mut proven = false;
        for _ in 0..5 {
            let (mut guesser, began, before) = (Raw::dial(engine.at.api).await, Instant::now(), delayed().await);
            let request = request.clone();
            let guess = tokio::spawn(async move { (guesser.call(request).await.status, began.elapsed()) });
            eventually("it waits", async || (delayed().await > before).then_some(())).await;
            assert_eq!(raw.call(publish("writer:w")).await.status, 200);
            proven = !guess.is_finished();
            let (status, took) = guess.await.unwrap();
            assert_eq!(status, 401);
            assert!(took >= Duration::from_secs(1), "{took:?}");
            if proven {
                break;
            }
        }
        assert!(proven, "right logins wait as long as the guesses do");
    }
}

#[tokio::test]
async fn guesses_that_pile_up_are_ended() {
    let engine = engine("", USERS);
    let mut raws = Vec::new();
    for i in 0..24 {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(if i % 2 == 0 { publish("writer:x") } else { metrics("reader:x") }).await;
        raws.push(raw);
    }
    let (mut kept, mut ended) = (0, 0);
    for mut raw in raws {
        let reply: Reply = raw.reply().await;
        // Beyond those that wait, credentials are not checked, except for a few that two workers checked at the same
        // moment.
        if reply.header("Connection") == Some("close") {
            assert!([401, 429].contains(&reply.status), "{reply:?}");
            raw.ends().await;
            ended += usize::from(reply.status == 429);
        } else {
            assert_eq!(reply.status, 401);
            kept += 1;
        }
    }
    // Four at once, eight that wait; the others end, unless the machine was so slow that some had waited already.
    assert!(kept >= 12 && ended > 0, "{kept} {ended}");
}

#[tokio::test]
async fn the_page_does_not_grow_with_clients_and_channels() {
    let engine = engine("", "");
    let before = scrape(engine.at.api).await;
    let mut clients = Vec::new();
    for i in 0..100 {
        let mut client = engine.connect().await;
        for channel in 0..10 {
            assert_eq!(client.ask(&format!("join channel:{}", i * 10 + channel)).await, "ok");
        }
        clients.push(client);
    }
    let after = scrape(engine.at.api).await;
    assert_eq!(after.get("connmix_engine_channels"), 1000.0);
    assert_eq!(after.get("connmix_engine_subscriptions"), 1000.0);
    let names = |page: &Page| page.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    assert!(after.text.len() < 48 * 1024, "{} bytes", after.text.len());
}
