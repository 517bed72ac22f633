//! What a thread does in Lua, as the threads that watch it see it. It is one number, so that entering Lua costs one
//! plain store. Files are numbered for that in a table of the process.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::hook::Hook;
use super::program::shown;

/// The most files that are distinguished. Only configurations and reloads add new ones.
const MAX_FILES: usize = 4096;
/// The value of the lowest byte while no hook runs.
const LOADING: u64 = 0xff;
const TESTING: u64 = 0xfe;

/// A script's function that runs: its file, and the line it begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doing(u64);

impl Doing {
    /// For runs that have no place in a file.
    pub const TESTING: Doing = Doing(TESTING);

    /// The top level of an entry file.
    pub fn loading(entry: &Path) -> Doing {
        Doing(number_of(&shown(entry)) << 40 | LOADING)
    }

    /// A hook defined in that file. `line` is 0 where it is not known.
    pub fn hook(hook: Hook, file: &str, line: u32) -> Doing {
        Doing(number_of(file) << 40 | u64::from(line) << 8 | hook as u64)
    }

    pub(super) fn from_bits(bits: u64) -> Doing {
        Doing(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line) = (name_of(self.0 >> 40), self.0 >> 8 & u64::from(u32::MAX));
        match Hook::ALL.iter().find(|hook| **hook as u64 == self.0 & 0xff) {
            Some(hook) if line == 0 => write!(f, "{} of {file}", hook.name()),
            Some(hook) => write!(f, "{} ({file}:{line})", hook.name()),
            None if self.0 & 0xff == LOADING => write!(f, "the top level of {file}"),
            None => write!(f, "Lua"),
        }
    }
}

fn files() -> std::sync::MutexGuard<'static, Vec<Arc<str>>> {
    static FILES: Mutex<Vec<Arc<str>>> = Mutex::new(Vec::new());
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file's number, from 1 on; 0 stands for those beyond [`MAX_FILES`].
fn number_of(name: &str) -> u64 {
    let mut files = files();
    let known = files.iter().position(|file| **file == *name);
    let at = known.or_else(|| {
        (files.len() < MAX_FILES).then(|| {
            files.push(name.into());
            files.len() - 1
        })
    });
    at.map_or(0, |at| at as u64 + 1)
}

fn name_of(number: u64) -> Arc<str> {
    let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    at.and_then(|at| files().get(at).cloned()).unwrap_or_else(|| "a script".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_comes_back_from_its_number() {
        for (doing, text) in [
            (Doing::hook(Hook::Message, "a/chat.lua", 12), "on_message (a/chat.lua:12)"),
            (Doing::hook(Hook::Close, "b.lua", 0), "on_close of b.lua"),
            (Doing::hook(Hook::Encode, "a/chat.lua", u32::MAX), "protocol_encode (a/chat.lua:4294967295)"),
            (Doing::loading(Path::new("/x/b.lua")), "the top level of /x/b.lua"),
            (Doing::TESTING, "Lua"),
        ] {
            assert_eq!(Doing::from_bits(doing.bits()).to_string(), text);
        }
    }
}
