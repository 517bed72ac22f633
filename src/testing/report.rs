//! The report of a test run: one line for each test as it runs, then the details of the failures, then the totals. Or
//! all of it as one JSON object.

use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{Case, Failure, Outcome};
use crate::script::program::shown;
use crate::telemetry::language::{padding, spoken};
use crate::telemetry::log::escape::{for_terminal, json_for_terminal};
use crate::telemetry::terminal::say;

/// How many of the last log lines of a failed test are shown.
const LOG_LINES: usize = 20;

/// A test that has run.
pub(super) struct Ran {
    pub(super) case: Case,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

/// The file whose tests run, as it is shown.
pub(super) struct File(String);

/// What has become of all so far.
pub(super) struct Report {
    json: bool,
    began: Instant,
    passed: usize,
    failed: usize,
    broken: usize,
    /// Of those that failed, to be printed at the end.
    details: Vec<String>,
    /// One value a test.
    tests: Vec<Value>,
    /// One value a file that could not be run.
    errors: Vec<Value>,
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report {
            json,
            began: Instant::now(),
            passed: 0,
            failed: 0,
            broken: 0,
            details: Vec::new(),
            tests: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Nothing has run, nor failed to.
    pub(super) fn is_empty(&self) -> bool {
        self.passed + self.failed + self.broken == 0
    }

    /// All that has run did as it should.
    pub(super) fn passed(&self) -> bool {
        self.failed + self.broken == 0
    }

    /// The tests of a file are about to run.
    pub(super) fn file(&self, file: &Path) -> File {
        let name = shown(&std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
        if !self.json {
            say!("{}", for_terminal(&name));
        }
        File(name)
    }

    /// A file could not be run.
    pub(super) fn broken(&mut self, file: &Path, failure: Failure) {
        self.broken += 1;
        let File(name) = self.file(file);
        if self.json {
            self.errors.push(json!({
                "file": name,
                "place": failure.place,
                "message": failure.message,
                "traceback": failure.traceback,
            }));
        } else {
            let broken = spoken!("the file could not be run", "文件无法运行");
            say!("  {}  {broken}", mark(false));
            let place = if failure.place.is_empty() { &name } else { &failure.place };
            self.details.push(details(place, &broken, &failure, &[]));
        }
    }

    /// A test has run.
    pub(super) fn ran(&mut self, File(file): &File, Ran { case, outcome, took }: Ran) {
        let Outcome { failure, log } = outcome;
        match &failure {
            Some(_) => self.failed += 1,
            None => self.passed += 1,
        }
        if !self.json {
            say!("  {}  {}", mark(failure.is_none()), for_terminal(&case.name));
        }
        if self.json {
            let mut test = json!({
                "file": file,
                "line": case.line,
                "name": case.name,
                "passed": failure.is_none(),
                "seconds": took.as_secs_f64(),
            });
            if let (Some(failure), Some(test)) = (failure, test.as_object_mut()) {
                test.insert("place".into(), failure.place.into());
                test.insert("message".into(), failure.message.into());
                test.insert("traceback".into(), failure.traceback.into());
                test.insert("log".into(), log.into());
            }
            self.tests.push(test);
        } else if let Some(failure) = failure {
            let place = if failure.place.is_empty() { format!("{file}:{}", case.line) } else { failure.place.clone() };
            self.details.push(details(&place, &case.name, &failure, &log));
        }
    }

    /// Prints what is known of the failures, and the sum.
    pub(super) fn end(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.json {
            let report = json!({
                "passed": self.passed,
                "failed": self.failed,
                "seconds": seconds,
                "tests": self.tests,
                "errors": self.errors,
            });
            say!("{}", json_for_terminal(&report.to_string()));
            return;
        }
        self.details.iter().for_each(|text| say!("\n{}", text.strip_suffix('\n').unwrap_or(text)));
        let broken = match self.broken {
            0 => String::new(),
            1 => spoken!(", 1 file could not be run", "，1 个文件无法运行"),
            n => spoken!(", {n} files could not be run", "，{n} 个文件无法运行"),
        };
        let total = self.passed + self.failed;
        let s = if total == 1 { "" } else { "s" };
        let (passed, failed) = (self.passed, self.failed);
        let sum = spoken!(
            "{total} test{s}: {passed} passed, {failed} failed{broken}",
            "{total} 个测试：{passed} 个通过，{failed} 个失败{broken}"
        );
        say!("\n{sum} ({seconds:.2} s)");
    }
}

/// What became of a test, in columns of equal width.
fn mark(passed: bool) -> String {
    let text = if passed { spoken!("ok", "通过") } else { spoken!("FAIL", "失败") };
    text.clone() + &padding(&text, 4)
}

/// The details of one failure.
fn details(place: &str, name: &str, failure: &Failure, log: &[String]) -> String {
    let mut text = format!("{}  {}\n", mark(false), for_terminal(&format!("{place}: {name}")));
    let mut lines = |lines: &mut dyn Iterator<Item = String>, indent: &str| {
        for line in lines {
            text.push_str(&format!("{indent}{}\n", for_terminal(&line)));
        }
    };
    lines(&mut failure.message.lines().map(str::to_owned), "  ");
    if !failure.traceback.is_empty() {
        lines(&mut [spoken!("traceback:", "调用栈：")].into_iter(), "  ");
        lines(&mut failure.traceback.iter().cloned(), "    ");
    }
    if !log.is_empty() {
        lines(&mut [spoken!("log:", "日志：")].into_iter(), "  ");
        let hidden = log.len().saturating_sub(LOG_LINES);
        if hidden > 0 {
            lines(&mut [spoken!("... {hidden} more", "…… 前面还有 {hidden} 行")].into_iter(), "    ");
        }
        lines(&mut log.iter().skip(hidden).cloned(), "    ");
    }
    text
}
