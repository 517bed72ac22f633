-- Shows any value as text, for looking at things while writing a handler. `print` shows tables so by itself, in one line;
-- this module is for other places:
--   local pretty = require("utils.prettyprint")
--   conn:send(pretty(msg))
--   mix.log(mix.DEBUG, pretty.line(conn:context()))

local type, pairs, tostring, select, setmetatable = type, pairs, tostring, select, setmetatable
local concat, sort = table.concat, table.sort
local byte, find, format, gsub, rep, sub = string.byte, string.find, string.format, string.gsub, string.rep, string.sub

local prettyprint = {}

-- Tables inside one another, fields of one table, and bytes of the whole text that are shown; the rest is "...".
local MAX_DEPTH, MAX_FIELDS, MAX_BYTES = 16, 1000, 65536

-- Numbers first, then strings, each in order, so that the same table always looks the same.
local function before(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then
    return ta < tb
  end
  if ta == "number" or ta == "string" then
    return a < b
  end
  return tostring(a) < tostring(b)
end

-- The keys that are shown, in order, and whether there are more.
local function sorted_keys(t)
  local keys, more = {}, false
  for key in pairs(t) do
    if #keys == MAX_FIELDS then
      more = true
      break
    end
    keys[#keys + 1] = key
  end
  sort(keys, before)
  return keys, more
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function escaped(char)
  return ESCAPES[char] or format("\\%03d", byte(char))
end
local function quoted(text)
  local cut = #text > MAX_BYTES and "..." or ""
  return '"' .. gsub(sub(text, 1, MAX_BYTES), '[%c"\\]', escaped) .. cut .. '"'
end

local function put(out, text)
  out.bytes = out.bytes + #text
  out[#out + 1] = text
end

-- `layout`: what stands after "{" and between fields, before each field and before "}", for each depth.
local function show(value, out, layout, depth, open)
  if type(value) == "string" then
    return put(out, quoted(value))
  elseif type(value) ~= "table" then
    return put(out, tostring(value))
  elseif open[value] then
    return put(out, "<cycle>")
  elseif depth == MAX_DEPTH then
    return put(out, "{...}")
  end
  local keys, more = sorted_keys(value)
  if #keys == 0 then
    return put(out, "{}")
  end
  open[value] = true
  put(out, "{")
  for position = 1, #keys do
    local key = keys[position]
    if out.bytes > MAX_BYTES then
      more = true
      break
    end
    put(out, layout.before(depth + 1, position))
    if key ~= position then
      local name = type(key) == "string" and (find(key, "^[%a_][%w_]*$") and key or "[" .. quoted(key) .. "]")
      put(out, (name or "[" .. tostring(key) .. "]") .. " = ")
    end
    show(value[key], out, layout, depth + 1, open)
    put(out, layout.after)
  end
  if more then
    put(out, layout.before(depth + 1, 2) .. "..." .. layout.after)
  end
  put(out, layout.close(depth))
  open[value] = nil
end

local LINES = {
  before = function(depth) return "\n" .. rep("  ", depth) end,
  after = ",",
  close = function(depth) return "\n" .. rep("  ", depth) .. "}" end,
}
local ONE_LINE = {
  before = function(_, position) return position == 1 and "" or ", " end,
  after = "",
  close = function() return "}" end,
}

local function text_of(value, layout)
  local out = { bytes = 0 }
  show(value, out, layout, 0, {})
  return concat(out)
end

-- The text of a value: each field of a table on a line of its own.
function prettyprint.format(value)
  return text_of(value, LINES)
end

-- The same in one line, for the log.
function prettyprint.line(value)
  return text_of(value, ONE_LINE)
end

-- Prints each value in a line of its own.
function prettyprint.print(...)
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    print(type(value) == "table" and value or text_of(value, ONE_LINE))
  end
end

return setmetatable(prettyprint, {
  __call = function(_, value)
    return text_of(value, LINES)
  end,
})
