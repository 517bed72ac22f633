-- Runs first in every VM: shapes the sandbox, makes waiting work inside a script's own coroutines, and closes the ways
-- in which a script could escape its time budget. Gets the engine's native functions, returns how hooks are entered.
local native = ...

local type, error, pcall, select, tostring, tonumber = type, error, pcall, select, tostring, tonumber
local pairs, rawget, setmetatable, package = pairs, rawget, setmetatable, package
local gsub, gmatch, concat, sort = string.gsub, string.gmatch, table.concat, table.sort
local stock_setfenv, util = setfenv, require("jit.util")
local parameter = native.debug.getlocal -- of a function: the name of its n-th parameter

-- What scripts must not have.
jit, newproxy, dofile, loadfile, string.dump = nil, nil, nil, nil, nil
package.preload, package.loaders, package.loadlib, package.cpath = {}, nil, nil, nil
package.searchpath, package.searchers = nil, nil
package.loaded["jit"], package.loaded["jit.opt"], package.loaded["jit.util"] = nil, nil, nil
if not native.libraries.os then
  os = { time = os.time, date = os.date, clock = os.clock, difftime = os.difftime }
  package.loaded.os = os
end

-- A long format would hold the worker where no hook is asked.
local date = os.date
function os.date(format, time)
  if type(format) == "string" and #format > 65536 then
    error("bad argument #1 to 'date' (a format of at most 65536 bytes expected)", 2)
  end
  return date(format, time)
end

-- For dice in games and codes of rooms, every VM has random numbers of its own. `math.randomseed` makes them
-- repeatable.
math.randomseed(native.seed)

-- The collector keeps the VM within its memory. A script may query it and run it, but not turn it off.
local collect = collectgarbage
function collectgarbage(what, arg)
  what = what or "collect"
  if what == "count" or what == "step" then
    return collect(what, arg)
  elseif what == "collect" then
    -- In steps, so that the time limit reaches it: to the end of the round that has begun, and one round more.
    for _ = 1, 2 do
      repeat until collect("step", 0)
    end
    return 0
  end
  error("collectgarbage(\"" .. tostring(what) .. "\") is not allowed; collect, count and step are", 2)
end

-- Coroutines. A native function that waits yields a marker meant for the engine: it is passed on through the script's
-- own coroutines, and the answer back in.
local WAITING, engaged = native.marker, native.engaged
local resume, yield, status, create = coroutine.resume, coroutine.yield, coroutine.status, coroutine.create
local running, isyieldable = coroutine.running, coroutine.isyieldable
-- `engaged`: the coroutines that nobody but the engine may resume. The handlers' own stay there for good; those of
-- scripts are there while a wait that began in them is not over.
local function answered(co, ...)
  engaged[co] = nil
  return ...
end
-- `level` is that of the script's call, for errors.
local function step(level, co, ok, first, ...)
  if ok and first == WAITING and status(co) == "suspended" then
    if not isyieldable() then
      error(native.no_wait_here, level)
    end
    if engaged[co] then
      return step(level, co, resume(co, yield(WAITING)))
    end
    engaged[co] = true
    return step(level, co, resume(co, answered(co, yield(WAITING))))
  end
  return ok, first, ...
end
-- Nested coroutines take native stack, which no limit of Lua's counts.
local function resume_through(level, co, ...)
  if native.stack_is_used_up() then
    error("stack overflow (coroutines inside one another)", level)
  end
  if engaged[co] and status(co) == "suspended" then
    error("cannot resume a coroutine that waits for the engine: it is a handler's, or a wait in it is not over", level)
  end
  return step(level, co, resume(co, ...))
end
local function unwrap(ok, first, ...)
  if not ok then
    return error(first, 0)
  end
  return first, ...
end
function coroutine.resume(co, ...)
  if type(co) ~= "thread" then
    error("bad argument #1 to 'resume' (coroutine expected, got " .. type(co) .. ")", 2)
  end
  return resume_through(2, co, ...)
end
function coroutine.wrap(f)
  if type(f) ~= "function" then
    error("bad argument #1 to 'wrap' (function expected, got " .. type(f) .. ")", 2)
  end
  local co = create(f)
  return function(...)
    return unwrap(resume_through(3, co, ...))
  end
end
-- A handler's own coroutine is the engine's: a script can't yield from it.
function coroutine.yield(...)
  if engaged[running()] then
    error("attempt to yield from outside a coroutine (a handler is none: mix.sleep waits)", 2)
  end
  return yield(...)
end
function coroutine.isyieldable()
  return isyieldable() and not engaged[running()]
end

-- xpcall: the message handler runs where the error is raised, in a coroutine that the engine begins there (see
-- `handler.rs`), so that the time limit reaches it. One that waits goes on here.
local stock_xpcall, guarded, taken = xpcall, native.guarded, native.taken
local function finished(ok, first)
  if ok then
    return false, first
  end
  return false, native.failed_handler(first)
end
local function handled(ok, first, ...)
  if ok or first ~= WAITING then
    return ok, first, ...
  end
  local co = taken()
  if not isyieldable() then
    return false, native.failed_handler(native.no_wait_here)
  end
  return finished(step(3, co, true, WAITING))
end
function xpcall(f, handler, ...)
  if type(handler) ~= "function" then
    error("bad argument #2 to 'xpcall' (function expected, got " .. type(handler) .. ")", 2)
  end
  return handled(stock_xpcall(f, guarded(handler), ...))
end

-- Chunks: text only (bytecode could break out). A reader's pieces are collected first, since no hook could stop it
-- inside the parser.
local load_limit = native.load_limit
local too_long = "chunk has more than " .. load_limit .. " bytes (engine.luavm.loadLimit)"
local function compile(text, name, env)
  local f, err = native.compile(text, name)
  if f and env ~= nil then
    stock_setfenv(f, env)
  end
  return f, err
end
function load(chunk, name, mode, env)
  if type(chunk) == "function" then
    local pieces, length = {}, 0
    while true do
      local piece = chunk()
      if piece == nil or piece == "" then
        break
      end
      if type(piece) ~= "string" then
        return nil, "reader function must return a string"
      end
      length = length + #piece
      if length > load_limit then
        return nil, too_long
      end
      pieces[#pieces + 1] = piece
    end
    chunk, name = concat(pieces), name or "=(load)"
  elseif type(chunk) ~= "string" then
    error("bad argument #1 to 'load' (function or string expected, got " .. type(chunk) .. ")", 2)
  end
  if mode == "b" then
    return nil, "attempt to load a chunk as bytecode (only text is allowed)"
  elseif #chunk > load_limit then
    return nil, too_long
  end
  return compile(chunk, name or chunk, env)
end
function loadstring(text, name)
  if type(text) ~= "string" then
    error("bad argument #1 to 'loadstring' (string expected, got " .. type(text) .. ")", 2)
  elseif #text > load_limit then
    return nil, too_long
  end
  return compile(text, name or text)
end

-- Modules: the script's folder, then the system's path. "a.b" and "a/b" are the same module.
local loaded, loading, shipped, from_files = package.loaded, {}, {}, {}
package.path = native.path .. ";" .. package.path .. ";" .. native.system_path
function require(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
  end
  local key = gsub(name, "/", ".")
  if loaded[key] ~= nil then
    return loaded[key]
  end
  -- A module whose loading was given up midway may be tried again.
  local loader = loading[key]
  if loader == true or loader and status(loader) ~= "dead" then
    error("loop, or an earlier error, in loading module '" .. name .. "'", 2)
  end
  local body, tried = package.preload[key], {}
  local is_file = not body
  if not body then
    local file = gsub(key, "%.", "/")
    for template in gmatch(package.path, "[^;]+") do
      local path = gsub(template, "%?", function() return file end)
      local found, problem, why = native.module(path)
      if found then
        body = found
        break
      elseif problem == "wrong" then
        error("error loading module '" .. name .. "':\n\t" .. why, 2)
      elseif problem == "unreadable" then
        error(why, 2)
      end
      tried[#tried + 1] = problem and "\n\tnot '" .. path .. "': " .. why or "\n\tno file '" .. path .. "'"
    end
  end
  if not body and shipped[key] then
    loaded[key] = shipped[key]
    return loaded[key]
  end
  if not body then
    error("module '" .. name .. "' not found:" .. concat(tried), 2)
  end
  loading[key] = running() or true
  local result = body(key)
  loading[key] = nil
  if result ~= nil then
    loaded[key] = result
  elseif loaded[key] == nil then
    loaded[key] = true
  end
  from_files[key] = is_file and loaded[key] or nil
  return loaded[key]
end

-- Sorting a large table with the built-in order could not be stopped; a comparison in Lua can be.
local function less(a, b)
  return a < b
end
function table.sort(t, order)
  if order == nil and type(t) == "table" and #t > 10000 then
    order = less
  end
  if order and native.sorts_too_deep() then
    error("stack overflow (table.sort inside its own order)", 2)
  end
  return sort(t, order)
end

-- The globals of level 0 are shared by all handlers of the VM, through the engine's pool of coroutines.
function setfenv(f, env)
  if type(env) ~= "table" then
    error("bad argument #2 to 'setfenv' (table expected, got " .. type(env) .. ")", 2)
  end
  local level = tonumber(f)
  if level then
    -- The stock function cuts off the fraction.
    level = level - level % 1
    if level == 0 then
      error("setfenv(0) is not allowed: all handlers share those globals", 2)
    elseif not (level > 0) then
      error("bad argument #1 to 'setfenv' (invalid level)", 2)
    end
    f = level + 1
  end
  local r = stock_setfenv(f, env)
  return r
end

-- What is written in other files: functions that look at the stack, and those that write to the console.
native.part("debug")(native)
local console = native.part("console")(native, shipped)

-- Globals that scripts of CONNMIX rely on.
mix_log, mix_DEBUG, mix_INFO, mix_WARN, mix_ERROR = mix.log, mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR

-- Header names under any letter case, of requests and responses.
local lower, headers_meta = string.lower, native.headers_meta
headers_meta.__index = function(headers, name)
  if type(name) ~= "string" then
    return nil
  end
  local want = lower(name)
  for key, value in pairs(headers) do
    if lower(key) == want then
      return value
    end
  end
end

-- How hooks are entered: `at` points to the arguments, which the engine pushes inside the protected call.
local fill = native.fill
-- A timer's function is looked up when it runs, so that it is that of the version that runs then.
local globals = _G
local function call(name, ...)
  return rawget(globals, name)(...)
end
return {
  message = function(hook, at)
    local data, is_text, conn = fill(at)
    return hook({ type = is_text and "text" or "binary", data = data, finish = true }, conn)
  end,
  handshake = function(hook, at)
    local client_id, headers, server, conn = fill(at)
    return hook(client_id, setmetatable(headers, headers_meta), server, conn)
  end,
  plain = function(hook, at)
    return hook(fill(at))
  end,
  timer = function(_, at)
    return call(fill(at))
  end,
  close = function(hook, at)
    local client_id, err, conn, code, reason = fill(at)
    return hook(client_id, err, conn, code, reason)
  end,
  -- The arguments from before CONNMIX 1.0: on_close(err, conn).
  older_close = function(hook, at)
    local _, err, conn = fill(at)
    return hook(err, conn)
  end,
  -- A socket server's packet: `decode` turns it into the message.
  package = function(decode)
    return function(hook, at)
      local bytes, conn = fill(at)
      local message = decode(bytes, conn)
      if message ~= nil then
        return hook(message, conn)
      end
    end
  end,
  -- Whether a hook takes an argument at that position.
  takes = function(hook, position)
    local info = util.funcinfo(hook)
    return info.isvararg or (info.params or position) >= position
  end,
  -- Whether the first argument of an on_close is named as older scripts have it.
  is_older_close = function(hook)
    return parameter(hook, 1) == "err"
  end,
  headers = headers_meta,
  compile = compile,
  -- For the tests of scripts, which have an engine of their own.
  console = console,
  yield = yield,
  isyieldable = isyieldable,
  engaged = engaged,
  -- The modules that were read from files, and those that are there without one.
  from_files = from_files,
  shipped = shipped,
}
