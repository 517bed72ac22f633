//! The real program as a child process: what it prints, how it hears signals, how it ends.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Lines that a pipe has given so far, and whether it has ended.
#[derive(Default)]
struct Output {
    state: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Output {
    fn collect(pipe: impl Read + Send + 'static) -> Arc<Output> {
        let output = Arc::new(Output::default());
        let fill = output.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                fill.state.lock().unwrap().0.push(line);
                fill.more.notify_all();
            }
            fill.state.lock().unwrap().1 = true;
            fill.more.notify_all();
        });
        output
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&[String], bool) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = found(&state.0, state.1) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !state.1, "never printed: {what}; printed so far:\n{}", state.0.join("\n"));
            state = self.more.wait_timeout(state, left).unwrap().0;
        }
    }

    fn lines(&self) -> Vec<String> {
        self.state.lock().unwrap().0.clone()
    }
}

/// A running program, `connmix` if nothing else is said; killed when dropped.
pub struct Process {
    child: Child,
    out: Arc<Output>,
    err: Arc<Output>,
}

/// Has a program start with these signals blocked, as some programs that start others leave them.
pub fn block_signals(command: &mut Command, signals: &'static [i32]) {
    // SAFETY: the calls are async-signal-safe, as they must be between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut blocked);
            for signal in signals {
                libc::sigaddset(&mut blocked, *signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, std::ptr::null_mut()) {
                0 => Ok(()),
                error => Err(std::io::Error::from_raw_os_error(error)),
            }
        });
    }
}

/// Has a program start with this limit (`setrlimit(2)`): the one in force, and the most that it may be raised to.
pub fn limit(command: &mut Command, resource: u32, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: setrlimit may be called between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(resource, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// How a process ended, and all it printed.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Process {
    /// Starts `connmix ARGS` in a folder.
    pub fn start(dir: &Path, args: &[&str]) -> Process {
        Process::start_with(dir, args, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_with(dir: &Path, args: &[&str], env: &[(&str, &Path)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
        command.args(args).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null());
        Process::of(command)
    }

    /// Starts another program. It speaks English, wherever the tests run, unless it is told a locale.
    pub fn of(mut command: Command) -> Process {
        if command.get_envs().all(|(name, _)| !["LC_ALL", "LANG"].iter().any(|locale| name == *locale)) {
            command.env("LC_ALL", "C");
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Output::collect(child.stdout.take().unwrap());
        let err = Output::collect(child.stderr.take().unwrap());
        Process { child, out, err }
    }

    /// The same, once it serves.
    pub fn ready(dir: &Path, args: &[&str]) -> Process {
        let process = Process::start(dir, args);
        process.line(" is ready; ");
        process
    }

    /// The first line it prints that holds `part`; waits for it.
    pub fn line(&self, part: &str) -> String {
        self.line_after(0, part)
    }

    /// The same among what it prints after its first `lines` lines.
    pub fn line_after(&self, lines: usize, part: &str) -> String {
        let find = |all: &[String]| all.iter().skip(lines).find(|l| l.contains(part)).cloned();
        self.out.wait(part, |all, _| find(all))
    }

    /// All it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.out.lines()
    }

    /// Where it serves clients, by its own words.
    pub fn ws(&self) -> SocketAddr {
        address(&self.line("serving clients on "), "serving clients on ")
    }

    /// Where its API is, by its own words.
    pub fn api(&self) -> SocketAddr {
        address(&self.line("API on "), "API on ")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is ours, and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
        if signal == libc::SIGSTOP {
            // It goes on for a moment, until each thread has seen the signal.
            let deadline = Instant::now() + PATIENCE;
            while !self.is_stopped() {
                assert!(Instant::now() < deadline, "it does not stop");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Whether all threads have stopped (proc(5), state T).
    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let states = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        states.into_iter().all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    }

    /// Sets one of its limits (`setrlimit(2)`) while it runs, up to what it may raise it to itself.
    pub fn limit(&self, resource: u32, soft: u64) {
        let pid = self.child.id() as i32;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the calls read and write what they are given.
        unsafe {
            assert_eq!(libc::prlimit(pid, resource, std::ptr::null(), &mut limit), 0);
            limit.rlim_cur = soft;
            assert_eq!(libc::prlimit(pid, resource, &limit, std::ptr::null_mut()), 0);
        }
    }

    /// The number that the next file it opens gets.
    pub fn next_descriptor(&self) -> u64 {
        let list = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let used: Vec<u64> = list.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        (0..).find(|n| !used.contains(n)).unwrap()
    }

    /// Writes a line to its input, which must be a pipe.
    pub fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        let status = wait(&mut self.child);
        // Its pipes end with it, a moment later.
        for output in [&self.out, &self.err] {
            output.wait("the end", |_, ended| ended.then_some(()));
        }
        Ended { code: status.code(), out: self.out.lines().join("\n"), err: self.err.lines().join("\n") }
    }

    /// Stops it in the proper way.
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGTERM);
        self.ended()
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        // SAFETY: it takes a number and returns one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * page
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the process did not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `connmix ARGS` in a folder to its end.
pub fn run(dir: &Path, args: &[&str]) -> Ended {
    Process::start(dir, args).ended()
}

/// The address that follows `label` in a line.
pub fn address(line: &str, label: &str) -> SocketAddr {
    let rest = &line[line.find(label).unwrap() + label.len()..];
    let end = rest.find([' ', '/', '"']).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|e| panic!("no address after {label:?} in {line:?}: {e}"))
}
