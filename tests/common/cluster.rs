//! Several engines in one process as one mesh, and what their tests say to them.

use super::{Client, TestEngine, eventually, get, post, write_config};
use connmix::cluster::bus::memory::Network;
use connmix::cluster::protocol::Run;
use connmix::config::NodeRole;
use connmix::engine::Link;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What clients ask for: a word and what follows it.
pub const SCRIPT: &str = r#"
function on_close(client_id, err, conn)
  mix.sleep(tonumber(conn:context_value("linger") or 0))
end
function on_message(msg, conn)
  local word, rest = msg.data:match("^(%S+) ?(.*)$")
  if word == "linger" then
    conn:set_context_value("linger", rest)
    conn:send("lingers")
  elseif word == "id" then
    conn:send(conn:client_id())
  elseif word == "join" then
    conn:send(conn:subscribe(rest) or "joined " .. rest)
  elseif word == "since" then
    local channel, position = rest:match("^(%S+) (.*)$")
    local err, at = conn:subscribe(channel, {since = position ~= "" and position or nil, last = 100})
    conn:send("at " .. (err or at.position .. " " .. tostring(at.recovered) .. " " .. at.count))
  elseif word == "leave" then
    conn:send(conn:unsubscribe(rest) or "left " .. rest)
  elseif word == "publish" then
    local channel, data = rest:match("^(%S+) (.*)$")
    local reached, failed, err, unanswered = mix.mesh.publish(channel, data)
    conn:send("published " .. reached .. " " .. failed .. (unanswered and " " .. unanswered or ""))
  elseif word == "send" then
    local id, data = rest:match("^(%S+) (.*)$")
    conn:send(mix.mesh.send(id, data) or "sent")
  elseif word == "context" then
    conn:send(mix.json_encode(conn:context_value(rest)))
  elseif word == "push" then
    local topic, data = rest:match("^(%S+) (.*)$")
    local n, err = mix.queue.push(topic, data)
    conn:send(err or "pushed")
  elseif word == "channels" then
    local channels = conn:channels()
    table.sort(channels)
    conn:send("in " .. table.concat(channels, ","))
  else
    conn:send("echo " .. msg.data)
  end
end
"#;

/// A center and engines, linked within this process.
pub struct Nodes {
    pub network: Arc<Network>,
    pub center: TestEngine,
    pub engines: Vec<TestEngine>,
    /// Lines under `cluster:` and such.
    top: String,
}

/// A network whose nodes say hello five times a second, and so join in a quarter of a second.
pub fn network() -> Arc<Network> {
    Arc::new(Network::with_hello(200))
}

pub const ENGINE: NodeRole = NodeRole { engine: true, center: false };
pub const CENTER: NodeRole = NodeRole { engine: false, center: true };

/// A node on that network. It may not serve yet.
pub fn node(network: &Arc<Network>, role: NodeRole, top: &str) -> TestEngine {
    node_with(network, role, "workers: 2", top)
}

/// The same with these lines under `engine:`.
pub fn node_with(network: &Arc<Network>, role: NodeRole, engine: &str, top: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "eventStream: on", engine, top);
    let engine = TestEngine::try_start_on(Link::Memory(network.clone()), dir, |config| {
        *config = config.clone().for_role(role);
        for listen in [&mut config.registry, &mut config.mesh_point] {
            listen.addr = SocketAddr::from(([127, 0, 0, 1], 0));
        }
    });
    engine.unwrap_or_else(|e| panic!("{e}"))
}

impl Nodes {
    /// So many engines that serve, and a center.
    pub async fn start(engines: usize) -> Nodes {
        Nodes::with(engines, "cluster: {secret: s3cret}").await
    }

    pub async fn with(engines: usize, top: &str) -> Nodes {
        Nodes::with_engine(engines, "workers: 2", top).await
    }

    /// The same with these lines under `engine:`.
    pub async fn with_engine(engines: usize, engine: &str, top: &str) -> Nodes {
        let network = network();
        let mut nodes =
            Nodes { center: node(&network, CENTER, top), engines: Vec::new(), network, top: top.to_owned() };
        nodes.engines.extend((0..engines).map(|_| node_with(&nodes.network, ENGINE, engine, top)));
        nodes.settled().await;
        nodes
    }

    /// One more, which may not serve yet.
    pub fn more(&self, role: NodeRole) -> TestEngine {
        node(&self.network, role, &self.top)
    }

    /// All serve, and the center knows them.
    pub async fn settled(&self) {
        for engine in &self.engines {
            ready(engine.at.api).await;
        }
        listed(self.center.at.center, &self.engines.iter().map(|engine| engine.at.api).collect::<Vec<_>>()).await;
    }

    /// How the network knows an engine.
    pub async fn run(&self, engine: usize) -> Run {
        let api = self.engines[engine].at.api.to_string();
        let nodes = nodes(self.center.at.center).await;
        let node = nodes.iter().find(|node| node["api_server"] == json!(api)).unwrap();
        Run(node["id"].as_str().unwrap().parse().unwrap())
    }
}

/// Waits until a node serves.
pub async fn ready(api: SocketAddr) {
    eventually("ready", async || (get(api, "/readyz").await.0 == 200).then_some(())).await;
}

/// `/v1/nodes` of a center.
pub async fn nodes(center: SocketAddr) -> Vec<Value> {
    let (status, body) = get(center, "/v1/nodes").await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    body["nodes"].as_array().unwrap().clone()
}

/// Waits until a center lists just these engines.
pub async fn listed(center: SocketAddr, engines: &[SocketAddr]) {
    let mut want: Vec<String> = engines.iter().map(ToString::to_string).collect();
    want.sort();
    let mut seen = Vec::new();
    let waiting = async || {
        seen = nodes(center).await.iter().map(|node| node["api_server"].as_str().unwrap().to_owned()).collect();
        seen.sort();
        (seen == want).then_some(())
    };
    eventually("the center lists the engines", waiting).await;
}

/// A publish over HTTP: its `r`.
pub async fn publish(api: SocketAddr, channel: &str, data: &str) -> Value {
    let (status, reply) = post(api, "/v1/mesh/publish", &json!({"c": channel, "d": data}).to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap()["r"].take()
}

/// Waits until a publish has just these counts. What did not have them was published, too.
pub async fn publish_until(api: SocketAddr, channel: &str, data: &str, counts: Value) {
    let what = format!("a publish to {channel} gives {counts}");
    eventually(&what, async || (publish(api, channel, data).await == counts).then_some(())).await;
}

/// What a publish answers when all is well.
pub fn reached(n: usize) -> Value {
    json!({"s": n, "f": 0})
}

/// A request on `/ws/v1`: the whole reply.
pub async fn call(back_end: &mut Client, method: &str, params: Value) -> Value {
    serde_json::from_str(&back_end.ask(&json!({"m": method, "p": params, "i": 1}).to_string()).await).unwrap()
}

pub async fn back_end(api: SocketAddr) -> Client {
    Client::connect(api, "/ws/v1").await
}

/// A client in a channel.
pub async fn member(servers: SocketAddr, channel: &str) -> Client {
    let mut client = Client::connect(servers, "/ws").await;
    join(&mut client, channel).await;
    client
}

/// Its answer may come behind what was published before.
pub async fn join(client: &mut Client, channel: &str) {
    client.send(&format!("join {channel}")).await;
    read_to(client, &format!("joined {channel}")).await;
}

/// The same for leaving.
pub async fn leave(client: &mut Client, channel: &str) {
    client.send(&format!("leave {channel}")).await;
    read_to(client, &format!("left {channel}")).await;
}

/// Reads up to that text.
pub async fn read_to(client: &mut Client, text: &str) {
    while client.text().await != text {}
}

pub async fn id(client: &mut Client) -> String {
    client.ask("id").await
}

/// `cluster.replyTimeout` unless it is configured, and something for a busy machine.
pub const ANSWERS_IN: Duration = Duration::from_secs(3);
