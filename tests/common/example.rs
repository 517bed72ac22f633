//! An example of `docs/examples`, run by the real program from a copy of its folder, on free ports.

use super::process::{Process, address};
use super::{Client, post};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The folder of the examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples")
}

/// An example that runs, from a copy of its folder.
pub struct Example {
    dir: TempDir,
    pub process: Process,
}

impl Example {
    pub fn start(name: &str) -> Example {
        Example::start_with(name, &[])
    }

    /// With changes to its configuration.
    pub fn start_with(name: &str, changes: &[(&str, &str)]) -> Example {
        let dir = tempfile::tempdir().unwrap();
        copy(&examples().join(name), dir.path());
        let file = dir.path().join("connmix.yaml");
        for port in ["6787", "6789", "6790", "6791"] {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace(&format!("port: {port}"), "port: 0")).unwrap();
        }
        for (from, to) in changes {
            replace(&file, from, to);
        }
        let process = Process::ready(dir.path(), &["dev", "-f", file.to_str().unwrap()]);
        Example { dir, process }
    }

    /// The address of its n-th server.
    pub fn server(&self, n: usize) -> SocketAddr {
        let lines = self.process.lines();
        let label = "serving clients on ";
        address(lines.iter().filter(|line| line.contains(label)).nth(n).unwrap(), label)
    }

    /// Publishes and expects that so many connections are reached, and that none fails.
    pub async fn publish(&self, channel: &str, data: &str, reached: u64) {
        let body = json!({"c": channel, "d": data}).to_string();
        let (status, reply) = post(self.process.api(), "/v1/mesh/publish", &body).await;
        let want = format!(r#"{{"E":null,"r":{{"s":{reached},"f":0}}}}"#);
        assert_eq!((status, reply), (200, want), "publish to {channel}");
    }

    /// Changes a script, and waits until it is live.
    pub fn change(&self, script: &str, from: &str, to: &str) {
        let lines = self.process.lines().len();
        replace(&self.dir.path().join(script), from, to);
        let line = self.process.line_after(lines, "reloaded");
        assert!(line.contains(script) && !line.contains("not reloaded"), "{line}");
    }

    /// Stops it; nothing may have gone wrong in its scripts.
    pub fn stop(self) {
        let ended = self.process.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.out.contains("ERROR"), "{}", ended.out);
    }
}

/// Copies a folder; what it links to becomes a part of it.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from:?} in {}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
}

impl Client {
    /// The next message, which is JSON.
    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// What comes next once that was sent.
    pub async fn ask_json(&mut self, question: Value) -> Value {
        self.send(&question.to_string()).await;
        self.json().await
    }
}
