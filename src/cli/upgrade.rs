//! `connmix upgrade` and SIGUSR2: a running process starts the binary that now lies at its path, and hands everything over
//! to it. One that was started by somebody else comes by a [`folder`].
//!
//! Processes are found by their configuration file: each listens on a Unix socket without a file (unix(7), "abstract"), whose
//! name is made of the user, the file and the process's part in a cluster: a center and an engine may have one file. Who may ask
//! is told by the system: the same user, and root.

pub(super) mod folder;
mod peer;
mod successor;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use folder::Meeting;
use peer::{callers, is_ours, line};
use successor::Successor;

use super::options::{File, load};
use crate::config::{Config, NodeRole};
use crate::engine::{Before, Estate, Summary, check_certificates, check_scripts};
use crate::handover::Link;
use crate::telemetry::language::{Language, spoken, system};
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::{complain, say};

/// The option that tells a successor so.
pub(super) const OPTION: &str = "--succeed";
/// How long a successor waits until the name is free.
const NAME: Duration = Duration::from_secs(30);
/// How long it takes at most until a successor has the name.
const SOON: Duration = Duration::from_secs(1);
/// What can be done in a container.
const INSTEAD: &str = "start the next container beside it, with an upgradeFolder for both, or restart the container";
/// How long systemd is asked to wait for an engine that joins its cluster; it is asked again in time.
pub(super) const WAITS: Duration = Duration::from_secs(30);

/// Somebody asks for an upgrade.
pub(super) struct Asked {
    /// Only whether it could be done.
    pub dry: bool,
    /// Who asks.
    pub by: By,
}

/// Who asks for an upgrade.
pub(super) enum By {
    /// Somebody who waits for no answer, by a signal.
    Signal,
    /// Somebody who gets an answer.
    Caller(UnixStream),
    /// The process that is to be the successor.
    Successor(Link),
}

/// What came of it.
pub(super) enum Outcome {
    /// A successor has everything: its process, if this one has started it.
    Done(Option<u32>),
    /// All is as it was.
    Stays,
}

/// How this process was started, and so how its successor is.
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    file: PathBuf,
    role: &'static str,
}

impl Program {
    /// To be called before anything changes the working directory. `file`: the configuration file.
    pub(super) fn of_this_process(file: &Path, role: NodeRole) -> Program {
        let mut args = std::env::args_os();
        let name = args.next().map(PathBuf::from).unwrap_or_default();
        let mut kept: Vec<OsString> = Vec::new();
        while let Some(arg) = args.next() {
            match arg == OPTION {
                // Its value goes as well.
                true => drop(args.next()),
                false => kept.push(arg),
            }
        }
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        Program { path: path(&name), args: kept, file, role: part(role) }
    }

    /// The file and the part by which it is found.
    pub(super) fn name(&self) -> (&Path, &'static str) {
        (&self.file, self.role)
    }
}

/// The parts of a cluster that a process with one file may be. Centers are replaced first.
const PARTS: [(&str, NodeRole); 3] = [
    ("center", NodeRole { engine: false, center: true }),
    ("engine", NodeRole { engine: true, center: false }),
    ("single", NodeRole::SINGLE),
];

fn part(role: NodeRole) -> &'static str {
    PARTS.iter().find(|(_, of)| *of == role).map_or("single", |(part, _)| part)
}

/// The path of a program that was started by that name. A link stays one: another binary may be behind it next time.
fn path(name: &Path) -> PathBuf {
    let running = || std::env::current_exe().unwrap_or_else(|_| name.to_owned());
    if name.components().count() > 1 {
        return std::path::absolute(name).unwrap_or_else(|_| running());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(running)
}

/// The name under which a process with that file, and that part, is asked.
fn address(file: &Path, part: &str) -> io::Result<SocketAddr> {
    let file = std::fs::canonicalize(file).or_else(|_| std::path::absolute(file))?;
    let hash = fnv(file.as_os_str().as_encoded_bytes());
    // SAFETY: it takes nothing and always succeeds.
    let user = unsafe { libc::geteuid() };
    SocketAddr::from_abstract_name(format!("connmix-{user}-{hash:016x}-{part}"))
}

/// FNV-1a: the same in every build.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Listens for those who ask; they are told of by the result. `succeeds`: the process before may have the name yet.
pub(super) fn listen((file, part): (&Path, &'static str), succeeds: bool) -> mpsc::Receiver<Asked> {
    let (tell, asked) = mpsc::channel(1);
    let file = file.to_owned();
    let serve = move || {
        let began = Instant::now();
        let listener = loop {
            match address(&file, part).and_then(|address| UnixListener::bind_addr(&address)) {
                Ok(listener) => break listener,
                Err(_) if succeeds && began.elapsed() < NAME => std::thread::sleep(Duration::from_millis(20)),
                Err(e) => return tracing::debug!("connmix upgrade does not reach this process: {e}"),
            }
        };
        for caller in callers(&listener) {
            let Some(dry) = question(&caller) else { continue };
            if tell.blocking_send(Asked { dry, by: By::Caller(caller) }).is_err() {
                return;
            }
        }
    };
    // Without it SIGUSR2 is left.
    let _ = std::thread::Builder::new().name("upgrade".into()).spawn(serve);
    asked
}

/// Whether somebody who may only asks for an answer. None: nobody who may ask has asked for anything known.
fn question(caller: &UnixStream) -> Option<bool> {
    match line(caller)?.as_str() {
        "upgrade" => Some(false),
        "check" => Some(true),
        _ => None,
    }
}

/// Hands everything over, to a successor that is started, or to the one who asks. The one who asked gets the answer.
pub(super) fn run(program: &Program, estate: &Estate, patience: Duration, asked: Asked) -> Outcome {
    let Asked { dry, by } = asked;
    let (done, by) = match by {
        By::Successor(link) => (to_one_that_came(estate, patience, dry, link), None),
        By::Caller(caller) => (to_one_that_is_started(program, estate, patience, dry), Some(caller)),
        By::Signal => (to_one_that_is_started(program, estate, patience, dry), None),
    };
    let (said, outcome) = match done {
        Ok((said, outcome)) => (Ok(said), outcome),
        Err(why) => (Err(why), Outcome::Stays),
    };
    match &said {
        Ok(said) => tracing::info!("upgrade: {said}"),
        Err(why) => tracing::error!("upgrade: {}; this process goes on as before", why.replace('\n', " | ")),
    }
    if let Some(mut by) = by {
        let _ = match said {
            Ok(said) => writeln!(by, "+{said}"),
            Err(why) => writeln!(by, "-{why}"),
        };
    }
    outcome
}

/// The name of an init that has started this process and ends with it, whatever has succeeded it.
fn ending_init() -> Option<String> {
    const ENDING: [&str; 5] = ["tini", "docker-init", "dumb-init", "catatonit", "podman-init"];
    if std::os::unix::process::parent_id() != 1 {
        return None;
    }
    let name = std::fs::read_to_string("/proc/1/comm").ok()?;
    ENDING.contains(&name.trim_end()).then(|| name.trim_end().to_owned())
}

/// Hands over to a process that has come by itself.
fn to_one_that_came(
    estate: &Estate,
    patience: Duration,
    dry: bool,
    mut link: Link,
) -> Result<(String, Outcome), String> {
    let said = match estate.offer(&mut link, dry) {
        Ok(said) => said,
        Err(why) => {
            folder::refuse(link, &why);
            return Err(why);
        }
    };
    if dry {
        return Ok((said, Outcome::Stays));
    }
    // It can't be killed: it ends when it finds that the link has ended, and serves never before it was given everything.
    let given = estate.hand_over(&mut link, patience, || ())?;
    Ok((handed_over("the process that came by upgradeFolder", &given), Outcome::Done(None)))
}

fn handed_over(to: &str, given: &Summary) -> String {
    let Summary { clients, callers, still } = given;
    let still = still.as_millis();
    format!("{to} has {clients} clients and {callers} connections of back ends; nobody was served for {still} ms")
}

/// Starts a process and hands over to it.
fn to_one_that_is_started(
    program: &Program,
    estate: &Estate,
    patience: Duration,
    dry: bool,
) -> Result<(String, Outcome), String> {
    if program.args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"--home")) {
        return Err("the nodes that connmix dev has started are not upgraded: start that anew".to_owned());
    }
    if std::process::id() == 1 {
        return Err(format!("this is the first process of its container, which ends with it: {INSTEAD}"));
    }
    if let Some(init) = ending_init() {
        return Err(format!("the init of this container, {init}, ends with this process: {INSTEAD}"));
    }
    let (mut link, other) = Link::pair().map_err(|e| format!("no way to a successor: {e}"))?;
    let mut command = Command::new(&program.path);
    command.args(&program.args);
    let child = Successor::start(command, OPTION, other)?;
    let offered = estate.offer(&mut link, dry);
    let said = offered.inspect_err(|_| child.stop())?;
    if dry {
        child.wait();
        return Ok((if said.is_empty() { "could be done".to_owned() } else { said }, Outcome::Stays));
    }
    let process = child.id();
    let given = estate.hand_over(&mut link, patience, || child.stop())?;
    Ok((handed_over(&format!("process {process}"), &given), Outcome::Done(Some(process))))
}

/// The process before, for one that was started with [`OPTION`].
pub(super) fn before(descriptor: RawFd) -> Result<Before, String> {
    // SAFETY: the process before has made it for this one, and nothing else here knows it.
    let link = unsafe { Link::inherited(descriptor) };
    Before::hear(link.map_err(|e| format!("{OPTION} is for a process that is replaced: {e}"))?)
}

/// Tells the process before whether this one could take over, and what is amiss with scripts and certificates; gives the same.
pub(super) fn could(before: &mut Before, config: &Config) -> Result<String, String> {
    let checked = before
        .listeners(config)
        .and_then(|_| check_scripts(config, Language::English))
        .and_then(|warnings| Ok((warnings, check_certificates(config, Language::English)?)));
    let (mut said, more) = checked.inspect_err(|why| before.refuse(why))?;
    said.extend(more);
    said.push(format!("connmix {} could take over", env!("CARGO_PKG_VERSION")));
    let said = said.join("\n");
    before.ready(&said)?;
    Ok(said)
}

/// Has a process stop, as a signal to this one asked.
pub(super) fn stop(process: u32) {
    // SAFETY: it takes two numbers. The process is the successor, which lives or has ended just now.
    unsafe { libc::kill(process as i32, libc::SIGTERM) };
}

/// The parts of the processes that run with that file. One that has just taken over has its name in a moment.
fn running(file: &Path) -> Result<Vec<&'static str>, String> {
    let began = Instant::now();
    loop {
        let mut problem = None;
        let mut is_there = |part: &str| match address(file, part).and_then(|at| UnixStream::connect_addr(&at)) {
            Ok(_) => true,
            Err(e) => {
                problem = Some(e);
                false
            }
        };
        let running: Vec<_> = PARTS.into_iter().map(|(part, _)| part).filter(|part| is_there(part)).collect();
        if !running.is_empty() {
            return Ok(running);
        }
        if let Some(e) = problem.filter(|e| e.kind() != io::ErrorKind::ConnectionRefused || began.elapsed() > SOON) {
            return Err(no_process(file, &e));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `upgrade`: of all processes that run with that file, one after the other.
pub(super) fn ask(file: &File, dry: bool) -> Result<(), String> {
    if dry && could_by_folder(&load(file)?)? {
        return Ok(());
    }
    let file = &file.file;
    running(file)?.into_iter().try_for_each(|part| ask_one(file, part, dry))
}

/// Asks the processes that are found by the configuration's folder, and says, whether this program could take over. False: there
/// are none.
fn could_by_folder(config: &Config) -> Result<bool, String> {
    let Some(folder) = &config.upgrade_folder else { return Ok(false) };
    let mut found = false;
    for (part, role) in PARTS {
        let meeting = Meeting::new(folder, part);
        let Some(mut before) = meeting.find(true)? else { continue };
        let said = could(&mut before, &config.clone().for_role(role)).map_err(|why| meeting.refused(&why))?;
        say!("{}", for_terminal(&said));
        found = true;
    }
    Ok(found)
}

fn ask_one(file: &Path, part: &str, dry: bool) -> Result<(), String> {
    let began = Instant::now();
    let answer = loop {
        let answer = ask_once(file, part, dry)?;
        // One that has just been replaced has done nothing.
        if !answer.is_empty() || began.elapsed() > SOON {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match answer.trim_end().split_at_checked(1) {
        Some(("+", said)) => {
            let said = for_terminal(said);
            say!("{}", spoken!("{said}", "进程的答复：{said}"));
            Ok(())
        }
        Some(("-", why)) => {
            let why = for_terminal(why);
            complain!("{}", spoken!("{why}", "进程的答复：{why}"));
            Err(spoken!("nothing was changed", "什么都没有改变"))
        }
        _ => Err(spoken!("the process has ended without an answer", "进程没有答复就结束了")),
    }
}

fn no_process(file: &Path, e: &io::Error) -> String {
    let (named, why) = (file.display(), system(e));
    spoken!("no process of {named} can be asked: {0}", "找不到以 {named} 运行的进程：{0}", why.spoken())
}

/// Asks the process that runs with that file; an empty answer is none.
fn ask_once(file: &Path, part: &str, dry: bool) -> Result<String, String> {
    let mut socket = match address(file, part).and_then(|at| UnixStream::connect_addr(&at)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(String::new()),
        connected => connected.map_err(|e| no_process(file, &e))?,
    };
    if !is_ours(&socket) {
        return Err(spoken!("another user's process has taken the name", "另一个用户的进程占用了这个名称"));
    }
    let mut answer = String::new();
    let asked = socket
        .write_all(if dry { b"check\n" } else { b"upgrade\n" })
        .and_then(|()| (&socket).take(1 << 20).read_to_string(&mut answer));
    match asked {
        Ok(_) => Ok(answer),
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(String::new()),
        Err(e) => Err(spoken!("the process does not answer: {e}", "进程没有应答：{e}")),
    }
}

/// Tells systemd, if it has started this process, that the service is ready, and, of a successor, that this process is the
/// service's main one from now on (sd_notify(3)).
pub(super) fn tell_supervisor(successor: Option<u32>) {
    let main = successor.map_or_else(String::new, |process| format!("MAINPID={process}\n"));
    notify(&format!("{main}READY=1"));
}

/// Tells systemd that this process is not ready for some time yet, which is no failure: it waits for its center.
pub(super) fn tell_supervisor_to_wait() {
    notify(&format!("EXTEND_TIMEOUT_USEC={}", WAITS.as_micros()));
}

fn notify(text: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_encoded_bytes().split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(&name),
    };
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.connect_addr(&address?)?;
        socket.send(text.as_bytes())
    });
    if let Err(e) = told {
        tracing::warn!("systemd could not be told: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_name_however_it_is_spelt() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("connmix.yaml");
        std::fs::write(&file, "").unwrap();
        let name = |file: &Path| address(file, "engine").unwrap().as_abstract_name().unwrap().to_owned();
        assert_eq!(name(&file), name(&dir.path().join("./connmix.yaml")));
        assert_ne!(name(&file), name(&dir.path().join("other.yaml")));
    }

    #[test]
    fn only_known_questions_are_heard() {
        for (said, heard) in [("upgrade\n", Some(false)), ("check\n", Some(true)), ("stop\n", None), ("", None)] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(said.as_bytes()).unwrap();
            drop(one);
            assert_eq!(question(&other), heard, "{said}");
        }
    }

    #[test]
    fn a_program_is_found_where_it_was_started_from() {
        assert_eq!(path(Path::new("/some/link")), Path::new("/some/link"));
        assert_eq!(path(Path::new("./here")), std::env::current_dir().unwrap().join("here"));
        assert!(path(Path::new("sh")).is_file());
    }
}
