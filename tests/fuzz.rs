//! Generated input against a running engine: bodies of the HTTP API, requests and frames of the WebSocket API, and what
//! clients of socket servers send. Right and nearly right, cut and flipped: there is an answer or an end, others go on,
//! and nothing panics. `PROPTEST_CASES` makes it try for longer.

mod common;

use common::raw::{self, CLOSE, Raw, TEXT};
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// "id" gets the client's number; any other text subscribes to the channel that it names.
const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'id' then conn:send(conn:client_id()) return end
  conn:send(conn:subscribe(msg.data) or 'ok')
end
";

/// Panics of the engine's threads. One costs a connection only, so that a caller would not always see it.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("worker-")) {
                PANICS.fetch_add(1, Relaxed);
            }
            usual(panic);
        }));
    });
}

/// For a whole test, so that connections live from one case to the next.
fn runtime() -> Runtime {
    watch_panics();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn no_panic() {
    assert_eq!(PANICS.load(Relaxed), 0, "a worker panicked");
}

fn post(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// JSON, most of it such as a field may hold; `CLIENT` stands for a client's number.
fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        8 => select(vec![
            "c", "a b", "", "text", "binary", "eA==", "\\u0000", "\\ud83d", "é", "one", "CLIENT", "k", "subscribe",
            "unsubscribe", "close", "set_context", "set_context_value",
        ])
        .prop_map(|text| format!("\"{text}\"")),
        1 => ".{0,9}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        1 => (100..300usize).prop_map(|n| format!("\"{}\"", "x".repeat(n))),
    ];
    let leaf = prop_oneof![
        6 => text,
        2 => select(vec!["null", "true", "false", "{}", "[]", "0", "-0", "1e999", "1.5", "CLIENT", "1000", "4000"])
            .prop_map(str::to_owned),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => any::<f64>().prop_map(|n| n.to_string()),
        1 => (1..200usize).prop_map(|n| "[".repeat(n) + &"]".repeat(n)),
        1 => "[a-z \\\\\"{}\\[\\],:]{0,10}",
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            2 => vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            1 => vec((select(vec!["a", "k", "c", "\\n"]), inner), 0..4).prop_map(|fields| object(&fields)),
        ]
    })
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Parameters of any call: most of what it takes, mostly right.
fn params() -> impl Strategy<Value = String> {
    let channel = select(vec!["\"c\"", "\"d\"", "[\"c\",\"d\"]", "[\"c\"]", "[]", "[\"c\",7]", "CLIENT", "\"CLIENT\""]);
    let right = (channel, select(vec!["\"x\"", "\"eA==\"", "\"\""]), select(vec!["\"text\"", "\"binary\"", "null"]));
    let right = right.prop_map(|(c, d, t)| object(&[("c", c.to_owned()), ("d", d.to_owned()), ("t", t.to_owned())]));
    let queue = (vec(select(vec!["\"q\"", "\"r\"", "7", "\"a b\""]), 0..3), select(vec!["true", "false", "null", "3"]));
    let queue = queue.prop_map(|(t, ack)| object(&[("t", format!("[{}]", t.join(","))), ("ack", ack.to_owned())]));
    let call =
        (select(vec!["set_context_value", "set_context", "subscribe", "unsubscribe", "close"]), vec(value(), 0..3));
    let call = call.prop_map(|(f, args)| {
        object(&[("c", "CLIENT".into()), ("f", format!("\"{f}\"")), ("a", format!("[{}]", args.join(",")))])
    });
    let names = select(vec!["c", "d", "t", "i", "id", "f", "a", "k", "x"]);
    let any = vec((names, value()), 0..6).prop_map(|fields| object(&fields));
    prop_oneof![4 => right, 2 => queue, 3 => call, 5 => any, 1 => value()]
}

/// Changes bytes, cuts something out, or leaves it as it is.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let flips = prop_oneof![2 => Just(Vec::new()), 1 => vec((any::<Index>(), any::<u8>()), 1..5)];
    let cut = prop_oneof![3 => Just(None), 1 => any::<(Index, Index)>().prop_map(Some)];
    (bytes, flips, cut).prop_map(|(mut bytes, flips, cut)| {
        if bytes.is_empty() {
            return bytes;
        }
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((from, to)) = cut {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        bytes
    })
}

#[test]
fn any_batch_gets_an_answer_to_each_of_its_items() {
    let (engine, runtime) = (TestEngine::with(SCRIPT, "", "workers: 2"), runtime());
    let mut client = runtime.block_on(engine.connect());
    let id = runtime.block_on(client.ask("id"));
    let batch = prop_oneof![
        8 => vec(params(), 0..8).prop_map(|items| format!("[{}]", items.join(","))),
        2 => params(),
        1 => (0..1200usize, params()).prop_map(|(n, item)| format!("[{}]", vec![item; n].join(","))),
    ];
    let body = damaged(batch.prop_map(move |text| text.replace("CLIENT", &id).into_bytes()));
    proptest!(cases(48), |(bodies in vec(body, 1..10))| {
        runtime.block_on(async {
            let mut api = Raw::dial(engine.at.api).await;
            for body in bodies.iter().filter(|body| body.len() <= 1 << 20) {
                let reply = api.call(post(body)).await;
                let text = String::from_utf8_lossy(body);
                let answer: Value = serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {reply:?}"));
                let counts = |r: &Value| r["s"].is_u64() || r.as_array().is_some_and(|all| all.iter().all(|r| r["s"].is_u64()));
                let one = |answer: &Value| match answer["E"]["c"].as_u64() {
                    None => assert!(answer["E"].is_null() && counts(&answer["r"]), "{answer}"),
                    code => assert!(code == Some(101) && answer.get("r").is_none(), "{answer}"),
                };
                match (reply.status, &answer) {
                    (400, answer) => assert_eq!(answer["E"]["c"], 101, "{text}"),
                    (200, Value::Array(answers)) => {
                        if let Ok(items) = serde_json::from_slice::<Vec<Value>>(body) {
                            assert_eq!(answers.len(), items.len(), "{text}");
                        }
                        answers.iter().for_each(one);
                    }
                    (200, answer) => one(answer),
                    (other, _) => panic!("{other} to {text}"),
                }
            }
        });
    });
    no_panic();
}

/// Headers that callers send besides; some take a request off the fast path.
fn headers() -> impl Strategy<Value = String> {
    let usual = vec![
        "Accept: */*",
        "accept: application/json",
        "Connection: keep-alive",
        "Connection: close",
        "Authorization: Basic eDp5",
        "Content-Type: application/json",
        "User-Agent: x",
        "X-Forwarded-For: 1.2.3.4",
        "Expect: 100-continue",
        "X: \u{e9}",
        "Transfer-Encoding: chunked",
        "Host: localhost",
        "Upgrade: h2c",
        "Origin: https://example.com",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: cross-site",
        "Cookie: a=b",
        "X:",
    ];
    vec(select(usual), 0..4).prop_map(|all| all.iter().map(|header| format!("{header}\r\n")).collect())
}

/// A connection that has asked for something else before is hyper's.
#[test]
fn a_request_gets_the_same_answer_on_the_fast_path_and_from_hyper() {
    let (engine, runtime) = (TestEngine::with(SCRIPT, "", "workers: 2"), runtime());
    let mut client = runtime.block_on(engine.connect());
    let id = runtime.block_on(client.ask("id"));
    let host = select(vec!["localhost", "127.0.0.1:6789", "[::1]", "example.com", "a b", ""]);
    let path = select(vec!["publish", "publish", "send", "publish?x=1", "unknown"]);
    proptest!(cases(96), |(path in path, host in host, headers in headers(), body in params())| {
        let (body, length) = (body.replace("CLIENT", &id), body.replace("CLIENT", &id).len());
        let request =
            format!("POST /v1/mesh/{path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        runtime.block_on(async {
            let answer = async |before: bool| {
                let mut caller = Raw::dial(engine.at.api).await;
                if before {
                    caller.call("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                }
                caller.write(&request).await;
                let mut reply = caller.reply().await;
                if reply.status == 100 {
                    reply = caller.reply().await;
                }
                let mut head: Vec<String> = reply.head.lines().map(str::to_ascii_lowercase).collect();
                head.retain(|line| !line.starts_with("date:"));
                head.sort();
                (head, reply.body)
            };
            // One after the other, so that what has an id is done once by the first.
            let first = answer(false).await;
            assert_eq!(first, answer(true).await, "{request}");
        });
    });
    no_panic();
}

/// Requests of the WebSocket API, most of them nearly right, each with its index as request id.
fn requests() -> impl Strategy<Value = Vec<String>> {
    let methods = vec!["mesh.publish", "mesh.send", "queue.pop", "queue.unpop", "queue.ack", "conn.call"];
    let method = prop_oneof![12 => select(methods).prop_map(|m| format!("\"{m}\"")), 1 => value()];
    vec((method, params()), 1..30).prop_map(|calls| {
        let call = |(i, (m, p)): (usize, (String, String))| object(&[("m", m), ("p", p), ("i", i.to_string())]);
        calls.into_iter().enumerate().map(call).collect()
    })
}

#[test]
fn any_requests_over_the_websocket_api_are_answered_in_order() {
    let (engine, runtime) = (TestEngine::with(SCRIPT, "", "workers: 2"), runtime());
    proptest!(cases(48), |(requests in requests())| {
        runtime.block_on(async {
            let mut client = engine.connect().await;
            let id = client.ask("id").await;
            let mut api = Raw::dial(engine.at.api).await;
            api.write(raw::upgrade().replace("/ws", "/ws/v1")).await;
            assert_eq!(api.head().await.status, 101);
            let requests: Vec<String> = requests.iter().map(|text| text.replace("CLIENT", &id)).collect();
            let frames: Vec<u8> = requests.iter().flat_map(|text| raw::text(text)).collect();
            api.write(frames).await;
            for (i, text) in requests.iter().enumerate() {
                let answer: Value = serde_json::from_str(&api.text().await).unwrap();
                assert!(answer.as_object().unwrap().contains_key("E"), "{answer} to {text}");
                assert!(answer["E"].is_null() || answer["E"]["m"].as_str().is_some_and(|m| !m.is_empty()), "{answer}");
                // An answer about a request that is not JSON has no request id.
                if serde_json::from_str::<Value>(text).is_ok() {
                    assert_eq!(answer["i"], i, "{answer} to {text}");
                }
            }
            assert_eq!(api.ask("ping").await, "pong");
        });
    });
    no_panic();
}

/// A frame as it should be, or with another opcode, reserved bits, no mask, or a length that lies.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => params().prop_map(|p| format!("{{\"m\":\"mesh.publish\",\"p\":{p}}}").into_bytes()),
        2 => vec(any::<u8>(), 0..140),
        1 => (any::<u16>(), vec(any::<u8>(), 0..130))
            .prop_map(|(code, reason)| [&code.to_be_bytes()[..], &reason].concat()),
        1 => Just(b"ping".to_vec()),
    ];
    let first = prop_oneof![6 => Just(raw::FIN | TEXT), 2 => select(vec![0x01, 0x00, 0x80, 0x82, 0x88, 0x89, 0x8A]), 1 => any::<u8>()];
    let frame = (first, payload).prop_map(|(first, payload)| raw::frame(first, &payload));
    let lengths = select(vec![
        vec![0x81, 0xFE, 0, 1],
        vec![0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0],
        vec![0x89, 0xFE, 0, 126],
    ]);
    prop_oneof![12 => damaged(frame), 1 => lengths]
}

#[test]
fn no_frames_harm_the_websocket_api() {
    let (engine, runtime) = (TestEngine::with(SCRIPT, "", "workers: 2"), runtime());
    let other = Mutex::new(runtime.block_on(Client::connect(engine.at.api, "/ws/v1")));
    proptest!(cases(64), |(frames in vec(frames(), 1..12), pieces in any::<bool>())| {
        runtime.block_on(async {
            let mut api = Raw::dial(engine.at.api).await;
            api.write(raw::upgrade().replace("/ws", "/ws/v1")).await;
            assert_eq!(api.head().await.status, 101);
            if pieces {
                for frame in &frames {
                    api.write_into_the_dark(frame).await;
                }
            } else {
                api.write_into_the_dark(frames.concat()).await;
            }
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut api.stream).await;
            while let Some((opcode, payload)) = api.frame().await {
                match opcode {
                    TEXT if payload == b"pong" => {}
                    TEXT => drop(serde_json::from_slice::<Value>(&payload).unwrap()),
                    CLOSE if payload.is_empty() => {}
                    CLOSE => assert!(matches!(u16::from_be_bytes([payload[0], payload[1]]), 1000..5000)),
                    raw::PONG => assert!(payload.len() <= 125),
                    other => panic!("a frame {other}"),
                }
            }
            assert_eq!(other.lock().await.ask("ping").await, "pong");
        });
    });
    no_panic();
}

/// Packets are a length of two digits and then that many bytes; answered in the same form. Some lengths make the script
/// ask its buffer for more than it can give.
const COUNTED: &str = r#"
function protocol_input(buf)
  local digits = buf:read(2)
  if not digits then return 0 end
  local n = tonumber(digits)
  if not n then
    buf:read(tonumber(buf:tostring():match("%-?%d+")) or 0)
    buf:find("\0", buf:position()) buf:find("x", -1) buf:find("")
    return buf:length() % 7 - 1
  end
  return n + 2
end
function protocol_decode(package) return package:sub(3) end
function protocol_encode(data) return string.format("%02d", #data) .. data end
function on_message(msg, conn) conn:send(protocol_encode(msg)) end
"#;

const MODULES: [&str; 3] = ["text", "jsonrpc", "websocket"];

/// An engine with a server for [`COUNTED`] and one for each shipped protocol.
fn sockets() -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    let (lua, shipped) = (dir.path().join("lua"), Path::new(env!("CARGO_MANIFEST_DIR")).join("lua"));
    fs::create_dir_all(lua.join("protocols")).unwrap();
    let modules = MODULES.map(|module| format!("protocols/{module}.lua"));
    for name in modules.iter().map(String::as_str).chain(["entry.socket.lua"]) {
        fs::copy(shipped.join(name), lua.join(name)).unwrap();
    }
    fs::write(lua.join("counted.lua"), COUNTED).unwrap();
    let server = |entry: &str, module: &str| {
        format!(
            "    - {{port: 0, bind: 127.0.0.1, protocol: socket, maxMessageSize: 64KiB, entry: lua/{entry}.lua, \
             options: [{{name: module, value: {module}}}, {{name: path, value: /ws}}]}}\n"
        )
    };
    let mut servers = server("counted", "none");
    MODULES.iter().for_each(|module| servers += &server("entry.socket", module));
    let text = format!(
        "logging: {{filename: ''}}\ncenter: {{apiServer: {{port: 0, bind: 127.0.0.1}}}}\nengine:\n  workers: 2\n  \
         apiServer: {{port: 0, bind: 127.0.0.1}}\n  servers:\n{servers}"
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    TestEngine::start(dir)
}

/// Whole packets of any of the protocols.
fn packages() -> impl Strategy<Value = Vec<u8>> {
    let counted = vec(any::<u8>(), 0..99).prop_map(|data| [format!("{:02}", data.len()).as_bytes(), &data].concat());
    let line = "(subscribe|unsubscribe|[a-z]{0,5}) .{0,9}\r?\n".prop_map(String::into_bytes);
    let rpc = (select(vec!["echo", "subscribe", "unsubscribe", "none"]), value(), value()).prop_map(|(m, p, id)| {
        format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{m}\",\"params\":{p},\"id\":{id}}}\n").into_bytes()
    });
    let batch = vec(value(), 0..4).prop_map(|items| format!("[{}]\n", items.join(",")).into_bytes());
    let upgrade = Just(raw::upgrade().into_bytes());
    prop_oneof![2 => counted, 2 => line, 2 => rpc, 1 => batch, 2 => upgrade, 3 => frames(), 1 => vec(any::<u8>(), 0..300)]
}

#[test]
fn no_bytes_harm_a_socket_server() {
    let (engine, runtime) = (sockets(), runtime());
    let dial = |at: usize| Raw::dial(engine.at.servers[at]);
    let others = async { [dial(0).await, dial(1).await, dial(2).await] };
    let others = Mutex::new(runtime.block_on(others));
    let rpc = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}"#.to_owned() + "\n";
    let questions = ["05\0\r x\n", "hello\n", &rpc];
    let input = vec(damaged(packages()), 1..10);
    proptest!(cases(64), |(packages in input, upgraded in any::<bool>(), cuts in vec(any::<Index>(), 0..4))| {
        runtime.block_on(async {
            for (at, addr) in engine.at.servers.iter().enumerate() {
                let mut bytes = packages.concat();
                if upgraded && at == 3 {
                    bytes = [raw::upgrade().as_bytes(), &bytes].concat();
                }
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                let mut raw = Raw::dial(*addr).await;
                for piece in cuts.windows(2) {
                    raw.write_into_the_dark(&bytes[piece[0]..piece[1]]).await;
                }
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await;
                raw.rest().await;
            }
            for (other, question) in others.lock().await.iter_mut().zip(questions) {
                other.write(question).await;
                let mut answer = Vec::new();
                while answer.last() != Some(&b'\n') {
                    answer.extend(other.take(1).await);
                }
                match question.starts_with('{') {
                    // Fields come in any order.
                    true => assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["result"][0], 1),
                    false => assert_eq!(answer, question.as_bytes()),
                }
            }
        });
    });
    no_panic();
}

#[test]
fn packages_come_back_however_they_are_cut() {
    let (engine, runtime) = (sockets(), runtime());
    let packages = vec(vec(any::<u8>(), 0..99), 1..20);
    proptest!(cases(48), |(packages in packages, cuts in vec(any::<Index>(), 0..20))| {
        runtime.block_on(async {
            let counted = |data: &Vec<u8>| [format!("{:02}", data.len()).as_bytes(), data].concat();
            let bytes: Vec<u8> = packages.iter().flat_map(counted).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut raw = Raw::dial(engine.at.servers[0]).await;
            for piece in cuts.windows(2) {
                raw.write(&bytes[piece[0]..piece[1]]).await;
            }
            assert_eq!(raw.take(bytes.len()).await, bytes);
        });
    });
    no_panic();
}
