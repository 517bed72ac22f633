//! Tests of what needs a program that may be missing on the machine: a browser, another language's runtime. Where it is
//! missing, they count as ignored, with the reason; the usual harness knows that only at compile time.

use libtest_mimic::{Arguments, Completion, Trial};
use std::future::Future;
use std::process::{Command, ExitCode, Stdio};

/// What a test needs and this machine has not.
pub struct Missing(String);

impl Missing {
    pub fn because(why: impl Into<String>) -> Missing {
        Missing(why.into())
    }
}

/// A test's end. A failure is a panic, as everywhere.
pub type Outcome = Result<(), Missing>;

/// Whether a program runs here and exits with 0. Called by a test before all else.
pub fn need(program: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Missing::because(format!("this does not run here: {program} {}", args.join(" ")))),
    }
}

/// One test, for [`run`].
pub fn test<F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Outcome>,
{
    Trial::ignorable_test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(match runtime.block_on(body()) {
            Ok(()) => Completion::Completed,
            Err(Missing(what)) => Completion::ignored_with(what),
        })
    })
}

/// Runs the tests that the command line asks for.
pub fn run(tests: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Makes the `main` of a test binary without the usual harness: runs these functions, each `async fn() -> Outcome`.
#[macro_export]
macro_rules! optional_tests {
    ($($name:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            common::optional::run(vec![$(common::optional::test(stringify!($name), $name)),+])
        }
    };
}
