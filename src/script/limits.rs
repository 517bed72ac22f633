//! What a VM may take, and what it lets in.

use crate::config::{LOAD_LIMIT, Library, LuaVm, MAX_WAITING};

/// The limits of a VM.
#[derive(Debug, Clone)]
pub struct VmLimits {
    /// Bytes of Lua memory.
    pub memory: usize,
    /// What the sandbox lets in.
    pub libraries: Vec<Library>,
    /// Handlers that may wait at once.
    pub waiting: usize,
    /// Bytes of a text for `load`.
    pub load: usize,
}

impl Default for VmLimits {
    /// Those of an empty configuration.
    fn default() -> VmLimits {
        VmLimits { memory: 256 * 1024 * 1024, libraries: Vec::new(), waiting: MAX_WAITING, load: LOAD_LIMIT }
    }
}

impl VmLimits {
    /// Those of a configuration.
    pub fn of(luavm: &LuaVm) -> VmLimits {
        VmLimits {
            memory: luavm.memory_limit,
            libraries: luavm.libraries.clone(),
            waiting: luavm.waiting,
            load: luavm.load_limit,
        }
    }
}
