//! The command line: what a user types, and what it means. Parsing never acts; each subcommand does its work and says
//! with which code the process ends: 0 stopped cleanly, 1 a problem with the configuration, its scripts or the system,
//! 2 wrong usage.

mod client;
mod greeting;
mod hash;
mod help;
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

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use self::options::{File, Run, load};
use self::serve::{Mode, serve};
use crate::bench::Bench;
use crate::config::{self, Home, NodeRole, explain, print, production};
use crate::engine::{check_certificates, check_scripts, check_watchdog};
use crate::telemetry::language::{Language, spoken};
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::{complain, say};
use crate::testing;
use nodes::{Common, MOST};

/// A scriptable engine for long-lived connections: WebSocket clients, Lua handlers, channels, publishing by HTTP.
/// zh: 可编程的长连接引擎：WebSocket 客户端、Lua 处理函数、频道、HTTP 发布
#[derive(Debug, Parser)]
#[command(name = "connmix", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Run scripts even if one that loops without end can't be stopped in this process
    /// zh: 即使这个进程无法终止死循环的脚本，也运行脚本
    #[arg(long, global = true)]
    allow_unguarded: bool,
    /// Take over from the process before, which has started this one; the value is what it left open.
    #[arg(long, global = true, hide = true, value_name = "DESCRIPTOR")]
    succeed: Option<i32>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder to begin with: a configuration, a script, its test, and what to do with them
    /// zh: 新建一个可以由此开始的目录：配置、脚本、脚本的测试，以及接下来做什么
    New(new::Options),
    /// For writing scripts: center and engine in one process, the log on the console at debug
    /// zh: 用于编写脚本：中心和引擎在一个进程里，日志以 debug 级别输出到控制台
    Dev(Dev),
    /// For production: center and engine in one process
    /// zh: 用于生产环境：中心和引擎在一个进程里
    Single(Run),
    /// The center of a cluster: engines join it, and clients find them by it
    /// zh: 集群的中心：引擎加入它，客户端通过它找到引擎
    Center(Run),
    /// An engine of a cluster: it serves clients
    /// zh: 集群的引擎：为客户端服务
    Engine(Run),
    /// Have the process that runs with this file replaced by the program that now lies at its path, without closing a connection
    /// zh: 用路径上现在的程序替换以这个文件运行的进程，不断开任何连接
    Upgrade(Upgrade),
    /// Check the configuration and the scripts it names, and exit: 0 all is well, 1 it is not
    /// zh: 检查配置和其中的脚本，然后退出：0 一切正常，1 有问题
    Check(Check),
    /// Print every key with its meaning, bounds and default, as a configuration file; with -f, with the values of FILE
    /// zh: 以配置文件的形式打印每个配置项的含义、范围和默认值；加上 -f，则是 FILE 里的值
    Config(Show),
    /// Read a password from standard input and print its hash, for passwordHash of a user
    /// zh: 从标准输入读取密码，打印它的散列值，用于用户的 passwordHash
    HashPassword,
    /// Run the Lua tests of scripts, without a network, and exit: 0 all passed, 1 some did not, 2 there were none
    /// zh: 运行脚本的 Lua 测试，不需要网络，然后退出：0 全部通过，1 有的没有通过，2 没有测试
    Test(testing::Options),
    /// Be a client: what is typed is sent line by line, and what comes is printed
    /// zh: 在终端里充当客户端：逐行发送输入的内容，打印收到的内容
    Client(client::Options),
    /// Show what happens in a running engine: connections, messages, handlers, errors
    /// zh: 显示运行中的引擎里正在发生的事：连接、消息、处理函数、错误
    Tail(tail::Options),
    /// Say why a message did not reach a client
    /// zh: 说明一条消息为什么没有到达某个客户端
    Why(why::Options),
    /// Show the figures of a running engine, a line each second
    /// zh: 显示运行中的引擎的各项数值，每秒一行
    Top(top::Options),
    /// Measure an engine: throughput, delays, memory
    /// zh: 测量引擎：吞吐、延迟、内存
    #[command(subcommand)]
    Bench(Bench),
    /// Print what a shell needs to complete commands and options
    /// zh: 打印 shell 补全命令和选项所需的内容
    Completions {
        /// The shell
        /// zh: 哪一种 shell
        #[arg(value_enum)]
        shell: shell::Shell,
    },
    /// Print the manual page
    /// zh: 打印手册页
    Man,
}

#[derive(Debug, Args)]
struct Upgrade {
    #[command(flatten)]
    file: File,
    /// Only say whether it could be done, and what can't be kept
    /// zh: 只说明能否升级，以及什么保留不了
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    file: File,
    /// Exit with 1 for warnings, too
    /// zh: 有警告时也以 1 退出
    #[arg(long)]
    strict: bool,
    /// Look for what should not be in force where strangers come: an open API, a file that others can read, and the like
    /// zh: 找出陌生人能访问时不该有的配置：开放的 API、别人能读的文件等
    #[arg(long)]
    production: bool,
    /// Say which rule of engine.channels holds for a channel of that name, and why, instead of checking the scripts
    /// zh: 不检查脚本，而是说明 engine.channels 的哪条规则适用于这个名称的频道，以及为什么
    #[arg(long, value_name = "NAME", conflicts_with_all = ["strict", "production"])]
    explain: Option<String>,
}

#[derive(Debug, Args)]
struct Show {
    /// Print the values that are in force with this file; secrets are left out [default: no file, all defaults]
    /// zh: 打印使用这个文件时实际生效的值，不含密钥 [默认：没有文件，全部是默认值]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// As JSON: one object for each key, with path, type, bounds, default, effect, words and value
    /// zh: JSON 格式：每个配置项一个对象，包括 path、type、bounds、default、effect、words 和 value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Dev {
    #[command(flatten)]
    run: Run,
    /// A cluster on this machine: N engines and a center, each a process with ports of its own beside the configured ones
    /// zh: 本机上的集群：N 个引擎和一个中心，各是一个进程，端口在配置的端口旁边
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=MOST), conflicts_with = "home")]
    nodes: Option<u16>,
    /// One of these nodes: where it listens, as JSON.
    #[arg(long, hide = true)]
    home: Option<String>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // What a successor says goes to the log of the process before.
    let is_successor = std::env::args_os().any(|arg| arg == upgrade::OPTION);
    let language = if is_successor { Language::English } else { Language::of_environment() };
    language.choose();
    let cli = parse(language);
    let guarded = || match check_watchdog() {
        Err(why) if cli.allow_unguarded => {
            complain!("{}", spoken!("warning: {why}", "警告：{why}"));
            Ok(())
        }
        Err(why) => Err(spoken!(
            "{why}.\nWith --allow-unguarded connmix goes on all the same.",
            "{why}。\n加上 --allow-unguarded，connmix 照样运行。"
        )),
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
        Command::Upgrade(what) => upgrade::ask(&what.file, what.dry_run),
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
        Command::Completions { shell } => print_text(&shell::script(shell, &help::texts(definitions(), language))),
        Command::Man => print_text(&man::page(&help::texts(definitions(), language), language)),
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
        Some(file) => config::load::load_as_written(file).map_err(|problems| problems.spoken())?,
        None => config::load::defaults(),
    };
    print_text(&if what.json { print::json(&config) } else { print::file(&config) })
}

/// What was typed. Wrong usage, and a question for help, end the process.
fn parse(language: Language) -> Cli {
    let mut command = help::pages(help::texts(definitions(), language), language);
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command)));
    parsed.unwrap_or_else(|error| help::end(&error, language))
}

/// The definitions of all commands, with what they have from the library, in both languages.
fn definitions() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    // Taken everywhere, and told of where there are scripts.
    command.mut_subcommands(|below| match GUARDED.contains(&below.get_name()) {
        true => below,
        false => below.mut_args(|arg| if arg.get_id() == "allow_unguarded" { arg.hide(true) } else { arg }),
    })
}

/// The commands that run scripts.
const GUARDED: [&str; 5] = ["dev", "single", "engine", "check", "test"];

fn print_text(text: &str) -> Result<(), String> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has closed the pipe; this is no error.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(spoken!("standard output could not be written: {e}", "无法写入标准输出：{e}"))
        }
        _ => Ok(()),
    }
}

fn check(what: &Check) -> Result<(), String> {
    // Both kinds of problems at once: scripts can be checked as soon as the configuration can be read.
    let config = load(&what.file)?;
    if let Some(name) = &what.explain {
        let said = explain::channel(&config, name).map_err(|wrong| wrong.to_string())?.spoken().to_owned();
        said.lines().for_each(|line| say!("{}", for_terminal(line)));
        return Ok(());
    }
    let mut warnings = check_scripts(&config, Language::chosen())?;
    warnings.extend(check_certificates(&config, Language::chosen())?);
    let note = spoken!("note", "提示");
    config.notes.iter().for_each(|text| say!("{note}: {}", for_terminal(text.spoken())));
    for open in config.open_apis().filter(|_| !what.production) {
        let (key, addr) = (&open.key, open.addr);
        let what = spoken!(
            "the API on {addr} is open to everybody: no access.users are configured",
            "{addr} 上的 API 对所有人开放：没有配置 access.users"
        );
        say!("{note}: {key}: {what}");
    }
    warnings.iter().for_each(|warning| complain!("{}", for_terminal(warning)));
    let (file, servers) = (config.file.display(), config.servers.len());
    let findings = match what.production {
        true => production::check(&config).map_err(|problems| problems.spoken())?,
        false => Vec::new(),
    };
    findings.iter().for_each(|finding| complain!("{file}{}", for_terminal(&finding.spoken())));
    let errors = findings.iter().filter(|finding| finding.is_error).count();
    let found = match (errors, warnings.len() + findings.len() - errors) {
        (0, 0) => None,
        (0, n) => Some(spoken!("{n} warning(s)", "{n} 个警告")),
        (errors, n) => {
            return Err(spoken!(
                "{file}: {errors} error(s), {n} warning(s): not for production as it is",
                "{file}: {errors} 个错误，{n} 个警告：照这样不能用于生产环境"
            ));
        }
    };
    match found {
        Some(found) if what.strict => {
            return Err(spoken!(
                "{file}: {found}; with --strict they count as problems",
                "{file}: {found}；加上 --strict 时警告也算问题"
            ));
        }
        found => {
            let found = found.unwrap_or_else(|| spoken!("no problems", "没有问题"));
            say!("{}", spoken!("{file}: {found}; {servers} server(s)", "{file}: {found}；{servers} 个 server"));
        }
    }
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
