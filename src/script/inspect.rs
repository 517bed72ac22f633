//! The runtime as the linter uses it (`lint`): what a VM offers, and the bytecode of a file.

use std::path::Path;
use std::sync::Arc;

use super::build::LOAD_BUDGET;
use super::compile;
use super::program::Program;

pub(crate) use super::globals::{Globals, LIBRARIES};

/// The bytecode of a file of that version: what a VM loaded, else compiled now, for at most 5 seconds. None if it does
/// not compile.
pub(crate) fn bytecode(program: &Program, path: &Path, text: &[u8]) -> Option<Arc<[u8]>> {
    program.code(path).or_else(|| compile::dumped(text, LOAD_BUDGET).map(Arc::from))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytecode of a text.
    pub(crate) fn compiled(text: &[u8]) -> Option<Vec<u8>> {
        compile::dumped(text, LOAD_BUDGET)
    }

    /// Runs a chunk in a VM of this build. Returns the text of its result, or of its error.
    pub(crate) fn evaluated(text: &str) -> Result<String, String> {
        let lua = mlua::Lua::new();
        let value: mlua::Value = lua.load(text).eval().map_err(|e| e.to_string())?;
        value.to_string().map_err(|e| e.to_string())
    }
}
