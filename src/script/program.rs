//! One version of a server's script: its entry file and the modules it requires, as they were read for this version.
//! Every VM of the version runs the same text, even if the files change meanwhile.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use super::hints::{Hints, Mistake};
use crate::config::{MAX_SCRIPT, Protocol, file};

/// The most files that are remembered, absent ones included. Further files are looked up each time, and not watched.
const MAX_FILES: usize = 4096;

/// What tells whether a file has changed: time of modification, length, inode, and kind and permissions. None: no such
/// file.
pub type Stamp = Option<(SystemTime, u64, u64, u32)>;

/// One version of a script.
pub struct Program {
    /// What its server speaks, and so which hooks it has.
    pub protocol: Protocol,
    /// The position of its server in the configuration.
    pub server: usize,
    /// A number of its own; those of later versions are higher.
    pub version: NonZeroU64,
    /// The entry file.
    pub entry: PathBuf,
    /// The server's options, for `mix.server.option`.
    pub options: Vec<(String, String)>,
    sources: Mutex<BTreeMap<PathBuf, Source>>,
    /// The folders below which modules may lie, besides the entry's folder.
    roots: Mutex<Vec<PathBuf>>,
    /// Suggests fixes for errors, once the linter has checked this version.
    hints: OnceLock<Box<dyn Hints>>,
}

#[derive(Clone)]
struct Source {
    stamp: Stamp,
    text: Result<Option<Arc<[u8]>>, String>,
    /// It could not be read for a cause of the system (no descriptors, a fault of the disk), which may end.
    lacking: bool,
    /// What was compiled of it.
    code: Option<Arc<[u8]>>,
}

impl Program {
    /// A new version; nothing is read yet.
    pub fn new(protocol: Protocol, entry: PathBuf, options: Vec<(String, String)>) -> Program {
        static VERSIONS: AtomicU64 = AtomicU64::new(0);
        let version = NonZeroU64::MIN.saturating_add(VERSIONS.fetch_add(1, Relaxed));
        let (sources, roots, hints) = Default::default();
        Program { protocol, server: 0, version, entry, options, sources, roots, hints }
    }

    /// The same as that of the server at that position.
    pub fn of_server(self, server: usize) -> Program {
        Program { server, ..self }
    }

    /// Sets what suggests fixes for this version's errors. Only the first call counts.
    pub fn hint_with(&self, hints: Box<dyn Hints>) {
        let _ = self.hints.set(hints);
    }

    /// The likely fix of an error, if one is known.
    pub(super) fn hint(&self, mistake: &Mistake<'_>) -> Option<String> {
        self.hints.get()?.fix(mistake)
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of a file, read once for this version; None if it is not there. A file that can't be read is an error.
    pub fn source(&self, path: &Path) -> Result<Option<Arc<[u8]>>, String> {
        let mut sources = self.sources();
        if let Some(known) = sources.get(path).filter(|known| !known.lacking) {
            return known.text.clone();
        }
        let stamp = stamp(path);
        let (text, lacking) = match read(path) {
            Ok(text) => (Ok(Some(Arc::from(text))), false),
            Err(e) if is_absent(&e) => (Ok(None), false),
            Err(e) => (Err(format!("cannot read {}: {e}", path.display())), e.raw_os_error().is_some()),
        };
        if sources.len() < MAX_FILES || sources.contains_key(path) {
            sources.insert(path.to_owned(), Source { stamp, text: text.clone(), lacking, code: None });
        }
        text
    }

    /// What was compiled of a file for this version.
    pub(super) fn code(&self, path: &Path) -> Option<Arc<[u8]>> {
        self.sources().get(path)?.code.clone()
    }

    /// Keeps what was compiled of a file, for all VMs of this version.
    pub(super) fn keep(&self, path: &Path, code: Vec<u8>) {
        if let Some(source) = self.sources().get_mut(path) {
            source.code = Some(code.into());
        }
    }

    /// Lets modules lie where a search path looks (`/usr/share/lua/5.1/?.lua;./?.lua`): below the folders that stand in
    /// front of its marks.
    pub(crate) fn allow(&self, search_path: &[u8]) {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        for template in search_path.split(|b| *b == b';').filter(|template| !template.is_empty()) {
            let fixed = template.split(|b| *b == b'?').next().unwrap_or_default();
            let root = match fixed.iter().rposition(|b| *b == b'/') {
                Some(slash) => Path::new(OsStr::from_bytes(fixed.get(..=slash).unwrap_or_default())),
                None => Path::new("."),
            };
            if !roots.iter().any(|known| known == root) {
                roots.push(root.to_owned());
            }
        }
    }

    /// Whether a module may be read from there: it must be a `.lua` file below the entry's folder or an allowed one,
    /// with no `..` in the path below that. Symbolic links are followed.
    pub(crate) fn may_be_module(&self, path: &Path) -> bool {
        let below = |root: &Path| {
            let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
            let rest = path.strip_prefix(root).ok().or_else(|| {
                // `m.lua` lies in `.` too.
                (root == Path::new(".") && path.is_relative()).then_some(path)
            });
            rest.is_some_and(|rest| rest.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)))
        };
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let lua = path.extension().is_some_and(|extension| extension == "lua");
        lua && (below(self.folder()) || roots.iter().any(|root| below(root)))
    }

    /// The files looked at so far, absent ones too (one may appear), as they are on disk now; and whether any of them
    /// differs from what this version read.
    pub fn look(&self) -> (Vec<Stamp>, bool) {
        let known: Vec<(PathBuf, Stamp)> = self.sources().iter().map(|(path, s)| (path.clone(), s.stamp)).collect();
        let now: Vec<Stamp> = known.iter().map(|(path, _)| stamp(path)).collect();
        let changed = known.iter().zip(&now).any(|((_, before), now)| before != now);
        (now, changed)
    }

    /// Whether a file could not be read for a cause that may end without a change of it.
    pub fn is_lacking(&self) -> bool {
        self.sources().values().any(|source| source.lacking)
    }

    /// The files that were read for this version, with their texts.
    pub fn texts(&self) -> Vec<(PathBuf, Arc<[u8]>)> {
        let sources = self.sources();
        sources.iter().filter_map(|(path, source)| Some((path.clone(), source.text.clone().ok()??))).collect()
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
    let text = file::read(path, MAX_SCRIPT as u64 + 1)?;
    if text.len() > MAX_SCRIPT {
        return Err(std::io::Error::other(format!("the file has more than {MAX_SCRIPT} bytes")));
    }
    Ok(text)
}

/// What a file looks like now.
pub fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), meta.ino(), meta.mode()))
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

    #[test]
    fn modules_are_lua_files_of_the_script_or_the_system() {
        let program = Program::new(Protocol::Websocket, "/app/entry.lua".into(), vec![]);
        program.allow(b"./?.lua;/usr/share/lua/5.1/?/init.lua;;up/../lib/?.lua;?.lua");
        for path in [
            "/app/m.lua",
            "/app/a/./b.lua",
            "./m.lua",
            "m.lua",
            "a/m.lua",
            "/usr/share/lua/5.1/pl/init.lua",
            "up/../lib/m.lua",
        ] {
            assert!(program.may_be_module(Path::new(path)), "{path}");
        }
        for path in [
            "/app/m",
            "/app/m.luac",
            "/app/../etc/m.lua",
            "/app/a/../../m.lua",
            "/apple/m.lua",
            "/etc/m.lua",
            "../m.lua",
            "./../m.lua",
            "a/../../m.lua",
            "/usr/share/lua/m.lua",
            "up/../../m.lua",
            "",
        ] {
            assert!(!program.may_be_module(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_cant_be_read_is_told_each_time_and_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let entry = dir.path().join("entry.lua");
        fs::create_dir(&entry).unwrap();
        let program = Program::new(Protocol::Websocket, entry.clone(), vec![]);
        for _ in 0..2 {
            let error = program.source(&entry).unwrap_err();
            assert!(error.ends_with("entry.lua: it is a folder, not a regular file"), "{error}");
        }
        assert!(!program.look().1);
        fs::remove_dir(&entry).unwrap();
        fs::write(&entry, "one").unwrap();
        assert!(program.look().1);
    }

    #[test]
    fn names_that_scripts_make_up_are_not_all_remembered() {
        let program = Program::new(Protocol::Websocket, "/nowhere/entry.lua".into(), vec![]);
        for i in 0..MAX_FILES + 10 {
            assert_eq!(program.source(Path::new(&format!("/nowhere/{i}.lua"))).unwrap(), None);
        }
        assert_eq!(program.look().0.len(), MAX_FILES);
    }
}
