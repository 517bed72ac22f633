//! The known keys, and the messages about unknown ones.
//!
//! `Known` is made of the rows' paths. `check` goes through the whole file before anything is read, so that reading itself
//! need not look for what nobody asks for.

use super::older::{OLDER, older_spelling};
use super::tree::{Entry, Kind};
use super::value::Value;
use super::{Sink, join, shown_key};
use crate::telemetry::language::{Both, both};

/// A key and what may stand below it.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    name: String,
    /// Whether it is a list of sections with these keys.
    is_list: bool,
    keys: Vec<Known>,
}

impl Known {
    /// The keys at these paths: `engine.servers[].port`.
    pub fn of<'a>(paths: impl Iterator<Item = &'a str>) -> Known {
        let mut root = Known::default();
        for path in paths {
            let mut at = &mut root;
            for part in path.split('.') {
                let name = part.split('[').next().unwrap_or(part);
                let index = at.keys.iter().position(|key| key.name == name).unwrap_or_else(|| {
                    at.keys.push(Known { name: name.to_owned(), ..Known::default() });
                    at.keys.len() - 1
                });
                at = &mut at.keys[index];
                at.is_list |= part.len() > name.len();
            }
        }
        root
    }

    /// Reports what is no section or no list of sections where one must be, and to `unknown` the keys that there are
    /// not: where both a key is unknown and another one missing, that is told first.
    pub fn check(&self, value: &Value<'_>, unknown: &Sink) {
        self.check_in(self, value, unknown);
    }

    /// [`check`](Self::check) of a part; `all` are the keys of the whole file.
    fn check_in(&self, all: &Known, value: &Value<'_>, unknown: &Sink) {
        match self.is_list {
            true => value.list().iter().for_each(|entry| self.section(all, entry, unknown)),
            false => self.section(all, value, unknown),
        }
    }

    fn section(&self, all: &Known, value: &Value<'_>, unknown: &Sink) {
        match value.kind() {
            Some(Kind::Map(entries)) => entries.iter().for_each(|entry| self.entry(all, value, entry, unknown)),
            Some(_) => value.expected_many("a section of keys"),
            None => {}
        }
    }

    fn entry(&self, all: &Known, section: &Value<'_>, entry: &Entry, unknown: &Sink) {
        let path = join(section.path(), &entry.name);
        if let Some(key) = self.keys.iter().find(|key| key.name == entry.name) {
            if !key.keys.is_empty() {
                key.check_in(all, &section.get(&entry.name), unknown);
            }
        } else if let Some(key) = self.keys.iter().find(|key| older_spelling(&key.name) == Some(&entry.name)) {
            let today = entries(section).iter().any(|other| other.name == key.name && !other.value.is_null());
            if today && !entry.value.is_null() {
                let name = &key.name;
                let message = both!("given twice: it is an older spelling of {name}", "写了两次：它是 {name} 的旧写法");
                unknown.report(entry.value.place, &path, message);
            }
        } else {
            let (key, hint) = (shown_key(&entry.name), self.hint(all, &path, &entry.name));
            let message = Both {
                en: format!("unknown key \"{key}\"; {}", hint.en),
                zh: format!("没有这个配置项 \"{key}\"；{}", hint.zh),
            };
            unknown.report(entry.place, &path, message);
        }
    }

    /// The sections below `path` that have a key of that name.
    fn places(&self, name: &str, path: &str, found: &mut Vec<String>) {
        for key in &self.keys {
            if key.name == name {
                found.push(path.to_owned());
            }
            key.places(name, &join(path, &key.name), found);
        }
    }

    /// What an unknown key most likely stands for.
    fn hint(&self, all: &Known, path: &str, name: &str) -> Both {
        if let Some((_, today)) = OLDER.iter().find(|(old, _)| *old == path) {
            return both!("it is {today} today", "现在是 {today}");
        }
        let mut places = Vec::new();
        all.places(name, "", &mut places);
        if let [place] = &places[..] {
            return match place.as_str() {
                "" => both!(
                    "it belongs at the top of the file, not below another key",
                    "它应在文件的最上层，不在其他配置项之下"
                ),
                place => both!("it belongs under {place}", "它应在 {place} 之下"),
            };
        }
        let known: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        match nearest(name, &known) {
            Some(known) => both!("did you mean {known:?}?", "是不是 {known:?}？"),
            None if name.contains(':') => both!("a space must follow the colon", "冒号后面要有空格"),
            None => both!("known here: {0}", "这里有：{0}", known.join(", ")),
        }
    }
}

fn entries<'a>(section: &Value<'a>) -> &'a [Entry] {
    match section.kind() {
        Some(Kind::Map(entries)) => entries,
        _ => &[],
    }
}

/// The known key that a misspelt one most likely stands for.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 40;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |k: &str| strsim::osa_distance(&name, &k.to_lowercase());
    let (best, near) = known.iter().map(|k| (distance(k), *k)).min()?;
    (best <= 1 + near.len() / 5).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// The problems of a text where there are these keys, as `LINE:COLUMN KEY: MESSAGE`.
    fn problems(keys: &[&str], text: &str) -> Vec<String> {
        let sink = Sink::default();
        let root = tree::parse(text, &sink).unwrap();
        Known::of(keys.iter().copied()).check(&Value::root(Some(&root), &sink), &sink);
        sink.into_list().iter().map(|p| format!("{}:{} {}: {}", p.line, p.column, p.key, p.message)).collect()
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let text = "readTimout: 1\nREADTIMEOUT: 1\nprot: 1\nfoo: 1\nport:6790: \n\"password:hunter2\": 1\n";
        let want = [
            "1:1 readTimout: unknown key \"readTimout\"; did you mean \"readTimeout\"?",
            "2:1 READTIMEOUT: unknown key \"READTIMEOUT\"; did you mean \"readTimeout\"?",
            "3:1 prot: unknown key \"prot\"; did you mean \"port\"?",
            "4:1 foo: unknown key \"foo\"; known here: readTimeout, port",
            "5:1 port:...: unknown key \"port:...\"; a space must follow the colon",
            "6:1 password:...: unknown key \"password:...\"; a space must follow the colon",
        ];
        assert_eq!(problems(&["readTimeout", "port"], text), want);
    }

    #[test]
    fn a_key_in_the_wrong_place_is_told_where_it_belongs() {
        let keys = ["a.x", "a.port", "b[].port", "b[].y", "z"];
        let text = "x: 1\ny: 1\nport: 1\na: {z: 1}\n";
        let want = [
            "1:1 x: unknown key \"x\"; it belongs under a",
            "2:1 y: unknown key \"y\"; it belongs under b",
            "3:1 port: unknown key \"port\"; known here: a, b, z",
            "4:5 a.z: unknown key \"z\"; it belongs at the top of the file, not below another key",
        ];
        assert_eq!(problems(&keys, text), want);
    }

    #[test]
    fn what_is_no_section_or_list_is_told() {
        let keys = ["a.b", "c[].d", "c[].e[].f"];
        let text = "a: hunter2\nc: [{d: 1}, 5, ~, {e: {}}, {xyz: 1}]\n";
        let want = [
            "1:4 a: expected a section of keys, got a single value",
            "2:13 c[1]: expected a section of keys, got a single value",
            "2:16 c[2]: an entry without a value",
            "2:23 c[3].e: expected a list, got a section of keys",
            "2:29 c[4].xyz: unknown key \"xyz\"; known here: d, e",
        ];
        assert_eq!(problems(&keys, text), want);
        assert_eq!(problems(&keys, "a: {b: {z: 1}}\nc: ~\n"), [""; 0], "what stands at a key is read by that key");
    }

    #[test]
    fn older_keys_name_todays() {
        let want = ["1:1 log: unknown key \"log\"; it is logging today"];
        assert_eq!(problems(&["logging.level"], "log: 1\n"), want);
        let both = "byteCodeExpires: 6\nbytecodeExpires: 5\n";
        let want = ["2:18 bytecodeExpires: given twice: it is an older spelling of byteCodeExpires"];
        assert_eq!(problems(&["byteCodeExpires"], both), want);
        assert_eq!(problems(&["byteCodeExpires"], "bytecodeExpires: 5\n"), [""; 0]);
    }
}
