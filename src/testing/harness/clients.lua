-- What the test has in its hands: clients, and back ends that publish and send.
local native, engine = ...

local type, error, tostring, pairs, ipairs = type, error, tostring, pairs, ipairs
local setmetatable, sort = setmetatable, table.sort
local format = string.format
local checked, only_tests, act, post = engine.checked, engine.only_tests, engine.act, engine.post

local Client = {}
local function open(client, what)
  local c = client.connection
  only_tests("c:" .. what)
  if client.refused then
    error("this client was refused with status " .. client.refused.status, 3)
  elseif c.closing then
    local why = c.closing.err or c.closing.reason
    error("this connection has ended" .. (why and why ~= "" and ": " .. why or ""), 3)
  end
  return c
end
function Client:message(data, kind)
  local c = open(self, "message")
  if engine.app.protocol == "socket" then
    error("a client of a socket server sends bytes: c:bytes(data)", 2)
  end
  data, kind = checked("message", native.send_args(data, kind))
  if kind == "text" and not native.is_utf8(data) then
    error("a text message must be valid UTF-8; send it as \"binary\"", 2)
  end
  c.inbox[#c.inbox + 1] = { data = data, type = kind }
  post(c.pump, c)
  act()
end
function Client:bytes(data)
  local c = open(self, "bytes")
  if engine.app.protocol ~= "socket" then
    error("a client of a websocket server sends messages: c:message(data)", 2)
  end
  c.received, c.starved = c.received .. checked("bytes", native.send_args(data)), false
  post(c.pump, c)
  act()
end
-- c:close(): as a client that has done; c:close(code[, reason]): with that close frame; c:close(err): lost.
function Client:close(how, reason)
  local c = open(self, "close")
  local err, code = nil, how
  if type(how) == "string" then
    err, code = how, nil
  elseif how == nil then
    code = 1000
  end
  if not err then
    if engine.app.protocol == "socket" then
      code, reason = nil, nil
    else
      code, reason = checked("close", native.close_args(code, reason))
    end
  end
  c:shut({ theirs = true, err = err, code = code, reason = code and reason })
  act()
end
function Client:channels()
  local names = {}
  for name in pairs(self.connection.channels) do
    names[#names + 1] = name
  end
  sort(names)
  return names
end
function Client:set_context(values)
  local c = open(self, "set_context")
  local err = checked("set_context", native.context_merge(c.context, values))
  c:wake()
  act()
  return err
end
local client_meta = {
  __index = function(client, key)
    if key == "context" then
      return native.context_all(client.connection.context)
    elseif key == "waiting" then
      return client.connection.task ~= nil
    end
    return Client[key]
  end,
}

function engine.connect(_, options)
  only_tests("app:connect")
  options = options or {}
  if type(options) ~= "table" then
    error("app:connect wants a table of uri, headers and remote_addr, got a " .. type(options), 2)
  end
  if options.worker ~= nil and not engine.app.workers[options.worker] then
    error(format("worker must be a number from 1 to %d, not %s", #engine.app.workers, tostring(options.worker)), 2)
  end
  engine.start_app()
  local client = setmetatable({ sent = {} }, client_meta)
  engine.arrive(client, options)
  act()
  return client
end

function engine.publish(channel, data, kind, options)
  only_tests("test.publish")
  local _, err, except, key, priority
  channel, data, kind, _, err, except, key, priority =
    checked("publish", native.publish_args(channel, data, kind, options))
  if err then
    error(err, 2)
  end
  local left_out = {}
  for _, id in ipairs(except) do
    left_out[id] = true
  end
  options = { left_out = left_out, key = key, priority = priority }
  local success, fail, over, merged = engine.deliver_to_channel(channel, data, kind, options)
  act()
  return success, fail, over, merged
end

function engine.send(id, data, kind)
  only_tests("test.send")
  data, kind = checked("send", native.send_args(data, kind))
  local sent = engine.deliver_to_client(tostring(id), data, kind)
  act()
  return sent
end
