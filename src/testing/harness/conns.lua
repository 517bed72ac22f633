-- Connections of the small engine: how they begin, take what arrives for them, and end, with the hooks of either kind
-- of server.
local native, engine, prelude = ...

local type, error, tostring, tonumber, pairs, ipairs = type, error, tostring, tonumber, pairs, ipairs
local rawget, setmetatable, unpack, next = rawget, setmetatable, unpack, next
local remove, sort = table.remove, table.sort
local format, sub, floor = string.format, string.sub, math.floor
local post, start, run, at_once, log = engine.post, engine.start, engine.run, engine.at_once, engine.log

local conns = {} -- those that live, by the client's number
local conn_of = {} -- what scripts hold -> the connection
local methods = {}
local handle = { __index = methods, __metatable = false }
handle.__tostring = function(self) return "connection " .. conn_of[self].id end

local Conn = {}
Conn.__index = Conn

-- It ends; the first reason counts.
function Conn:shut(reason)
  if not self.closing then
    self.closing = reason
    post(Conn.pump, self)
  end
end

function Conn:wake()
  local waits = self.waits
  self.waits = {}
  for _, wait in ipairs(waits) do
    local value = native.context_all(self.context)[wait.key]
    if value == nil then
      self.waits[#self.waits + 1] = wait
    else
      post(wait.give, value)
    end
  end
end

function Conn:leave()
  self.phase = "over"
  conns[self.id] = nil
  engine.leave_all(self)
  local waits = self.waits
  self.waits = {}
  for _, wait in ipairs(waits) do
    wait.give(nil)
  end
end

function Conn:take(data, kind)
  if self.closing then
    return false
  end
  self.client.sent[#self.client.sent + 1] = { data = data, type = kind }
  return true
end

-- Runs protocol_encode for a delivery; nil: it failed, and so does that delivery.
local function encoded(worker, data, c)
  local ok, bytes = at_once(worker, c, worker.hooks.protocol_encode, data, c and c.handle)
  if ok and type(bytes) == "string" and bytes ~= "" then
    return bytes
  elseif ok then
    bytes = "protocol_encode must return a string that is not empty, not "
      .. (bytes == "" and "an empty one" or "a " .. type(bytes))
  end
  log("error", bytes)
end

-- Delivers a message from elsewhere to those connections. Returns how many took it, and how many did not.
local function deliver(members, data, kind)
  local reached, shared = 0, {}
  local socket = engine.app and engine.app.protocol == "socket"
  for _, c in ipairs(members) do
    local bytes, home = data, c.home
    if socket and rawget(home.globals, "protocol_encode_shared") == true then
      if shared[home] == nil then
        shared[home] = encoded(home, data, nil) or false
      end
      bytes = shared[home]
    elseif socket then
      bytes = not c.closing and encoded(home, data, c)
    end
    if bytes and c:take(bytes, not socket and kind or nil) then
      reached = reached + 1
    end
  end
  return reached, #members - reached
end

-- The connections in a channel, but for those in left_out, by their ids.
local function members_of(channel, left_out)
  local members = {}
  for id, c in pairs(conns) do
    if c.channels[channel] and not (left_out and left_out[id]) then
      members[#members + 1] = c
    end
  end
  sort(members, function(a, b) return a.id < b.id end)
  return members
end

-- Delivers what was added up in windows that have ended, and sees to the next.
local is_awaited = false
local function send_added_up()
  local due, seconds = native.added_up()
  for _, one in ipairs(due) do
    local data, kind = native.order(one.channel, one.data, one.type, one.n)
    deliver(members_of(one.channel), data, kind)
  end
  if seconds and not is_awaited then
    is_awaited = true
    engine.after(seconds, function()
      is_awaited = false
      send_added_up()
    end)
  end
end

-- How many connections got it, how many did not, 1 if it was over the channel's limit, and 1 if it was added to others then.
local function publish(channel, data, kind, options)
  local left_out = options and options.left_out
  -- One that leaves clients out is not added up with others.
  local verdict = native.offer(channel, data, not (left_out and next(left_out)) and options and options.key or nil,
    options and options.priority)
  if verdict then
    send_added_up()
    if verdict ~= "pass" then
      return 0, 0, 1, verdict == "merged" and 1 or nil
    end
  end
  data, kind = native.order(channel, data, kind)
  local reached, failed = deliver(members_of(channel, left_out), data, kind)
  return reached, failed, nil, nil
end

local function send(id, data, kind)
  return deliver({ conns[id] }, data, kind) == 1
end

-- A WebSocket server's hooks.

local function message_task(data, kind, c)
  c.home.hooks.on_message({ type = kind, data = data, finish = true }, c.handle)
end

-- A socket server's hooks: one packet a task.

-- A view of the received bytes that are not consumed.
local buffer_methods = {}
local buffer_meta = { __index = buffer_methods, __metatable = false }
local buffer_of = {}
local function buffer(c)
  local made = native.proxy(buffer_meta)
  buffer_of[made] = { conn = c, at = 0 }
  return made
end
local function this_buffer(self)
  return buffer_of[self] or error("not a buffer: got " .. type(self)
    .. " where buf was expected (call methods with a colon: buf:read(n))", 3)
end
function buffer_methods.tostring(self)
  return this_buffer(self).conn.received
end
function buffer_methods.length(self)
  return #this_buffer(self).conn.received
end
function buffer_methods.position(self)
  return this_buffer(self).at
end
function buffer_methods.find(self, text, from)
  return (string.find(this_buffer(self).conn.received, text, from, true))
end
function buffer_methods.read(self, n)
  local view = this_buffer(self)
  local bytes, number = view.conn.received, tonumber(n)
  if not number or number < 0 or number ~= floor(number) then
    error("bad argument #1 to 'read' (number of bytes expected, got " .. tostring(n) .. ")", 2)
  end
  local start = view.at < #bytes and view.at or #bytes
  if start + number > #bytes then
    return nil, "only " .. #bytes .. " bytes have come"
  end
  view.at = start + number
  return sub(bytes, start + 1, view.at)
end

local function package_task(c)
  local hooks = c.home.hooks
  local length = c.package or hooks.protocol_input(buffer(c), c.handle)
  if type(length) ~= "number" or length ~= floor(length) then
    error("protocol_input must return how many bytes make the next package (0: not known yet, -1: close), not "
      .. tostring(length), 0)
  elseif length < 0 then
    return c:shut({ err = "protocol_input found the client's bytes wrong" })
  end
  c.package = length > #c.received and length or nil
  if length == 0 or c.package then
    c.starved = true -- until more bytes come
    return
  end
  local bytes = sub(c.received, 1, length)
  c.received = sub(c.received, length + 1)
  local message = hooks.protocol_decode(bytes, c.handle)
  if message ~= nil then
    hooks.on_message(message, c.handle)
  end
end

-- The next thing that a connection has to do.
local function next_input(c)
  local inbox = remove(c.inbox, 1)
  if inbox then
    start(c, message_task, nil, inbox.data, inbox.type, c)
    return true
  elseif c.received ~= "" and not c.starved then
    start(c, package_task, nil, c)
    return true
  end
end

local function begin_ending(c)
  local reason = c.closing
  c.client.closed = { code = reason.code, reason = reason.reason, err = reason.err }
  c.inbox, c.received, c.phase = {}, "", "ending"
  local on_close = c.home.hooks.on_close
  if on_close then
    if prelude.is_older_close(on_close) then
      start(c, on_close, nil, reason.err, c.handle)
    else
      local said = reason.theirs and reason.code
      start(c, on_close, nil, c.id, reason.err, c.handle, said or nil, said and reason.reason or nil)
    end
  end
end

function Conn.pump(c)
  local task = c.task
  if c.closing and task and c.phase ~= "ending" then
    if not task.interrupted then
      task.interrupted = true
      local wait = task.wait
      if wait then
        task.wait = nil
        run(task, unpack(wait.interrupted, 1, wait.interrupted.n))
      end
    end
  elseif task or c.phase == "over" or c.phase == "handshake" then
    return
  elseif c.phase == "ending" then
    c:leave()
  elseif c.closing then
    -- What the client sent before it ended is still handled. If the server ended the connection, it is not.
    if not c.closing.theirs or not next_input(c) then
      begin_ending(c)
      post(Conn.pump, c)
    end
  else
    next_input(c)
  end
end

-- How the engine looks up headers, under any letter case.
local headers_meta = prelude.headers

local function greet(c, options)
  local hooks = c.home.hooks
  if engine.app.protocol == "socket" then
    c.phase = "open"
    if hooks.on_connect then
      start(c, hooks.on_connect, nil, c.id, c.handle)
    end
    return
  end
  local uri = options.uri or engine.app.options.path or "/"
  local headers = {
    Host = "localhost", Upgrade = "websocket", Connection = "Upgrade", ["Sec-WebSocket-Version"] = "13",
    ["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ==",
  }
  setmetatable(headers, headers_meta)
  for name, value in pairs(options.headers or {}) do
    for known in pairs(headers) do
      if known:lower() == name:lower() then
        headers[known] = nil
      end
    end
    headers[name] = tostring(value)
  end
  local function done(ok, first, code, text)
    if c.closing and c.closing.theirs then
      return c:leave()
    elseif ok and first ~= false then
      c.phase = "open"
      return
    end
    if not ok then
      code, text = 500, "the handshake handler failed"
    elseif type(code) ~= "number" or code < 400 or code >= 600 then
      code = 403
    end
    local sent = c.client.sent
    for i = #sent, 1, -1 do
      sent[i] = nil
    end
    c.client.refused = { status = floor(code), text = text == nil and "refused" or tostring(text) }
    c:leave()
  end
  if not hooks.on_handshake then
    return done(true)
  end
  local server = {
    Method = "GET", RequestUri = uri, ServerProtocol = "HTTP/1.1", Host = headers.host, RemoteAddr = c.remote,
    EventStream = false,
  }
  start(c, hooks.on_handshake, done, c.id, headers, server, c.handle)
end

local number = 0
-- A connection that `client`, the test's side of it, has made, and how it is received.
function engine.arrive(client, options)
  number = number + 1
  client.id = format("%d", 100000000000000 + number)
  client.remote_addr = options.remote_addr or "127.0.0.1:" .. 50000 + number
  local c = setmetatable({
    id = client.id, client = client, remote = client.remote_addr, phase = "handshake", context = native.context_new(),
    channels = {}, inbox = {}, received = "", waits = {}, handle = native.proxy(handle),
  }, Conn)
  client.connection = c
  c.worker = options.worker or engine.worker_for(conns)
  c.home, client.worker = engine.app.workers[c.worker], c.worker
  conn_of[c.handle], conns[c.id] = c, c
  greet(c, options)
  post(Conn.pump, c)
end

-- The connection that a script holds; nil if it is none. Whether it is still there.
function engine.conn_of(held)
  return conn_of[held]
end
function engine.is_live(c)
  return conns[c.id] == c
end

engine.conn_methods, engine.headers_meta = methods, headers_meta
engine.deliver_to_channel, engine.deliver_to_client = publish, send
-- A channel is told something of itself.
function engine.tell_channel(channel, text, left_out)
  deliver(members_of(channel, left_out), text, "text")
end

-- A channel's connections, or one client's, that are not closing.
function engine.open_conns(channel, id)
  local open = {}
  for _, c in ipairs(channel and members_of(channel) or { conns[id] }) do
    if not c.closing then
      open[#open + 1] = c
    end
  end
  return open
end

-- Gives a connection what a channel has kept, and tells where it is then.
function engine.catch_up(c, channel, last, since)
  local at, messages = native.kept(channel, last, since)
  for _, message in ipairs(messages) do
    deliver({ c }, message.data, message.type)
  end
  return at
end

-- How many connections are in a channel.
function engine.count(channel)
  return #members_of(channel)
end

function engine.close(c, code, reason)
  if engine.app.protocol == "socket" then
    code, reason = nil, nil
  end
  c:shut({ code = code, reason = reason })
end
