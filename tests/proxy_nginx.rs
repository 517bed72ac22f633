//! A real proxy, nginx: with its stream module and the PROXY protocol, in front of servers of both protocols; and with HTTP, in
//! front of one with event streams.

mod common;

use common::optional::{Missing, Outcome, need};
use common::ports::free_addr;
use common::process::Process;
use common::raw::Raw;
use common::tls::Authority;
use common::{Client, PATIENCE, TestEngine, eventually};
use futures_util::{SinkExt, StreamExt};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Where systems put the module, which may be built in as well.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];

/// An nginx that passes what comes to one port on to an engine, with a header in front.
fn nginx(dir: &Path, from: SocketAddr, to: SocketAddr) -> Result<Process, Missing> {
    let module = MODULES.iter().find(|module| Path::new(module).exists());
    let module = module.ok_or_else(|| Missing::because("nginx has no stream module here"))?;
    let config = format!(
        "load_module {module};\nstream {{ server {{ listen {from}; proxy_pass {to}; proxy_protocol on; }} }}\n"
    );
    Ok(serve(dir, &config))
}

/// An nginx with these parts of a configuration.
fn serve(dir: &Path, parts: &str) -> Process {
    let config = "pid nginx.pid;\nerror_log stderr;\ndaemon off;\n";
    let config = format!("{parts}{config}events {{}}\n");
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).args(["-c", "nginx.conf", "-e", "stderr"]).stdin(Stdio::null());
    Process::of(command)
}

async fn clients_behind_nginx_have_their_own_addresses() -> Outcome {
    need("nginx", &["-v"])?;
    let who = "function on_message(msg, conn) conn:send(conn:remote_addr()) end";
    let socket = format!(
        "function protocol_input(buf) return buf:length() end function protocol_decode(data) return data end
         function protocol_encode(data) return data end {who}"
    );
    const TRUSTED: &str = "trustedProxies: [127.0.0.1]";
    for script in [who, &socket] {
        let engine = match script == who {
            true => TestEngine::with_top(script, "proxyProtocol: v1v2", "workers: 2", TRUSTED),
            false => TestEngine::socket(script, "proxyProtocol: v1v2", TRUSTED),
        };
        let (dir, door) = (tempfile::tempdir().unwrap(), free_addr());
        let nginx = nginx(dir.path(), door, engine.ws())?;
        eventually("nginx serves", async || tokio::net::TcpStream::connect(door).await.ok()).await;
        if script == who {
            let mut client = Client::connect(door, "/ws").await;
            let own = client.0.get_ref().local_addr().unwrap().to_string();
            assert_eq!(client.ask("who").await, own);
        } else {
            let mut raw = Raw::dial_from("127.0.0.5".parse().unwrap(), door).await;
            let own = raw.stream.local_addr().unwrap().to_string();
            raw.write("who").await;
            assert_eq!(raw.take(own.len()).await, own.as_bytes());
        }
        // Its workers end with it, which they do not if it is killed.
        drop(nginx.stop());
    }
    Ok(())
}

/// By the configuration that docs/event-stream.md shows, and by nginx's defaults, HTTP/1.0 among them.
async fn event_streams_pass_through_nginx_as_they_come_and_so_does_what_is_sent() -> Outcome {
    need("nginx", &["-v"])?;
    let script = "function on_handshake(_, _, server, conn) conn:subscribe('news') end
                  function on_message(msg, conn) conn:send(conn:remote_addr():match('^[%d.]+') .. ' said ' .. msg.data) end";
    let engine = TestEngine::with_top(script, "eventStream: on", "workers: 2", "trustedProxies: [127.0.0.1]");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/event-stream.md")).unwrap();
    let documented = page.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
    let documented = documented.replace("127.0.0.1:6790", &engine.ws().to_string()).replace("/barrage-videos", "/ws");
    let (door, plain, dir) = (free_addr(), free_addr(), tempfile::tempdir().unwrap());
    let documented = documented.replace("server {\n  location", &format!("server {{\n  listen {door};\n  location"));
    let default = format!("server {{ listen {plain}; location / {{ proxy_pass http://{}; }} }}", engine.ws());
    let paths = "access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;";
    let nginx = serve(dir.path(), &format!("http {{\n{paths}\n{documented}\n{default}\n}}\n"));
    for (at, address) in [(door, "127.0.0.5"), (plain, "127.0.0.1")] {
        eventually("nginx serves", async || tokio::net::TcpStream::connect(at).await.ok()).await;
        let mut raw = Raw::dial_from("127.0.0.5".parse().unwrap(), at).await;
        raw.write("GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
        let head = raw.head().await;
        assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")), "{head:?}");
        // In chunks where nginx speaks HTTP/1.1 to the client: its events are found between them.
        let mut got = String::new();
        let mut until = async |raw: &mut Raw, part: &str| {
            while !got.contains(part) {
                got.push_str(std::str::from_utf8(&raw.take(1).await).unwrap());
            }
            got.clone()
        };
        let got = until(&mut raw, "}\n\n").await;
        let word =
            |name: &str| got.split(&format!("\"{name}\":\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
        let (client, token) = (word("client"), word("token"));
        let mut posts = Raw::dial_from("127.0.0.6".parse().unwrap(), at).await;
        for text in ["one", "two"] {
            let request = format!(
                "POST /ws HTTP/1.1\r\nHost: localhost\r\nConnmix-Client: {client}\r\nConnmix-Token: {token}\r\n\
                 Content-Length: {}\r\n\r\n{text}",
                text.len()
            );
            let reply = posts.call(request).await;
            assert_eq!(reply.status, 204, "{reply:?}");
            until(&mut raw, &format!("data: {address} said {text}\n\n")).await;
        }
        engine.publish_to("news", "fresh", 1).await;
        until(&mut raw, "data: fresh\n\n").await;
        // A WebSocket passes by the same way.
        if at == door {
            assert_eq!(Client::connect(at, "/ws").await.ask("hi").await, "127.0.0.1 said hi");
        }
        // nginx ends its connection when the client has.
        drop(raw);
        let gone = async || (engine.publish("news", "anybody?").await["r"]["s"] == 0).then_some(());
        eventually("the client is gone", gone).await;
    }
    drop(nginx.stop());
    Ok(())
}

/// By the configuration that docs/operations.md shows: TLS ends at nginx, and clients have their own addresses.
async fn nginx_ends_tls_as_operations_shows_it() -> Outcome {
    need("nginx", &["-v"])?;
    let script = "function on_handshake(_, _, server, conn) conn:subscribe('news') end
                  function on_message(msg, conn) conn:send(conn:remote_addr():match('^[%d.]+')) end";
    let engine = TestEngine::with_top(script, "", "workers: 2", "trustedProxies: [127.0.0.1]");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    assert!(page.contains("```yaml\ntrustedProxies: [127.0.0.1]\n```"));
    let (door, dir, authority) = (free_addr(), tempfile::tempdir().unwrap(), Authority::new());
    authority.issue(dir.path(), "push", &["push.example.com"]);
    let mut documented = page.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    for (shown, here) in [
        ("server 127.0.0.1:6790", format!("server {}", engine.ws())),
        ("listen 443", format!("listen {door}")),
        ("/etc/ssl/push.example.com.pem", dir.path().join("push.pem").display().to_string()),
        ("/etc/ssl/push.example.com.key", dir.path().join("push.key").display().to_string()),
    ] {
        assert!(documented.contains(shown), "{shown}");
        documented = documented.replacen(shown, &here, 1);
    }
    let paths = "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; \
                 scgi_temp_path scgi;";
    let nginx = serve(dir.path(), &format!("http {{\naccess_log off; {paths}\n{documented}\n}}\n"));
    eventually("nginx serves", async || tokio::net::TcpStream::connect(door).await.ok()).await;
    let mut client = authority.trusted().websocket(door, "push.example.com").await;
    client.send(Message::text("who")).await.unwrap();
    let answer = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, Message::text("127.0.0.1"));
    engine.publish_to("news", "Hello", 1).await;
    let news = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(news, Message::text("Hello"));
    drop(client);
    drop(nginx.stop());
    Ok(())
}

optional_tests! {
    nginx_ends_tls_as_operations_shows_it,
    clients_behind_nginx_have_their_own_addresses,
    event_streams_pass_through_nginx_as_they_come_and_so_does_what_is_sent,
}
