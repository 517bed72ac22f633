//! The Lua API row by row, as `docs/lua-api.md` has it: what each call returns, and how it fails.

mod common;

use common::*;
use std::time::Duration;

/// Runs what it is sent with `conn` as a local, and sends back what that returns in the form of Lua's own literals, or
/// `error: ` and what it raised.
const SHOW: &str = r#"
    local function show(v)
      if type(v) == "string" then
        return "'" .. v .. "'"
      elseif type(v) == "number" then
        return (string.format("%.17g", v))
      elseif type(v) ~= "table" then
        return v == mix.null and "null" or tostring(v)
      end
      local parts, n = {}, 0
      while v[n + 1] ~= nil do
        n = n + 1
        parts[n] = show(v[n])
      end
      local keys = {}
      for k in pairs(v) do
        if not (type(k) == "number" and k >= 1 and k <= n) then keys[#keys + 1] = k end
      end
      table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
      for _, k in ipairs(keys) do
        parts[#parts + 1] = (type(k) == "string" and k or "[" .. show(k) .. "]") .. "=" .. show(v[k])
      end
      return "{" .. table.concat(parts, ", ") .. "}"
    end
    local function pack(...) return { n = select('#', ...), ... } end
    function on_message(msg, conn)
      local f, e = loadstring("local conn = ... " .. msg.data, "@t.lua")
      local results = pack(pcall(f or error, f and conn or e))
      if not results[1] then
        return conn:send("error: " .. tostring(results[2]))
      end
      local words = {}
      for i = 2, results.n do words[i - 1] = show(results[i]) end
      local e = conn:send(table.concat(words, ", "))
      if e then conn:send("not sent: " .. e) end
    end"#;

async fn check(rows: &[(&str, &str)]) {
    let engine = TestEngine::with(SHOW, "handlerTimeout: 10s", "workers: 1");
    engine.connect().await.ask_all(rows).await;
}

#[tokio::test]
async fn the_language_is_lua_5_1_as_luajit_speaks_it() {
    check(&[
        ("return _VERSION, table.getn({ 1, 2, 3 }), unpack({ 1, 2 }, 2)", "'Lua 5.1', 3, 2"),
        ("return table.maxn({ [7] = 1 }), math.mod == nil, string.gfind == nil", "7, true, true"),
        ("return loadstring('return 1 + 1')(), loadstring('return ...', 'n')(5)", "2, 5"),
        ("return loadstring('x =')", "nil, '[string \"x =\"]:1: unexpected symbol near '<eof>''"),
        ("return loadstring('x =', '@f.lua')", "nil, 'f.lua:1: unexpected symbol near '<eof>''"),
        ("loadstring(nil)", "error: t.lua:1: bad argument #1 to 'loadstring' (string expected, got nil)"),
        ("local n = 0 return load(function() n = n + 1 return ({ 'return', ' 4', '2' })[n] end)()", "42"),
        ("return load('return x', 'n', 't', { x = 9 })()", "9"),
        ("return load(function() return 5 end)", "nil, 'reader function must return a string'"),
        ("load(5)", "error: t.lua:1: bad argument #1 to 'load' (function or string expected, got number)"),
        ("local function f() return x end setfenv(f, { x = 3 }) return f(), getfenv(f).x", "3, 3"),
        ("setfenv(1, { y = 4 }) return y", "4"),
        ("local function inner() setfenv(2, { z = 5 }) end inner() return z", "5"),
        ("return setfenv(function() end, {}) ~= nil, getfenv(1) == _G, getfenv(0) == _G", "true, true, true"),
        ("local bit = require('bit') return bit == _G.bit, bit.band(12, 10), bit.tohex(255)", "true, 8, '000000ff'"),
        ("return require 'string' == string, require 'table' == table, require 'math' == math", "true, true, true"),
        ("return require 'coroutine' == coroutine, require 'os' == os, require 'debug' == debug", "true, true, true"),
        ("return require '_G' == _G, require 'package' == package", "true, true"),
        ("goto done do return 1 end ::done:: return 0x10p0, 0xff", "16, 255"),
        ("return select('#', nil, nil), select(-1, 1, 2), next({}), type(next), rawequal(1, 1)", "2, 2, nil, 'function', true"),
        ("return pcall(error, { 1 })", "false, {1}"),
        ("return pcall(error)", "false, nil"),
        ("return xpcall(function(a) return a end, print, 7)", "true, 7"),
        ("return xpcall(function() error('x', 0) end, function(e) return e .. '!', 'more' end)", "false, 'x!'"),
        ("local ok, e = xpcall(function() error('x') end, debug.traceback) return ok, e:match('^[^\\n]*\\n[^\\n]*')", "false, 't.lua:1: x\nstack traceback:'"),
        ("return debug.traceback(5) ~= 5, debug.traceback({ 1 }), (debug.traceback('m'):match('^m\\nstack'))", "true, {1}, 'm\nstack'"),
        ("return ('x'):rep(3), ('abc'):find('b', 1, true), ('k=v'):match('(%w+)=(%w+)')", "'xxx', 2, 'k', 'v'"),
        ("return ('hello'):gsub('l', { l = 'L' }), (string.gsub('abc', '%w', '%0%0'))", "'heLLo', 'aabbcc'"),
        ("return string.format('%d %s %q %5.2f %x', 3, 'x', 'a\"b', 1.5, 255)", "'3 x \"a\\\"b\"  1.50 ff'"),
        ("return tostring(1e15), tostring(123456789012345), 0.1 + 0.2 == 0.3", "'1e+15', '1.2345678901234e+14', false"),
        ("local t = { 3, 1, 2 } table.sort(t) table.insert(t, 9) return t, table.remove(t, 1), table.concat(t, '-')", "{2, 3, 9}, 1, '2-3-9'"),
        ("local t = {} for i = 1, 20000 do t[i] = -i end table.sort(t) return t[1], t[20000]", "-20000, -1"),
        ("table.sort({ 1, 'x' })", "error: attempt to compare string with number"),
        ("table.sort(5)", "error: t.lua:1: bad argument #1 to 'sort' (table expected, got number)"),
        ("table.sort({ 2, 1 }, 5)", "error: t.lua:1: bad argument #2 to 'sort' (function expected, got number)"),
        ("local co = coroutine.create(function(a) local b = coroutine.yield(a) return b end) \
          local _, a = coroutine.resume(co, 1) local _, b = coroutine.resume(co, 2) \
          return a, b, coroutine.status(co), coroutine.resume(co)", "1, 2, 'dead', false, 'cannot resume dead coroutine'"),
        ("return coroutine.wrap(function() coroutine.yield(1, 2) end)()", "1, 2"),
        ("local f = coroutine.wrap(function() end) f() f()", "error: cannot resume dead coroutine"),
        ("coroutine.wrap(function() error('inner') end)()", "error: t.lua:1: inner"),
        ("coroutine.wrap(5)", "error: t.lua:1: bad argument #1 to 'wrap' (function expected, got number)"),
        ("coroutine.resume(5)", "error: t.lua:1: bad argument #1 to 'resume' (coroutine expected, got number)"),
        ("return type(coroutine.running()), coroutine.isyieldable()", "'thread', false"),
        ("return coroutine.wrap(function() return coroutine.isyieldable() end)()", "true"),
        ("return type(os.time()), os.date('!%Y-%m-%d', 0), os.time({ year = 2020, month = 1, day = 1, hour = 12 }) > 1.5e9", "'number', '1970-01-01', true"),
        ("return type(collectgarbage('count')), math.max(1, 3), math.huge, -math.huge", "'number', 3, inf, -inf"),
        ("return mix_log == mix.log, mix_DEBUG == mix.DEBUG, mix_INFO == mix.INFO, mix_WARN == mix.WARN, mix_ERROR == mix.ERROR", "true, true, true, true, true"),
        ("return mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR", "1, 2, 3, 4"),
    ])
    .await;
}

#[tokio::test]
async fn modules_are_found_beside_the_entry_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("entry.lua", SHOW);
    write("protocols/websocket.lua", "count = (count or 0) + 1 return { name = ..., n = count }");
    write("folder/init.lua", "return { init = true, inner = require('folder.inner') }");
    write("folder/inner.lua", "return 'inner'");
    write("nothing.lua", "loaded_nothing = ...");
    write("no.lua", "return false");
    write("broken.lua", "\n\nx = = 1");
    write("raises.lua", "tries = (tries or 0) + 1\nerror('try ' .. tries)");
    write("raises_table.lua", "error({ 'odd' })");
    write("waits.lua", "mix.sleep(0.01) return 'waited'");
    write("sets.lua", "package.loaded[...] = 'set'");
    write("bytes.lua", "return '\0\x1b\u{ff}'");
    write("a space.lua", "return 'space'");
    write("loop.lua", "local loop = require('loop') return loop");
    write("more/extra.lua", "return 'extra'");
    write_config(&dir.path().join("connmix.yaml"), "handlerTimeout: 10s", "workers: 1", "");
    let folder = dir.path().display().to_string();
    let engine = TestEngine::start(dir);
    let mut client = engine.connect().await;
    let not_found = format!(
        "'module 'not.there' not found:\n\tno file '{folder}/not/there.lua'\n\tno file '{folder}/not/there/init.lua''"
    );
    client.ask_all(
        &[
            ("return require('protocols.websocket'), require('protocols/websocket')", "{n=1, name='protocols.websocket'}, {n=1, name='protocols.websocket'}"),
            ("return require('protocols.websocket') == require('protocols/websocket'), count", "true, 1"),
            ("return require 'folder', require('folder') == require('folder')", "{init=true, inner='inner'}, true"),
            ("return require 'nothing', loaded_nothing, require 'nothing', package.loaded.nothing", "true, 'nothing', true, true"),
            ("return require 'no', require 'no'", "false, false"),
            ("return require 'sets'", "'set'"),
            ("return #require 'bytes'", "4"),
            ("return require 'a space'", "'space'"),
            ("return require 'waits'", "'waited'"),
            ("require(5)", "error: t.lua:1: bad argument #1 to 'require' (string expected, got number)"),
            ("require()", "error: t.lua:1: bad argument #1 to 'require' (string expected, got nil)"),
            ("require 'loop'", &format!("error: {folder}/loop.lua:1: loop, or an earlier error, in loading module 'loop'")),
            ("require 'broken'", &format!("error: t.lua:1: error loading module 'broken':\n\t{folder}/broken.lua:3: unexpected symbol near '='")),
            ("require 'raises'", &format!("error: {folder}/raises.lua:2: try 1")),
            ("local ok, e = pcall(require, 'raises_table') return ok, e", "false, {'odd'}"),
            ("local ok, e = pcall(require, 'not.there') return e:sub(1, #e:match('^.-init.lua\\''))", &not_found),
            ("local ok, e = pcall(require, 'not.there') return (e:match('/usr/[%w/.]*share/lua/5.1/not/there.lua')) ~= nil", "true"),
            ("local ok, e = pcall(require, '../etc/passwd') return ok", "false"),
            ("return (package.path:match('^[^;]*;[^;]*'))", &format!("'{folder}/?.lua;{folder}/?/init.lua'")),
            (&format!("package.path = package.path .. ';{folder}/more/?.lua' return require 'extra'"), "'extra'"),
            ("package.preload.made = function(name) return { made = name } end return require 'made'", "{made='made'}"),
            ("package.loaded['protocols.websocket'] = nil return require('protocols.websocket').n", "2"),
        ],
    )
    .await;
    // One that failed elsewhere may be tried again.
    let mut other = engine.connect().await;
    other.send("for i = 1, 1e300 do package.loaded.endless = nil require 'endless' end").await;
    assert!(other.text().await.contains("module 'endless' not found"));
}

#[tokio::test]
async fn json() {
    check(&[
        ("return mix.json_encode({ 1, 2, 3 })", "'[1,2,3]', nil"),
        ("return mix.json_encode({})", "'{}', nil"),
        ("return mix.json_encode(mix.json_array({}))", "'[]', nil"),
        ("return mix.json_encode((mix.json_decode('[]')))", "'[]', nil"),
        // What the engine makes an array of is one while it is empty, too, and so is one that has been in a context.
        ("return mix.json_encode(conn:channels())", "'[]', nil"),
        ("return mix.json_encode(mix.str_split('', ''))", "'[]', nil"),
        ("conn:set_context({ a = mix.json_decode('[[],{}]') }) return mix.json_encode(conn:context())", "'{\"a\":[[],{}]}', nil"),
        (
            "conn:set_context_value('a', mix.json_array({ 1 })) local a = conn:context_value('a') a[1] = nil return mix.json_encode(a)",
            "'[]', nil",
        ),
        ("conn:set_context_value('a', {}) return mix.json_encode(conn:context_value('a'))", "'{}', nil"),
        ("return mix.json_encode({ a = (mix.json_decode('[[],{}]')) })", "'{\"a\":[[],{}]}', nil"),
        ("local t = mix.json_array({}) t.x = 1 return mix.json_encode(t)", "'{\"x\":1}', nil"),
        ("local t = {} return mix.json_array(t) == t, mix.json_array(mix.json_array({ 1 }))", "true, {1}"),
        ("mix.json_array(1)", "error: t.lua:1: bad argument #1 to 'json_array' (table expected, got number)"),
        (
            "return mix.json_encode(nil), mix.json_encode(mix.null), mix.json_encode({ a = mix.null })",
            "'null', 'null', '{\"a\":null}', nil",
        ),
        ("return mix.json_encode({ mix.null, 1 })", "'[null,1]', nil"),
        (
            "return mix.json_encode(1), mix.json_encode(-0.5), mix.json_encode(1e15), mix.json_encode(2 ^ 53)",
            "'1', '-0.5', '1000000000000000', '9007199254740992', nil",
        ),
        (
            "return mix.json_encode('a\"\\n\\0/弹'), mix.json_encode(true), mix.json_encode({ false })",
            "'\"a\\\"\\n\\u0000/弹\"', 'true', '[false]', nil",
        ),
        ("local s = mix.json_encode({ [1] = 1, [3] = 3 }) return s", "nil"),
        (
            "return (select(2, mix.json_encode({ [1] = 1, [3] = 3 })))",
            "'can't encode table: sparse array (2 values, highest index 3)'",
        ),
        ("return select(2, mix.json_encode({ 1, x = 2 })):match('^can.t encode table')", "'can't encode table'"),
        ("return select(2, mix.json_encode(print))", "'can't encode function'"),
        ("return select(2, mix.json_encode({ a = { b = print } }))", "'can't encode function at .a.b'"),
        ("return select(2, mix.json_encode(conn))", "'can't encode userdata'"),
        (
            "return select(2, mix.json_encode(0 / 0)), select(2, mix.json_encode({ math.huge }))",
            "'can't encode number: NaN', 'can't encode number at [1]: infinite'",
        ),
        ("return select(2, mix.json_encode('\\255'))", "'can't encode string: not valid UTF-8'"),
        (
            "local t = {} t.t = t return select(2, mix.json_encode(t)):match('nested deeper than 128')",
            "'nested deeper than 128'",
        ),
        ("return mix.json_encode()", "'null', nil"),
        ("return mix.json_decode('{\"a\":[1,2.5,\"x\",true,false]}')", "{a={1, 2.5, 'x', true, false}}, nil"),
        ("return mix.json_decode('null')", "nil, nil"),
        ("return mix.json_decode('{\"a\":null,\"b\":1}')", "{b=1}, nil"),
        ("local t = mix.json_decode('[1,null,3]') return t[1], t[2], t[3]", "1, nil, 3"),
        ("return mix.json_decode('[1,null,3,null]', { null = true })", "{1, null, 3, null}, nil"),
        ("return mix.json_decode('{\"a\":null}', { null = true })", "{a=null}, nil"),
        (
            "return mix.json_decode('[9007199254740992,9007199254740993,-9007199254740993,12345678901234567890]')",
            "{9007199254740992, '9007199254740993', '-9007199254740993', '12345678901234567890'}, nil",
        ),
        ("return mix.json_decode('1 2')", "nil, 'trailing characters at line 1 column 3'"),
        ("return mix.json_decode('{\\n  \"a\": x}')", "nil, 'expected value at line 2 column 8'"),
        ("return mix.json_decode('')", "nil, 'EOF while parsing a value at line 1 column 0'"),
        ("return mix.json_decode(('['):rep(129))", "nil, 'nested deeper than 128 at line 1 column 129'"),
        ("return #mix.json_encode((mix.json_decode(('['):rep(128) .. (']'):rep(128))))", "256"),
        ("return mix.json_decode(12), mix.json_decode('\"\\\\u5f39\"')", "12, '弹', nil"),
        ("mix.json_decode(nil)", "error: t.lua:1: bad argument #1 to 'json_decode' (string expected, got nil)"),
        ("mix.json_decode()", "error: t.lua:1: bad argument #1 to 'json_decode' (string expected, got no value)"),
        ("mix.json_decode({})", "error: t.lua:1: bad argument #1 to 'json_decode' (string expected, got table)"),
        ("mix.json_decode('1', 1)", "error: t.lua:1: bad argument #2 to 'json_decode' (table expected, got number)"),
        (
            "return tostring(mix.null), type(mix.null), mix.null == mix.json_decode('null', { null = true })",
            "'null', 'userdata', true",
        ),
    ])
    .await;
}

#[tokio::test]
async fn codecs_and_texts() {
    check(&[
        ("return mix.base64_encode('\\255\\254x')", "'//54'"),
        ("return mix.base64_encode('')", "''"),
        ("return mix.base64_decode('//54') == '\\255\\254x', mix.base64_decode('__54') == '\\255\\254x'", "true, true"),
        ("return mix.base64_decode('Zg'), mix.base64_decode('Zg==')", "'f', 'f', nil"),
        ("return mix.base64_decode('Z*')", "nil, 'base64_decode: byte '*' at offset 1 is not in the alphabet'"),
        ("mix.base64_encode(nil)", "error: t.lua:1: bad argument #1 to 'base64_encode' (string expected, got nil)"),
        ("return mix.md5('abc'), mix.sha1('abc')", "'900150983cd24fb0d6963f7d28e17f72', 'a9993e364706816aba3e25717850c26c9cd0d89d'"),
        ("return #mix.md5_bin('abc'), #mix.sha1_bin('abc'), #mix.sha256_bin('abc')", "16, 20, 32"),
        ("return mix.sha256('abc')", "'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'"),
        ("return mix.hmac_sha1('key', 'abc'), #mix.hmac_sha1_bin('key', 'abc')", "'4fd0b215276ef12f2b3e4c8ecac2811498b656fc', 20"),
        ("return mix.hmac_sha256('key', 'abc'), #mix.hmac_sha256_bin('key', 'abc')", "'9c196e32dc0175f86f4b1cb89289d6619de6bee699e4c378e68309ed97a1a6ab', 32"),
        ("mix.hmac_sha256('key')", "error: t.lua:1: bad argument #2 to 'hmac_sha256' (string expected, got no value)"),
        ("return mix.str_split('a@@b', '@'), mix.str_split('', '@'), mix.str_split('弹幕x', '')", "{'a', '', 'b'}, {''}, {'弹', '幕', 'x'}"),
        ("return mix.str_split('a.b', '.'), mix.str_split('a--b--', '--'), mix.str_split(1231, 2)", "{'a', 'b'}, {'a', 'b', ''}, {'1', '31'}"),
        ("return table.getn(mix.str_split('100001@video', '@'))", "2"),
        ("mix.str_split('x')", "error: t.lua:1: bad argument #2 to 'str_split' (string expected, got no value)"),
        ("mix.str_split(nil, '@')", "error: t.lua:1: bad argument #1 to 'str_split' (string expected, got nil)"),
        ("return mix.bytes_tostring({ 72, 105 }), mix.bytes_tostring({})", "'Hi', ''"),
        ("return mix.bytes_tostring({ 0, 255 }) == '\\0\\255'", "true"),
        ("return pcall(mix.bytes_tostring, { 256 }) == false, pcall(mix.bytes_tostring, { 'x' }) == false", "true, true"),
        ("mix.bytes_tostring('x')", "error: t.lua:1: bad argument #1 to 'bytes_tostring' (table expected, got string)"),
        (
            "return mix.parse_str('a=1&b=x%20y&c[]=1&c[]=2&d[k]=v')",
            "{a='1', b='x y', c={'1', '2'}, d={k='v'}}, nil",
        ),
        ("return mix.parse_str('')", "{}, nil"),
        ("return select(2, mix.parse_str(('a&'):rep(2000)))", "'parse_str: more than 1000 variables'"),
        ("mix.parse_str({})", "error: t.lua:1: bad argument #1 to 'parse_str' (string expected, got table)"),
        (
            "return mix.parse_url('https://u:p@h:1/a%20b?x=1&y[]=2#f')",
            "{force_query=false, fragment='f', host='h:1', opaque='', path='/a b', query={x='1', y={'2'}}, raw_fragment='', raw_path='', raw_query='x=1&y[]=2', scheme='https', user='u:p'}, nil",
        ),
        ("return mix.parse_url('http://h:x/')", "nil, 'parse_url: invalid port ':x' after host: 'http://h:x/''"),
        ("mix.parse_url()", "error: t.lua:1: bad argument #1 to 'parse_url' (string expected, got no value)"),
    ])
    .await;
}

#[tokio::test]
async fn binary_data_is_packed_as_in_php() {
    check(&[
        (
            "return mix.php_pack('nvc*', 0x1234, 0x5678, 65, -66) == '\\018\\052\\120\\086A\\190', select('#', mix.php_pack('x'))",
            "true, 2",
        ),
        ("return mix.php_pack('Na*', 5, 'hello') == '\\0\\0\\0\\5hello'", "true"),
        ("return mix.php_pack('A5Z*H*', 'ab', 'c', '4142') == 'ab   c\\0AB'", "true"),
        ("return mix.php_unpack('Nlength/a*body', '\\0\\0\\0\\5hello')", "{body='hello', length=5}, nil"),
        ("return mix.php_unpack('c2chars/nint', '\\004\\000\\160\\000')", "{chars1=4, chars2=0, int=40960}, nil"),
        ("return mix.php_unpack('C*', 'abc')", "{97, 98, 99}, nil"),
        ("return mix.php_unpack('J', mix.php_pack('J', '9007199254740993'))", "{'9007199254740993'}, nil"),
        ("return mix.php_unpack('d', mix.php_pack('d', 0.1))[1] == 0.1", "true"),
        ("return mix.php_pack('n')", "nil, 'php_pack: no argument is left for code 'n''"),
        ("return mix.php_pack('x1000000000')", "nil, 'php_pack: it would write more than 64 MiB'"),
        (
            "return mix.php_unpack('N', 'abc')",
            "nil, 'php_unpack: code 'N' wants 4 bytes at offset 0, but 3 are left'",
        ),
        ("mix.php_pack('n', {})", "error: t.lua:1: bad argument #2 to 'php_pack' (number expected, got table)"),
        ("mix.php_unpack('n')", "error: t.lua:1: bad argument #2 to 'php_unpack' (string expected, got no value)"),
    ])
    .await;
}

#[tokio::test]
async fn time_options_and_the_log() {
    check(&[
        (
            "local a = mix.now() local e = mix.sleep(0.02) local b = mix.now() return e, b - a >= 0.02, b - a < 5",
            "nil, true, true",
        ),
        (
            "return mix.now() > 1.7e9, mix.now() % 1 ~= 0 or mix.now() % 1 ~= 0, math.abs(mix.now() - os.time()) < 2",
            "true, true, true",
        ),
        ("local e = mix.sleep(0) return e, select('#', mix.sleep('0'))", "nil, 1"),
        ("mix.sleep(-1)", "error: t.lua:1: bad argument #1 to 'sleep' (0 to 86400 seconds expected, got -1)"),
        ("mix.sleep(86401)", "error: t.lua:1: bad argument #1 to 'sleep' (0 to 86400 seconds expected, got 86401)"),
        ("mix.sleep('x')", "error: t.lua:1: bad argument #1 to 'sleep' (number expected, got string)"),
        ("mix.sleep()", "error: t.lua:1: bad argument #1 to 'sleep' (number expected, got no value)"),
        (
            "local a, b = mix.uuid(), mix.uuid() return #a, a ~= b, a:match('^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+$') == a",
            "36, true, true",
        ),
        ("return mix.server.option('path'), mix.server.option('none')", "'/ws', nil"),
        ("mix.server.option()", "error: t.lua:1: bad argument #1 to 'option' (string expected, got no value)"),
        ("mix.server.option({})", "error: t.lua:1: bad argument #1 to 'option' (string expected, got table)"),
        ("return mix.log(mix.INFO, 'x'), mix.log('error', 5)", "true, true"),
        ("mix.log(mix.INFO)", "error: t.lua:1: bad argument #2 to 'log' (string expected, got no value)"),
        ("mix.log(mix.INFO, {})", "error: t.lua:1: bad argument #2 to 'log' (string expected, got table)"),
        ("return type(mix.redis), type(mix.http)", "'table', 'table'"),
    ])
    .await;
}

#[tokio::test]
async fn the_connection() {
    let engine = TestEngine::with(SHOW, "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    let id = client.ask("return conn:client_id()").await.trim_matches('\'').to_owned();
    let number: u64 = id.parse().unwrap();
    assert!(number < 1 << 53, "{id}");
    client.ask_all(
        &[
            ("return mix.websocket() == conn, select('#', mix.websocket()), type(conn)", "true, 1, 'userdata'"),
            ("return type(conn:client_id()), string.format('%d', tonumber(conn:client_id())) == conn:client_id()", "'string', true"),
            ("return tostring(conn) == 'connection ' .. conn:client_id()", "true"),
            ("return (conn:remote_addr():gsub('%d+', 'N'))", "'N.N.N.N:N'"),
            ("return conn:context()", "{}"),
            ("return conn:set_context({ a = 1, b = { 'x', y = true } })", "nil"),
            ("return conn:set_context_value('c', 'z'), conn:context()", "nil, {a=1, b={'x', y=true}, c='z'}"),
            ("return conn:context_value('b'), conn:context_value('none')", "{'x', y=true}, nil"),
            ("return conn:wait_context_value('a')", "1"),
            ("return conn:set_context_value('a', nil), conn:context_value('a')", "nil, nil"),
            ("conn:context_value({})", "error: t.lua:1: bad argument #1 to 'context_value' (string expected, got table)"),
            ("conn:set_context()", "error: t.lua:1: bad argument #1 to 'set_context' (table expected, got no value)"),
            ("conn:set_context_value(nil, 1)", "error: t.lua:1: bad argument #1 to 'set_context_value' (string expected, got nil)"),
            ("conn:wait_context_value()", "error: t.lua:1: bad argument #1 to 'wait_context_value' (string expected, got no value)"),
            ("return conn:channels(), conn:subscribe('one'), conn:channels()", "{}, nil, {'one'}"),
            ("return conn:subscribe('one', 'two'), #conn:channels(), conn:unsubscribe('one', 'other'), conn:channels()", "nil, 2, nil, {'two'}"),
            ("return mix.subscribe('three'), mix.unsubscribe('two'), conn:channels()", "nil, nil, {'three'}"),
            ("conn:subscribe()", "error: t.lua:1: bad argument #1 to 'subscribe' (string expected, got no value)"),
            ("conn:subscribe('a', nil)", "error: t.lua:1: bad argument #2 to 'subscribe' (string expected, got nil)"),
            ("conn:unsubscribe({})", "error: t.lua:1: bad argument #1 to 'unsubscribe' (string expected, got table)"),
            ("mix.subscribe({})", "error: t.lua:1: bad argument #1 to 'subscribe' (string expected, got table)"),
            ("return conn:subscribe('a b')", "'channel name \"a b\" holds a space or control character'"),
            ("conn.send('x')", "error: t.lua:1: not a connection: got string where conn was expected (call methods with a colon: conn:send(data))"),
            ("conn:send({})", "error: t.lua:1: bad argument #1 to 'send' (string expected, got table)"),
            ("return conn:send('\\255')", "'a text message must be valid UTF-8; send it as \"binary\"'"),
            ("conn:close('x')", "error: t.lua:1: bad argument #1 to 'close' (number expected, got string)"),
            ("return conn:clear_buffer()", "'a WebSocket has no such buffer: messages come whole'"),
            ("return mix.mesh.publish('nobody', 'x')", "0, 0, nil, nil, nil, nil"),
            ("return mix.mesh.publish('nobody', 'x', 'binary', { counts = false })", "nil, nil, nil, nil, nil, nil"),
            ("return mix.mesh.publish('a b', 'x')", "nil, nil, 'channel name \"a b\" holds a space or control character', nil, nil, nil"),
            ("return mix.mesh.publish('a', '\\255')", "nil, nil, 'a text message must be valid UTF-8; send it as \"binary\"', nil, nil, nil"),
            ("mix.mesh.publish('a')", "error: t.lua:1: bad argument #2 to 'publish' (string expected, got no value)"),
            ("mix.mesh.publish('a', 'x', 'odd')", "error: t.lua:1: bad argument #3 to 'publish' (\"text\" or \"binary\" expected, got \"odd\")"),
            ("mix.mesh.publish('a', 'x', 'text', 1)", "error: t.lua:1: bad argument #4 to 'publish' (table expected, got number)"),
            ("mix.mesh.publish('a', 'x', 'text', { counts = 1 })", "error: t.lua:1: bad argument #4 to 'publish' (counts must be true or false)"),
            ("return mix.mesh.send('17', 'x')", "'client 17 is not connected, or can't take the message'"),
            ("return mix.mesh.send('x', 'x')", "'\"x\" is no client_id'"),
            ("mix.mesh.send(nil, 'x')", "error: t.lua:1: bad argument #1 to 'send' (string expected, got nil)"),
            ("mix.mesh.send(conn:client_id(), nil)", "error: t.lua:1: bad argument #2 to 'send' (string expected, got nil)"),
        ],
    )
    .await;
    let other = engine.connect().await.ask("return conn:client_id()").await;
    assert_ne!(other.trim_matches('\''), id);
}

/// Memory and whatever else a handler takes is given back, however long an engine runs.
#[tokio::test]
async fn handlers_leave_nothing_behind() {
    let engine = TestEngine::with(
        r#"
        function on_message(msg, conn)
          if msg.data == "count" then
            collectgarbage()
            collectgarbage()
            return conn:send(string.format("%d", collectgarbage("count")))
          end
          local m = mix.json_decode(msg.data)
          conn:subscribe(m.channel)
          conn:set_context({ n = m.n, table = m })
          local reached = mix.mesh.publish("room", "x")
          coroutine.wrap(function()
            mix.sleep(0)
            pcall(function()
              local e = mix.mesh.send("1", "x")
              error(e)
            end)
          end)()
          if m.n % 10 == 0 then pcall(coroutine.wrap(function() table.sort({ 2, 1 }, mix.sleep) end)) end
          local parts = mix.str_split(m.channel, ":")
          conn:unsubscribe(m.channel)
          conn:send(mix.json_encode({ n = m.n, parts = parts, reached = reached, again = m }))
          if m.n % 50 == 49 then error("now and then") end
        end
        function on_close() mix.sleep(0) end"#,
        "handlerTimeout: 10s",
        "workers: 1",
    );
    let mut watcher = engine.connect().await;
    async fn crowd(engine: &TestEngine, clients: usize, messages: usize) {
        let mut tasks = tokio::task::JoinSet::new();
        for c in 0..clients {
            let mut client = engine.connect().await;
            tasks.spawn(async move {
                for n in 0..messages {
                    let n = if n == messages - 1 { 49 } else { n % 49 };
                    client.send(&format!(r#"{{"channel":"room:{c}:{n}","n":{n},"list":[1,2,{{"k":"v\n"}}]}}"#)).await;
                }
                for _ in 0..messages {
                    client.text().await;
                }
                assert_eq!(client.close_frame().await.0, 1011);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
    let mut counts = Vec::new();
    for (clients, messages) in [(100, 20), (100, 100), (100, 100)] {
        crowd(&engine, clients, messages).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        counts.push(watcher.ask("count").await.parse::<i64>().unwrap());
    }
    assert!(counts[2] <= counts[0] + 128 && counts[2] <= counts[1] + 64, "KiB: {counts:?}");
    assert_eq!(engine.publish("room", "x").await["r"]["s"], 0);
}

#[tokio::test]
async fn the_shipped_prettyprint_shows_any_value() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("utils")).unwrap();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/utils/prettyprint.lua");
    std::fs::copy(shipped, dir.path().join("utils/prettyprint.lua")).unwrap();
    let script = r#"
        local pretty = require("utils.prettyprint")
        function on_message(msg, conn)
          local t = { 1, "two", { deep = true }, name = "x", ["odd key"] = 0.5, empty = {} }
          t.self = t
          conn:send(pretty(t))
        end"#;
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let engine = TestEngine::start(dir);
    let want = "{\n  1,\n  \"two\",\n  {\n    deep = true,\n  },\n  empty = {},\n  name = \"x\",\n  \
                [\"odd key\"] = 0.5,\n  self = <cycle>,\n}";
    assert_eq!(engine.connect().await.ask("show").await, want);
}
