//! Loading scripts: what compiling and running a top level may cost the clients served meanwhile, which files count as
//! scripts and modules, and what is loaded of a file that is saved again and again.

mod common;

use common::process::Process;
use common::*;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A text that takes LuaJIT's parser many minutes.
fn endless() -> String {
    format!("x=a{}", " or a".repeat(1_500_000))
}

/// A script whose answers begin with `version`, and whose top level takes at least that many seconds.
fn slow(version: &str, seconds: f64) -> String {
    format!(
        "local began = os.clock() while os.clock() - began < {seconds} do end
         function on_message(msg, conn) conn:send('{version}: ' .. msg.data) end"
    )
}

fn rename_over(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

fn fifo(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn folder(script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    dir
}

#[tokio::test]
async fn a_module_that_compiles_for_ever_costs_the_handler_that_wants_it() {
    let entry = "function on_message(msg, conn) conn:send(type(require(msg.data))) end";
    let engine = TestEngine::with(entry, "", "workers: 1");
    std::fs::write(engine.path("endless.lua"), endless()).unwrap();
    std::fs::write(engine.path("quick.lua"), "return {}").unwrap();
    let (mut client, mut other) = (engine.connect().await, engine.connect().await);
    client.send("endless").await;
    other.send("quick").await;
    assert_eq!(client.close_frame().await, (1011, "handler error".into()));
    assert_eq!(other.text().await, "table");
}

#[tokio::test]
async fn a_script_that_compiles_for_ever_is_not_loaded() {
    let engine = TestEngine::new(&slow("one", 0.0));
    let mut client = engine.connect().await;
    std::fs::write(engine.path("entry.lua"), endless()).unwrap();
    // Given up after the five seconds that loading may take: the next save is looked at again.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(client.ask("hi").await, "one: hi");
    std::fs::write(engine.path("entry.lua"), slow("two", 0.0)).unwrap();
    eventually("two", async || (client.ask("hi").await == "two: hi").then_some(())).await;
}

#[tokio::test]
async fn a_top_level_that_works_long_may_start_but_not_replace_what_serves() {
    let dir = folder(&slow("one", 0.4));
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("hi").await, "one: hi");
    std::fs::write(dir.path().join("entry.lua"), slow("two", 2.0)).unwrap();
    let line = process.line("was not reloaded, the code before stays:");
    assert!(
        line.contains("entry.lua:1: the entry file's top level, with what it requires, took longer than"),
        "{line}"
    );
    assert_eq!(client.ask("hi").await, "one: hi");
    std::fs::write(dir.path().join("entry.lua"), slow("three", 0.0)).unwrap();
    process.line("reloaded entry.lua");
    assert_eq!(client.ask("hi").await, "three: hi");
}

#[tokio::test]
async fn modules_are_lua_files_of_the_script_and_of_the_system() {
    let entry = "function on_message(msg, conn)
        local path, name = msg.data:match('^(.*) (.*)$')
        package.path = path
        local ok, result = pcall(require, name)
        conn:send(ok and 'loaded ' .. tostring(result) or result)
      end";
    let engine = TestEngine::with(entry, "", "workers: 1");
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret.lua"), "return 'secret'").unwrap();
    std::fs::write(engine.path("notes.txt"), "return 'notes'").unwrap();
    std::fs::create_dir(engine.path("deep")).unwrap();
    std::fs::write(engine.path("deep/own.lua"), "return 'own'").unwrap();
    std::os::unix::fs::symlink(outside.path(), engine.path("linked")).unwrap();
    fifo(&engine.path("fifo.lua"));
    std::fs::create_dir(engine.path("folder.lua")).unwrap();
    let (here, there) = (engine.path("").display().to_string(), outside.path().display().to_string());
    let here = here.trim_end_matches('/');
    let up = format!("{here}/../{}", outside.path().file_name().unwrap().to_str().unwrap());
    let refused = "it is no .lua file below the script's folder or the system's Lua path";
    let mut client = engine.connect().await;
    for (question, answer) in [
        (format!("{here}/deep/?.lua own"), "loaded own"),
        (format!("{here}/?.lua linked.secret"), "loaded secret"),
        (format!("{there}/?.lua secret"), refused),
        (format!("{up}/?.lua secret"), refused),
        (format!("{here}/?.txt notes"), refused),
        ("/etc/? hostname".to_owned(), refused),
        ("/dev/? zero".to_owned(), refused),
        (format!("{here}/?.lua fifo"), "fifo.lua: it is a FIFO, not a regular file"),
        (format!("{here}/?.lua folder"), "folder.lua: it is a folder, not a regular file"),
    ] {
        let got = client.ask(&question).await;
        assert!(got.contains(answer), "{question}: {got}");
        assert_eq!(got.starts_with("loaded"), answer.starts_with("loaded"), "{question}: {got}");
    }
}

#[tokio::test]
async fn what_is_no_regular_file_is_no_script_and_no_configuration() {
    let dir = folder(&slow("one", 0.0));
    let (entry, config) = (dir.path().join("entry.lua"), dir.path().join("connmix.yaml"));
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    // At a reload.
    fifo(&entry);
    process.line("entry.lua: it is a FIFO, not a regular file");
    let text = std::fs::read_to_string(&config).unwrap();
    fifo(&config);
    process.line("connmix.yaml: cannot be read: it is a FIFO, not a regular file");
    assert_eq!(client.ask("hi").await, "one: hi");
    // Files again: all goes on.
    rename_over(&config, &text);
    rename_over(&entry, &slow("two", 0.0));
    eventually("two", async || (client.ask("hi").await == "two: hi").then_some(())).await;
    let told = |part: &str| process.lines().iter().filter(|line| line.contains(part)).count();
    assert_eq!((told("entry.lua: it is a FIFO"), told("yaml: cannot be read: it is a FIFO")), (1, 1));
    // At the start.
    fifo(&entry);
    let error = TestEngine::try_start(dir).map(drop).expect_err("a FIFO is no script");
    assert!(error.contains("entry.lua is a FIFO; a script is a regular file"), "{error}");
}

#[tokio::test]
async fn a_script_that_is_saved_all_the_time_is_taken_up() {
    // The time that is configured would take longer than the test.
    let engine = TestEngine::with(&slow("one", 0.0), "byteCodeExpires: 1h", "workers: 2");
    let mut client = engine.connect().await;
    let (mut i, mut seen) = (0, std::collections::BTreeSet::new());
    eventually("two versions are taken up while saving goes on", async || {
        i += 1;
        // Some of them don't compile.
        match i % 5 {
            0 => std::fs::write(engine.path("entry.lua"), "function on_message(").unwrap(),
            1 => rename_over(&engine.path("entry.lua"), &slow(&format!("v{i}"), 0.0)),
            _ => std::fs::write(engine.path("entry.lua"), slow(&format!("v{i}"), 0.0)).unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen.insert(client.ask("hi").await);
        (seen.len() > 2).then_some(())
    })
    .await;
}
