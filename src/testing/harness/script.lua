-- What scripts call: the connection and those parts of `mix` that would reach the engine.
local native, engine, prelude = ...

local type, error, tostring, tonumber, ipairs, select, floor, concat, unpack = type, error, tostring, tonumber, ipairs, select, math.floor, table.concat, unpack
local checked, later, post, after, log = engine.checked, engine.later, engine.post, engine.after, engine.log
local conn_of, is_live, methods, seen = engine.conn_of, engine.is_live, engine.conn_methods, engine.seen
local deliver_to_channel, deliver_to_client = engine.deliver_to_channel, engine.deliver_to_client
local GONE = native.gone

local function this(self)
  return conn_of(self) or error("not a connection: got " .. (self == nil and "no value" or type(self))
    .. " where conn was expected (call methods with a colon: conn:send(data))", 3)
end
function methods.client_id(self)
  return this(self).id
end
function methods.remote_addr(self)
  local c = this(self)
  return is_live(c) and c.remote or nil
end
function methods.context(self)
  local c = this(self)
  return is_live(c) and native.context_all(c.context) or {}
end
function methods.context_value(self, ...)
  local c = this(self)
  local key = checked("context_value", native.key_arg(...))
  if is_live(c) then
    return native.context_all(c.context)[key]
  end
  return nil
end
function methods.set_context(self, ...)
  local c = this(self)
  local err = checked("set_context", native.context_merge(is_live(c) and c.context or 0, ...))
  c:wake()
  return err
end
function methods.set_context_value(self, ...)
  local c = this(self)
  local err = checked("set_context_value", native.context_set(is_live(c) and c.context or 0, ...))
  c:wake()
  return err
end
function methods.wait_context_value(self, ...)
  local c = this(self)
  local key = checked("wait_context_value", native.key_arg(...))
  local value
  if is_live(c) then
    value = native.context_all(c.context)[key]
  end
  if value ~= nil or not is_live(c) then
    return value
  end
  return later({ n = 1 }, function(give)
    c.waits[#c.waits + 1] = { key = key, give = give }
  end)
end

-- Puts a client into channels, or takes it out of them with nil.
local function set_channels(c, list, member)
  if not is_live(c) then
    return GONE
  elseif list.err then
    return list.err
  end
  for _, name in ipairs(list.names) do
    engine.set_member(c, name, member)
  end
  return nil
end
local function subscribe(c, list)
  if is_live(c) then
    for _, name in ipairs(list.names) do
      local full = not c.channels[name] and native.full(name, engine.count(name))
      if full then
        return full
      end
    end
  end
  -- What is told of the connection there, if anything is.
  local member = list.info or true
  if not (list.last or list.since) or list.err or not is_live(c) then
    return (set_channels(c, list, member))
  end
  for _, name in ipairs(list.names) do
    local err = native.keeps_nothing(name)
    if err then
      return err
    end
  end
  return later({ n = 1, GONE }, function(give)
    post(function()
      local err, at = set_channels(c, list, member), {}
      if not err then
        for _, name in ipairs(list.names) do
          at[name] = engine.catch_up(c, name, list.last, list.since)
        end
      end
      if err then
        give(err)
      else
        give(nil, #list.names == 1 and at[list.names[1]] or at)
      end
    end)
  end)
end
local function unsubscribe(c, list)
  return set_channels(c, list, nil)
end
-- A socket server's bytes have no type.
local function limited(socket, ...)
  if socket and select("#", ...) > 1 then
    return (...)
  end
  return ...
end
local function list_of(err, names, info, last, since)
  return { err = err, names = names, info = info, last = last, since = since }
end
function methods.subscribe(self, ...)
  local c = this(self)
  return subscribe(c, list_of(checked("subscribe", native.subscribe_args(...))))
end
function methods.unsubscribe(self, ...)
  local c = this(self)
  return (unsubscribe(c, list_of(checked("unsubscribe", native.channel_args(...)))))
end
function methods.channels(self)
  return this(self).client:channels()
end
function methods.send(self, ...)
  local c = this(self)
  local socket = engine.app.protocol == "socket"
  local data, kind = checked("send", native.send_args(limited(socket, ...)))
  if not is_live(c) then
    return GONE
  elseif kind == "text" and not socket and not native.is_utf8(data) then
    return native.not_utf8
  elseif not c:take(data, not socket and kind or nil) then
    return c.closing.err or GONE
  end
  return nil
end
function methods.close(self, ...)
  local c = this(self)
  local code, reason = checked("close", native.close_args(...))
  if not is_live(c) then
    return GONE
  end
  engine.close(c, code, reason)
  return nil
end
function methods.clear_buffer(self)
  local c = this(self)
  if not is_live(c) then
    return GONE
  elseif engine.app.protocol ~= "socket" then
    return "a WebSocket has no such buffer: messages come whole"
  end
  c.received, c.package = "", nil
  return nil
end

local function here()
  local c = engine.current()
  if c then
    return c.handle
  end
  return nil, "no connection: not inside a handler"
end
mix.websocket = here
mix.socket = { tcp = here }
function mix.subscribe(...)
  local list = list_of(checked("subscribe", native.subscribe_args(...)))
  local conn, err = here()
  if err then
    return err
  end
  return subscribe(conn_of(conn), list)
end
function mix.unsubscribe(...)
  local list = list_of(checked("unsubscribe", native.channel_args(...)))
  local conn, err = here()
  return err or (unsubscribe(conn_of(conn), list))
end

mix.mesh = {}
function mix.mesh.publish(...)
  local channel, data, kind, counted, err, except, key, priority = checked("publish", native.publish_args(...))
  if err then
    return nil, nil, err, nil, nil, nil
  end
  local left_out = {}
  for _, id in ipairs(except) do
    left_out[id] = true
  end
  local record = { channel = channel, data = data, type = kind, key = key, priority = priority }
  local function work()
    local options = { left_out = left_out, key = key, priority = priority }
    record.success, record.fail, record.left_out, record.merged = deliver_to_channel(channel, data, kind, options)
    return record.success, record.fail, record.left_out, record.merged
  end
  if not counted then
    seen.published[#seen.published + 1] = record
    post(work)
    return nil, nil, nil, nil, nil, nil
  end
  return later({ n = 6, nil, nil, GONE, nil, nil, nil }, function(give)
    seen.published[#seen.published + 1] = record
    post(function()
      local success, fail, over, merged = work()
      give(success, fail, nil, nil, over, merged)
    end)
  end)
end
function mix.mesh.send(...)
  local id, data, kind, err = checked("send", native.mesh_send_args(...))
  if err then
    return err
  end
  return later({ n = 1, GONE }, function(give)
    post(function()
      give(not deliver_to_client(id, data, kind) and "client " .. id .. " is not connected, or can't take the message" or nil)
    end)
  end)
end
function mix.mesh.count(...)
  local channel, err = checked("count", native.count_arg(...))
  if err then
    return nil, err
  end
  return later({ n = 2, nil, GONE }, function(give)
    post(function() give(#engine.open_conns(channel), nil) end)
  end)
end
function mix.mesh.presence(...)
  local channel, limit, behind, err = checked("presence", native.presence_args(...))
  if err then
    return nil, err
  end
  return later({ n = 2, nil, GONE }, function(give)
    post(function()
      local page, clients = {}, {}
      local open = engine.open_conns(channel)
      for _, c in ipairs(open) do
        if tonumber(c.id) > behind then
          if #clients == limit then
            page.after = clients[limit].c
            break
          end
          local info = c.channels[channel]
          clients[#clients + 1] = { c = c.id, node = "1", i = type(info) == "string" and mix.json_decode(info) or nil }
        end
      end
      page.clients, page.n = clients, #open
      give(page, nil)
    end)
  end)
end
function mix.mesh.history(...)
  local args = { ... }
  local function read()
    return checked("history", native.history(unpack(args, 1, 3)))
  end
  local _, err = read()
  if err then
    return nil, err
  end
  return later({ n = 2, nil, GONE }, function(give)
    post(function() give(read()) end)
  end)
end
function mix.mesh.close(...)
  local id, channel, code, reason, err = checked("close", native.close_mesh_args(...))
  if err then
    return nil, err
  end
  return later({ n = 2, nil, GONE }, function(give)
    post(function()
      local closed = engine.open_conns(channel, id)
      for _, c in ipairs(closed) do
        engine.close(c, code, reason)
      end
      give(#closed, nil)
    end)
  end)
end

mix.now = engine.now
function mix.sleep(...)
  local seconds = checked("sleep", native.sleep_arg(...))
  return later({ n = 1, GONE }, function(give)
    after(seconds, function() give(nil) end)
  end)
end
local stock_time, stock_date = os.time, os.date
function os.time(t)
  if t ~= nil then
    return stock_time(t)
  end
  return floor(engine.now())
end
function os.date(layout, time)
  return stock_date(layout or "%c", time or floor(engine.now()))
end

function mix.log(...)
  local level, text = checked("log", native.log_args(...))
  log(level, text, native.place())
  return true
end
prelude.console.print, prelude.console.write, prelude.console.flush = engine.print, engine.write, engine.flush

mix.server = {}
function mix.server.option(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'option' (string expected, got " .. type(name) .. ")", 2)
  end
  return engine.options and engine.options[name]
end
