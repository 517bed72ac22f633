//! Which files of tests there are to run.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::telemetry::language::spoken;

/// How the names of files of tests end.
const SUFFIX: &str = "_test.lua";
/// The folder of tests beside the configuration.
const FOLDER: &str = "tests/lua";
/// How many levels of folders are searched.
const DEPTH: usize = 16;

/// The named files and the test files in the named folders. If none are named, those that the configuration leads to.
/// The error says what is missing.
pub(super) fn files(named: &[PathBuf], config: Option<&Config>) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in named {
        if path.is_dir() {
            let mut inside = BTreeSet::new();
            walk(path, DEPTH, &mut inside).map_err(|e| format!("{}: {e}", path.display()))?;
            found.extend(inside);
        } else if path.is_file() {
            found.push(path.clone());
        } else {
            let path = path.display();
            return Err(spoken!("no such file or folder: {path}", "没有这个文件或目录：{path}"));
        }
    }
    if let Some(config) = config.filter(|_| named.is_empty()) {
        found.extend(beside(config)?);
    }
    let mut once = BTreeSet::new();
    found.retain(|file| once.insert(std::path::absolute(file).unwrap_or_else(|_| file.clone())));
    if found.is_empty() {
        return Err(match named {
            [] => spoken!(
                "no tests: there is no *{SUFFIX} beside an entry script, nor in {FOLDER}",
                "没有测试：入口脚本旁边和 {FOLDER} 里都没有 *{SUFFIX}"
            ),
            _ => spoken!("no tests: there is no *{SUFFIX} in {0}", "没有测试：{0} 里没有 *{SUFFIX}", list(named)),
        });
    }
    Ok(found)
}

fn beside(config: &Config) -> Result<BTreeSet<PathBuf>, String> {
    let folder = config.file.parent().unwrap_or(Path::new("")).join(FOLDER);
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    let mut found = BTreeSet::new();
    let entries = config.servers.iter().filter_map(|server| server.entry.parent());
    for (folder, depth) in entries.map(|folder| (folder, 0)).chain([(folder.as_path(), DEPTH)]) {
        match walk(folder, depth, &mut found) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("{}: {e}", folder.display())),
            _ => {}
        }
    }
    Ok(found)
}

/// Links to folders are not followed, since they may form a circle.
fn walk(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                walk(&path, depth - 1, found)?;
            }
        } else if path.is_file() && entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            found.insert(path);
        }
    }
    Ok(())
}

/// Paths in a sentence.
pub(super) fn list(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
