-- What scripts write to the log's console: `print`, and an `io` that has no files.
local native, shipped = ...

local type, error, tostring, select, rawget, pairs = type, error, tostring, select, rawget, pairs
local concat = table.concat
local metatable = native.debug.getmetatable

-- Where the text goes. Tests of scripts put their own functions here.
local console = { print = native.print, write = native.write, flush = native.flush }

-- Tables are shown by the shipped module, which is there for scripts too; one in the script's own folder comes first.
local pretty = native.part("prettyprint")()
shipped.prettyprint, shipped["utils.prettyprint"] = pretty, pretty
local line = pretty.line

local function shown(value)
  if type(value) == "table" then
    local meta = metatable(value)
    if not (type(meta) == "table" and rawget(meta, "__tostring")) then
      return line(value)
    end
  end
  value = tostring(value)
  if type(value) ~= "string" then
    error("'tostring' must return a string to 'print'", 3)
  end
  return value
end
function print(...)
  local words, n = { ... }, select("#", ...)
  for i = 1, n do
    words[i] = shown(words[i])
  end
  return console.print(concat(words, "\t", 1, n))
end

if native.libraries.io then
  return console
end

-- Two files that are always open. What has no method here gives nil, as any field that is not there.
local methods, seen_as, streams = {}, {}, {}
local function stream_of(file, name)
  return streams[file] or error("bad argument #1 to '" .. name .. "' (io.stdout or io.stderr expected, got "
    .. type(file) .. ")", 3)
end
local function write(file, stream, ...)
  for i = 1, select("#", ...) do
    local text = select(i, ...)
    if type(text) ~= "string" and type(text) ~= "number" then
      error("bad argument #" .. i .. " to 'write' (string expected, got " .. type(text) .. ")", 2)
    end
    console.write(stream, tostring(text))
  end
  return file
end
function methods.write(file, ...)
  return write(file, stream_of(file, "write"), ...)
end
function methods.flush(file)
  console.flush(stream_of(file, "flush"))
  return file
end
function methods.setvbuf(file)
  stream_of(file, "setvbuf")
  return true
end
function methods.close(file)
  stream_of(file, "close")
  return nil, "the log's console stays open"
end
local function file(stream)
  local made = native.file({
    __index = methods,
    __metatable = seen_as, -- so that two values can be told to be of one kind, and nobody changes what they are
    __tostring = function() return "file (" .. stream .. ")" end,
  })
  streams[made] = stream
  return made
end
io = { stdout = file("stdout"), stderr = file("stderr") }
package.loaded.io = io
local stdout = io.stdout
function io.write(...)
  return write(stdout, "stdout", ...)
end
function io.flush()
  console.flush("stdout")
  return stdout
end
function io.type(value)
  return value ~= nil and streams[value] and "file" or nil
end
return console
