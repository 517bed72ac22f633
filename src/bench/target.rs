//! The target of a measurement: a server somewhere, or an engine started for the purpose.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::Common;
use crate::dial::stream::{Tls, Trust};

/// The handler that a started engine runs: the shipped one.
const SCRIPT: &str = include_str!("../../lua/entry.websocket.lua");
/// Where an engine is published to.
const PUBLISH: &str = "/v1/mesh/publish";
/// How long a started engine may take to serve.
const START: Duration = Duration::from_secs(10);

/// A server to be measured.
pub(super) struct Target {
    /// Where its clients connect.
    pub ws: SocketAddr,
    /// The path they ask for; `{c}` stands for the channel's number.
    pub path: String,
    /// Where it is published to.
    pub api: SocketAddr,
    /// The path that is published to, with `{c}` too.
    pub publish: String,
    /// TLS with its clients and of what is published, where the URLs say so.
    pub ws_tls: Option<Tls>,
    pub api_tls: Option<Tls>,
    /// Its process, if it was started here.
    pub pid: Option<u32>,
    _engine: Option<Started>,
}

impl Target {
    pub(super) fn open(common: &Common) -> Result<Target, String> {
        match &common.url {
            Some(url) => {
                let (ws, path, ws_tls) = split(url, ["ws://", "wss://"], &common.trust)?;
                let (api, publish, api_tls) = match &common.publish {
                    Some(publish) => split(publish, ["http://", "https://"], &common.trust)?,
                    None => (SocketAddr::new(ws.ip(), 6789), PUBLISH.into(), None),
                };
                Ok(Target { ws, path, api, publish, ws_tls, api_tls, pid: None, _engine: None })
            }
            None => Started::launch(common.workers, common.server_cpu),
        }
    }
}

/// `ws://host:port/path` -> address, path, and TLS if it is the second scheme.
fn split(url: &str, [plain, tls]: [&str; 2], trust: &Trust) -> Result<(SocketAddr, String, Option<Tls>), String> {
    let (rest, scheme) = match (url.strip_prefix(plain), url.strip_prefix(tls)) {
        (Some(rest), _) => (rest, plain),
        (None, Some(rest)) => (rest, tls),
        (None, None) => return Err(format!("{url}: expected {plain}HOST:PORT or {tls}HOST:PORT")),
    };
    let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let addr = host
        .to_socket_addrs()
        .map_err(|e| format!("{url}: {e} (expected {scheme}HOST:PORT)"))?
        .next()
        .ok_or_else(|| format!("{url}: {host} has no address"))?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let tls = if scheme == tls { Some(Tls::of(trust, name)?) } else { None };
    Ok((addr, path.to_owned(), tls))
}

/// An engine in a process of its own; it ends with this value.
struct Started {
    process: Child,
    folder: PathBuf,
}

impl Started {
    fn launch(workers: u16, cpu: Option<usize>) -> Result<Target, String> {
        let failed = |what: &str, e: std::io::Error| format!("{what}: {e}");
        let folder = std::env::temp_dir().join(format!("connmix-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| failed("the engine's folder", e))?;
        let ports = free_ports().map_err(|e| failed("free ports", e))?;
        let config = write_files(&folder, ports).map_err(|e| failed("the engine's files", e))?;
        let program = std::env::current_exe().map_err(|e| failed("this program's path", e))?;
        let mut command = Command::new(program);
        command.arg("single").arg("-f").arg(&config).arg("-p").arg(workers.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        if let Some(cpu) = cpu {
            use std::os::unix::process::CommandExt;
            let bind = move || bind_to(cpu).map_err(std::io::Error::other);
            // SAFETY: between fork and exec it makes one system call, which allocates nothing and takes no lock.
            unsafe { command.pre_exec(bind) };
        }
        let process = command.spawn().map_err(|e| failed("the engine", e))?;
        let pid = process.id();
        let engine = Started { process, folder };
        let [ws, api, _] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let deadline = Instant::now() + START;
        while std::net::TcpStream::connect(ws).is_err() {
            if Instant::now() > deadline {
                return Err("the engine that was started for the measurement does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Target {
            ws,
            path: "/bench".into(),
            api,
            publish: PUBLISH.into(),
            ws_tls: None,
            api_tls: None,
            pid: Some(pid),
            _engine: Some(engine),
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_ports() -> std::io::Result<[u16; 3]> {
    let mut held = Vec::new();
    let mut ports = [0; 3];
    for port in &mut ports {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        // Kept until all are chosen, so that they differ.
        held.push(listener);
    }
    Ok(ports)
}

fn write_files(folder: &Path, [ws, api, center]: [u16; 3]) -> std::io::Result<PathBuf> {
    std::fs::write(folder.join("entry.lua"), SCRIPT)?;
    let config = folder.join("connmix.yaml");
    let text = format!(
        "logging: {{filename: '', level: error}}\n\
         center: {{apiServer: {{port: {center}, bind: 127.0.0.1}}}}\n\
         engine:\n\
         \x20 apiServer: {{port: {api}, bind: 127.0.0.1}}\n\
         \x20 servers:\n\
         \x20   - port: {ws}\n\
         \x20     bind: 127.0.0.1\n\
         \x20     options: [{{name: path, value: /bench}}]\n\
         \x20     entry: entry.lua\n"
    );
    std::fs::write(&config, text)?;
    Ok(config)
}

/// Binds this thread (and the threads it starts) to one core.
pub(super) fn bind_to(cpu: usize) -> Result<(), String> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(format!("there is no core {cpu}"));
    }
    // SAFETY: plain bits, of which all zeroes are a set. The core is within it, and its size is told.
    let bound = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    };
    if bound { Ok(()) } else { Err(format!("cannot use core {cpu}: {}", std::io::Error::last_os_error())) }
}
