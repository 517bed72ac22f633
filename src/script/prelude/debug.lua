-- `debug`, without what would give access to more than the script: where functions stand, never their locals or
-- upvalues.
local native = ...

local type, error, tostring, tonumber, floor = type, error, tostring, tonumber, math.floor
local find, gsub, sub = string.find, string.gsub, string.sub
local stock = native.debug.getinfo

-- The engine's own Lua looks like native functions.
local function masked(info)
  if sub(info.source, 1, 9) == "=connmix:" then
    info.source, info.short_src, info.what = "=[C]", "[C]", "C"
    info.currentline, info.linedefined, info.lastlinedefined = info.currentline and -1, -1, -1
    info.activelines = nil
    if info.nparams then
      info.nparams, info.isvararg, info.nups = 0, true, 0
    end
  end
  return info
end

-- A copy of the fields that were requested; the source is always needed here.
local FIELDS = {
  S = { "source", "short_src", "what", "linedefined", "lastlinedefined" },
  l = { "currentline" },
  n = { "name", "namewhat" },
  u = { "nups", "nparams", "isvararg" },
  L = { "activelines" },
}
local function chosen(info, what, func)
  local result = { func = func }
  for i = 1, #what do
    local fields = FIELDS[sub(what, i, i)] or {}
    for j = 1, #fields do
      result[fields[j]] = info[fields[j]]
    end
  end
  return result
end

local function bad(index, problem)
  error("bad argument #" .. index .. " to 'getinfo' (" .. problem .. ")", 3)
end

debug = { traceback = native.traceback }
package.loaded.debug = debug

-- debug.getinfo([thread,] function or level [, what])
function debug.getinfo(thread, at, what)
  local index = 2
  if type(thread) ~= "thread" then
    thread, at, what, index = nil, thread, at, 1
  end
  if what == nil then
    what = "flnSu"
  elseif type(what) ~= "string" or find(what, "[^flnSuL]") then
    bad(index + 1, "invalid option")
  end
  local asked = gsub(what, "[fS]", "") .. "S"
  if type(at) == "function" then
    return chosen(masked(stock(at, asked)), what, find(what, "f", 1, true) and at or nil)
  end
  local level = tonumber(at)
  if not level then
    bad(index, "function or level expected, got " .. type(at))
  end
  local of, raw = native.level(thread, floor(level))
  if not of then
    return nil
  end
  local info = masked(stock(of, raw, asked))
  local func
  -- Native functions on the stack may be those that the engine keeps to itself.
  if info.what ~= "C" and find(what, "f", 1, true) then
    func = stock(of, raw, "f").func
  end
  return chosen(info, what, func)
end
