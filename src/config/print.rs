//! A configuration with all there is to know of it: as a file with comments, or as JSON.
//!
//! Both are made of the rows alone. Secrets are not in the rows' values, so they can't be in what is printed.

use super::changes::Effect;
use super::keys::Config;
use super::raw::env;
use super::rows::{Row, Section};
use crate::telemetry::log::escape::write_json;
use serde_json::{Map, Value as Json, json};

/// The longest line of a comment, its indentation not counted.
const WIDTH: usize = 96;

/// What begins the file.
const HEAD: &str = "Every key of connmix.yaml. Above each stand its meaning, the values that it takes, its default, and \
                    when a change of a running engine's file takes effect: live, or with a restart of the part that is named.";

/// All rows with their values, in the file's order.
pub fn rows(config: &Config) -> Vec<Row> {
    let mut rows = Vec::new();
    Config::rows("", Some(config), &mut rows);
    rows
}

impl Row {
    /// The path with no positions: `engine.servers[].port`.
    pub fn pattern(&self) -> String {
        self.path.chars().filter(|c| !c.is_ascii_digit()).collect()
    }

    /// The default in words: `required`, `unset`, or as the file spells it.
    pub fn default_text(&self) -> String {
        match &self.default {
            None => "required".to_owned(),
            Some(Json::Null) => "unset".to_owned(),
            Some(value) => yaml(value),
        }
    }
}

/// The file that says all this, with comments. It can be loaded; a secret is left out.
pub fn file(config: &Config) -> String {
    let rows = rows(config);
    let lines: Vec<Line<'_>> = rows.iter().map(Line::of).collect();
    let mut out = String::new();
    wrapped(HEAD, &mut out);
    sections(&lines, 0, &mut out);
    out
}

/// The rows as a list of JSON objects. A row of a list's entries has its values in a list, one for each entry.
pub fn json(config: &Config) -> String {
    let mut all: Vec<Map<String, Json>> = Vec::new();
    for row in rows(config) {
        let path = row.pattern();
        let at = all.iter().position(|object| object["path"] == path.as_str()).unwrap_or_else(|| {
            all.push(object(&row, &path));
            all.len() - 1
        });
        if row.effect != Effect::Unused && row.kind != "sections" {
            put(all[at].entry("value").or_insert(Json::Null), &positions(&row.path), row.value.unwrap_or(Json::Null));
        }
    }
    let text = serde_json::to_string_pretty(&all).unwrap_or_default();
    text.lines().map(|line| harmless(line) + "\n").collect()
}

fn object(row: &Row, path: &str) -> Map<String, Json> {
    let part = match row.effect {
        Effect::Restart(part) => part.into(),
        Effect::Live | Effect::Unused => Json::Null,
    };
    let object = json!({
        "path": path,
        "type": row.kind,
        "bounds": row.bounds,
        "required": row.default.is_none(),
        "default": row.default,
        "effect": row.effect.word(),
        "restart": part,
        "words": row.words,
    });
    match object {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

/// The positions in a path, None for an entry of an empty list.
fn positions(path: &str) -> Vec<Option<usize>> {
    path.split('[').skip(1).map(|rest| rest.split(']').next().unwrap_or_default().parse().ok()).collect()
}

/// Puts a value into lists within lists.
fn put(slot: &mut Json, positions: &[Option<usize>], value: Json) {
    let Some((first, rest)) = positions.split_first() else {
        *slot = value;
        return;
    };
    if !slot.is_array() {
        *slot = Json::Array(Vec::new());
    }
    if let (Some(at), Json::Array(list)) = (first, slot) {
        list.resize(list.len().max(at + 1), Json::Null);
        put(&mut list[*at], rest, value);
    }
}

/// A row and what is left of its path.
struct Line<'a> {
    row: &'a Row,
    path: &'a str,
}

impl<'a> Line<'a> {
    fn of(row: &'a Row) -> Line<'a> {
        Line { row, path: &row.path }
    }

    /// The first key of the path.
    fn key(&self) -> &'a str {
        self.path.split(['.', '[']).next().unwrap_or_default()
    }

    /// What follows the first key: nothing, `.REST` or `[POSITION].REST`.
    fn rest(&self) -> &'a str {
        &self.path[self.key().len()..]
    }

    fn position(&self) -> &'a str {
        self.rest().trim_start_matches('[').split(']').next().unwrap_or_default()
    }

    /// The same line one section or one entry further in.
    fn below(&self) -> Line<'a> {
        let path = self.rest().split_once('.').map_or("", |(_, rest)| rest);
        Line { row: self.row, path }
    }
}

/// Values one after the other, each once, in the order they come in.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    all.for_each(|one| {
        if !found.contains(&one) {
            found.push(one);
        }
    });
    found
}

fn sections(lines: &[Line<'_>], depth: usize, out: &mut String) {
    let is_unused = |line: &Line<'_>| line.row.effect == Effect::Unused;
    let all_unused = lines.iter().all(is_unused);
    for key in distinct(lines.iter().map(Line::key)) {
        let (own, below): (Vec<&Line<'_>>, Vec<&Line<'_>>) =
            lines.iter().filter(|line| line.key() == key).partition(|line| line.rest().is_empty());
        if depth == 0 {
            out.push('\n');
        }
        let mut text = String::new();
        own.iter().for_each(|line| comment(line.row, &mut text));
        match (own.first(), below.first()) {
            (Some(line), None) => leaf(key, line.row, &mut text),
            (_, Some(line)) if line.rest().starts_with('[') => list(key, &below, &mut text),
            _ => {
                let inner: Vec<Line<'_>> = below.iter().map(|line| line.below()).collect();
                text.push_str(&format!("{key}:\n"));
                let mut section = String::new();
                sections(&inner, depth + 1, &mut section);
                text.push_str(&indented(&section, "  "));
            }
        }
        // What has no effect is a comment; where that is all of a section, the section is.
        let unused = depth == 0 || !all_unused;
        let unused = unused && own.iter().chain(&below).all(|line| is_unused(line));
        out.push_str(&if unused { indented(&text, "# ") } else { text });
    }
}

fn leaf(key: &str, row: &Row, out: &mut String) {
    let value = row.value.as_ref().or(row.default.as_ref()).map(yaml).unwrap_or_default();
    out.push_str(&match (row.hidden, value.as_str()) {
        (true, _) => format!("{key}: # set, and not shown\n"),
        (false, "") => format!("{key}:\n"),
        (false, value) => format!("{key}: {value}\n"),
    });
}

fn list(key: &str, lines: &[&Line<'_>], out: &mut String) {
    let is_empty = lines.iter().all(|line| line.position().is_empty());
    out.push_str(&format!("{key}:{}\n", if is_empty { " []" } else { "" }));
    for entry in lines.chunk_by(|one, next| one.position() == next.position()) {
        let entry: Vec<Line<'_>> = entry.iter().map(|line| line.below()).collect();
        let mut text = String::new();
        sections(&entry, 1, &mut text);
        let text = indented(&text, "  ").replacen("  ", "- ", 1);
        out.push_str(&indented(&text, if is_empty { "# " } else { "  " }));
    }
}

/// The row's words, its bounds, its default and when a change takes effect.
fn comment(row: &Row, out: &mut String) {
    let effect = match row.effect {
        Effect::Live => "live".to_owned(),
        Effect::Restart(part) => format!("restart ({part})"),
        Effect::Unused => "checked and not used".to_owned(),
    };
    let facts = match row.kind {
        "sections" => format!("{}; {effect}", default_of(row)),
        _ => format!("{}; {}; {effect}", row.bounds, default_of(row)),
    };
    [row.words.as_str(), &facts].iter().for_each(|text| wrapped(text, out));
}

fn default_of(row: &Row) -> String {
    match &row.default {
        None | Some(Json::Null) => row.default_text(),
        Some(_) => format!("default {}", row.default_text()),
    }
}

fn wrapped(text: &str, out: &mut String) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// A value as YAML: JSON, but for words that need no quotes.
pub(super) fn yaml(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) if is_plain(text) => text.clone(),
        Json::String(text) if text.contains("${") => harmless(&Json::from(env::escape(text)).to_string()),
        Json::Array(all) => format!("[{}]", all.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        other => harmless(&other.to_string()),
    }
}

/// A line of JSON without characters that steer a terminal.
fn harmless(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    // Writing to a text can't fail.
    let _ = write_json(&mut out, line);
    out
}

/// Whether every reader of YAML takes a text without quotes for that very text, in a list too.
fn is_plain(text: &str) -> bool {
    let is_number = text.parse::<f64>().is_ok() || text.starts_with("0x") || text.starts_with("0o");
    let inner = |c: char| c.is_ascii_alphanumeric() || "._/%-:".contains(c);
    let means_another = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(inner)
        && !text.ends_with(':')
        && !is_number
        && !means_another.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::super::load::{defaults, load, load_as_written, parse};
    use super::super::raw::units::{parse_duration, parse_size};
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// A folder with that file, and the scripts that are there unless told.
    fn folder(text: &str) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lua")).unwrap();
        for script in ["websocket", "socket"] {
            std::fs::write(dir.path().join(format!("lua/entry.{script}.lua")), "").unwrap();
        }
        let file = dir.path().join("connmix.yaml");
        std::fs::write(&file, text).unwrap();
        (dir, file)
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let text = file(&defaults());
        let (_dir, path) = folder(&text);
        let printed = load(&path).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(printed, parse(&path, "engine: {servers: [{}]}").unwrap(), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }

    /// The text with the entries of empty lists and the keys without effect said.
    fn uncommented(text: &str) -> String {
        let is_key = |line: &str| {
            let (key, value) = line.split_once(':').unwrap_or_default();
            let is_value = value.is_empty() || value.starts_with(" [") || value.trim_start().split(' ').count() == 1;
            !key.is_empty() && key.chars().all(char::is_alphanumeric) && is_value
        };
        let line = |line: &str| match line.split_once("# ") {
            Some((indent, rest)) if indent.trim().is_empty() => {
                let said = rest.trim_start().trim_start_matches("- ");
                if is_key(said) || said.starts_with('#') { format!("{indent}{rest}\n") } else { format!("{line}\n") }
            }
            _ => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn what_is_printed_as_a_comment_is_a_key_as_well() {
        let text = file(&defaults())
            .replace("users: []", "users:")
            .replace("redis: []", "redis:")
            .replace("channels: []", "channels:")
            .replace("match:\n", "match: a\n")
            .replace("options: []", "options:")
            .replace("headers: []", "headers:")
            .replace("username:", "username: ann")
            .replace("password:\n", "password: x\n")
            .replace("name:\n", "name: path\n")
            .replace("value:\n", "value: /a\n")
            .replace("certificates: []", "certificates:")
            .replace("cert:\n", "cert: a.pem\n")
            .replace("key:\n", "key: a.key\n");
        let text = uncommented(&text);
        let (_dir, path) = folder(&text);
        let config = load(&path).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(
            (config.users.len(), config.luavm.redis.len(), config.servers[0].option("path")),
            (1, 1, Some("/a"))
        );
    }

    const FILE: &str = "
access: {users: [{username: 'on', password: hunter2, roles: [read]}], origins: ['https://a.example']}
logging: {filename: ''}
engine:
  memory: {high: 1GiB, of: 2GiB}
  luavm: {redis: [{password: hunter2}, {name: '0123', addr: '[::1]:6379'}], libraries: [os, io]}
  servers:
    - {options: [{name: path, value: /a}, {name: key, value: hunter2}], byteCodeExpires: 0}
    - {port: 1, protocol: socket, unsentLimit: 40096}
cluster: {secret: hunter2, advertise: {api: 'a.example:1'}}
";

    #[test]
    fn a_file_is_printed_with_its_values_and_without_its_secrets() {
        let (_dir, path) = folder(FILE);
        let (text, json) = (file(&load_as_written(&path).unwrap()), json(&load_as_written(&path).unwrap()));
        assert!(!text.contains("hunter2") && !json.contains("hunter2"));
        for line in [
            "    - # The name, unique and without a colon.\n",
            "      username: \"on\"\n",
            "      password: # set, and not shown\n",
            "      roles: [read]\n",
            "  origins: [https://a.example]\n",
            "        name: \"0123\"\n",
            "        addr: \"[::1]:6379\"\n",
            "          value: # set, and not shown\n",
            "      entry: lua/entry.socket.lua\n",
            "      unsentLimit: 40096\n",
            "  filename: \"\"\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        // With the secrets put in again it says the same.
        let mut whole = text.replace("      password: # set, and not shown", "      password: hunter2");
        whole = whole.replace("value: # set, and not shown", "value: hunter2");
        whole = whole.replace("  secret: # set, and not shown", "  secret: hunter2");
        std::fs::write(&path, FILE).unwrap();
        assert_eq!(parse(&path, &whole).unwrap(), parse(&path, FILE).unwrap(), "{text}");
    }

    #[test]
    fn json_has_each_row_once_with_the_values_of_all_entries() {
        let (_dir, path) = folder(FILE);
        let rows: Vec<Json> = serde_json::from_str(&json(&load_as_written(&path).unwrap())).unwrap();
        let row = |path: &str| rows.iter().find(|row| row["path"] == path).unwrap();
        let port = row("engine.servers[].port");
        assert_eq!(
            port,
            &json!({
                "path": "engine.servers[].port", "type": "number", "bounds": "0 to 65535", "required": false,
                "default": 6790, "effect": "restart", "restart": "the listener", "value": [6790, 1],
                "words": "The port that clients connect to.",
            })
        );
        assert_eq!(row("engine.servers[].options[].value")["value"], json!([["/a", "***"], []]));
        assert_eq!(row("access.users[].password")["value"], json!(["***"]));
        assert_eq!(row("access.users[].password")["required"], false);
        assert_eq!(row("engine.luavm.redis[].password")["value"], json!(["***", null]));
        assert_eq!(row("engine.memory.of")["value"], "2GiB");
        assert_eq!(row("cluster.advertise.api")["default"], Json::Null);
        assert_eq!(row("licenses.server").get("value"), None);
        let paths: BTreeSet<&str> = rows.iter().map(|row| row["path"].as_str().unwrap()).collect();
        assert_eq!(paths.len(), rows.len());
    }

    #[test]
    fn every_row_has_words_and_a_default_within_its_bounds() {
        for row in rows(&defaults()) {
            assert!(row.words.ends_with('.') && row.words.len() < 250, "{}: {:?}", row.path, row.words);
            let (Some((least, most)), Some(default)) = (row.bounds.split_once(" to "), &row.default) else { continue };
            let default = default.as_str().map_or(default.to_string(), str::to_owned);
            let number = |text: &str| match row.kind {
                "duration" => format!("{:?}", parse_duration(text)),
                _ => format!("{:?}", parse_size(text)),
            };
            assert!([least, most, &default].iter().all(|text| number(text).starts_with("Is(")), "{row:?}");
        }
    }
}
