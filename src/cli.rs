//! The command line: what a user types, and what it means. Parsing never acts; each subcommand does its work and says
//! with which code the process ends: 0 stopped cleanly, 1 a problem with the configuration, its scripts or the system,
//! 2 wrong usage.

mod client;
mod greeting;
mod hash;
mod man;
mod new;
mod nodes;
mod remote;
mod shell;
mod signals;
mod tail;
mod top;
mod why;

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing::level_filters::LevelFilter;

use self::signals::{Signals, Wish};
use crate::bench::Bench;
use crate::config::{Config, Format, Home, Level, Listen, NodeRole, load, print, production};
use crate::engine::{
    Engine, HAS_CLUSTER, Listeners, WITHOUT_CLUSTER, check_certificates, check_scripts, check_watchdog,
};
use crate::ids::MAX_WORKERS;
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::log::{Log, Rotation, Style};
use crate::telemetry::terminal::{complain, say};
use crate::testing;
use greeting::Greeting;
use nodes::{Common, MOST, Report};

/// A scriptable engine for long-lived connections: WebSocket clients, Lua handlers, channels, publishing by HTTP.
#[derive(Debug, Parser)]
#[command(name = "connmix", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Run scripts even if one that loops without end can't be stopped in this process
    #[arg(long, global = true)]
    allow_unguarded: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder to begin with: a configuration, a script, its test, and what to do with them
    New(new::Options),
    /// For writing scripts: center and engine in one process, the log on the console at debug
    Dev(Dev),
    /// For production: center and engine in one process
    Single(Run),
    /// The center of a cluster: engines join it, and clients find them by it
    Center(Run),
    /// An engine of a cluster: it serves clients
    Engine(Run),
    /// Check the configuration and the scripts it names, and exit: 0 all is well, 1 it is not
    Check(Check),
    /// Print every key with its meaning, bounds and default, as a configuration file; with -f, with the values of FILE
    Config(Show),
    /// Read a password from standard input and print its hash, for passwordHash of a user
    HashPassword,
    /// Run the Lua tests of scripts, without a network, and exit: 0 all passed, 1 some did not, 2 there were none
    Test(testing::Options),
    /// Be a client: what is typed is sent line by line, and what comes is printed
    Client(client::Options),
    /// Show what happens in a running engine: connections, messages, handlers, errors
    Tail(tail::Options),
    /// Say why a message did not reach a client
    Why(why::Options),
    /// Show the figures of a running engine, a line each second
    Top(top::Options),
    /// Measure an engine: throughput, delays, memory
    #[command(subcommand)]
    Bench(Bench),
    /// Print what a shell needs to complete commands and options
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: shell::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
struct File {
    /// The configuration file
    #[arg(short = 'f', long = "file", value_name = "FILE", default_value = "connmix.yaml")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    file: File,
    /// Exit with 1 for warnings, too
    #[arg(long)]
    strict: bool,
    /// Look for what should not be in force where strangers come: an open API, a file that others can read, and the like
    #[arg(long)]
    production: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// Print the values that are in force with this file; secrets are left out [default: no file, all defaults]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// As JSON: one object for each key, with path, type, bounds, default, effect, words and value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    file: File,
    /// Worker threads; 0 = one a core [default: engine.workers of the configuration]
    #[arg(short = 'p', long = "workers", value_name = "N", value_parser = clap::value_parser!(u16).range(0..=MAX_WORKERS as i64))]
    workers: Option<u16>,
}

#[derive(Debug, Args)]
struct Dev {
    #[command(flatten)]
    run: Run,
    /// A cluster on this machine: N engines and a center, each a process with ports of its own beside the configured ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=MOST), conflicts_with = "home")]
    nodes: Option<u16>,
    /// One of these nodes: where it listens, as JSON.
    #[arg(long, hide = true)]
    home: Option<String>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let guarded = || match check_watchdog() {
        Err(why) if cli.allow_unguarded => {
            complain!("warning: {why}");
            Ok(())
        }
        Err(why) => Err(format!("{why}.\nWith --allow-unguarded connmix goes on all the same.")),
        Ok(()) => Ok(()),
    };
    let outcome = match cli.command {
        Command::Dev(dev) => guarded().and_then(|()| develop(&dev, cli.allow_unguarded)),
        Command::Single(run) => guarded().and_then(|()| serve(&run, false, NodeRole::SINGLE, None)),
        Command::Center(run) => serve(&run, false, NodeRole { engine: false, center: true }, None),
        Command::Engine(run) => {
            guarded().and_then(|()| serve(&run, false, NodeRole { engine: true, center: false }, None))
        }
        Command::Config(what) => show(&what),
        Command::HashPassword => hash::run(),
        Command::Check(what) => guarded().and_then(|()| check(&what)),
        Command::Test(options) => match guarded() {
            Ok(()) => return options.run(),
            Err(why) => Err(why),
        },
        Command::Bench(bench) => bench.run(),
        Command::New(options) => options.run(),
        Command::Client(options) => match options.run() {
            Ok(code) => return code,
            Err(why) => Err(why),
        },
        Command::Tail(options) => options.run(),
        Command::Why(options) => options.run(),
        Command::Top(options) => options.run(),
        Command::Completions { shell } => print_text(&shell::script(shell, &whole())),
        Command::Man => print_text(&man::page(&whole())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain!("{}", for_terminal(&message));
            ExitCode::FAILURE
        }
    }
}

fn load(file: &File) -> Result<Config, String> {
    load::load(&file.file).map_err(|problems| problems.to_string())
}

/// `config`
fn show(what: &Show) -> Result<(), String> {
    let config = match &what.file {
        Some(file) => load::load_as_written(file).map_err(|problems| problems.to_string())?,
        None => load::defaults(),
    };
    print_text(&if what.json { print::json(&config) } else { print::file(&config) })
}

/// The definitions of all commands, with what they have from the library.
fn whole() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

fn print_text(text: &str) -> Result<(), String> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has closed the pipe; this is no error.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(format!("standard output could not be written: {e}")),
        _ => Ok(()),
    }
}

fn check(what: &Check) -> Result<(), String> {
    // Both kinds of problems at once: scripts can be checked as soon as the configuration can be read.
    let config = load(&what.file)?;
    let mut warnings = check_scripts(&config)?;
    warnings.extend(check_certificates(&config)?);
    config.notes.iter().for_each(|note| say!("note: {}", for_terminal(note)));
    for open in config.open_apis().filter(|_| !what.production) {
        say!("note: {}: the API on {} is open to everybody: no access.users are configured", open.key, open.addr);
    }
    warnings.iter().for_each(|warning| complain!("{}", for_terminal(warning)));
    let (file, servers) = (config.file.display(), config.servers.len());
    let findings = match what.production {
        true => production::check(&config).map_err(|problems| problems.to_string())?,
        false => Vec::new(),
    };
    findings.iter().for_each(|finding| complain!("{file}{}", for_terminal(&finding.to_string())));
    let errors = findings.iter().filter(|finding| finding.is_error).count();
    let found = match (errors, warnings.len() + findings.len() - errors) {
        (0, 0) => "no problems".to_owned(),
        (0, n) => format!("{n} warning(s)"),
        (errors, n) => return Err(format!("{file}: {errors} error(s), {n} warning(s): not for production as it is")),
    };
    if what.strict && found != "no problems" {
        return Err(format!("{file}: {found}; with --strict they count as problems"));
    }
    say!("{file}: {found}; {servers} server(s)");
    Ok(())
}

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
    let file = config.logging.filename.as_deref().filter(|_| !dev).map(|f| (f, rotation));
    Log::open(level, style, file).map_err(|e| e.to_string())
}

/// `dev`
fn develop(dev: &Dev, unguarded: bool) -> Result<(), String> {
    match (dev.nodes, &dev.home) {
        (Some(nodes), _) => {
            let common = Common { file: &dev.run.file.file, workers: dev.run.workers, unguarded };
            nodes::run(&common, || load(&dev.run.file), nodes)
        }
        (None, Some(home)) => {
            let home: Home = serde_json::from_str(home).map_err(|e| format!("--home: {e}"))?;
            serve(&dev.run, true, home.role(), Some(home))
        }
        (None, None) => serve(&dev.run, true, NodeRole::SINGLE, None),
    }
}

/// `dev`, `single`, `center` and `engine`. `home`: one of several nodes that a parent process has started.
fn serve(run: &Run, dev: bool, role: NodeRole, home: Option<Home>) -> Result<(), String> {
    // Signals first: one that asks for a stop during the start is not lost, and none kills.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("the runtime could not start: {e}"))?;
    let mut signals = runtime.block_on(async { Signals::watch() }).map_err(|e| format!("signals: {e}"))?;
    if home.is_some() {
        signals.stop_at_end_of_input().map_err(|e| format!("the parent can't be watched: {e}"))?;
    }
    let config = load(&run.file)?.for_role(role).at_home(home);
    if config.is_of_mesh() && !HAS_CLUSTER {
        return Err(WITHOUT_CLUSTER.to_owned());
    }
    if config.is_of_mesh() && !config.cluster.tls_cert.is_empty() {
        serve_links_on_one_thread();
    }
    // Open to the end of this function: what happens during the stop is logged too.
    let log = open_log(&config, dev)?;
    log_panics();
    config.notes.iter().for_each(|note| tracing::info!("{note}"));
    let is_open = |listen: &Listen| config.open_apis().any(|open| open == listen);
    let (open_api, open_center) = (is_open(&config.api.listen), is_open(&config.center));
    let listeners = Listeners::bind(&config)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let mut report = config.home.as_ref().map(Report::of);
    let greeting = (dev && report.is_none()).then(|| Greeting::of(&config));

    let log_level = log.level();
    let on_level = move |level| {
        if !dev {
            log_level.set(level_filter(level));
        }
    };
    let workers = run.workers.map(usize::from);
    let engine = Engine::start(config, listeners, workers, Box::new(on_level)).map_err(|e| e.to_string())?;
    let (at, workers) = (engine.addresses().clone(), engine.workers());
    for (_, addr) in [(open_api && role.engine, at.api), (open_center && role.center, at.center)]
        .into_iter()
        .filter(|(open, _)| *open)
    {
        tracing::warn!("the API on {addr} is open to everybody: no access.users are configured");
    }
    let api = if role.engine { at.api } else { at.center };
    let (mut ready, mut greeting) = (false, greeting);
    let mut tell_ready = || {
        for server in &at.servers {
            tracing::info!("serving clients on {server}");
        }
        tracing::info!(workers, "connmix {} is ready; API on {api}", env!("CARGO_PKG_VERSION"));
        greeting.take().iter().for_each(|greeting| greeting.print(std::slice::from_ref(&at), at.center));
        report.take().iter().for_each(|report| report.print(&at));
    };
    if engine.is_serving() {
        ready = true;
        tell_ready();
    } else {
        tracing::info!("connmix {} joins its cluster; API on {api}", env!("CARGO_PKG_VERSION"));
    }

    let clean = runtime.block_on(async {
        let asked = loop {
            tokio::select! {
                come = signals.next() => match come {
                    (name, Wish::Stop | Wish::StopOnce) => break name,
                    (_, Wish::Reload) => engine.reload(),
                    (name, wish) => answer(&log, name, wish),
                },
                () = serving(&engine), if !ready => {
                    ready = true;
                    tell_ready();
                }
            }
        };
        tracing::info!("stopping ({asked})");
        let mut stop = tokio::task::spawn_blocking(move || engine.shutdown());
        loop {
            tokio::select! {
                clean = &mut stop => {
                    return if clean.unwrap_or(false) { Ok(()) } else { Err("shutdownTimeout is over") };
                }
                (name, wish) = signals.next() => match wish {
                    // A second signal ends it at once.
                    Wish::Stop => return Err("a second signal"),
                    wish => answer(&log, name, wish),
                },
            }
        }
    });
    runtime.shutdown_background();
    match clean {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(why) => Err(format!("stopped before all connections had ended: {why}")),
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
        Wish::Reserved => tracing::warn!("{name} is reserved for a later version; nothing was done"),
        // While the engine stops, there is nothing to reload.
        Wish::Reload | Wish::Stop | Wish::StopOnce => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for wrong in [&["connmix", "serve"][..], &["connmix", "dev", "-p", "many"], &["connmix", "dev", "-x"]] {
            assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
