//! One version of a server's script: its entry file, and every module it requires, as they were read for this version.
//! Every VM of the version runs the same text, whatever happens to the files meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::config::Protocol;

/// The largest script file, in bytes.
const MAX_SCRIPT: u64 = 8 * 1024 * 1024;

/// What tells whether a file has changed: modified, length, inode. None: the file is not there.
pub type Stamp = Option<(SystemTime, u64, u64)>;

/// One version of a script.
pub struct Program {
    /// What its server speaks, and so which hooks it has.
    pub protocol: Protocol,
    /// The entry file.
    pub entry: PathBuf,
    /// The server's options, for `mix.server.option`.
    pub options: Vec<(String, String)>,
    sources: Mutex<BTreeMap<PathBuf, Source>>,
}

#[derive(Clone)]
struct Source {
    stamp: Stamp,
    text: Option<Arc<[u8]>>,
}

impl Program {
    /// A new version; nothing is read yet.
    pub fn new(protocol: Protocol, entry: PathBuf, options: Vec<(String, String)>) -> Program {
        Program { protocol, entry, options, sources: Mutex::default() }
    }

    /// The text of a file, read once for this version; None if it is not there. A file that can't be read is an error.
    pub fn source(&self, path: &Path) -> Result<Option<Arc<[u8]>>, String> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sources.get(path) {
            return Ok(known.text.clone());
        }
        let stamp = stamp(path);
        let text = match read(path) {
            Ok(text) => Some(Arc::from(text)),
            Err(e) if is_absent(&e) => None,
            Err(e) => {
                // Remembered as absent, so that a change of the file is noticed.
                sources.insert(path.to_owned(), Source { stamp: None, text: None });
                return Err(format!("cannot read {}: {e}", path.display()));
            }
        };
        sources.insert(path.to_owned(), Source { stamp, text: text.clone() });
        Ok(text)
    }

    /// The files looked at so far, absent ones too (one may appear), as they are on disk now; and whether any of them
    /// differs from what this version read.
    pub fn look(&self) -> (Vec<Stamp>, bool) {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now: Vec<Stamp> = sources.keys().map(|path| stamp(path)).collect();
        let changed = sources.values().zip(&now).any(|(source, now)| source.stamp != *now);
        (now, changed)
    }

    /// The files that were read for this version, with their texts.
    pub fn texts(&self) -> Vec<(PathBuf, Arc<[u8]>)> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter_map(|(path, source)| Some((path.clone(), source.text.clone()?))).collect()
    }

    /// The folder that modules are looked up in first.
    pub fn folder(&self) -> &Path {
        self.entry.parent().unwrap_or(Path::new("."))
    }
}

fn is_absent(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    file.take(MAX_SCRIPT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_SCRIPT {
        return Err(std::io::Error::other(format!("the file has more than {MAX_SCRIPT} bytes")));
    }
    Ok(text)
}

/// What a file looks like now.
pub fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), meta.ino()))
}

/// How a script's path is shown in messages: from the working directory where it lies below it.
pub fn shown(path: &Path) -> String {
    let below = std::env::current_dir().ok().and_then(|cwd| path.strip_prefix(cwd).ok().map(Path::to_owned));
    below.unwrap_or_else(|| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_keeps_what_it_read_and_notices_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, module) = (dir.path().join("entry.lua"), dir.path().join("m.lua"));
        fs::write(&entry, "one").unwrap();
        let program = Program::new(Protocol::Websocket, entry.clone(), vec![]);
        assert_eq!(program.source(&entry).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(program.source(&module).unwrap(), None);
        assert!(!program.look().1);
        fs::write(&entry, "other").unwrap();
        assert!(program.look().1);
        assert_eq!(program.source(&entry).unwrap().as_deref(), Some(&b"one"[..]));
        fs::write(&entry, "one").unwrap();
        let program = Program::new(Protocol::Websocket, entry.clone(), vec![]);
        program.source(&entry).unwrap();
        program.source(&module).unwrap();
        fs::write(&module, "appears").unwrap();
        assert!(program.look().1, "a module that was missing has appeared");
    }

    #[test]
    fn a_file_replaced_by_rename_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, new) = (dir.path().join("entry.lua"), dir.path().join("new"));
        fs::write(&entry, "one").unwrap();
        let program = Program::new(Protocol::Websocket, entry.clone(), vec![]);
        program.source(&entry).unwrap();
        let modified = fs::metadata(&entry).unwrap().modified().unwrap();
        fs::write(&new, "two").unwrap();
        fs::File::options().append(true).open(&new).unwrap().set_modified(modified).unwrap();
        fs::rename(&new, &entry).unwrap();
        assert!(program.look().1);
    }
}
