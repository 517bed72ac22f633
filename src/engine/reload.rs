//! Changes while the engine runs: scripts that were saved, a configuration that was edited.
//!
//! A thread of its own looks at the files several times a second (which works on any file system, containers' too). A
//! script is reloaded in two phases: compiled and tried here, then built beside the old VM in every worker; only when
//! all of that has succeeded, every worker swaps. Else the old code stays, and the log says why.

use arc_swap::ArcSwap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::{OnLevel, log_warnings};
use crate::config::reload::{compare, merge};
use crate::config::{Config, load};
use crate::script::program::{Program, Stamp, shown, stamp};
use crate::script::vm::{Vm, VmLimits};
use crate::telemetry::metrics::Metrics;
use crate::worker::{Control, Peers};

/// How often files are looked at. A change is taken up when two looks in a row see the same, so that a file is not
/// read half-written.
const LOOK: Duration = Duration::from_millis(150);
/// How often a configuration that was refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest a worker may take to build a VM.
const BUILD: Duration = Duration::from_secs(10);

/// What the supervisor is asked.
pub(super) enum Command {
    /// Read the configuration now.
    Reload,
}

pub(super) struct Supervisor {
    config: Arc<ArcSwap<Config>>,
    peers: Arc<Peers>,
    scripts: Vec<Script>,
    /// The configuration file as it was when it was last read; None: not yet by this thread. It may have changed
    /// between the start's reading and the first look.
    config_stamp: Stamp,
    /// A configuration file that has changed, as last seen.
    config_seen: Stamp,
    /// What was wrong with the file, if it was refused: something beside it (a script that it names) may mend that.
    refused: Option<(String, Instant)>,
    metrics: Arc<Metrics>,
    on_level: OnLevel,
    /// How many workers are configured; 0 = one a core.
    workers: usize,
}

/// One server's script.
struct Script {
    /// What runs.
    live: Arc<Program>,
    /// What was tried last, and failed: its files are watched too, so that the next save is noticed.
    failed: Option<Arc<Program>>,
    /// The files when they last looked changed.
    seen: Option<(Vec<Stamp>, Instant)>,
}

impl Supervisor {
    pub(super) fn new(
        config: Arc<ArcSwap<Config>>,
        peers: Arc<Peers>,
        programs: Vec<Arc<Program>>,
        metrics: Arc<Metrics>,
        on_level: OnLevel,
        workers: usize,
    ) -> Supervisor {
        let scripts = programs.into_iter().map(|live| Script { live, failed: None, seen: None }).collect();
        let (config_stamp, config_seen, refused) = (None, None, None);
        Supervisor { config, peers, scripts, config_stamp, config_seen, refused, metrics, on_level, workers }
    }

    /// Runs on its own thread till the sender is dropped.
    pub(super) fn spawn(mut self) -> io::Result<(mpsc::Sender<Command>, JoinHandle<()>)> {
        let (commands, mut inbox) = mpsc::channel(16);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let work = async move {
            loop {
                self.metrics.tick();
                match tokio::time::timeout(LOOK, inbox.recv()).await {
                    Ok(None) => return,
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
        if now != self.config_stamp && now.is_some() {
            if now == self.config_seen {
                self.reload_config(false).await;
            }
            self.config_seen = now;
        } else if self.refused.as_ref().is_some_and(|(_, since)| since.elapsed() > RETRY) {
            self.reload_config(false).await;
        }
        for server in 0..self.scripts.len() {
            if self.is_due(server) {
                self.reload_script(server).await;
            }
        }
    }

    /// Whether a script has changed and its files have come to rest; or have not for as long as may be waited.
    fn is_due(&mut self, server: usize) -> bool {
        let Some(longest) = self.config.load().servers[server].reload_within else { return false };
        let script = &mut self.scripts[server];
        let (now, changed) = script.failed.as_ref().unwrap_or(&script.live).look();
        if !changed {
            script.seen = None;
            return false;
        }
        match &script.seen {
            Some((seen, since)) if *seen == now || since.elapsed() >= longest => true,
            Some((_, since)) => {
                script.seen = Some((now, *since));
                false
            }
            None => {
                script.seen = Some((now, Instant::now()));
                false
            }
        }
    }

    async fn reload_script(&mut self, server: usize) {
        let config = self.config.load_full();
        let new = &config.servers[server];
        let program = Arc::new(Program::new(new.protocol, new.entry.clone(), new.options.clone()));
        let limits = VmLimits::of(&config.luavm);
        let file = shown(&program.entry);
        self.scripts[server].seen = None;
        // First here, where a script that loops delays nobody.
        let tried = Vm::new(program.clone(), &limits).map(|vm| log_warnings(&vm, self.workers));
        let built = match tried {
            Ok(()) => self.build(server, &program).await,
            Err(e) => Err(e),
        };
        self.tell(|| Control::Swap { server, accept: built.is_ok() }).await;
        self.metrics.reloads.scripts.one(if built.is_ok() { "ok" } else { "error" });
        match built {
            Ok(()) => {
                tracing::info!("reloaded {file}");
                self.scripts[server] = Script { live: program, failed: None, seen: None };
            }
            Err(e) => {
                tracing::error!("{file} was not reloaded, the code before stays: {}", e.replace('\n', " | "));
                self.scripts[server].failed = Some(program);
            }
        }
    }

    /// Builds a VM in every worker; the first error of any.
    async fn build(&self, server: usize, program: &Arc<Program>) -> Result<(), String> {
        let mut building = Vec::new();
        for worker in &self.peers.control {
            let (done, built) = oneshot::channel();
            let _ = worker.send(Control::Build { server, program: program.clone(), done }).await;
            building.push(built);
        }
        let mut result = Ok(());
        for built in building {
            let one = match tokio::time::timeout(BUILD, built).await {
                Ok(Ok(one)) => one,
                Ok(Err(_)) => Err("a worker ended meanwhile".into()),
                Err(_) => Err("a worker did not answer in time".into()),
            };
            result = result.and(one);
        }
        result
    }

    async fn tell(&self, control: impl Fn() -> Control) {
        for worker in &self.peers.control {
            // A worker that has ended needs nothing.
            let _ = worker.send(control()).await;
        }
    }

    /// `asked`: somebody waits for a word, even if nothing has changed.
    async fn reload_config(&mut self, asked: bool) {
        let old = self.config.load_full();
        self.config_stamp = stamp(&old.file);
        self.config_seen = self.config_stamp;
        let new = match load::load(&old.file) {
            Ok(new) => new,
            Err(problems) => {
                let problems = problems.to_string();
                if self.refused.as_ref().is_none_or(|(before, _)| *before != problems) {
                    self.metrics.reloads.config.one("error");
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
        let merged = merge(&old, &new);
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
        self.config.store(Arc::new(merged));
        self.tell(|| Control::Configure).await;
        for server in scripts_differ {
            self.reload_script(server).await;
        }
        self.metrics.reloads.config.one("ok");
        tracing::info!("reloaded {}", shown(&old.file));
    }
}
