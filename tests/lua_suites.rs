//! The LuaJIT that this project builds: how it formats numbers, and what scripts get of it, by the test suites of LuaJIT and of
//! Lua 5.1. These are to be run at every update of LuaJIT or of the sandbox:
//!
//! `LUA_SUITES=FOLDER cargo test --test lua_suites`
//!
//! The suites are not part of this repository. FOLDER holds checkouts of them at any depth: LuaJIT-test-cleanup, whose files are
//! split into their tests, and lua5.1-tests, whose files are run whole. What passes in LuaJIT itself must pass in the sandbox, too,
//! but for what asks for things that the sandbox keeps from scripts.

mod common;

use common::TestEngine;
use common::optional::{Missing, Outcome};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio_tungstenite::tungstenite::Message;

/// Runs what it is sent: the name of a chunk, a line's end, its text.
const RUNNER: &str = r#"
function on_message(msg, conn)
  local name, text = msg.data:match("^(.-)\n(.*)$")
  local f, err = loadstring(text, "@" .. name)
  local ok = f ~= nil
  if f then
    ok, err = pcall(f)
  end
  conn:send(ok and "ok" or "failed: " .. tostring(err), "binary")
end
"#;

/// The errors of tests that ask for what scripts do not have: a part of the text, or of the test's name.
const ABSENT: &[&str] = &[
    // Files, the process, machine code, other languages.
    "module 'ffi' not found",
    "field 'open' (a nil value)",
    "field 'output' (a nil value)",
    "field 'tmpfile' (a nil value)",
    "global 'jit' (a nil value)",
    "global 'arg' (a nil value)",
    "global 'dofile' (a nil value)",
    "field 'dump' (a nil value)",
    "field 'execute' (a nil value)",
    "field 'getenv' (a nil value)",
    "field 'tmpname' (a nil value)",
    "module 'ctest' not found",
    "module 'cpptest' not found",
    "attempt to redefine '",
    // Ways around the sandbox.
    "global 'newproxy' (a nil value)",
    "field 'getmetatable' (a nil value)",
    "field 'setmetatable' (a nil value)",
    "field 'setfenv' (a nil value)",
    "field 'sethook' (a nil value)",
    "setfenv(0) is not allowed",
    "is not allowed; collect, count and step are",
    // Of LuaJIT alone.
    "module 'table.new' not found",
    // They list all that the libraries have.
    "lib/contents.lua",
    // Their message handlers ask for debug.getlocal.
    "lib/base/error.lua: default level in xpcall",
    "lib/base/error.lua: level 2 in xpcall",
    // Needs a file beside it.
    "module 'checktable' not found",
    // The test itself is not split rightly: lines of its inside stand at the margin.
    "trace/phi/copyspill.lua",
];

/// All Lua files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "lua") {
            found.push(path);
        }
    }
}

/// The tests of one file of LuaJIT's suite: name with metadata, and the text with the file's own definitions before it. Lines
/// keep their numbers.
fn tests(text: &str) -> Vec<(String, String)> {
    let (mut preamble, mut tests) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("do ---").filter(|_| open.is_none()) {
            open = Some((name.trim().to_owned(), preamble.clone()));
        }
        if let Some((_, body)) = &mut open {
            body.push_str(line);
            body.push('\n');
            preamble.push('\n');
            if line == "end" {
                tests.extend(open.take());
            }
        } else {
            preamble.push_str(line);
            preamble.push('\n');
        }
    }
    tests
}

/// Whether a test's metadata asks for what scripts do not have, or for another Lua.
fn is_elsewhere(name: &str) -> bool {
    let absent = [
        "+ffi",
        "+slow",
        "+lua52",
        "+lua>=5.2",
        "+compat5.2",
        "+rawlen",
        "+table.pack",
        "+internal_assert",
        "+jit.opt",
    ];
    name.split_whitespace().any(|word| absent.contains(&word) || word.starts_with("-ffi"))
}

/// Whether LuaJIT as it is built for this project runs that text to its end, within some seconds.
fn passes_in_luajit(text: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let mut command = Command::new("timeout");
    command.arg("8").arg(env!("LUAJIT")).arg(file.path()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

fn errors(failed: &BTreeMap<String, (Vec<u8>, String)>) -> Vec<(&str, &str)> {
    failed.iter().map(|(name, (_, error))| (name.as_str(), error.as_str())).collect()
}

async fn the_suites_of_luajit_and_lua_pass_in_the_sandbox() -> Outcome {
    let folder = std::env::var_os("LUA_SUITES").ok_or_else(|| Missing::because("LUA_SUITES names no folder"))?;
    let mut found = Vec::new();
    files(Path::new(&folder), &mut found);
    found.sort();
    let (mut passed, mut failed) = (0, BTreeMap::<String, (Vec<u8>, String)>::new());
    for file in found {
        let text = fs::read(&file).unwrap();
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("entry.lua"), RUNNER).unwrap();
        // What the suite's own `require` finds.
        if let Some(common) = file.ancestors().map(|above| above.join("common")).find(|common| common.is_dir()) {
            fs::create_dir(dir.path().join("common")).unwrap();
            for entry in fs::read_dir(common).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), dir.path().join("common").join(entry.file_name())).unwrap();
            }
        }
        let server = "handlerTimeout: 8s\nreadTimeout: 0\npingInterval: 0";
        common::write_config(&dir.path().join("connmix.yaml"), server, "workers: 1", "");
        let engine = TestEngine::start(dir);
        let split = tests(&String::from_utf8_lossy(&text)).into_iter();
        let mut cases: Vec<_> = split.map(|(test, text)| (test, text.into_bytes())).collect();
        if cases.is_empty() {
            // As it is: the older suite has files in Latin-1.
            cases.push((String::new(), text));
        }
        for (test, text) in cases.into_iter().filter(|(test, _)| !is_elsewhere(test)) {
            let mut client = engine.connect().await;
            client.send_binary(&[name.as_bytes(), b"\n", &text].concat()).await;
            let reply = match client.next().await {
                Ok(Message::Binary(reply)) => String::from_utf8_lossy(&reply).into_owned(),
                other => format!("{other:?}"),
            };
            if reply == "ok" {
                passed += 1;
            } else {
                failed.insert(if test.is_empty() { name.clone() } else { format!("{name}: {test}") }, (text, reply));
            }
        }
    }
    let absent = |name: &str, error: &str| ABSENT.iter().any(|part| name.contains(part) || error.contains(part));
    failed.retain(|name, (text, error)| !absent(name, error) && passes_in_luajit(text));
    assert!(failed.is_empty(), "{passed} passed, {} failed:\n{:#?}", failed.len(), errors(&failed));
    assert!(passed > 300, "only {passed} tests were found in LUA_SUITES");
    Ok(())
}

/// What C prints for a number, by a format such as `%.3f`.
fn printed_by_c(format: &str, number: f64) -> String {
    let format = std::ffi::CString::new(format).unwrap();
    let mut text = [0u8; 512];
    // SAFETY: the buffer's length is told, and the format takes one double.
    let length = unsafe { libc::snprintf(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), number) };
    String::from_utf8(text[..usize::try_from(length).unwrap()].to_vec()).unwrap()
}

async fn numbers_are_formatted_as_in_c() -> Outcome {
    let lua = mlua::Lua::new();
    let format: mlua::Function = lua.load("return string.format").eval().unwrap();
    let check = |spec: &str, number: f64| {
        let text: String = format.call((spec, number)).unwrap();
        assert_eq!(text, printed_by_c(spec, number), "{spec} of {number:e}");
    };
    // Small ones were garbage.
    check("%.2f", 1e-200);
    for exponent in -1074..1024 {
        let number = 2f64.powi(exponent);
        for spec in
            ["%.2f", "%f", "%.0f", "%.99f", "%+.9f", "%20.3f|", "%-20.1f|", "%.14g", "%.17g", "%e", "%.0e", "%.99e"]
        {
            check(spec, number);
            check(spec, -number * 1.3);
        }
    }
    proptest!(common::cases(2000), |(bits in any::<u64>(), precision in 0..100usize, kind in select(vec!['e', 'f', 'g']))| {
        let number = f64::from_bits(bits);
        if number.is_finite() {
            check(&format!("%.{precision}{kind}"), number);
        }
    });
    Ok(())
}

optional_tests! { numbers_are_formatted_as_in_c, the_suites_of_luajit_and_lua_pass_in_the_sandbox }
