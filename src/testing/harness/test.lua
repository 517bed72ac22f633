-- The library `test`, and how a file of tests is run with it. Every test runs in a VM of its own, in which the whole file
-- has run first: so nothing leaks from one to the next.
local native, engine, prelude = ...

local type, error, pcall, tostring, pairs, ipairs = type, error, pcall, tostring, pairs, ipairs
local setmetatable, select, unpack, rawget, compile = setmetatable, select, unpack, rawget, prelude.compile
local create, status = coroutine.create, coroutine.status
local concat, remove, sort = table.concat, table.remove, table.sort
local find, format, gsub, match, sub, upper, floor =
  string.find, string.format, string.gsub, string.match, string.sub, string.upper, math.floor

local test = {}
local group = { name = "", before = {} } -- the one that is being described
local cases = {} -- in their order, and by name
local collecting = true

local function wanted(name, index, value, want)
  if type(value) ~= want then
    error(format("bad argument #%d to '%s' (%s expected, got %s)", index, name, want, type(value)), 3)
  end
end

-- Groups and tests.

function test.describe(name, body)
  wanted("describe", 1, name, "string")
  wanted("describe", 2, body, "function")
  if not collecting then
    error("test.describe does not work inside a test", 2)
  end
  local outer = group
  group = { name = outer.name .. name .. " > ", before = {}, outer = outer }
  body()
  group = outer
end
function test.it(name, body)
  wanted("it", 1, name, "string")
  wanted("it", 2, body, "function")
  if not collecting then
    error("test.it does not work inside a test", 2)
  end
  name = group.name .. name
  if cases[name] then
    error(format("another test is named \"%s\", in line %d", name, cases[name].line), 2)
  end
  local line = match(native.place() or "", ":(%d+)$") or 0
  local case = { name = name, body = body, group = group, line = line + 0 }
  cases[#cases + 1], cases[name] = case, case
end
function test.before_each(body)
  wanted("before_each", 1, body, "function")
  if not collecting then
    error("test.before_each does not work inside a test", 2)
  end
  group.before[#group.before + 1] = body
end

-- Values as a failure shows them.

local MOST = 2000 -- bytes of one value
local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }
local function show_string(text)
  local cut = #text > MOST and format("... (%d bytes)", #text) or ""
  text = gsub(sub(text, 1, MOST), '[%c\\"]', function(c) return escapes[c] or format("\\%03d", c:byte()) end)
  if not native.is_utf8(text) then
    text = gsub(text, "[\128-\255]", function(c) return format("\\%03d", c:byte()) end)
  end
  return '"' .. text .. '"' .. cut
end
local function show_number(n)
  return n == floor(n) and n > -2 ^ 53 and n < 2 ^ 53 and format("%d", n) or tostring(n)
end
local function show_key(key)
  if type(key) == "string" then
    return match(key, "^[%a_][%w_]*$") or "[" .. show_string(key) .. "]"
  end
  return "[" .. (type(key) == "number" and show_number(key) or tostring(key)) .. "]"
end
local function by_type(a, b)
  if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then
    return a < b
  end
  return type(a) < type(b)
end
local function show(value, inside)
  if type(value) == "string" then
    return show_string(value)
  elseif type(value) == "number" then
    return show_number(value)
  elseif value == mix.null then
    return "mix.null"
  elseif type(value) ~= "table" then
    return tostring(value)
  elseif engine.is_failure(value) then
    return show_string(value.message)
  end
  inside = inside or {}
  if inside[value] then
    return "<a table that it is in>"
  end
  inside[value] = true
  local parts, keys = {}, {}
  for i, item in ipairs(value) do
    parts[i] = show(item, inside)
  end
  local items = #parts
  for key in pairs(value) do
    if not (type(key) == "number" and key == floor(key) and key >= 1 and key <= items) then
      keys[#keys + 1] = key
    end
  end
  sort(keys, by_type)
  for _, key in ipairs(keys) do
    parts[#parts + 1] = show_key(key) .. " = " .. show(value[key], inside)
  end
  inside[value] = nil
  local text = "{" .. concat(parts, ", ") .. "}"
  return #text > 2 * MOST and sub(text, 1, 2 * MOST) .. "..." or text
end

-- The way to the first difference, and both values there; nil: they are equal.
local function difference(got, want, way, inside)
  if type(got) ~= "table" or type(want) ~= "table" then
    if got ~= want and not (got ~= got and want ~= want) then
      return way, got, want
    end
    return
  end
  if got == want or inside[got] == want then
    return
  end
  inside[got] = want
  local keys = {}
  for key in pairs(want) do
    keys[#keys + 1] = key
  end
  for key in pairs(got) do
    if want[key] == nil then
      keys[#keys + 1] = key
    end
  end
  sort(keys, by_type)
  for _, key in ipairs(keys) do
    local step = type(key) == "string" and match(key, "^[%a_][%w_]*$")
    local at, a, b = difference(got[key], want[key], way .. (step and "." .. step or show_key(key)), inside)
    if at then
      return at, a, b
    end
  end
end

-- Checks. Each raises with its own line; a message tells more.

local function fail(message, about)
  local failure = engine.failure(about ~= nil and tostring(about) .. "\n" .. message or message)
  failure.place = native.place()
  error(failure, 0)
end
function test.equal(got, want, about)
  local way, a, b = difference(got, want, "", {})
  if way then
    local text = "expected: " .. show(want) .. "\n     got: " .. show(got)
    if way ~= "" then
      text = text .. "\n differs: " .. way .. " should be " .. show(b) .. ", is " .. show(a)
    end
    fail(text, about)
  end
end
function test.truthy(got, about)
  if not got then
    fail("expected: neither false nor nil\n     got: " .. show(got), about)
  end
  return got
end
function test.match(got, pattern, about)
  wanted("match", 2, pattern, "string")
  if type(got) ~= "string" or not find(got, pattern) then
    fail("expected: a match of " .. show(pattern) .. "\n     got: " .. show(got), about)
  end
end
function test.errors(body, pattern)
  wanted("errors", 1, body, "function")
  if pattern ~= nil then
    wanted("errors", 2, pattern, "string")
  end
  local ok, err = pcall(body)
  if ok then
    fail("expected: an error" .. (pattern and " that matches " .. show(pattern) or "") .. "\n     got: none")
  end
  local text = engine.is_failure(err) and err.message or type(err) == "string" and err or nil
  if pattern and not find(text or "", pattern) then
    fail("expected: an error that matches " .. show(pattern) .. "\n     got: " .. show(text or err))
  end
  return text or err
end

-- The handler.

local REQUIRED = {
  websocket = { "on_message" },
  socket = { "protocol_input", "protocol_decode", "protocol_encode", "on_message" },
}
local HOOKS = {
  "on_start", "on_handshake", "on_connect", "on_message", "on_close", "protocol_input", "protocol_decode", "protocol_encode",
}

function test.load(name, options)
  wanted("load", 1, name, "string")
  options = options == nil and {} or options
  wanted("load", 2, options, "table")
  if engine.app then
    error("this test has loaded " .. engine.app.file .. " already: its globals are the handler's", 2)
  end
  local path, tried = native.find(name)
  if not path then
    error("no such script: " .. tried, 2)
  end
  local server = native.servers[path] or {}
  local given = {}
  for key, value in pairs(options.options or server.options or {}) do
    given[key] = tostring(value)
  end
  engine.options, engine.budget = given, server.budget or native.budget
  package.path = native.modules(path) .. ";" .. package.path
  local shown = native.shown(path)
  local count = options.workers or native.workers
  if count ~= 1 and count ~= 2 then
    error("workers must be 1 or 2, not " .. show(count), 2)
  end
  for name in pairs(_G) do
    engine.before[name] = true
  end
  -- Before the script makes globals of its own.
  local workers = { { globals = _G }, count == 2 and { globals = engine.second_worker() } or nil }
  for i, worker in ipairs(workers) do
    local text, err = native.read(path)
    local chunk
    if text then
      chunk, err = compile(text, "@" .. shown, worker.globals)
    end
    if not chunk then
      error(engine.failure(err), 0)
    end
    local lengths = {}
    for key, list in pairs(engine.seen) do
      lengths[key] = #list
    end
    local co = engine.create_in(worker, chunk)
    local ok, problem = native.resume(co, native.load_budget)
    local where = i == 2 and " (loading it for the second worker; with workers = 1 there is none)" or ""
    if not ok then
      problem = type(problem) == "string" and problem or "error object is a " .. type(problem) .. " value"
      error(engine.failure(problem .. where, native.trace(co)), 0)
    elseif status(co) ~= "dead" then
      error(engine.failure(shown .. ": attempt to yield from outside a coroutine" .. where), 0)
    end
    -- What the script does while it is loaded is recorded once.
    for key, list in pairs(i == 2 and engine.seen or {}) do
      for at = #list, lengths[key] + 1, -1 do
        list[at] = nil
      end
    end
  end
  local protocol = options.protocol or server.protocol or rawget(_G, "protocol_input") and "socket" or "websocket"
  if not REQUIRED[protocol] then
    error("protocol must be websocket or socket, not " .. show(protocol), 2)
  end
  for _, worker in ipairs(workers) do
    local hooks = {}
    for _, hook in ipairs(HOOKS) do
      hooks[hook] = rawget(worker.globals, hook)
      if hooks[hook] ~= nil and type(hooks[hook]) ~= "function" then
        error(format("%s: %s must be a function, not a %s", shown, hook, type(hooks[hook])), 2)
      end
    end
    for _, hook in ipairs(REQUIRED[protocol]) do
      if not hooks[hook] then
        error(format("%s: no global function %s; a %s server's script must define it", shown, hook, protocol), 2)
      end
    end
    worker.hooks = hooks
  end
  local app = { file = shown, protocol = protocol, options = given, connect = engine.connect }
  app.start = engine.start_by_test
  app.workers, app.hooks = workers, workers[1].hooks
  for key, list in pairs(engine.seen) do
    app[key] = list
  end
  engine.app = app
  return app
end

-- What surrounds it.

test.advance, test.publish, test.send = engine.advance, engine.publish, engine.send

local REPLIES = { ["table"] = true, ["function"] = true, string = true, number = true }
function test.http(method, url, reply)
  wanted("http", 1, method, "string")
  wanted("http", 2, url, "string")
  if type(reply) ~= "table" and type(reply) ~= "function" then
    error("bad argument #3 to 'http' (table or function expected, got " .. type(reply) .. ")", 2)
  end
  engine.http[#engine.http + 1] = { method = upper(method), url = url, reply = reply }
end
function test.redis(...)
  local n = select("#", ...)
  local words, reply = { ... }, (select(n, ...))
  if n < 2 then
    error("test.redis wants a command, the arguments that it begins with if any, and the reply", 2)
  end
  words[n] = nil
  for i = 1, n - 1 do
    if type(words[i]) ~= "string" and type(words[i]) ~= "number" then
      error(format("bad argument #%d to 'redis' (string expected, got %s)", i, type(words[i])), 2)
    end
    words[i] = tostring(words[i])
  end
  engine.redis[#engine.redis + 1] = { words = words, reply = reply }
end

-- Running.

-- The error that a coroutine ended with, for the report.
local function failed(err, co)
  local traceback, message, place = native.trace(co), nil, nil
  if engine.is_failure(err) then
    message, place = err.message, err.place
    for i = #err.traceback, 1, -1 do
      table.insert(traceback, 1, err.traceback[i])
    end
  elseif type(err) == "string" then
    message = err
  else
    local meta = type(err) == "table" and getmetatable(err)
    message = meta and meta.__tostring and tostring(err) or "error object is a " .. type(err) .. " value: " .. show(err)
  end
  local lines = {}
  for _, line in ipairs(traceback) do
    if sub(line, 1, 3) ~= "[C]" then
      lines[#lines + 1] = line
    end
  end
  if not engine.is_failure(err) and find(message, native.over_budget, 1, true) then
    message = engine.too_long
  end
  -- The line of the innermost function may be lost with the error; its text has it.
  local file, line = match(message, "^(.-):(%d+): ")
  if file and lines[1] and sub(lines[1], 1, #file + 2) == file .. ": " then
    lines[1] = file .. ":" .. line .. sub(lines[1], #file + 1)
  end
  -- Where the file of the tests comes in first.
  for _, line in ipairs(lines) do
    if place then
      break
    end
    local at = match(line, "^(.-:%d+): in ")
    place = at and sub(at, 1, #native.file + 1) == native.file .. ":" and at or nil
  end
  -- Its own place stands in front already.
  if place and sub(message, 1, #place + 2) == place .. ": " then
    message = sub(message, #place + 3)
  end
  return { message = message, place = place, traceback = lines }
end

local function attempt(body)
  local co = create(body)
  local ok, err = native.resume(co, native.timeout)
  if not ok then
    return failed(err, co)
  elseif status(co) ~= "dead" then
    return failed("attempt to yield from outside a coroutine", co)
  end
end

local runner = { seen = engine.seen }

-- Whether the test has looked into the first worker, with two there: at a global of the script, or into a module of it.
function runner.has_peeked()
  local second = engine.app and engine.app.workers[2]
  if not second then
    return false
  end
  for name in pairs(engine.required) do
    if rawget(second.globals.package.loaded, name) ~= nil then
      return true
    end
  end
  return engine.peeked
end

-- Runs the file, which describes its tests: these, or why it failed.
function runner.collect()
  engine.too_long = format("the file ran for longer than %s s (--timeout) before its first test", native.seconds)
  local text, err = native.read(native.path)
  if not text then
    return nil, { message = err, traceback = {} }
  end
  -- What it makes global is its own: the handler does not see it.
  local function look(_, name)
    local value = _G[name]
    if value ~= nil and engine.app and not engine.before[name] then
      engine.peeked = true
    end
    return value
  end
  local own = setmetatable({ test = test }, { __index = look })
  own._G = own
  function own.require(name)
    if type(name) == "string" then
      engine.required[gsub(name, "/", ".")] = true
    end
    return require(name)
  end
  local chunk
  chunk, err = compile(text, "@" .. native.file, own)
  if not chunk then
    return nil, { message = err, traceback = {} }
  end
  local failure = attempt(chunk)
  collecting = false
  if failure then
    return nil, failure
  end
  return cases
end

-- By its name, since a file may describe its tests in any order.
function runner.run(name)
  engine.too_long = format("the test ran for longer than %s s (--timeout)", native.seconds)
  local case = cases[name]
  if not case then
    return { message = "the file describes this test only now and then", traceback = {} }
  end
  local bodies, at = { case.body }, case.group
  while at do
    for i = #at.before, 1, -1 do
      table.insert(bodies, 1, at.before[i])
    end
    at = at.outer
  end
  local failure
  for _, body in ipairs(bodies) do
    failure = failure or attempt(body)
  end
  local late = remove(engine.unexpected, 1) or remove(engine.failures, 1)
  if not failure and late then
    failure = { message = late.message, traceback = late.traceback }
  end
  return failure
end

return runner
