//! The limits of a VM, and the libraries that its sandbox admits.

use crate::config::{LOAD_LIMIT, Library, LuaVm, MAX_WAITING};

/// The limits of a VM.
#[derive(Debug, Clone)]
pub struct VmLimits {
    /// Bytes of Lua memory.
    pub memory: usize,
    /// The libraries that the sandbox admits.
    pub libraries: Vec<Library>,
    /// Handlers that may wait at once.
    pub waiting: usize,
    /// The longest text that `load` takes, in bytes.
    pub load: usize,
}

impl Default for VmLimits {
    /// The limits of an empty configuration.
    fn default() -> VmLimits {
        VmLimits { memory: 256 * 1024 * 1024, libraries: Vec::new(), waiting: MAX_WAITING, load: LOAD_LIMIT }
    }
}

impl VmLimits {
    /// The limits of a configuration.
    pub fn of(luavm: &LuaVm) -> VmLimits {
        VmLimits {
            memory: luavm.memory_limit,
            libraries: luavm.libraries.clone(),
            waiting: luavm.waiting,
            load: luavm.load_limit,
        }
    }
}
