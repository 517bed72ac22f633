//! A VM's memory: when garbage is collected in addition to LuaJIT's own schedule, and when so much is in use that
//! another VM has to replace it.

use mlua::Lua;
use std::cell::Cell;

use crate::telemetry::rate_limited::rate_limited;

/// From how many bytes on a VM's memory counts as nearly full.
fn nearly_full(memory: usize) -> usize {
    memory / 4 * 3
}

/// From how many bytes on garbage is collected in steps by each allocation. LuaJIT itself starts at twice what is in
/// use, which may be more than nearly full: each collection would then hold the thread from beginning to end.
fn half_full(memory: usize) -> usize {
    memory / 2
}

/// From how many bytes in use on a VM is replaced. The rest is for handlers that begin until then.
fn worn(memory: usize) -> usize {
    memory / 8 * 7
}

/// Whether a VM's memory is nearly full with what is in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wear {
    None,
    New,
    Told,
}

/// The state of a VM's memory.
pub(super) struct Memory {
    /// Bytes that the VM may use.
    limit: usize,
    /// Bytes in use from which on garbage is collected at once.
    nearly_full: Cell<usize>,
    wear: Cell<Wear>,
    /// How often garbage was collected at once.
    #[cfg(test)]
    collected: Cell<u32>,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Memory {
        Memory {
            limit,
            nearly_full: Cell::new(nearly_full(limit)),
            wear: Cell::new(Wear::None),
            #[cfg(test)]
            collected: Cell::default(),
        }
    }

    /// See [`super::Vm::has_worn`].
    pub(super) fn has_worn(&self) -> bool {
        self.wear.get() == Wear::New && self.wear.replace(Wear::Told) == Wear::New
    }

    /// See [`super::Vm::is_worn`].
    pub(super) fn is_worn(&self, lua: &Lua) -> bool {
        let worn = self.wear.get() != Wear::None && lua.used_memory() > worn(self.limit);
        if !worn {
            self.wear.set(Wear::None);
        }
        worn
    }

    /// Collects all garbage. The call itself takes a little memory, which may not be available, so the limit is lifted
    /// for it.
    pub(super) fn collect(&self, lua: &Lua) {
        #[cfg(test)]
        self.collected.update(|times| times + 1);
        let collected = lua.set_memory_limit(0).and_then(|_| lua.gc_collect());
        if let Err(e) = collected.and_then(|()| lua.set_memory_limit(self.limit)) {
            rate_limited!(ERROR, "garbage is not collected", ""; "a script's garbage could not be collected: {e}");
        }
    }

    /// Collects garbage when memory is nearly full: the next handler may be another connection's, and Lua makes no
    /// emergency collection. At lower levels, starts a collection in steps.
    pub(super) fn collect_if_nearly_full(&self, lua: &Lua) {
        let used = lua.used_memory();
        if used > self.nearly_full.get() {
            self.collect(lua);
            // What remains is in use: collect again only when half of the rest is taken too.
            let used = lua.used_memory();
            let rest = self.limit.saturating_sub(used);
            self.nearly_full.set((used + rest / 2).max(nearly_full(self.limit)));
            self.look_at_wear(lua);
        } else if used > half_full(self.limit) {
            // From the next allocation on.
            lua.gc_restart();
        }
    }

    /// Called after a collection: records what is still in use.
    pub(super) fn look_at_wear(&self, lua: &Lua) {
        if self.wear.get() == Wear::None && lua.used_memory() > worn(self.limit) {
            self.wear.set(Wear::New);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::config::Protocol;
    use crate::message::Kind;
    use crate::script::hooks::HookArgs;
    use crate::script::program::Program;
    use crate::script::vm::{Hook, Started, Vm, VmLimits};

    /// Six of 16 MB in use: LuaJIT would begin at twelve, where memory is nearly full.
    #[test]
    fn garbage_of_a_vm_that_is_half_full_is_collected_in_steps() {
        const MIB: usize = 1024 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let entry = dir.path().join("entry.lua");
        let script = "kept = {} for i = 1, 65000 do kept[i] = { i } end
                      function on_message() local t = {} for i = 1, 100 do t[i] = { i } end end";
        std::fs::write(&entry, script).unwrap();
        let program = Arc::new(Program::new(Protocol::Websocket, entry, vec![]));
        let vm = Vm::new(program, &VmLimits { memory: 16 * MIB, ..VmLimits::default() }).unwrap();
        vm.memory.collect(&vm.lua);
        let used = vm.memory();
        assert!((6 * MIB..7 * MIB).contains(&used), "{used} bytes");
        let before = vm.memory.collected.get();
        for _ in 0..3000 {
            let args = HookArgs::message(Kind::Text, b"");
            let Started::Done(Ok(_)) = vm.start(Hook::Message, None, args, Duration::from_secs(10)) else {
                panic!("the handler has failed, or waits");
            };
        }
        assert_eq!(vm.memory.collected.get() - before, 0);
    }
}
