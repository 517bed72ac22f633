//! The command line: what a user types, and what it means. Parsing never acts; each subcommand does its work and says
//! with which code the process ends: 0 stopped cleanly, 1 a problem with the configuration, its scripts or the system,
//! 2 wrong usage.

mod client;
mod greeting;
mod hash;
mod man;
mod new;
mod nodes;
mod options;
mod remote;
mod serve;
mod shell;
mod signals;
mod tail;
mod top;
mod upgrade;
mod why;

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use self::options::{File, Run, load};
use self::serve::{Mode, serve};
use crate::bench::Bench;
use crate::config::{self, Home, NodeRole, explain, print, production};
use crate::engine::{check_certificates, check_scripts, check_watchdog};
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::{complain, say};
use crate::testing;
use nodes::{Common, MOST};

/// A scriptable engine for long-lived connections: WebSocket clients, Lua handlers, channels, publishing by HTTP.
#[derive(Debug, Parser)]
#[command(name = "connmix", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Run scripts even if one that loops without end can't be stopped in this process
    #[arg(long, global = true)]
    allow_unguarded: bool,
    /// Take over from the process before, which has started this one; the value is what it left open.
    #[arg(long, global = true, hide = true, value_name = "DESCRIPTOR")]
    succeed: Option<i32>,
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
    /// Have the process that runs with this file replaced by the program that now lies at its path, without closing a connection
    Upgrade(Upgrade),
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
struct Upgrade {
    #[command(flatten)]
    file: File,
    /// Only say whether it could be done, and what can't be kept
    #[arg(long)]
    dry_run: bool,
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
    /// Say which rule of engine.channels holds for a channel of that name, and why, instead of checking the scripts
    #[arg(long, value_name = "NAME", conflicts_with_all = ["strict", "production"])]
    explain: Option<String>,
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
        Command::Dev(dev) => guarded().and_then(|()| develop(&dev, cli.allow_unguarded, cli.succeed)),
        Command::Single(run) => guarded().and_then(|()| serve(&run, Mode::of(NodeRole::SINGLE, cli.succeed))),
        Command::Center(run) => serve(&run, Mode::of(NodeRole { engine: false, center: true }, cli.succeed)),
        Command::Engine(run) => {
            guarded().and_then(|()| serve(&run, Mode::of(NodeRole { engine: true, center: false }, cli.succeed)))
        }
        Command::Config(what) => show(&what),
        Command::HashPassword => hash::run(),
        Command::Upgrade(what) => upgrade::ask(&what.file.file, what.dry_run),
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

/// `config`
fn show(what: &Show) -> Result<(), String> {
    let config = match &what.file {
        Some(file) => config::load::load_as_written(file).map_err(|problems| problems.to_string())?,
        None => config::load::defaults(),
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
    if let Some(name) = &what.explain {
        let said = explain::channel(&config, name).map_err(|wrong| wrong.to_string())?;
        said.lines().for_each(|line| say!("{}", for_terminal(line)));
        return Ok(());
    }
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

/// `dev`
fn develop(dev: &Dev, unguarded: bool, succeed: Option<i32>) -> Result<(), String> {
    match (dev.nodes, &dev.home) {
        (Some(nodes), _) => {
            let common = Common { file: &dev.run.file.file, workers: dev.run.workers, unguarded };
            nodes::run(&common, || load(&dev.run.file), nodes)
        }
        (None, Some(home)) => {
            let home: Home = serde_json::from_str(home).map_err(|e| format!("--home: {e}"))?;
            serve(&dev.run, Mode { dev: true, role: home.role(), home: Some(home), succeed })
        }
        (None, None) => serve(&dev.run, Mode { dev: true, ..Mode::of(NodeRole::SINGLE, succeed) }),
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
