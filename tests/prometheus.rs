//! What Prometheus' own checker says of the page of metrics.

mod common;

use common::TestEngine;
use common::optional::{Outcome, need};
use common::raw::Raw;
use std::io::Write;
use std::process::{Command, Stdio};

async fn promtool_finds_nothing_wrong() -> Outcome {
    need("promtool", &["--version"])?;
    let engine = TestEngine::new("function on_message() end");
    for at in [engine.at.api, engine.at.center] {
        let page = Raw::dial(at).await.call("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.body;
        assert!(page.contains("# TYPE connmix_"), "{page}");
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut promtool = command.spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
    }
    Ok(())
}

/// The rules, and what they say of series that are wrong and of some that are not.
async fn promtool_takes_the_alerts_and_their_tests_pass() -> Outcome {
    need("promtool", &["--version"])?;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus");
    for args in [&["check", "rules", "connmix.rules.yml"][..], &["test", "rules", "connmix.rules.test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }
    Ok(())
}

optional_tests! { promtool_finds_nothing_wrong, promtool_takes_the_alerts_and_their_tests_pass }
