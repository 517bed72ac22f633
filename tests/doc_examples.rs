//! Every example of the table in `docs/lua-api.md` does what the table says.

mod common;

use common::{Client, TestEngine};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Calls what it is given and shows what that returns, in the form of Lua's own literals.
const SHOW: &str = r##"
local function show(v)
  if type(v) == "string" then
    return v:find("'", 1, true) and '"' .. v .. '"' or "'" .. v .. "'"
  elseif type(v) == "number" then
    return (string.format("%.17g", v))
  elseif type(v) ~= "table" then
    return tostring(v)
  end
  local parts, keys = {}, {}
  for i, element in ipairs(v) do parts[i] = show(element) end
  for key in pairs(v) do
    if type(key) == "string" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do parts[#parts + 1] = key .. "=" .. show(v[key]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end
local function list(ok, ...)
  if not ok then return "error: " .. tostring((...)) end
  local words = {}
  for i = 1, select("#", ...) do words[i] = show((select(i, ...))) end
  return table.concat(words, ", ")
end
function try(code, ...)
  local f, err = loadstring("local conn, buf = ... " .. code, "@example.lua")
  return f and list(pcall(f, ...)) or err
end
"##;

/// A row of the table.
struct Row {
    functions: Vec<String>,
    example: String,
    gives: String,
}

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lua-api.md")).unwrap()
}

/// The rows below that heading.
fn rows(heading: &str) -> Vec<Row> {
    let page = page();
    let table = page.split(&format!("### {heading}\n")).nth(1).unwrap().split("\n### ").next().unwrap();
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.strip_prefix("| `")?.strip_suffix("` |")?;
        Some(inner.split("` | `").map(str::to_owned).collect())
    };
    let row = |cells: Vec<String>| {
        let [functions, example, gives] = <[String; 3]>::try_from(cells).unwrap();
        let names = functions.split('(').next().unwrap_or(&functions).split(", ").map(str::to_owned);
        Row { functions: names.collect(), example, gives }
    };
    table.lines().filter_map(cells).map(row).collect()
}

/// A back end that answers with the request that it got.
async fn backend() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
            let head = String::from_utf8_lossy(&head).into_owned();
            let body = format!("you asked for {}", head.split(' ').nth(1).unwrap_or_default());
            let reply = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = socket.write_all(reply.as_bytes()).await;
        }
    });
    addr
}

/// A Redis of its own; it ends with the test.
struct Redis(Child, u16);

impl Redis {
    fn start(dir: &Path) -> Redis {
        let port = common::ports::free_port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.current_dir(dir).stdout(Stdio::null()).spawn().expect("redis-server is installed");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Redis(child, port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn engine() -> (TestEngine, Redis) {
    let dir = tempfile::tempdir().unwrap();
    let redis = Redis::start(dir.path());
    let web = format!("{SHOW} function on_message(msg, conn) conn:send('= ' .. try(msg.data, conn)) end");
    // The code waits in the context, so that it finds the buffer as the client's bytes fill it.
    let socket = format!(
        "{SHOW}
         function protocol_input(buf)
           local conn = mix.socket.tcp()
           local code = conn:context_value('code')
           if not code then
             local at = buf:find('\\n')
             return at or 0
           end
           conn:send(try(code, conn, buf) .. '\\n')
           conn:close()
           return 0
         end
         function protocol_decode(line) return line end
         function protocol_encode(data) return data end
         function on_message(line, conn) conn:set_context_value('code', line) conn:send('ready\\n') end"
    );
    fs::write(dir.path().join("web.lua"), web).unwrap();
    fs::write(dir.path().join("socket.lua"), socket).unwrap();
    let text = format!(
        "logging: {{filename: ''}}\ncenter: {{apiServer: {{port: 0, bind: 127.0.0.1}}}}\nengine:\n  workers: 1\n  \
         apiServer: {{port: 0, bind: 127.0.0.1}}\n  luavm: {{redis: [{{name: default, addr: '127.0.0.1:{}'}}]}}\n  servers:\n    \
         - {{port: 0, bind: 127.0.0.1, entry: web.lua, options: [{{name: path, value: /ws}}, {{name: backend, value: 'http://{}/'}}]}}\n    \
         - {{port: 0, bind: 127.0.0.1, entry: socket.lua, protocol: socket}}\n",
        redis.1,
        backend().await
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    (TestEngine::start(dir), redis)
}

/// The answer, behind what an example itself has sent.
async fn answer(client: &mut Client) -> String {
    loop {
        match client.next().await {
            Ok(message) => {
                let data = message.into_data();
                if let Some(answer) = data.strip_prefix(b"= ") {
                    return String::from_utf8_lossy(answer).into_owned();
                }
            }
            Err(end) => return end,
        }
    }
}

#[tokio::test]
async fn every_example_gives_what_the_table_says() {
    let (engine, _redis) = engine().await;
    let mut wrong = Vec::new();
    for row in rows("On any server") {
        let mut client = Client::connect(engine.at.servers[0], "/ws").await;
        client.send(&row.example).await;
        let got = if row.functions[0] == "conn:close" {
            // Nothing can be sent after it.
            client.close_frame().await;
            row.gives.clone()
        } else {
            answer(&mut client).await
        };
        if got != row.gives {
            wrong.push(format!("{}\n  gave   {got}\n  wanted {}", row.example, row.gives));
        }
    }
    for row in rows("On socket servers") {
        let mut raw = common::raw::Raw::dial(engine.at.servers[1]).await;
        raw.write(format!("{}\n", row.example)).await;
        assert_eq!(raw.take(6).await, b"ready\n");
        raw.write("hello world").await;
        let got = String::from_utf8(raw.rest().await).unwrap();
        if got.trim_end() != row.gives {
            wrong.push(format!("{}\n  gave   {got}  wanted {}", row.example, row.gives));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_function_has_an_example() {
    let (engine, _redis) = engine().await;
    let mut client = Client::connect(engine.at.servers[0], "/ws").await;
    let list = "local names = {} for name, v in pairs(mix) do if type(v) == 'table' then for inner in pairs(v) do \
                names[#names + 1] = name .. '.' .. inner end else names[#names + 1] = name end end \
                return table.concat(names, ' ')";
    client.send(list).await;
    let names = answer(&mut client).await;
    let shown: BTreeSet<String> = ["On any server", "On socket servers"]
        .iter()
        .flat_map(|heading| rows(heading))
        .flat_map(|row| row.functions)
        .collect();
    let page = page();
    let methods = page.split("conn:").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
    let methods: BTreeSet<&str> =
        methods.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect();
    let wanted = names.trim_matches('\'').split(' ').map(|name| format!("mix.{name}"));
    let wanted = wanted.chain(methods.iter().map(|name| format!("conn:{name}")));
    let missing: Vec<String> = wanted.filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "no example of {missing:?}");
}
