//! The `mix` API, one file for each topic. Each registers its functions in the `mix` table.

pub mod buffer;
mod checksum;
pub mod codec;
pub mod conn;
pub mod console;
pub mod history;
pub mod http;
mod iconv;
pub mod json;
pub(super) mod jwt;
pub mod log;
pub mod mesh;
pub mod php_pack;
pub mod presence;
pub mod query;
pub mod queue;
pub mod redis;
mod server;
pub mod shared;
pub mod subscribe;
pub mod text;
pub mod time;
pub mod timer;
mod trace;
pub mod url;

use super::hints;
use super::program::Program;
use super::push::{Stack, table};

/// Makes the global `mix`.
pub(super) fn register(stack: Stack<'_>, program: &Program) {
    let mix = table(48, |mix| {
        conn::register(mix);
        buffer::register(mix);
        mesh::register(mix);
        log::register(mix);
        time::register(mix);
        server::register(mix, program);
        json::register(mix);
        queue::register(mix);
        text::register(mix);
        codec::register(mix);
        checksum::register(mix);
        iconv::register(mix);
        php_pack::register(mix);
        url::register(mix);
        http::register(mix);
        redis::register(mix);
        shared::register(mix);
        timer::register(mix);
        trace::register(mix);
        jwt::register(mix);
        hints::watch(mix);
    });
    stack.set_global(c"mix", mix);
}

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of this folder share.

    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use mlua::ffi;

    use super::*;
    use crate::script::push::Table;
    use crate::script::watchdog;

    /// A Lua state whose global `mix` holds what `register` adds, for the tests of this folder.
    pub(crate) fn lua_with(register: fn(&Table<'_>)) -> mlua::Lua {
        let lua = mlua::Lua::new();
        // SAFETY: `exec_raw` protects the call, and nothing is left on the stack.
        unsafe { lua.exec_raw::<()>((), |state| Stack::new(state).set_global(c"mix", table(0, register))) }.unwrap();
        lua
    }

    /// The text of the error that this Lua expression raises, without the traceback.
    pub(crate) fn raised(lua: &mlua::Lua, expression: &str) -> String {
        let call = format!("return select(2, pcall(function() local r = {expression} return r end))");
        lua.load(call).set_name("@app.lua").eval().unwrap()
    }

    /// Cases with the results that PHP gave: `tests/php/NAME.php` printed them into `tests/php/NAME.json`. If that
    /// version of PHP is installed, it must print the same again.
    pub(crate) fn php_cases(name: &str) -> Vec<serde_json::Value> {
        let file = |end: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/php/{name}.{end}"));
        let kept = std::fs::read_to_string(file("json")).unwrap();
        if let Ok(made) = Command::new("php").arg(file("php")).output() {
            let made = String::from_utf8(made.stdout).unwrap();
            // Versions differ in details; the first line names the version.
            if made.lines().next() == kept.lines().next() {
                assert!(made == kept, "tests/php/{name}.json is not what {name}.php prints; make it anew");
            }
        }
        let mut table: serde_json::Value = serde_json::from_str(&kept).unwrap();
        serde_json::from_value(table["cases"].take()).unwrap()
    }

    /// The error, or the second result, of a function called after its time is up.
    fn over_time(lua: &mlua::Lua, call: &str) -> String {
        let call: mlua::MultiValue = lua.load(format!("return {call}")).eval().unwrap();
        let mut said = String::new();
        // SAFETY: the state is alive during the run; the function and its arguments are all of the stack.
        unsafe {
            lua.exec_raw::<()>(call, |state| {
                let _run = watchdog::enter(state, Duration::from_millis(1), crate::script::doing::Doing::TESTING);
                while !watchdog::expired() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Called by C, so no hook of Lua's runs: the function itself must have checked.
                ffi::lua_pcall(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET, 0);
                let stack = Stack::new(state);
                let text = stack.bytes(stack.top());
                said = text.map_or_else(String::new, |b| String::from_utf8_lossy(&b).into_owned());
                ffi::lua_settop(state, 0);
            })
        }
        .unwrap();
        said
    }

    #[test]
    fn functions_that_work_long_look_at_the_time() {
        let lua = lua_with(|mix| {
            text::register(mix);
            codec::register(mix);
            checksum::register(mix);
            iconv::register(mix);
            json::register(mix);
            php_pack::register(mix);
        });
        lua.load(
            "long = ('x'):rep(2 ^ 18) numbers, objects = {}, {}
             for i = 1, 2 ^ 16 do numbers[i], objects[i] = 65, { a = 1 } end
             backwards = {} for i = 2 ^ 15, 1, -1 do backwards[i] = 1 end",
        )
        .exec()
        .unwrap();
        for call in [
            "mix.md5, long",
            "mix.sha1_bin, long",
            "mix.sha256, long",
            "mix.hmac_sha1, long, 'x'",
            "mix.hmac_sha256, 'x', long",
            "mix.base64_encode, long",
            "mix.base64_decode, long",
            "mix.base64_decode, '!' .. long",
            "mix.str_split, long, ''",
            "mix.str_split, ('x,'):rep(2 ^ 16), ','",
            "mix.str_split, ('x, '):rep(2 ^ 16), ', '",
            "mix.bytes_tostring, numbers",
            "mix.json_encode, numbers",
            "mix.json_encode, objects",
            "mix.json_encode, backwards",
            "mix.json_encode, long",
            "mix.json_encode, { long }",
            "mix.json_encode, { [long] = 1 }",
            "mix.json_encode, ('\\1'):rep(2 ^ 18)",
            "mix.json_decode, '[' .. ('1,'):rep(2 ^ 16) .. '1]'",
            "mix.json_decode, '\"' .. ('\\\\n'):rep(2 ^ 16) .. '\"'",
            "mix.php_unpack, 'C*', long",
            "mix.xor, long",
            "mix.crc16, long",
            "mix.crc32, long",
            "mix.iconv, long, 'utf-8', 'gbk'",
            "mix.iconv, long, 'latin1', 'utf-8'",
        ] {
            let said = over_time(&lua, call);
            assert!(said.contains("time budget") || said.contains("time is over"), "{call}: {said}");
        }
        // White space is skipped until the time is up.
        let said = over_time(&lua, "mix.json_decode, (' '):rep(2 ^ 18) .. '1'");
        assert!(said.starts_with("EOF while parsing a value at line 1 column 65537"), "{said}");
    }

    /// Bytes from hexadecimal digits.
    pub(crate) fn unhex(digits: &str) -> Vec<u8> {
        digits.as_bytes().chunks(2).map(|two| query::escaped(two).unwrap()).collect()
    }
}
