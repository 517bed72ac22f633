//! A VM's memory: when garbage is collected besides LuaJIT's own pace, and when what is in use is so much that another VM is to
//! take over.

use std::cell::Cell;

use super::Vm;
use crate::telemetry::seldom::seldom;

/// From how many bytes on a VM's memory counts as nearly full.
fn nearly_full(memory: usize) -> usize {
    memory / 4 * 3
}

/// From how many bytes in use on a VM is to be replaced: what is left is for handlers that begin until then.
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

/// What is known of it.
pub(super) struct Memory {
    /// Bytes that the VM may use.
    limit: usize,
    /// Bytes in use from which on garbage is collected at once.
    nearly_full: Cell<usize>,
    wear: Cell<Wear>,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Memory {
        Memory { limit, nearly_full: Cell::new(nearly_full(limit)), wear: Cell::new(Wear::None) }
    }
}

impl Vm {
    /// Bytes of Lua memory in use.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Whether its memory has come to be seven eighths full, with what is in use. Told once.
    pub fn has_worn(&self) -> bool {
        self.memory.wear.get() == Wear::New && self.memory.wear.replace(Wear::Told) == Wear::New
    }

    /// Whether its memory is nearly full still, as far as can be said without a collection. If not, [`Vm::has_worn`] tells
    /// when it is again.
    pub fn is_worn(&self) -> bool {
        let worn = self.memory.wear.get() != Wear::None && self.lua.used_memory() > worn(self.memory.limit);
        if !worn {
            self.memory.wear.set(Wear::None);
        }
        worn
    }

    /// The same after a collection.
    pub fn is_worn_out(&self) -> bool {
        self.collect();
        self.is_worn()
    }

    /// Collects all garbage. Asking for it takes a little memory itself, which there may not be: so without the limit.
    pub(super) fn collect(&self) {
        let collected = self.lua.set_memory_limit(0).and_then(|_| self.lua.gc_collect());
        if let Err(e) = collected.and_then(|()| self.lua.set_memory_limit(self.memory.limit)) {
            seldom!(ERROR, "garbage is not collected", ""; "a script's garbage could not be collected: {e}");
        }
    }

    /// Collects garbage when memory is nearly full: the next handler may be another connection's, and there is no
    /// collection in an emergency.
    pub(super) fn relieve(&self) {
        if self.lua.used_memory() > self.memory.nearly_full.get() {
            self.collect();
            // What is still in use is in use: not again before half of the rest is taken too.
            let used = self.lua.used_memory();
            let limit = self.memory.limit;
            let rest = limit.saturating_sub(used);
            self.memory.nearly_full.set((used + rest / 2).max(nearly_full(limit)));
            self.look_at_wear();
        }
    }

    /// After a collection: what is in use stays in use, perhaps.
    pub(super) fn look_at_wear(&self) {
        if self.memory.wear.get() == Wear::None && self.lua.used_memory() > worn(self.memory.limit) {
            self.memory.wear.set(Wear::New);
        }
    }
}
