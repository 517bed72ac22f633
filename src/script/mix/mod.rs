//! The `mix` API, one file a topic. Each registers its functions in the `mix` table.

pub mod buffer;
pub mod codec;
pub mod conn;
pub mod console;
pub mod http;
pub mod json;
pub mod log;
pub mod mesh;
mod php_pack;
pub mod query;
pub mod queue;
pub mod redis;
mod server;
pub mod text;
pub mod time;
pub mod url;

use mlua::ffi;

use super::program::Program;
use super::stack::State;
use super::teach;

/// Makes the global `mix`.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub(super) unsafe fn register(state: State, program: &Program) {
    unsafe {
        ffi::lua_createtable(state, 0, 40);
        conn::register(state);
        buffer::register(state);
        mesh::register(state);
        log::register(state);
        time::register(state);
        server::register(state, program);
        json::register(state);
        queue::register(state);
        text::register(state);
        codec::register(state);
        php_pack::register(state);
        url::register(state);
        http::register(state);
        redis::register(state);
        teach::watch(state);
        ffi::lua_setglobal(state, c"mix".as_ptr());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of this folder share.

    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::script::guard;
    use crate::script::stack::bytes_at;

    /// A Lua state whose global `mix` holds what `register` adds, for the tests of this folder.
    pub(crate) fn lua_with(register: unsafe fn(State)) -> mlua::Lua {
        let lua = mlua::Lua::new();
        let mix: mlua::Table = unsafe {
            lua.exec_raw((), |state| {
                ffi::lua_newtable(state);
                register(state);
            })
        }
        .unwrap();
        lua.globals().set("mix", mix).unwrap();
        lua
    }

    /// The text of the error that this Lua expression raises, without the traceback.
    pub(crate) fn raised(lua: &mlua::Lua, expression: &str) -> String {
        let call = format!("return select(2, pcall(function() local r = {expression} return r end))");
        lua.load(call).set_name("@app.lua").eval().unwrap()
    }

    /// The cases that PHP's results are kept for: what `tests/php/NAME.php` printed into `tests/php/NAME.json`. Where
    /// that version of PHP is installed, it must print the same again.
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

    /// What a function says after its time is up: its error, or the second of its results.
    fn over_time(lua: &mlua::Lua, call: &str) -> String {
        let call: mlua::MultiValue = lua.load(format!("return {call}")).eval().unwrap();
        let mut said = String::new();
        unsafe {
            lua.exec_raw::<()>(call, |state| {
                let _run = guard::enter(state, Duration::from_millis(1), crate::script::doing::Doing::TESTING);
                while !guard::expired() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Called by C: no hook of Lua's is asked, so the function itself must have looked.
                ffi::lua_pcall(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET, 0);
                said = bytes_at(state, -1).map_or_else(String::new, |b| String::from_utf8_lossy(&b).into_owned());
                ffi::lua_settop(state, 0);
            })
        }
        .unwrap();
        said
    }

    #[test]
    fn functions_that_work_long_look_at_the_time() {
        let all = |state| unsafe {
            text::register(state);
            codec::register(state);
            json::register(state);
            php_pack::register(state);
        };
        let lua = lua_with(all);
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
        ] {
            let said = over_time(&lua, call);
            assert!(said.contains("time budget") || said.contains("time is over"), "{call}: {said}");
        }
        // White space ends where the time does.
        let said = over_time(&lua, "mix.json_decode, (' '):rep(2 ^ 18) .. '1'");
        assert!(said.starts_with("EOF while parsing a value at line 1 column 65537"), "{said}");
    }

    /// Bytes from hexadecimal digits.
    pub(crate) fn unhex(digits: &str) -> Vec<u8> {
        digits.as_bytes().chunks(2).map(|two| query::escaped(two).unwrap()).collect()
    }
}
