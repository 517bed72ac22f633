//! Reloads while the engine runs: scripts that were saved, a configuration that was edited, certificates that were
//! renewed.
//!
//! A thread checks the files several times a second (which works on any file system, including containers'). A script
//! is reloaded in two phases: compiled and tried here, then built beside the old VM in every worker. Only if all of
//! that has succeeded do all workers swap. Otherwise the old code stays, and the log says why.

use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::certificates::{self, Certificates};
use super::exporter::Exporter;
use super::figures::Scripts;
use super::scripts::check_script;
use crate::config::reload::{compare, merge};
use crate::config::{Config, Level, Server, load};
use crate::lint::explained;
use crate::script::program::{Program, Stamp, shown, stamp};
use crate::script::vm::{Vm, VmLimits};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::labels::ReloadResult;
use crate::telemetry::rate_limited;
use crate::worker::{Control, Peers};

/// How often files are checked, and how long they must be unchanged before a change is taken up, so that no file is
/// read half-written.
const LOOK: Duration = Duration::from_millis(150);
/// How often files are checked while a change waits.
const CLOSE_LOOK: Duration = Duration::from_millis(20);
/// After this time, files that are saved again and again need not be unchanged that long: their state after a pause of
/// `PAUSE` is tried, and taken up if it works.
const SOON: Duration = Duration::from_millis(500);
/// A pause that is long within one save of a file, and short between two saves.
const PAUSE: Duration = Duration::from_millis(40);
/// How often that is tried again that was refused for a cause that may end without a change of it: a configuration
/// that names files, a script that could not be read, a worker that is stuck.
const RETRY: Duration = Duration::from_secs(1);
/// The longest a worker may take to build a VM.
const BUILD: Duration = Duration::from_secs(10);

/// What is called when the log's level changes.
pub type OnLevel = Box<dyn Fn(Level) + Send + Sync>;

/// A command to the supervisor.
pub(super) enum Command {
    /// Read the configuration now.
    Reload,
}

pub(super) struct Supervisor {
    config: Arc<ArcSwap<Config>>,
    peers: Arc<Peers>,
    scripts: Vec<Script>,
    /// What others are told of them.
    told: Arc<Scripts>,
    certificates: Certificates,
    /// The configuration file when it was last read; None: not yet by this thread. It may have changed between the
    /// engine's start and the first check.
    config_stamp: Stamp,
    /// A configuration file that has changed, as last seen.
    config_seen: Stamp,
    /// The problem of a file that was refused: a change elsewhere (of a script that it names) may fix it.
    refused: Option<(String, Instant)>,
    /// There was a configuration file at the start: it is missed.
    from_file: bool,
    /// Since when there is no configuration file, and whether that has been logged.
    absent: Option<(Instant, bool)>,
    metrics: Arc<Metrics>,
    on_level: OnLevel,
    /// How many workers are configured; 0 = one a core.
    workers: usize,
    exporter: Option<Arc<Exporter>>,
}

/// One server's script.
struct Script {
    /// The version that runs.
    live: Arc<Program>,
    /// The version that was tried last and failed: its files are watched too, so that the next save is noticed.
    failed: Option<Failed>,
    /// A change that has not been taken up.
    change: Option<Change>,
}

/// A version that was not taken up.
struct Failed {
    program: Arc<Program>,
    why: String,
    /// The cause is not the script: it may end without another save.
    passing: bool,
    since: Instant,
}

/// Why a script that works could not be built in all workers.
struct Unbuilt {
    why: String,
    /// As of [`Failed`].
    passing: bool,
}

/// A change of a script's files.
struct Change {
    /// When the first of it was seen.
    since: Instant,
    /// The files as last seen, and since when they have been so.
    files: Vec<Stamp>,
    rests_since: Instant,
    /// This state has been tried and did not work: it may be half a save.
    tried: bool,
}

/// How a change is taken up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Due {
    /// If it does not work, nothing is logged: another save will come, or the files will stay unchanged.
    IfItWorks,
    /// In any case.
    Now,
    /// Nothing has changed, but the cause of the failure may have ended. What is told already is not told again.
    Again,
}

impl Change {
    /// Records a check that saw the files in that state.
    fn see(&mut self, files: Vec<Stamp>, now: Instant) {
        if self.files != files {
            (self.files, self.rests_since, self.tried) = (files, now, false);
        }
    }

    fn due(&self, now: Instant, longest: Duration) -> Option<Due> {
        let (waits, rests) = (now - self.since, now - self.rests_since);
        if rests >= LOOK || waits >= longest {
            Some(Due::Now)
        } else if waits >= SOON && rests >= PAUSE && !self.tried {
            Some(Due::IfItWorks)
        } else {
            None
        }
    }
}

/// Sends a command to a worker. A worker that has ended, or whose lane stays full, does not get it.
async fn give(worker: &mpsc::Sender<Control>, control: Control) {
    let _ = tokio::time::timeout(BUILD, worker.send(control)).await;
}

impl Supervisor {
    pub(super) fn new(
        config: Arc<ArcSwap<Config>>,
        peers: Arc<Peers>,
        programs: Vec<Arc<Program>>,
        certificates: Certificates,
        metrics: Arc<Metrics>,
        on_level: OnLevel,
        workers: usize,
    ) -> Supervisor {
        let told = Arc::new(Scripts::new(&programs));
        let scripts = programs.into_iter().map(|live| Script { live, failed: None, change: None }).collect();
        certificates.tell();
        Supervisor {
            from_file: stamp(&config.load().file).is_some(),
            config,
            peers,
            scripts,
            told,
            certificates,
            config_stamp: None,
            config_seen: None,
            refused: None,
            absent: None,
            metrics,
            on_level,
            workers,
            exporter: None,
        }
    }

    /// The same, with what sends spans: a reload may turn that on.
    pub(super) fn exporting(self, exporter: Arc<Exporter>) -> Supervisor {
        Supervisor { exporter: Some(exporter), ..self }
    }

    /// What it tells of the scripts.
    pub(super) fn told(&self) -> Arc<Scripts> {
        self.told.clone()
    }

    /// Runs on its own thread until the sender is dropped.
    pub(super) fn spawn(mut self) -> io::Result<(mpsc::Sender<Command>, JoinHandle<()>)> {
        let (commands, mut inbox) = mpsc::channel(16);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let work = async move {
            loop {
                self.metrics.tick();
                rate_limited::tell(false);
                let look = if self.scripts.iter().any(|s| s.change.is_some()) { CLOSE_LOOK } else { LOOK };
                match tokio::time::timeout(look, inbox.recv()).await {
                    Ok(None) => return rate_limited::tell(true),
                    Ok(Some(Command::Reload)) => self.reload_config(true).await,
                    Err(_) => self.look().await,
                }
            }
        };
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || runtime.block_on(work))?;
        Ok((commands, thread))
    }

    async fn look(&mut self) {
        let now = stamp(&self.config.load().file);
        self.miss(now.is_none());
        if now != self.config_stamp && now.is_some() {
            if now == self.config_seen {
                self.reload_config(false).await;
            }
            self.config_seen = now;
        } else if self.refused.as_ref().is_some_and(|(_, since)| since.elapsed() > RETRY) {
            self.reload_config(false).await;
        }
        self.certificates.look(&self.config.load(), &self.metrics);
        for server in 0..self.scripts.len() {
            if let Some(due) = self.due(server) {
                self.reload_script(server, due).await;
            }
        }
    }

    /// Says once that the configuration file is gone. Programs that replace a file may leave it away for a moment.
    fn miss(&mut self, absent: bool) {
        let file = self.config.load().file.clone();
        match (&mut self.absent, absent && self.from_file) {
            (None, true) => self.absent = Some((Instant::now(), false)),
            (Some((since, told)), true) if !*told && since.elapsed() > RETRY => {
                let why = std::fs::metadata(&file).err().map_or_else(String::new, |e| format!(": {e}"));
                tracing::error!("{} is gone, the configuration before stays{why}", shown(&file));
                *told = true;
            }
            (_, true) => {}
            (_, false) => self.absent = None,
        }
    }

    /// Whether a script has changed and can be taken up.
    fn due(&mut self, server: usize) -> Option<Due> {
        let longest = self.config.load().servers[server].reload_within?;
        let script = &mut self.scripts[server];
        let (files, changed) = script.failed.as_ref().map_or(&script.live, |failed| &failed.program).look();
        if !changed {
            script.change = None;
            let again = script.failed.as_ref().is_some_and(|f| f.passing && f.since.elapsed() > RETRY);
            return (again && self.peers.stuck().is_none()).then_some(Due::Again);
        }
        let now = Instant::now();
        let first = || Change { since: now, files: Vec::new(), rests_since: now, tried: false };
        let change = script.change.get_or_insert_with(first);
        change.see(files, now);
        change.due(now, longest)
    }

    async fn reload_script(&mut self, server: usize, due: Due) {
        let config = self.config.load_full();
        let new = &config.servers[server];
        let program = Program::new(new.protocol, new.entry.clone(), new.options.clone());
        let program = Arc::new(program.of_server(server));
        let limits = VmLimits::of(&config.luavm);
        let file = shown(&program.entry);
        // First on this thread, where a script that loops delays nobody. Its files are compiled here, too.
        let tried = match Vm::new(program.clone(), &limits) {
            Ok(vm) => {
                check_script(&vm, self.workers);
                Ok(())
            }
            Err(e) => Err(Unbuilt { why: explained(&program, &e).en, passing: program.is_lacking() }),
        };
        if let (Err(_), Due::IfItWorks, Some(change)) = (&tried, due, &mut self.scripts[server].change) {
            change.tried = true;
            return;
        }
        self.scripts[server].change = None;
        let built = match tried {
            Ok(()) => self.build(server, &program).await,
            Err(e) => Err(e),
        };
        self.tell(|| Control::Swap { server, accept: built.is_ok() }).await;
        match built {
            Ok(()) => {
                self.metrics.reloads.scripts.one(ReloadResult::Ok);
                tracing::info!("reloaded {file}");
                self.told.taken(server, &program);
                self.scripts[server] = Script { live: program, failed: None, change: None };
            }
            Err(Unbuilt { why, passing }) => {
                let before = self.scripts[server].failed.as_ref();
                if due != Due::Again || before.is_none_or(|before| before.why != why) {
                    self.metrics.reloads.scripts.one(ReloadResult::Error);
                    tracing::error!("{file} was not reloaded, the code before stays: {}", why.replace('\n', " | "));
                }
                self.told.refused(server, &why);
                self.scripts[server].failed = Some(Failed { program, why, passing, since: Instant::now() });
            }
        }
    }

    /// Builds a VM in every worker; the first error of any.
    async fn build(&self, server: usize, program: &Arc<Program>) -> Result<(), Unbuilt> {
        let passing = |why| Unbuilt { why, passing: true };
        if let Some(stuck) = self.peers.stuck() {
            return Err(passing(format!("worker {stuck} is stuck")));
        }
        let mut building = Vec::new();
        for worker in &self.peers.control {
            let (done, built) = oneshot::channel();
            give(worker, Control::Build { server, program: program.clone(), done }).await;
            building.push(built);
        }
        let mut result = Ok(());
        for (worker, built) in building.into_iter().enumerate() {
            let one = match tokio::time::timeout(BUILD, built).await {
                Ok(Ok(one)) => one.map_err(|why| Unbuilt { why, passing: program.is_lacking() }),
                Ok(Err(_)) => Err(passing(format!("worker {worker} ended meanwhile, or takes nothing"))),
                Err(_) => Err(passing(format!("worker {worker} did not answer in time"))),
            };
            result = result.and(one);
        }
        result
    }

    async fn tell(&self, control: impl Fn() -> Control) {
        for worker in &self.peers.control {
            give(worker, control()).await;
        }
    }

    /// `asked`: somebody expects a line in the log, even if nothing has changed.
    async fn reload_config(&mut self, asked: bool) {
        let old = self.config.load_full();
        self.config_stamp = stamp(&old.file);
        self.config_seen = self.config_stamp;
        let new = load::load(&old.file).map_err(|problems| problems.to_string());
        let new = new.map(|new| new.for_role(old.role).at_home(old.home.clone())).and_then(|new| {
            let merged = merge(&old, &new);
            // Its certificates are tried before anything is taken.
            let certificates = Certificates::load(&merged).map_err(|wrong| certificates::lines(&wrong))?;
            Ok((new, merged, certificates))
        });
        let (new, merged, certificates) = match new {
            Ok(new) => new,
            Err(problems) => {
                if self.refused.as_ref().is_none_or(|(before, _)| *before != problems) {
                    self.metrics.reloads.config.one(ReloadResult::Error);
                    tracing::error!("the configuration was not reloaded, the one before stays:");
                    problems.lines().for_each(|line| tracing::error!("{line}"));
                }
                self.refused = Some((problems, Instant::now()));
                return;
            }
        };
        self.refused = None;
        let changes = compare(&old, &new);
        if !asked && changes.live.is_empty() && changes.restart.is_empty() {
            return;
        }
        for change in &changes.restart {
            tracing::warn!("needs a restart: {change}");
        }
        for change in &changes.live {
            tracing::info!("changed: {change}");
        }
        let scripts_differ: Vec<usize> = (0..merged.servers.len())
            .filter(|&i| {
                let (before, after) = (&old.servers[i], &merged.servers[i]);
                before.entry != after.entry || before.options != after.options
            })
            .collect();
        if old.logging.level != merged.logging.level {
            (self.on_level)(merged.logging.level);
        }
        for open in merged.open_apis().filter(|_| !old.users.is_empty()) {
            tracing::warn!("the API on {} is open to everybody now: no access.users are configured", open.addr);
        }
        self.certificates.take(certificates);
        if merged.servers.iter().any(Server::has_event_streams) {
            self.metrics.show_streams();
        }
        self.config.store(Arc::new(merged));
        if let Some(Err(e)) = self.exporter.as_ref().map(|exporter| exporter.start()) {
            tracing::error!("spans can't be sent: {e}");
        }
        self.tell(|| Control::Configure).await;
        for server in scripts_differ {
            self.reload_script(server, Due::Now).await;
        }
        self.metrics.reloads.config.one(ReloadResult::Ok);
        tracing::info!("reloaded {}", shown(&old.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// When a change is taken up whose files are saved every so many milliseconds, `works` telling whether what is
    /// there at that time does; and how.
    fn taken_up(every: u64, ends: u64, longest: u64, works: impl Fn(u64) -> bool) -> (u64, Due) {
        let start = Instant::now();
        let mut change = Change { since: start, files: Vec::new(), rests_since: start, tried: false };
        for at in (0..60_000).step_by(CLOSE_LOOK.as_millis() as usize) {
            let saved = at.min(ends) / every;
            let stamp = Some((SystemTime::UNIX_EPOCH + Duration::from_secs(saved), 1, 1, 1));
            change.see(vec![stamp], start + Duration::from_millis(at));
            match change.due(start + Duration::from_millis(at), Duration::from_millis(longest)) {
                Some(Due::IfItWorks) if !works(at) => change.tried = true,
                Some(due) => return (at, due),
                None => {}
            }
        }
        panic!("never");
    }

    #[test]
    fn one_save_is_taken_up_when_it_has_rested() {
        assert_eq!(taken_up(10_000, 0, 10_000, |_| true), (160, Due::Now));
    }

    #[test]
    fn saves_without_end_are_taken_up_within_a_second() {
        for every in [50, 70, 100, 120, 140] {
            let (at, due) = taken_up(every, u64::MAX, 10_000, |_| true);
            assert!(at < 1000 && due == Due::IfItWorks, "every {every} ms: after {at} ms");
        }
        // The newest version that works; others are skipped without a log line.
        let (at, due) = taken_up(100, u64::MAX, 10_000, |at| at > 800);
        assert!((800..1000).contains(&at) && due == Due::IfItWorks, "after {at} ms");
        // One that never works is told when it rests, or after the time that is configured.
        assert_eq!(taken_up(100, 2_000, 10_000, |_| false), (2_160, Due::Now));
        assert_eq!(taken_up(100, u64::MAX, 3_000, |_| false), (3_000, Due::Now));
        // A file that is written all the time is not one that is saved again and again.
        assert_eq!(taken_up(20, u64::MAX, 3_000, |_| true), (3_000, Due::Now));
    }
}
