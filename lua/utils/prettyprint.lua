-- Shows any value as text, for looking at things while writing a handler:
--   local pretty = require("utils.prettyprint")
--   print(pretty(msg))
--   pretty.print(msg, conn:context())

local prettyprint = {}

local MAX_DEPTH = 16

-- Numbers first, then strings, each in order, so that the same table always looks the same.
local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    local ta, tb = type(a), type(b)
    if ta ~= tb then
      return ta < tb
    end
    if ta == "number" or ta == "string" then
      return a < b
    end
    return tostring(a) < tostring(b)
  end)
  return keys
end

local function is_name(key)
  return type(key) == "string" and key:match("^[%a_][%w_]*$") ~= nil
end

local function show(value, indent, open, out)
  if type(value) == "string" then
    out[#out + 1] = string.format("%q", value)
    return
  end
  if type(value) ~= "table" then
    out[#out + 1] = tostring(value)
    return
  end
  if open[value] then
    out[#out + 1] = "<cycle>"
    return
  end
  if #indent / 2 >= MAX_DEPTH then
    out[#out + 1] = "{...}"
    return
  end
  local keys = sorted_keys(value)
  if #keys == 0 then
    out[#out + 1] = "{}"
    return
  end
  open[value] = true
  local deeper = indent .. "  "
  out[#out + 1] = "{\n"
  for position, key in ipairs(keys) do
    out[#out + 1] = deeper
    if key ~= position then
      out[#out + 1] = is_name(key) and key or "[" .. (type(key) == "string" and string.format("%q", key) or tostring(key)) .. "]"
      out[#out + 1] = " = "
    end
    show(value[key], deeper, open, out)
    out[#out + 1] = ",\n"
  end
  out[#out + 1] = indent .. "}"
  open[value] = nil
end

-- The text of a value.
function prettyprint.format(value)
  local out = {}
  show(value, "", {}, out)
  return table.concat(out)
end

-- Prints the text of each value.
function prettyprint.print(...)
  for i = 1, select("#", ...) do
    print(prettyprint.format((select(i, ...))))
  end
end

return setmetatable(prettyprint, {
  __call = function(_, value)
    return prettyprint.format(value)
  end,
})
