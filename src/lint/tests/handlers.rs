//! What handlers do: with their connection, with errs, and with what workers do not share.

use super::{of, warned};

/// The warnings of a hook's body, at its second line.
fn in_hook(body: &str) -> Vec<String> {
    let script = format!("function on_message(msg, conn)\n  {body}\nend");
    warned(&[("entry.lua", &script)]).into_iter().map(|w| w.replace("entry.lua:2: ", "")).collect()
}

#[test]
fn a_method_that_a_connection_does_not_have_is_told() {
    let sned = "conn has no 'sned'; did you mean 'send'?";
    for (body, wanted) in [
        ("conn:sned(msg.data)", sned),
        ("conn.sned(msg.data)", sned),
        ("local c = mix.websocket() c:sned('x')", "conn has no 'sned'; did you mean 'send'?"),
        ("if msg then conn:sned('x') end", sned),
        ("local function f() conn:sned('x') end f()", sned),
        ("conn:publish('c', 'x')", "conn has no 'publish'; did you mean mix.mesh.publish?"),
        ("return conn:chanels()", "conn has no 'chanels'; did you mean 'channels'?"),
        ("mix.redis.connection('default'):comand('get', 'x')", "redis has no 'comand'; did you mean 'command'?"),
    ] {
        assert_eq!(in_hook(body), [wanted], "{body}");
    }
    let script = "local function greet(name, c)\n  c:sedn(name)\nend\n\
                  function on_handshake(id, headers, server, conn)\n  greet('x', conn)\nend";
    assert_eq!(of(script), ["entry.lua:2: conn has no 'sedn'; did you mean 'send'?"]);
    for close in ["on_close(err, conn)", "on_close(id, err, conn)"] {
        let found = of(&format!("function {close}\n  conn:contxt()\nend"));
        assert_eq!(found.last().unwrap(), "entry.lua:2: conn has no 'contxt'; did you mean 'context'?", "{close}");
    }
}

#[test]
fn a_method_that_is_called_with_a_dot_is_told() {
    for (body, name) in [
        ("conn.send('x')", "send"),
        ("conn.send(msg.data)", "send"),
        ("conn.send(msg.data, 'binary')", "send"),
        ("conn.send('a' .. msg.data)", "send"),
        ("local c = mix.websocket() return c.channels()", "channels"),
        ("conn.subscribe(msg.data)", "subscribe"),
        ("conn.set_context({ a = 1 })", "set_context"),
        ("if conn.send(msg.data) then return end", "send"),
    ] {
        let wanted =
            format!("conn.{name}(...) does not pass the connection on; call it with a colon: conn:{name}(...)");
        assert_eq!(in_hook(body), [wanted], "{body}");
    }
}

#[test]
fn an_ignored_err_that_is_certain_to_come_is_told() {
    let holds = |call: &str, name: &str| {
        format!(
            "{call} fails here, and its err is ignored: channel name \"{name}\" holds a space or control character; \
             name it otherwise, and look at the err"
        )
    };
    for (body, wanted) in [
        ("conn:subscribe('my room')", holds("conn:subscribe", "my room")),
        ("conn:subscribe('a', 'my room', 'b')", holds("conn:subscribe", "my room")),
        ("mix.subscribe('my room')", holds("mix.subscribe", "my room")),
        ("mix.mesh.publish('my room', msg.data)", holds("mix.mesh.publish", "my room")),
        ("mix.queue.push('my topic', { a = 1 })", holds("mix.queue.push", "my topic")),
        ("local publish = mix.mesh.publish publish('my room', 'x')", holds("mix.mesh.publish", "my room")),
        (
            "conn:subscribe('my room:' .. msg.data)",
            "conn:subscribe fails here, and its err is ignored: a channel's name with \"my room:\" holds a space or \
             control character; name it otherwise, and look at the err"
                .into(),
        ),
    ] {
        assert_eq!(in_hook(body), [wanted], "{body}");
    }
    let script = "local publish = mix.mesh.publish\nfunction f()\n  publish('my room', 'x')\nend";
    assert_eq!(of(script).len(), 1);
}

#[test]
fn calls_that_may_go_well_are_not_told() {
    for body in [
        "conn:send(msg.data)",
        "conn.send(conn, msg.data)",
        "local c = conn c.send(c, 'x')",
        "conn.send(others[1], msg.data)",
        "pcall(conn.send, conn, 'x')",
        "local send = conn.send send(conn, 'x')",
        "if conn.sned then conn:sned('x') end",
        "local c = conn c = { sned = print } c:sned('x')",
        "conn = { sned = print } conn:sned('x')",
        "local function f() conn = nil end f() conn:sned('x')",
        "local err = conn:subscribe('my room') return err",
        "if conn:subscribe('my room') then return end",
        "conn:subscribe('room', 'user:' .. msg.data)",
        "conn:subscribe(msg.data) mix.mesh.publish(msg.data, 'my text')",
        "mix.mesh.publish('room', 'hello, all of you') mix.queue.push('topic', 'some text')",
        "return conn:subscribe('my room')",
        "for _, conn in pairs(others) do conn:whatever() end",
        "local t = { conn = msg } t.conn:whatever()",
    ] {
        assert_eq!(of(&format!("others = {{}}\nfunction on_message(msg, conn) {body} end")), [""; 0], "{body}");
    }
}

const SPLIT: &str = "is changed by handlers, and each worker has its own; keep it in a connection's context \
                     (conn:set_context_value) or in Redis, or say that it is meant by the comment \"-- each worker\"";

#[test]
fn what_handlers_change_and_workers_do_not_share_is_told() {
    for (script, wanted) in [
        ("local online = 0\nfunction on_handshake()\n  online = online + 1\nend", "3: 'online'"),
        ("local online = 0\nfunction on_close(id, err)\n  online = online - 1\nend", "3: 'online'"),
        ("online = 0\nfunction on_handshake()\n  online = online + 1\nend", "3: the global 'online'"),
        ("_G.online = 0\nfunction on_handshake()\n  _G.online = _G.online + 1\nend", "3: the global 'online'"),
        ("local stats = { n = 0 }\nfunction on_handshake()\n  stats.n = stats.n + 1\nend", "3: 'stats'"),
        ("local stats = {}\nfunction on_handshake(id)\n  stats[1] = (stats[1] or 0) + 1\nend", "3: 'stats'"),
        ("local clients = {}\nfunction on_handshake(id, h, s, conn)\n  clients[id] = conn\nend", "3: 'clients'"),
        ("local clients = {}\nfunction on_close(id)\n  clients[id] = nil\nend", "3: 'clients'"),
        ("local list = {}\nfunction on_handshake(id)\n  table.insert(list, id)\nend", "3: 'list'"),
        (
            "local rooms = {}\nfunction on_handshake(id)\n  rooms.a = rooms.a or {}\n  local room = rooms.a\n  room[id] = 1\nend",
            "",
        ),
        (
            "local rooms = { a = {} }\nfunction on_handshake(id)\n  local room = rooms.a\n  room[id] = 1\nend",
            "4: 'rooms'",
        ),
        ("local last\nfunction on_handshake(id)\n  last = id\nend\nfunction f() return last end", "3: 'last'"),
        ("local n = 0\nlocal function count()\n  n = n + 1\nend\nfunction on_handshake() count() end", "3: 'n'"),
        ("local n = 0\nfunction count()\n  n = n + 1\nend\nfunction on_handshake() count() end", "3: 'n'"),
        (
            "local n = 0\nlocal ops = { add = function()\n  n = n + 1\nend }\nfunction on_handshake(op) ops[op]() end",
            "3: 'n'",
        ),
        ("local n = 0\nfunction on_handshake()\n  pcall(function() n = n + 1 end)\nend", "3: 'n'"),
        ("do\n  local n = 0\n  function on_handshake()\n    n = n + 1\n  end\nend", "4: 'n'"),
        (
            "local stats = { n = 0 }\nfunction stats:count()\n  self.n = self.n + 1\nend\nfunction on_handshake() stats:count() end",
            "3: 'stats'",
        ),
        (
            "local list = {}\nlist.add = function(self, id)\n  table.insert(self, id)\nend\nfunction on_handshake(id) list:add(id) end",
            "3: 'list'",
        ),
    ] {
        let wanted: Vec<String> =
            (!wanted.is_empty()).then(|| format!("entry.lua:{wanted} {SPLIT}")).into_iter().collect();
        assert_eq!(of(script), wanted, "{script}");
    }
    let entry = "local m = require('m')\nfunction on_message() m.join() return m.setup end";
    let module =
        "local M = {}\nlocal n = 0\nfunction M.join()\n  n = n + 1\nend\nfunction M.left() n = n - 1 end\nreturn M";
    assert_eq!(warned(&[("entry.lua", entry), ("m.lua", module)]), [format!("m.lua:4: 'n' {SPLIT}")]);
}

#[test]
fn a_global_of_a_handler_that_others_would_read_is_told() {
    let script = "function on_handshake(id)\n  name = id\n  greet()\nend\nfunction greet() return name end";
    assert_eq!(
        of(script),
        ["entry.lua:2: the global 'name' is changed by handlers: all connections of a worker share it; \
          write local name if it is meant for this call"]
    );
}

#[test]
fn what_is_the_same_in_all_workers_is_no_split() {
    for script in [
        // Made at the top level, or by what only that calls.
        "local routes = {}\nlocal function add(name, f) routes[name] = f end\nadd('a', print)\n\
         function on_handshake(id) return routes[id] end",
        "local n = 0\nfor i = 1, 3 do n = n + i end\nfunction on_handshake() return n end",
        // Created once, when it is first needed.
        "local r\nfunction on_handshake()\n  if not r then r = mix.redis.connection('default') end\n  return r\nend",
        "local r\nfunction on_handshake()\n  r = r or mix.redis.connection('default')\n  return r\nend",
        "local cache = {}\nfunction on_handshake(id)\n  local v = cache[id]\n  if v == nil then v = #id cache[id] = v end\n  \
         return v\nend",
        "local ready = false\nfunction on_handshake() if not ready then ready = true end end",
        "local done, a, b\nfunction on_handshake()\n  if not done then a, b = 1, 2 done = true end\n  return a, b\nend",
        // Locals of a handler, and of what it calls.
        "function on_handshake() local n = 0 local function f() n = n + 1 end f() return n end",
        "function on_handshake() local t = {} t.n = 1 t[#t + 1] = 2 table.insert(t, 3) return t end",
        // Marked as intended.
        "local seen = {} -- each worker counts for itself\nfunction on_handshake(id) seen[id] = 1 end",
        "local n = 0\nfunction on_handshake() n = n + 1 end -- each worker",
        "function mix.mine() end\nfunction on_handshake() mix.count = 1 end",
        // Objects of a class, and what is done to the class itself.
        "local Room = {}\nRoom.__index = Room\nfunction Room.new() return setmetatable({}, Room) end\n\
         function Room:set(x) self.x = x end\nfunction on_handshake(id) local r = Room.new() r:set(id) return r end",
        "local Room = {}\nfunction Room:new(o) o = o or {} setmetatable(o, self) self.__index = self return o end\n\
         function Room:set(x) self.x = x end\nfunction on_handshake(id) local r = Room:new() r:set(id) return r end",
        "local config = {}\nfunction config:load() self.x = 1 end\nconfig:load()\n\
         function on_handshake() return config.x end",
    ] {
        assert_eq!(of(script), [""; 0], "{script}");
    }
}
