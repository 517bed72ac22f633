//! Checks what `docs/architecture.md` promises of the sources: the layers, which modules may use which library, and the
//! size and form of files. It reads the text of `src/`, without a compiler: comments and literals are blanked out
//! first.

#[path = "architecture/circles.rs"]
mod circles;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use circles::{Circle, circles};

/// The modules from the bottom up; those of one row are of one layer and know nothing of each other.
const LAYERS: [&[&str]; 15] = [
    &["ids", "message", "secret", "telemetry", "value"],
    &["handover"],
    &["config", "jwt", "tcp", "wire"],
    &["admission", "hub", "memory", "queue", "shared", "timers", "tls"],
    &["cluster", "outbound"],
    &["shard"],
    &["script"],
    &["lint"],
    &["api"],
    &["worker"],
    &["engine"],
    &["dial"],
    &["bench", "testing"],
    &["cli"],
    &["fuzzing"],
];

/// What may be named only in certain places: a crate, and the files or folders below `src/` that may.
const ONLY_IN: [(&str, &[&str]); 19] = [
    ("argon2", &["secret/"]),
    ("scrypt", &["secret/"]),
    ("mlua", &["script/", "testing/harness.rs", "testing/harness/"]),
    ("dashmap", &["hub/"]),
    ("serde_yaml", &["config/raw.rs", "config/raw/"]),
    ("hyper", &["api/", "outbound/http.rs", "outbound/http/"]),
    ("hyper_util", &["api/", "outbound/http/pool.rs"]),
    // Besides the crate, the module of that name.
    ("zenoh", &["cluster/bus/", "engine/mesh.rs"]),
    ("prometheus", &["telemetry/metrics/"]),
    ("tokio_rustls", &["dial/", "outbound/http/pool.rs", "tls/"]),
    ("rustls_native_certs", &["dial/", "outbound/http/pool.rs"]),
    ("webpki_roots", &["outbound/http/pool.rs"]),
    ("redis_codec", &["outbound/redis/"]),
    ("combine", &["outbound/redis/"]),
    ("ring", &["jwt/", "outbound/http/pool.rs", "tls/", "dial/stream.rs"]),
    ("zlib_rs", &["wire/deflate.rs"]),
    ("encoding_rs", &["script/mix/iconv.rs"]),
    ("clap", &["cli.rs", "cli/", "bench/", "dial/", "testing/"]),
    (
        "socket2",
        &[
            "bench/",
            "dial/",
            "engine/listeners.rs",
            "handover/link.rs",
            "outbound/",
            "shard/transport.rs",
            "shard/transport/",
        ],
    ),
];

/// Rooms whose files know each other in circles: known, and to be emptied. Nothing may be added.
const KNOWN_CIRCLES: [&str; 0] = [];

/// The API's own error codes, spelt in one file only.
const API_CODES: [&str; 6] = ["101", "201", "202", "203", "301", "401"];

/// Whole clusters in one thread, for unit tests.
const SIMULATION: &str = "cluster/sim";

/// Lines of a file, its unit tests not counted.
const MAX_LINES: usize = 450;

/// What must not stand in the engine's code: each would end a thread.
const PANICS: [&str; 5] = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!"];

/// A source file.
struct Source {
    /// Its path below `src/`, with slashes.
    path: String,
    text: String,
    /// The same with comments and literals blanked out: as many lines, each as long.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The crate's module that it belongs to; None for the root.
    fn module(&self) -> Option<&str> {
        let first = self.path.split('/').next()?;
        let module = first.strip_suffix(".rs").unwrap_or(first);
        (!["lib", "main"].contains(&module)).then_some(module)
    }

    /// How many modules deep it stands: `a.rs` and `a/mod.rs` 1, `a/b.rs` 2.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// Whether all of it is tests: `x/tests.rs` and the simulation, declared under `#[cfg(test)]`, and `fuzzing.rs`, which
    /// the fuzz targets have, too.
    fn is_tests(&self) -> bool {
        let is_fuzzing = self.path.split('/').any(|part| part.trim_end_matches(".rs") == "fuzzing");
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with(SIMULATION)
            || is_fuzzing
    }

    /// The code with what is compiled for unit tests alone blanked out.
    fn without_tests(&self) -> String {
        let mut code = self.code.clone();
        for tests in self.tests() {
            let blank: String = code[tests.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
            code.replace_range(tests, &blank);
        }
        code
    }

    /// The lines that are there without its unit tests.
    fn lines(&self) -> usize {
        let tests: usize = self.tests().into_iter().map(|tests| self.code[tests].lines().count()).sum();
        self.text.lines().count() - tests
    }

    /// Where the items under `#[cfg(test)]` stand. One ends with its first semicolon, or with the brace that stands
    /// as far to the left as it begins.
    fn tests(&self) -> Vec<Range<usize>> {
        const MARK: &str = "#[cfg(test)]";
        let mut found: Vec<Range<usize>> = Vec::new();
        if self.is_tests() {
            found.push(0..self.code.len());
            return found;
        }
        for (mark, _) in self.code.match_indices(MARK) {
            let start = self.code[..mark].rfind('\n').map_or(0, |at| at + 1);
            if found.last().is_some_and(|before| before.contains(&start)) {
                continue;
            }
            let close = format!("\n{}}}", &self.code[start..mark]);
            let rest = &self.code[mark..];
            let end = match rest.find(['{', ';']) {
                Some(at) if rest[at..].starts_with('{') => rest.find(&close).map(|at| at + close.len()),
                at => at.map(|at| at + 1),
            };
            found.push(start..end.map_or(self.code.len(), |end| mark + end));
        }
        found
    }
}

/// Replaces comments, strings and characters by spaces, so that what is left is code.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut wipe = |from: usize, to: usize| out[from..to].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest[0] {
            b'/' if rest.starts_with(b"//") => line_end(rest),
            b'/' if rest.starts_with(b"/*") => comment_end(rest),
            b'"' => string_end(rest),
            b'r' | b'b' | b'c' if !is_word(bytes, at) => raw_string_end(rest),
            b'\'' => char_end(rest),
            _ => 0,
        };
        wipe(at, at + end);
        at += end.max(1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether the byte before belongs to a word that goes on here.
fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(rest: &[u8]) -> usize {
    rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
}

/// Comments nest.
fn comment_end(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_end(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`, `b"..."`, `br"..."`, `c"..."`; 0: it is a word like any other.
fn raw_string_end(rest: &[u8]) -> usize {
    let prefix = rest.iter().take_while(|b| b"rbc".contains(b)).count();
    let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
    let open = prefix + hashes;
    if prefix > 2 || rest.get(open) != Some(&b'"') {
        return 0;
    }
    if !rest[..prefix].contains(&b'r') {
        return if hashes == 0 { open + string_end(&rest[open..]) } else { 0 };
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let found = rest[open + 1..].windows(close.len()).position(|w| w == close);
    found.map_or(rest.len(), |at| open + 1 + at + close.len())
}

/// `'x'`, `'\n'`, `'é'`; 0: a lifetime.
fn char_end(rest: &[u8]) -> usize {
    let close = |from: usize| rest[from..].iter().take(12).position(|&b| b == b'\'').map(|at| from + at + 1);
    match rest.get(1) {
        Some(b'\\') => close(3).unwrap_or(0),
        Some(b) if b.is_ascii() => 3 * usize::from(rest.get(2) == Some(&b'\'')),
        Some(_) => close(2).unwrap_or(0),
        None => 0,
    }
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Where a word stands in code, as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let bytes = code.as_bytes();
        !part_of_word(at.checked_sub(1).and_then(|i| bytes.get(i))) && !part_of_word(bytes.get(at + word.len()))
    })
}

/// The modules of the crate that some code names, each with where: `crate::a`, `crate::{a, b::c}`, and `super` that
/// leads up to the root.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate", "connmix"] {
        for at in words(&source.code, root) {
            named_after(&source.code, at + root.len(), &mut found);
        }
    }
    // Inside the unit tests, `super` is one module less deep.
    let code = &source.without_tests();
    for at in words(code, "super") {
        let mut end = at;
        let mut up = 0;
        while code[end..].starts_with("super") {
            up += 1;
            end += "super".len();
            match code[end..].strip_prefix("::") {
                Some(rest) if rest.starts_with("super") => end += 2,
                _ => break,
            }
        }
        let first_of_chain = !code[..at].ends_with("super::");
        if first_of_chain && up == source.depth() && source.module().is_some() {
            named_after(code, end, &mut found);
        }
    }
    found
}

/// What is named after a path's beginning: one name, or those of a group.
fn named_after(code: &str, at: usize, found: &mut Vec<(usize, String)>) {
    let Some(rest) = code[at..].trim_start().strip_prefix("::") else { return };
    let rest = rest.trim_start();
    let name =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else {
        found.push((at, name(rest)));
        return;
    };
    let (mut depth, mut starts) = (0, true);
    for (i, c) in group.char_indices() {
        if starts && depth == 0 && (c.is_alphabetic() || c == '_') {
            found.push((at, name(&group[i..])));
            starts = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            _ => {}
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Imports from the same layer or above.
fn wrong_imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some(own) = layer(module) else {
        return vec![format!(
            "src/{}: give module `{module}` its layer in LAYERS (tests/architecture.rs)",
            source.path
        )];
    };
    let wrong = imports(source).into_iter().filter_map(|(at, name)| {
        // What is no module is an item of the root: there are none.
        let other = layer(&name)?;
        (name != module && other >= own).then(|| {
            format!(
                "src/{}:{}: {module} (layer {own}) imports {name} (layer {other}); a module knows only those below it: \
                 move what both need down, or hand it in from above as a trait or a value",
                source.path,
                line_of(&source.code, at)
            )
        })
    });
    wrong.collect()
}

/// Libraries outside of their place.
fn wrong_libraries(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (library, places) in ONLY_IN {
        if places.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for at in words(&source.code, library) {
            wrong.push(format!(
                "src/{}:{}: {library} is used only in {}; offer what is needed there as a function of ours",
                source.path,
                line_of(&source.code, at),
                places.join(" and ")
            ));
        }
    }
    wrong
}

/// The API's codes outside of the file that gives them.
fn wrong_codes(source: &Source) -> Vec<String> {
    if !source.path.starts_with("api/") || source.path == "api/error.rs" {
        return Vec::new();
    }
    let code = &source.without_tests();
    let found = API_CODES.iter().flat_map(|number| words(code, number));
    let wrong = found.map(|at| {
        format!(
            "src/{}:{}: an API code; return the ApiError whose code it is (api/error.rs)",
            source.path,
            line_of(code, at)
        )
    });
    wrong.collect()
}

fn wrong_form(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    if !source.text.starts_with("//! ") {
        wrong.push(format!(
            "src/{}: it begins without a //! head that says what it owns, what it leaves to others, and its rule",
            source.path
        ));
    }
    let lines = source.lines();
    if lines > MAX_LINES {
        wrong.push(format!(
            "src/{}: {lines} lines besides its tests, more than {MAX_LINES}; split off what can be told in one sentence",
            source.path
        ));
    }
    wrong
}

fn wrong_panics(source: &Source) -> Vec<String> {
    let code = &source.without_tests();
    let found = PANICS.iter().flat_map(|what| code.match_indices(what));
    let wrong = found.map(|(at, what)| {
        format!(
            "src/{}:{}: {what} in the engine's code ends a thread and all of its connections; return an error, or \
             write what can't happen as a value that is right anyway",
            source.path,
            line_of(code, at)
        )
    });
    wrong.collect()
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    let source = |file: &PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        Source::new(&path, &fs::read_to_string(file).unwrap())
    };
    files.iter().map(source).collect()
}

/// Fails with all that a check finds.
fn hold(check: impl Fn(&Source) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 20, "the sources are read");
    let wrong: Vec<String> = sources.iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modules_import_only_from_layers_below() {
    hold(wrong_imports);
}

#[test]
fn libraries_stay_in_their_place() {
    hold(wrong_libraries);
}

#[test]
fn api_codes_are_spelt_in_one_file() {
    hold(wrong_codes);
}

#[test]
fn every_file_has_a_head_and_can_be_read_in_one_sitting() {
    hold(wrong_form);
}

#[test]
fn nothing_panics_on_purpose() {
    hold(wrong_panics);
}

#[test]
fn files_do_not_know_each_other_in_circles() {
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for Circle { files, arrows } in circles(&sources()) {
        let room = files[0].split('/').next().unwrap_or_default().to_owned();
        if !KNOWN_CIRCLES.contains(&room.as_str()) {
            wrong.push(format!(
                "src/{room}: these files know each other in a circle: {}\n    {}\n    move what two of them need into a file \
                 that knows neither, or hand it in as a trait or a value",
                files.join(", "),
                arrows.join("\n    ")
            ));
        }
        seen.push(room);
    }
    for room in KNOWN_CIRCLES.iter().filter(|room| !seen.iter().any(|seen| seen == *room)) {
        wrong.push(format!("src/{room}: its files form no circle any more: take it out of KNOWN_CIRCLES"));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

// The checks themselves, on code that is wrong and code that only looks so.

#[test]
fn comments_and_literals_are_no_code() {
    for (text, words_left) in [
        ("a // crate::b\nc", "a c"),
        ("a /* x /* y */ z */ b", "a b"),
        (r#"f("a\"b", 'c', '\'', '"') g"#, "f( , , , ) g"),
        ("r#\"a \" b\"# c", "c"),
        ("b\"x\" br\"\\\" c\"y\" bar b'z' r#type", "bar b r#type"),
        ("fn f<'a>(x: &'a str) -> &'static u8", "fn f<'a>(x: &'a str) -> &'static u8"),
        ("'\\u{1f600}' 'é' x", "x"),
        ("\"a\nb\" c", "c"),
    ] {
        let code = blank(text);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), words_left, "{text}");
        assert_eq!(code.matches('\n').count(), text.matches('\n').count(), "{text}");
    }
}

fn found(path: &str, text: &str, check: impl Fn(&Source) -> Vec<String>) -> usize {
    check(&Source::new(path, text)).len()
}

#[test]
fn an_import_from_above_is_seen_however_it_is_spelt() {
    for wrong in [
        "use crate::script::vm::Vm;",
        "use crate::{ids::ClientId, script::vm::Vm};",
        "use crate::{\n    message::{Kind, Message},\n    script,\n};",
        "fn f(vm: &crate::script::vm::Vm) {}",
        "use super::super::script::vm::Vm;",
        "use super::super::{hub, script};",
        "fn f() { connmix::script::f() }",
        "mod tests {\n    use crate::script::vm::Vm;\n}",
    ] {
        assert_eq!(found("shard/conn.rs", wrong, wrong_imports), 1, "{wrong}");
    }
    assert_eq!(found("shard/mod.rs", "use super::script::vm::Vm;", wrong_imports), 1);
    assert_eq!(found("message.rs", "use crate::ids::ClientId;", wrong_imports), 1, "of the same layer");
    assert_eq!(found("ids.rs", "use super::message::Kind;", wrong_imports), 1);
    assert_eq!(found("api/http.rs", "use crate::worker::Control;", wrong_imports), 1);
    assert_eq!(found("stranger.rs", "", wrong_imports), 1, "a module without a layer");
}

#[test]
fn imports_from_below_are_fine() {
    for right in [
        "use crate::hub::Hub;\nuse crate::shard::conn::Conn;\nuse super::context;",
        "// crate::script\nconst S: &str = \"crate::script\";",
        "/// See [`crate::script::vm`].\nstruct S;",
        "use crate::{hub::{script, Hub}, ids};",
        "use super::super::hub::Hub;",
        "fn crate_script() {}",
        "#[cfg(test)]\nmod tests {\n    use super::super::script;\n}",
    ] {
        assert_eq!(found("shard/conn.rs", right, wrong_imports), 0, "{right}");
    }
    assert_eq!(found("worker/mod.rs", "use crate::api::Api;", wrong_imports), 0);
    assert_eq!(found("lib.rs", "pub mod cli;", wrong_imports), 0);
    assert_eq!(found("main.rs", "fn main() { connmix::cli::main() }", wrong_imports), 0);
}

/// The circles among these files, each as its files.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    circles(&sources).into_iter().map(|circle| circle.files).collect()
}

#[test]
fn a_circle_is_seen_however_it_is_spelt() {
    for (a, b) in [
        ("use super::b::B;", "use super::a::A;"),
        ("use crate::room::b::B;", "use crate::{ids, room::{a::A, c}};"),
        ("use super::{b, c};\nfn f() { b::f() }", "fn f(x: super::a::A) {}"),
        ("use super::b as other;\nfn f() { other::f() }", "use super::a::*;"),
        ("use super::b::{self, B};", "mod inner {\n    use super::super::a::A;\n}"),
        ("pub use super::b::B;\nfn f(b: B) {}", "fn f() { crate::room::a::A::new() }"),
    ] {
        let files = [("room/a.rs", a), ("room/b.rs", b), ("room/c.rs", ""), ("room/mod.rs", "mod a;\nmod b;\nmod c;")];
        assert_eq!(circles_of(&files), [["room/a.rs", "room/b.rs"]], "{a} | {b}");
    }
    let three = [("r/a.rs", "use super::b::B;"), ("r/b.rs", "use super::c::C;"), ("r/c.rs", "use super::a::A;")];
    assert_eq!(circles_of(&three), [["r/a.rs", "r/b.rs", "r/c.rs"]]);
    // A parent that uses its child, which uses the parent: in a folder's mod.rs, or in a file beside the folder.
    for parent in ["room/mod.rs", "room.rs"] {
        for uses in ["mod a;\nuse a::A;", "mod a;\nfn f() { a::f() }", "mod a;\npub use a::A;\nstruct R(A);"] {
            let files = [("room/a.rs", "use super::R;\nuse super::b::B;"), ("room/b.rs", ""), (parent, uses)];
            assert_eq!(circles_of(&files).len(), 1, "{parent}: {uses}");
        }
    }
}

#[test]
fn arrows_one_way_are_no_circle() {
    for (a, b) in [
        ("use super::b::B;", "// super::a::A\nconst S: &str = \"super::a::A\";"),
        ("use super::b::B;", "#[cfg(test)]\nmod tests {\n    use crate::room::a::A;\n}"),
        ("use super::b::B;", "fn f() { other::a::A }"),
        ("use super::b::B;", "use crate::other::room::a::A;"),
        ("use super::b::B;", "pub(in crate::room) fn f() {}"),
        // What a file has of its own comes first.
        ("use super::b::B;", "use super::b;\nfn f() { b::f() }"),
    ] {
        let files = [("room/a.rs", a), ("room/b.rs", b), ("room/mod.rs", "mod a;\nmod b;")];
        assert_eq!(circles_of(&files), [[""; 0]; 0], "{a} | {b}");
    }
    // A parent that only declares its child, or passes on what is in it.
    for parent in ["mod a;", "mod a;\npub use a::A;", "mod a;\npub use a::{A, B as C};\npub(crate) use a::f;"] {
        let files = [("room/a.rs", "use super::R;"), ("room/mod.rs", parent)];
        assert_eq!(circles_of(&files), [[""; 0]; 0], "{parent}");
    }
    // Tests may use any file.
    let files =
        [("room/a/tests.rs", "use crate::room::b::B;"), ("room/a.rs", ""), ("room/b.rs", "use super::a::tests::T;")];
    assert_eq!(circles_of(&files), [[""; 0]; 0]);
}

#[test]
fn a_library_out_of_its_place_is_seen() {
    assert_eq!(found("worker/mod.rs", "use mlua::Lua;", wrong_libraries), 1);
    assert_eq!(found("config/load.rs", "serde_yaml::from_str(text)", wrong_libraries), 1);
    assert_eq!(found("hub/mod.rs", "use dashmap::DashMap;\nuse hyper::Method;", wrong_libraries), 1);
    assert_eq!(found("worker/mod.rs", "// mlua\nlet x = \"mlua\"; let mlua_like = 1;", wrong_libraries), 0);
    assert_eq!(found("config/raw/tree.rs", "use serde_yaml::Value;", wrong_libraries), 0);
    assert_eq!(found("api/http.rs", "use hyper::Method; use hyper_util::rt::TokioIo;", wrong_libraries), 0);
}

#[test]
fn an_api_code_out_of_its_place_is_seen() {
    assert_eq!(found("api/call.rs", "Problem { c: 101, m }", wrong_codes), 1);
    assert_eq!(found("api/call.rs", "let x = 1010; // 101\nlet y = \"401\";", wrong_codes), 0);
    assert_eq!(found("api/error.rs", "101", wrong_codes), 0);
    assert_eq!(found("api/call.rs", "#[cfg(test)]\nmod tests {\n    401;\n}\n", wrong_codes), 0);
}

#[test]
fn a_file_without_a_head_or_too_long_is_seen() {
    assert_eq!(found("hub/mod.rs", "use x;", wrong_form), 1);
    assert_eq!(found("hub/mod.rs", "//! Owns x.\nuse x;", wrong_form), 0);
    let long = format!("//! Owns x.\n{}", "fn f() {}\n".repeat(MAX_LINES - 1));
    assert_eq!(found("hub/mod.rs", &long, wrong_form), 0);
    let longer = format!("{long}fn g() {{}}\n");
    assert_eq!(found("hub/mod.rs", &longer, wrong_form), 1);
    assert_eq!(found("hub/tests.rs", &longer, wrong_form), 0);
    let tests = "#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
    assert_eq!(found("hub/mod.rs", &format!("{long}{tests}"), wrong_form), 0);
    assert_eq!(found("hub/mod.rs", &long.replacen('\n', "\n#[cfg(test)]\nmod tests;\n", 1), wrong_form), 0);
    assert_eq!(found("hub/mod.rs", &format!("//! Owns x.\n{tests}{longer}"), wrong_form), 1, "behind the tests");
}

#[test]
fn a_panic_in_the_engine_is_seen() {
    for wrong in ["x.unwrap();", "x.expect(\"y\");", "panic!(\"x\")", "todo!()", "unimplemented!()"] {
        assert_eq!(found("hub/mod.rs", wrong, wrong_panics), 1, "{wrong}");
        let tested = format!("#[cfg(test)]\nmod tests {{\n    {wrong}\n}}\n");
        assert_eq!(found("hub/mod.rs", &tested, wrong_panics), 0, "{wrong}");
        assert_eq!(found("hub/tests.rs", wrong, wrong_panics), 0, "{wrong}");
        let helper = format!("    #[cfg(test)]\n    fn help() {{\n        {wrong}\n    }}\n");
        assert_eq!(found("hub/mod.rs", &helper, wrong_panics), 0, "{wrong}");
        let behind = format!("{tested}fn f() {{ {wrong} }}\n#[cfg(test)]\nuse x;\n");
        assert_eq!(found("hub/mod.rs", &behind, wrong_panics), 1, "{wrong}");
    }
    for right in ["x.unwrap_or(1)", "#[expect(dead_code)]", "// x.unwrap()", "\"panic!\""] {
        assert_eq!(found("hub/mod.rs", right, wrong_panics), 0, "{right}");
    }
}
