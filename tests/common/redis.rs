//! A Redis that a test starts.

use super::PATIENCE;
use super::ports::free_port;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A Redis of the test's own, with nothing in it and nothing on disk; killed when dropped.
pub struct Redis {
    child: Child,
    pub port: u16,
    dir: TempDir,
    args: Vec<String>,
}

impl Redis {
    pub fn start(args: &[&str]) -> Redis {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let mut redis = Redis { child: Redis::spawn(port, &dir, &args), port, dir, args };
        redis.wait();
        redis
    }

    fn spawn(port: u16, dir: &TempDir, args: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(args)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (test.sh sees to it)")
    }

    /// Until it answers, with an error or not.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask("PING").is_none() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            assert!(self.child.try_wait().unwrap().is_none(), "redis-server has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One line to it, on a connection of its own, and what it answers at first.
    pub fn try_ask(&self, line: &str) -> Option<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{line}\r\n").as_bytes()).ok()?;
        let mut reply = [0; 16 * 1024];
        let n = stream.read(&mut reply).ok()?;
        (n > 0).then(|| String::from_utf8_lossy(&reply[..n]).trim_end().to_owned())
    }

    pub fn ask(&self, line: &str) -> String {
        self.try_ask(line).expect("an answer")
    }

    /// How many connections it has besides the one that asks.
    pub fn connections(&self) -> usize {
        self.ask("CLIENT LIST").matches(" addr=").count() - 1
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Redis::spawn(self.port, &self.dir, &self.args);
        self.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
