//! A process in which runaway scripts can't be stopped does not run scripts, unless `--allow-unguarded` is given.

mod common;

use common::process::{Ended, Process};
use std::process::Command;

/// Runs the program in a folder with the watchdog's signal blocked: to LuaJIT that is as if it could not be interrupted.
fn unguarded(dir: &std::path::Path, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.args(args).current_dir(dir);
    common::process::block_signals(&mut command, &[libc::SIGURG]);
    Process::of(command).ended()
}

#[test]
fn scripts_are_not_run_where_they_could_not_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), "function on_message() end").unwrap();
    common::write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    for command in ["dev", "single", "check", "test"] {
        let ended = unguarded(dir.path(), &[command]);
        let said = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, Some(1), "{command}: {said}");
        assert!(ended.err.contains("runaway scripts cannot be stopped"), "{command}: {said}");
        assert!(ended.err.contains("--allow-unguarded"), "{command}: {said}");
    }
    let ended = unguarded(dir.path(), &["check", "--allow-unguarded"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("warning: runaway scripts cannot be stopped"), "{}", ended.err);
}
