//! `connmix test`: runs the Lua tests of scripts one after the other, and reports the results. No socket is opened:
//! `harness` is the world that the tests run in, `find` looks for their files, `report` prints the results.

mod find;
mod harness;
mod report;

use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::{Config, load};
use crate::telemetry::language::spoken;
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::complain;
use crate::worker::STACK;
use harness::{Settings, cases, run};
use report::{File, Ran, Report};

/// The configuration that is taken if it is there and no other is named.
const CONFIG: &str = "connmix.yaml";

/// What to run, and how to tell.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Files of tests, or folders whose *_test.lua are run [default: *_test.lua beside the entry scripts of the
    /// configuration and in tests/lua beside the configuration]
    /// zh: 测试文件，或者目录，运行其中的 *_test.lua [默认：配置里各入口脚本旁边的 *_test.lua，以及配置文件旁边 tests/lua 里的]
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
    /// The configuration, for the servers' options and limits [default: connmix.yaml, if it is there]
    /// zh: 配置文件，从中读取 server 的选项和上限 [默认：connmix.yaml，如果有]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Run only the tests whose name, with those of its groups, holds this text
    /// zh: 只运行名称（连同所在分组的名称）里含有这段文字的测试
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// The longest a test may take, in seconds
    /// zh: 一个测试最长的秒数
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Print one JSON object
    /// zh: 打印一个 JSON 对象
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|s| (0.01..=3600.0).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| spoken!("a number from 0.01 to 3600 is expected", "应为 0.01 到 3600 的数字"))
}

/// The exit code if there was nothing to run, as after any wrong usage.
const NOTHING: u8 = 2;

impl Options {
    /// Runs the tests and prints what became of them. The process is to end with 0: all passed; 1: some did not, or the
    /// configuration is wrong; 2: there were none.
    pub fn run(self) -> ExitCode {
        // A script has as much of the native stack as in the engine.
        let thread = std::thread::Builder::new().name("tests".into()).stack_size(STACK).spawn(move || self.act());
        match thread.map(|thread| thread.join()) {
            Ok(Ok(code)) => code,
            Ok(Err(_)) => ExitCode::FAILURE,
            Err(e) => {
                complain!("{}", spoken!("the tests' thread could not start: {e}", "测试的线程无法启动：{e}"));
                ExitCode::FAILURE
            }
        }
    }

    fn act(&self) -> ExitCode {
        let config = match self.config() {
            Ok(config) => config,
            Err(problems) => {
                complain!("{}", for_terminal(&problems));
                return ExitCode::FAILURE;
            }
        };
        let files = match find::files(&self.files, config.as_ref()) {
            Ok(files) => files,
            Err(nothing) => {
                complain!("{}", for_terminal(&nothing));
                return ExitCode::from(NOTHING);
            }
        };
        let settings = Settings::new(config.as_ref(), self.timeout);
        let mut report = Report::new(self.json);
        for file in &files {
            self.run_file(file, &settings, &mut report);
        }
        if report.is_empty() {
            let why = match &self.filter {
                Some(text) => {
                    spoken!("no test's name holds \"{text}\" (--filter)", "没有测试的名称里含有 \"{text}\"（--filter）")
                }
                None => spoken!(
                    "no tests in {0}: they call test.it",
                    "{0} 里没有测试：测试要调用 test.it",
                    find::list(&files)
                ),
            };
            complain!("{}", for_terminal(&why));
            return ExitCode::from(NOTHING);
        }
        report.end();
        if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// None: none is named, and there is none where it would be.
    fn config(&self) -> Result<Option<Config>, String> {
        let file = match &self.file {
            Some(file) => file,
            None if self.files.is_empty() || Path::new(CONFIG).is_file() => Path::new(CONFIG),
            None => return Ok(None),
        };
        load::load(file).map(Some).map_err(|problems| problems.spoken())
    }

    fn run_file(&self, file: &Path, settings: &Settings, report: &mut Report) {
        let described = match cases(file, settings) {
            Ok(described) => described,
            Err(failure) => return report.broken(file, failure),
        };
        let wanted = |name: &str| self.filter.as_ref().is_none_or(|text| name.contains(text));
        let chosen: Vec<_> = described.into_iter().filter(|case| wanted(&case.name)).collect();
        if chosen.is_empty() {
            return;
        }
        let file_report: File = report.file(file);
        for case in chosen {
            let began = Instant::now();
            let outcome = run(file, settings, &case.name);
            report.ran(&file_report, Ran { case, outcome, took: began.elapsed() });
        }
    }
}
