//! Tests of scripts that are written in Lua: a VM like the engine's, in which fakes replace clients, clock and back
//! ends. The fakes are `harness/engine.lua` and the files that get its table; the library that tests call is
//! `harness/test.lua`; `natives` lends them the engine's own functions. Which tests run, and how results are reported,
//! is decided elsewhere.

mod history;
mod limits;
mod natives;

use mlua::{Lua, Table};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{ChannelRule, Config, Protocol, QueueFull, Server};
use crate::script::doing::Doing;
use crate::script::harness::{self as runtime, LOAD_BUDGET, bare};
use crate::script::program::{Program, shown};
use crate::script::stack::{Stack, State};
use crate::script::vm::VmLimits;
use crate::script::watchdog;

/// The longest that a hook may compute, if the configuration has no value for its server.
const HANDLER_TIMEOUT: Duration = Duration::from_millis(200);

/// What tests run in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The longest one test may take by the real clock.
    pub timeout: Duration,
    limits: VmLimits,
    /// The folders in which scripts are searched for, after the folder of the file that names one.
    folders: Vec<PathBuf>,
    servers: Vec<Server>,
    /// The names of the configured Redis connections; None: any name is accepted.
    redis: Option<Vec<String>>,
    shared_limit: usize,
    /// The rules for channels; None: it may be told of every channel who is in it.
    channels: Option<Vec<ChannelRule>>,
    history_limit: usize,
    topic_size: usize,
    max_topics: usize,
    queue_full: QueueFull,
    /// In how many workers a script is loaded: one if the configuration has one, else two, which is enough to show what
    /// workers do not share.
    workers: usize,
}

impl Settings {
    /// With the limits, options and names of a configuration; without one, with the defaults.
    pub fn new(config: Option<&Config>, timeout: Duration) -> Settings {
        let folders = config.and_then(|c| c.file.parent()).into_iter().chain([Path::new(".")]);
        let folders = folders.map(|f| std::path::absolute(f.join("x")).unwrap_or_else(|_| f.join("x")));
        let folders = folders.filter_map(|f| f.parent().map(Path::to_owned)).collect();
        let luavm = config.map(|c| &c.luavm);
        Settings {
            timeout,
            limits: luavm.map_or_else(VmLimits::default, VmLimits::of),
            folders,
            servers: config.map(|c| c.servers.clone()).unwrap_or_default(),
            redis: luavm.map(|l| l.redis.iter().map(|r| r.name.clone()).collect()),
            shared_limit: luavm.map_or(64 << 20, |l| l.shared_limit),
            channels: config.map(|c| c.channels.clone()),
            history_limit: config.map_or(64 << 20, |c| c.history_limit),
            topic_size: luavm.map_or(2000, |l| l.queue_topic_size),
            max_topics: luavm.map_or(100, |l| l.queue_max_topics),
            workers: if config.is_some_and(|c| c.workers == 1) { 1 } else { 2 },
            queue_full: luavm.map_or(QueueFull::Error, |l| l.queue_full),
        }
    }
}

/// One test of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name behind those of its groups: `group > test`.
    pub name: String,
    /// Where it begins in its file.
    pub line: usize,
}

/// Why a test, or a whole file, failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// `file:line` of the test file; empty where Lua does not know it.
    pub place: String,
    /// What was wrong; may have several lines.
    pub message: String,
    /// The functions that it was in, innermost first; may be empty.
    pub traceback: Vec<String>,
}

/// The outcome of a test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// None: it passed.
    pub failure: Option<Failure>,
    /// What scripts and the test itself logged or printed: `level file:line: text`.
    pub log: Vec<String>,
}

/// The tests of a file, in its order. The error says why the file could not be run.
pub fn cases(file: &Path, settings: &Settings) -> Result<Vec<Case>, Failure> {
    let (opened, cases) = Opened::new(file, settings)?;
    if cases.is_err() && opened.has_peeked() {
        return Opened::new(file, &Settings { workers: 1, ..settings.clone() })?.1;
    }
    cases
}

/// Runs the test of that name in a VM of its own, with two workers unless the configuration has one. It runs again with
/// one worker if the test looks at the script's state, since it is not clear which worker's is meant. It also runs
/// again with one if it fails, to find out whether the second worker is the reason.
pub fn run(file: &Path, settings: &Settings, name: &str) -> Outcome {
    let began = Instant::now();
    let (mut outcome, has_peeked) = run_once(file, settings, name);
    if settings.workers == 1 {
        return outcome;
    }
    let alone = Settings { workers: 1, ..settings.clone() };
    if has_peeked {
        return run_once(file, &alone, name).0;
    }
    // A test that never ends would not end the second time either.
    if let Some(failure) = outcome.failure.as_mut().filter(|_| began.elapsed() < settings.timeout / 2)
        && run_once(file, &alone, name).0.failure.is_none()
    {
        failure.message.push_str(FAILS_WITH_TWO);
    }
    outcome
}

/// What is added to the message of a test that a single worker would pass.
const FAILS_WITH_TWO: &str = "\nwith one worker it passes: the script keeps what workers do not share";

/// The outcome of a test, and whether it looked into one of two workers.
fn run_once(file: &Path, settings: &Settings, name: &str) -> (Outcome, bool) {
    let failed = |failure| Outcome { failure: Some(failure), log: Vec::new() };
    let (opened, cases) = match Opened::new(file, settings) {
        Ok(opened) => opened,
        Err(failure) => return (failed(failure), false),
    };
    let outcome = match cases {
        Ok(_) => opened.run(name).unwrap_or_else(|e| failed(internal(&e))),
        Err(failure) => failed(failure),
    };
    (outcome, opened.has_peeked())
}

/// A VM in which a file of tests has run.
struct Opened {
    runner: Table,
    main: State,
    timeout: Duration,
    /// The last field, so that it is dropped after everything that refers to it.
    _lua: Lua,
}

impl Opened {
    fn new(file: &Path, settings: &Settings) -> Result<(Opened, Result<Vec<Case>, Failure>), Failure> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        natives::begin(settings.timeout, settings.shared_limit, settings.channels.as_deref());
        limits::begin();
        history::begin(settings.channels.as_deref(), settings.history_limit);
        let program = Arc::new(Program::new(Protocol::Websocket, file, Vec::new()));
        let (lua, main, prelude) =
            bare(&program, &settings.limits).map_err(|message| Failure { message, ..Failure::default() })?;
        let open = || -> mlua::Result<_> {
            let native = natives_table(&lua, &program, settings)?;
            let chunk = |name: &str, text: &str| lua.load(text).set_name(format!("=connmix:{name}")).into_function();
            let engine: Table = chunk("engine", include_str!("harness/engine.lua"))?.call((&native, &prelude))?;
            for (name, text) in [
                ("rooms", include_str!("harness/rooms.lua")),
                ("conns", include_str!("harness/conns.lua")),
                ("clients", include_str!("harness/clients.lua")),
                ("script", include_str!("harness/script.lua")),
                ("timers", include_str!("harness/timers.lua")),
                ("backends", include_str!("harness/backends.lua")),
                ("workers", include_str!("harness/workers.lua")),
            ] {
                chunk(name, text)?.call::<()>((&native, &engine, &prelude))?;
            }
            let runner: Table = chunk("test", include_str!("harness/test.lua"))?.call((native, engine, prelude))?;
            let opened = Opened { runner, main, timeout: settings.timeout, _lua: lua.clone() };
            let cases = opened.collect()?;
            Ok((opened, cases))
        };
        open().map_err(|e| internal(&e))
    }

    /// While this lives, nothing in the VM can hold the thread without end. The test itself is stopped long before.
    fn guarded(&self) -> watchdog::Run {
        // SAFETY: the world keeps the VM, and outlives what it lends.
        unsafe { watchdog::enter(self.main, self.timeout * 2 + Duration::from_secs(1), Doing::TESTING) }
    }

    fn collect(&self) -> mlua::Result<Result<Vec<Case>, Failure>> {
        let collect: mlua::Function = self.runner.get("collect")?;
        let (cases, failure): (Option<Table>, Option<Table>) = {
            let _run = self.guarded();
            collect.call(())?
        };
        let Some(cases) = cases else {
            return Ok(Err(failure.map(|f| read_failure(&f)).transpose()?.unwrap_or_default()));
        };
        let case = |case: mlua::Result<Table>| -> mlua::Result<Case> {
            let case = case?;
            Ok(Case { name: text(&case, "name")?, line: case.get("line")? })
        };
        Ok(Ok(cases.sequence_values().map(case).collect::<mlua::Result<_>>()?))
    }

    fn has_peeked(&self) -> bool {
        let asked = self.runner.get::<mlua::Function>("has_peeked").and_then(|asked| asked.call::<bool>(()));
        asked.unwrap_or(false)
    }

    fn run(&self, name: &str) -> mlua::Result<Outcome> {
        let run: mlua::Function = self.runner.get("run")?;
        let failure: Option<Table> = {
            let _run = self.guarded();
            run.call(name)?
        };
        let seen: Table = self.runner.get("seen")?;
        let logged: Table = seen.get("logged")?;
        let line = |line: mlua::Result<Table>| -> mlua::Result<String> {
            let line = line?;
            Ok(format!("{} {}: {}", text(&line, "level")?, text(&line, "place")?, text(&line, "text")?))
        };
        Ok(Outcome {
            failure: failure.map(|f| read_failure(&f)).transpose()?,
            log: logged.sequence_values().map(line).collect::<mlua::Result<_>>()?,
        })
    }
}

/// The table that both Lua files get.
fn natives_table(lua: &Lua, program: &Arc<Program>, settings: &Settings) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    // SAFETY: `exec_raw` protects the call, with the table as the only value on the stack.
    unsafe {
        lua.exec_raw::<()>(&native, |state| {
            let table = runtime::Table::at_top(Stack::new(state));
            natives::register(&table);
            limits::register(&table);
            history::register(&table);
        })
    }?;
    let own = &program.entry;
    native.set("path", lua.create_string(own.as_os_str().as_bytes())?)?;
    native.set("file", shown(own))?;
    native.set("timeout", settings.timeout.as_millis() as f64)?;
    native.set("seconds", settings.timeout.as_secs_f64())?;
    native.set("budget", HANDLER_TIMEOUT.as_millis() as f64)?;
    native.set("load_budget", LOAD_BUDGET.as_millis() as f64)?;
    native.set("topic_size", settings.topic_size)?;
    native.set("max_topics", settings.max_topics)?;
    native.set("workers", settings.workers)?;
    native.set("queue_blocks", settings.queue_full == QueueFull::Block)?;
    if let Some(names) = &settings.redis {
        native.set("redis", lua.create_table_from(names.iter().map(|name| (name.as_str(), true)))?)?;
    }
    let servers = lua.create_table()?;
    for server in &settings.servers {
        let known = lua.create_table()?;
        known.set("options", lua.create_table_from(server.options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?)?;
        known.set("protocol", server.protocol.name())?;
        known.set("budget", server.limits.handler_timeout.as_millis() as f64)?;
        servers.set(lua.create_string(clean(&server.entry).as_os_str().as_bytes())?, known)?;
    }
    native.set("servers", servers)?;
    let folder = program.folder().to_owned();
    let folders: Vec<PathBuf> = [folder].into_iter().chain(settings.folders.iter().cloned()).collect();
    native.set("find", lua.create_function(move |lua, name: mlua::LuaString| find(lua, &name, &folders))?)?;
    let reader = program.clone();
    let read =
        move |lua: &Lua, path: mlua::LuaString| match reader.source(Path::new(OsStr::from_bytes(&path.as_bytes()))) {
            Ok(Some(text)) => Ok((Some(lua.create_string(&*text)?), None)),
            Ok(None) => Ok((None, Some(format!("no such file: {}", path.to_string_lossy())))),
            Err(e) => Ok((None, Some(e))),
        };
    native.set("read", lua.create_function(read)?)?;
    let allowed = program.clone();
    let is_module =
        move |_: &Lua, path: mlua::LuaString| Ok(allowed.may_be_module(Path::new(OsStr::from_bytes(&path.as_bytes()))));
    native.set("is_module", lua.create_function(is_module)?)?;
    // The handler's modules lie in its folder, wherever the tests lie.
    let tests = program.clone();
    let modules = move |_: &Lua, path: mlua::LuaString| {
        let program = Program::new(Protocol::Websocket, PathBuf::from(OsStr::from_bytes(&path.as_bytes())), Vec::new());
        let folder = program.folder().display().to_string();
        let search = format!("{folder}/?.lua;{folder}/?/init.lua");
        tests.allow(search.as_bytes());
        Ok(search)
    };
    native.set("modules", lua.create_function(modules)?)?;
    let name = |_: &Lua, path: mlua::LuaString| Ok(shown(Path::new(OsStr::from_bytes(&path.as_bytes()))));
    native.set("shown", lua.create_function(name)?)?;
    Ok(native)
}

/// Finds a script by the name that a test gives it; else nil and where it was looked for.
fn find(
    lua: &Lua,
    name: &mlua::LuaString,
    folders: &[PathBuf],
) -> mlua::Result<(Option<mlua::LuaString>, Option<String>)> {
    let bytes = name.as_bytes();
    let mut tried: Vec<String> = Vec::new();
    for folder in folders {
        let path = folder.join(OsStr::from_bytes(&bytes));
        if path.is_file() {
            return Ok((Some(lua.create_string(clean(&path).as_os_str().as_bytes())?), None));
        }
        let path = shown(&path);
        if !tried.contains(&path) {
            tried.push(path);
        }
    }
    Ok((None, Some(tried.join(" or "))))
}

/// The path without `.` and `..`, so that the same script has the same path as in the configuration.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean
}

fn read_failure(failure: &Table) -> mlua::Result<Failure> {
    let lines: Table = failure.get("traceback")?;
    let line = |line: mlua::Result<mlua::LuaString>| Ok(line?.to_string_lossy());
    Ok(Failure {
        place: text(failure, "place")?,
        message: text(failure, "message")?,
        traceback: lines.sequence_values().map(line).collect::<mlua::Result<_>>()?,
    })
}

/// A field that is a string; empty if it is absent.
fn text(table: &Table, key: &str) -> mlua::Result<String> {
    Ok(table.get::<Option<mlua::LuaString>>(key)?.map(|text| text.to_string_lossy()).unwrap_or_default())
}

/// A failure outside the test's own code: most likely memory ran out.
fn internal(e: &mlua::Error) -> Failure {
    Failure { message: e.to_string(), ..Failure::default() }
}
