//! The PROXY protocol with a real proxy: nginx with its stream module, in front of servers of both protocols.

mod common;

use common::optional::{Missing, Outcome, need};
use common::ports::free_addr;
use common::process::Process;
use common::raw::Raw;
use common::{Client, TestEngine, eventually};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where systems put the module, which may be built in as well.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];

/// An nginx that passes what comes to one port on to an engine, with a header in front.
fn nginx(dir: &Path, from: SocketAddr, to: SocketAddr) -> Result<Process, Missing> {
    let module = MODULES.iter().find(|module| Path::new(module).exists());
    let module = module.ok_or_else(|| Missing::because("nginx has no stream module here"))?;
    let config = format!(
        "load_module {module};\npid nginx.pid;\nerror_log stderr;\ndaemon off;\nevents {{}}\n\
         stream {{ server {{ listen {from}; proxy_pass {to}; proxy_protocol on; }} }}\n"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).args(["-c", "nginx.conf", "-e", "stderr"]).stdin(Stdio::null());
    Ok(Process::of(command))
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

optional_tests!(clients_behind_nginx_have_their_own_addresses);
