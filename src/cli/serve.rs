//! `dev`, `single`, `center` and `engine`: an engine from its start to its end, in a process that hears signals and may be
//! replaced by a successor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;

use super::greeting::Greeting;
use super::nodes::Report;
use super::options::{Run, load, without_cluster};
use super::signals::{Signals, Wish};
use super::upgrade::folder::{ANOTHER, Meeting, Successors, refuse};
use super::upgrade::{self, Asked, By, Outcome, Program};
use crate::config::{Config, Format, Home, Level, Listen, NodeRole};
use crate::engine::{Before, BindError, Engine, HAS_CLUSTER, Listeners};
use crate::telemetry::language::{Language, spoken};
use crate::telemetry::log::{Log, Rotation, Style};

fn level_filter(level: Level) -> LevelFilter {
    match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    }
}

fn open_log(config: &Config, dev: bool) -> Result<Log, String> {
    let style = match config.logging.format {
        Format::Text => Style::Text,
        Format::Json => Style::Json,
    };
    // In dev, the console at debug is all there is.
    let level = if dev { LevelFilter::DEBUG } else { level_filter(config.logging.level) };
    let rotation = Rotation { keep: config.logging.max_files, size: config.logging.max_size as u64 };
    let rotation = config.logging.rotate.then_some(rotation);
    let file = config.logging.filename.as_deref().filter(|_| !dev).map(|f| (f, rotation));
    Log::open(level, style, file).map_err(|e| e.to_string())
}

/// How a process serves.
pub(super) struct Mode {
    /// `dev`
    pub dev: bool,
    /// Which parts of a cluster it is.
    pub role: NodeRole,
    /// It is one of several nodes that a parent process has started.
    pub home: Option<Home>,
    /// It takes over from the process before, which has left this open.
    pub succeed: Option<i32>,
}

impl Mode {
    /// In that role, by itself.
    pub(super) fn of(role: NodeRole, succeed: Option<i32>) -> Mode {
        Mode { dev: false, role, home: None, succeed }
    }
}

/// An engine that has started, and what belongs to it.
struct Started {
    engine: Engine,
    /// The port of the center's API or the engine's, and whether it is open to everybody.
    open: Vec<SocketAddr>,
    report: Option<Report>,
    greeting: Option<Greeting>,
    api: SocketAddr,
}

/// Serves until it is told to stop, or a successor serves.
pub(super) fn serve(run: &Run, mode: Mode) -> Result<(), String> {
    let program = Program::of_this_process(&run.file.file, mode.role);
    // Signals first: one that asks for a stop during the start is not lost, and none kills.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| spoken!("the runtime could not start: {e}", "运行时无法启动：{e}"))?;
    let signals = runtime.block_on(async { Signals::watch() }).map_err(|e| spoken!("signals: {e}", "信号：{e}"))?;
    if mode.home.is_some() {
        signals
            .stop_at_end_of_input()
            .map_err(|e| spoken!("the parent can't be watched: {e}", "无法监视父进程：{e}"))?;
    }
    let mut before = mode.succeed.map(upgrade::before).transpose()?;
    let config = configure(run, &mode).map_err(|why| refused(&mut before, None, why))?;
    if let Some(before) = before.as_mut().filter(|before| before.dry) {
        return upgrade::could(before, &config).map(drop);
    }
    let meeting = config.upgrade_folder.as_deref().filter(|_| !mode.dev);
    let meeting = meeting.map(|folder| Meeting::new(folder, program.name().1));
    let mut found = None;
    if let Some(meeting) = meeting.as_ref().filter(|_| before.is_none()) {
        before = meeting.find(false)?;
        found = before.is_some().then_some(meeting);
    }
    // Open to the end of this function: what happens during the stop is logged too.
    let log = open_log(&config, mode.dev).map_err(|why| refused(&mut before, found, why))?;
    let mut started =
        start(run, &mode, config, &log, before.as_mut()).map_err(|why| refused(&mut before, found, why))?;
    if let Some(before) = &mut before {
        match started.engine.succeed(before) {
            Ok(clients) => match found {
                Some(meeting) => tracing::info!("took over {clients} clients by {}", meeting.socket()),
                None => tracing::info!("took over {clients} clients from process {}", before.process),
            },
            Err(why) => {
                tracing::error!("{why}");
                drop(log);
                // At once: what has come is the other process's yet, and a proper end would touch it.
                std::process::exit(1);
            }
        }
    }
    let ended = runtime.block_on(live(started, &log, signals, program, meeting, before.is_some()));
    runtime.shutdown_background();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(why) => {
            Err(spoken!("stopped before all connections had ended: {why}", "没有等所有连接结束就停止了：{why}"))
        }
    }
}

/// Tells the process before, if there is one, that this one can't take over, and gives what is printed. `found`: by what it was
/// found.
fn refused(before: &mut Option<Before>, found: Option<&Meeting>, why: String) -> String {
    // It goes to the log of that process.
    let told = match Language::chosen() {
        Language::English => why.as_str(),
        Language::Chinese => "it can't take over; what it has printed says why",
    };
    before.iter_mut().for_each(|before| before.refuse(told));
    found.map_or_else(|| why.clone(), |meeting| meeting.refused(&why))
}

/// The configuration as it is in force for this process.
fn configure(run: &Run, mode: &Mode) -> Result<Config, String> {
    let config = Config { dev: mode.dev, ..load(&run.file)?.for_role(mode.role).at_home(mode.home.clone()) };
    if config.is_of_mesh() && !HAS_CLUSTER {
        return Err(without_cluster());
    }
    if config.is_of_mesh() && !config.cluster.tls_cert.is_empty() {
        serve_links_on_one_thread();
    }
    Ok(config)
}

fn start(run: &Run, mode: &Mode, config: Config, log: &Log, before: Option<&mut Before>) -> Result<Started, String> {
    log_panics();
    config.notes.iter().for_each(|note| tracing::info!("{note}"));
    let is_open = |listen: &Listen| config.open_apis().any(|open| open == listen);
    let (open_api, open_center) = (is_open(&config.api.listen), is_open(&config.center));
    let report = config.home.as_ref().map(Report::of);
    let greeting = (mode.dev && report.is_none() && before.is_none()).then(|| Greeting::of(&config));
    let (log_level, dev) = (log.level(), mode.dev);
    let on_level = Box::new(move |level| {
        if !dev {
            log_level.set(level_filter(level));
        }
    });
    let workers = run.workers.map(usize::from);
    let engine = match before {
        None => {
            let listeners = Listeners::bind(&config)
                .map_err(|errors| errors.iter().map(BindError::spoken).collect::<Vec<_>>().join("\n"))?;
            Engine::start(config, listeners, workers, on_level)
        }
        Some(before) => {
            let listeners = before.listeners(&config)?;
            Engine::start_after(before, config, listeners, workers, on_level)
        }
    };
    let engine = engine.map_err(|e| e.spoken())?;
    let (at, role) = (engine.addresses(), mode.role);
    let apis = [(open_api && role.engine, at.api), (open_center && role.center, at.center)];
    let open = apis.into_iter().filter_map(|(open, addr)| open.then_some(addr)).collect();
    let api = if role.engine { at.api } else { at.center };
    Ok(Started { engine, open, report, greeting, api })
}

/// What a process does from its start to its end.
async fn live(
    started: Started,
    log: &Log,
    mut signals: Signals,
    program: Program,
    meeting: Option<Meeting>,
    succeeds: bool,
) -> Result<(), &'static str> {
    let Started { engine, open, mut report, mut greeting, api } = started;
    for addr in open {
        tracing::warn!("the API on {addr} is open to everybody: no access.users are configured");
    }
    let (at, workers, estate) = (engine.addresses().clone(), engine.workers(), engine.estate());
    let mut tell_ready = || {
        for server in &at.servers {
            tracing::info!("serving clients on {server}");
        }
        tracing::info!(workers, "connmix {} is ready; API on {api}", env!("CARGO_PKG_VERSION"));
        upgrade::tell_supervisor(None);
        greeting.take().iter().for_each(|greeting| greeting.print(std::slice::from_ref(&at), at.center));
        report.take().iter().for_each(|report| report.print(&at));
    };
    // Before anybody is told that it is ready, and may start the next one.
    let mut successors = meeting.map_or_else(Successors::none, |meeting| meeting.listen());
    let mut ready = engine.is_serving();
    match ready {
        true => tell_ready(),
        false => tracing::info!("connmix {} joins its cluster; API on {api}", env!("CARGO_PKG_VERSION")),
    }

    let program = Arc::new(program);
    let mut asked = upgrade::listen(program.name(), succeeds);
    let mut joining = tokio::time::interval(upgrade::WAITS / 3);
    let mut upgrading: Option<JoinHandle<Outcome>> = None;
    // A stop that was asked for during an upgrade, and waits for its end.
    let mut stop = None;
    let asked = loop {
        if upgrading.is_none()
            && let Some(name) = stop.take()
        {
            break Some(name);
        }
        let upgrade = |asked: Asked| {
            let (program, estate, patience) = (program.clone(), estate.clone(), engine.upgrade_timeout());
            tokio::task::spawn_blocking(move || upgrade::run(&program, &estate, patience, asked))
        };
        tokio::select! {
            come = signals.next() => match come {
                (_, Wish::Stop) if stop.is_some() => return Err("a second signal"),
                (name, Wish::Stop | Wish::StopOnce) => stop = Some(name),
                (_, Wish::Reload) => engine.reload(),
                (_, Wish::Upgrade) if upgrading.is_none() => upgrading = Some(upgrade(Asked { dry: false, by: By::Signal })),
                (name, wish) => answer(log, name, wish),
            },
            (dry, link) = successors.next() => match upgrading {
                None => upgrading = Some(upgrade(Asked { dry, by: By::Successor(link) })),
                Some(_) => refuse(link, ANOTHER),
            },
            Some(question) = asked.recv(), if upgrading.is_none() => upgrading = Some(upgrade(question)),
            outcome = ended(&mut upgrading) => {
                upgrading = None;
                if let Outcome::Done(process) = outcome {
                    if let Some(process) = process {
                        upgrade::tell_supervisor(Some(process));
                        if stop.is_some() {
                            upgrade::stop(process);
                        }
                    }
                    break None;
                }
            }
            _ = joining.tick(), if !ready => upgrade::tell_supervisor_to_wait(),
            () = serving(&engine), if !ready => {
                ready = true;
                tell_ready();
            }
        }
    };
    drop(successors);
    tracing::info!("stopping ({})", asked.unwrap_or("a successor serves"));
    let mut stop = tokio::task::spawn_blocking(move || match asked {
        Some(_) => engine.shutdown(),
        // What could not go over ends here.
        None => engine.give_way(),
    });
    loop {
        tokio::select! {
            clean = &mut stop => {
                return if clean.unwrap_or(false) { Ok(()) } else { Err("shutdownTimeout is over") };
            }
            (name, wish) = signals.next() => match wish {
                // A second signal ends it at once.
                Wish::Stop => return Err("a second signal"),
                wish => answer(log, name, wish),
            },
        }
    }
}

/// What an upgrade has come to, if one is under way.
async fn ended(upgrading: &mut Option<JoinHandle<Outcome>>) -> Outcome {
    match upgrading {
        // A defect in it leaves everything as it was.
        Some(upgrading) => upgrading.await.unwrap_or(Outcome::Stays),
        None => std::future::pending().await,
    }
}

/// Waits until an engine has joined its cluster.
async fn serving(engine: &Engine) {
    while !engine.is_serving() {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Has Zenoh read and write the links between nodes on one thread. Otherwise it reads and writes an enciphered link on two at
/// once, over one state of its TLS (`zenoh-link-tls` 1.10, `LinkUnicastTls`): such links break under load. It takes this from
/// the environment alone, when it starts.
fn serve_links_on_one_thread() {
    // SAFETY: the log and the engine have not started. The threads that may run by now are the watchdog and the one that reads
    // standard input for `--home`; neither reads or changes the environment.
    unsafe { std::env::set_var("ZENOH_RUNTIME", "(rx: (worker_threads: 1), tx: (handover: rx))") };
}

/// A panic is a defect of ours: it goes to the log, and costs the connection whose task it was in.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = info.payload_as_str().unwrap_or("unknown");
        tracing::error!(place, backtrace = %std::backtrace::Backtrace::capture(), "internal error: {what}");
    }));
}

/// Handles a signal that neither stops nor reloads.
fn answer(log: &Log, name: &str, wish: Wish) {
    match wish {
        Wish::Reopen => match log.reopen() {
            Ok(Some(file)) => tracing::info!("{name}: the log file {} was opened anew", file.display()),
            Ok(None) => tracing::info!("{name}: there is no log file to open anew, the log goes to the console alone"),
            Err(e) => tracing::error!("{name}: the log file could not be opened anew, the one before stays: {e}"),
        },
        Wish::Upgrade => tracing::warn!("{name}: the engine stops, or is being replaced already; nothing was done"),
        // While the engine stops, there is nothing to reload.
        Wish::Reload | Wish::Stop | Wish::StopOnce => {}
    }
}
