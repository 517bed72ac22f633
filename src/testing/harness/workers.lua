-- The second worker. The engine has a VM for each worker, in which the script is loaded separately. Here the script is
-- loaded a second time, with globals and modules of its own. Both share what the engine provides, and what a test has
-- put in its place.
local native, engine, prelude = ...

local type, error, pairs, ipairs, setmetatable, compile = type, error, pairs, ipairs, setmetatable, prelude.compile
local gsub, gmatch, concat = string.gsub, string.gmatch, table.concat
local package, globals = package, _G

-- What scripts may add to: each worker adds to its own.
local LIBRARIES = { "string", "table", "math", "os", "io", "coroutine", "debug", "bit", "mix" }

local LIBRARY = {}
for _, name in ipairs(LIBRARIES) do
  LIBRARY[name] = true
end

-- `require` for those globals; as the prelude's, which has the first worker's.
local function requirer(own)
  local loaded, loading = own.package.loaded, {}
  return function(name)
    if type(name) ~= "string" then
      error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
    end
    local key = gsub(name, "/", ".")
    if loaded[key] ~= nil then
      return loaded[key]
    elseif loading[key] then
      error("loop, or an earlier error, in loading module '" .. name .. "'", 2)
    end
    local body, err, tried = own.package.preload[key], nil, {}
    for template in gmatch(body and "" or own.package.path, "[^;]+") do
      local path = gsub(template, "%?", function() return (gsub(key, "%.", "/")) end)
      local text = native.is_module(path) and native.read(path)
      if text then
        body, err = compile(text, "@" .. native.shown(path), own)
        if not body then
          error("error loading module '" .. name .. "':\n\t" .. err, 2)
        end
        break
      end
      tried[#tried + 1] = "\n\tno file '" .. path .. "'"
    end
    if not body and prelude.shipped[key] then
      loaded[key] = prelude.shipped[key]
      return loaded[key]
    end
    if not body then
      error("module '" .. name .. "' not found:" .. concat(tried), 2)
    end
    loading[key] = true
    local result = body(key)
    loading[key] = nil
    if result ~= nil then
      loaded[key] = result
    elseif loaded[key] == nil then
      loaded[key] = true
    end
    return loaded[key]
  end
end

-- The globals of a worker in which no script has been loaded yet. To be called before the first one has loaded it.
function engine.second_worker()
  local own, loaded = {}, {}
  for name, value in pairs(globals) do
    own[name] = value
  end
  for _, name in ipairs(LIBRARIES) do
    if type(globals[name]) == "table" then
      own[name] = setmetatable({}, { __index = globals[name] })
    end
  end
  for name, module in pairs(package.loaded) do
    -- A file's module is loaded anew; what a test has put in its place stays there.
    if prelude.from_files[name] ~= module then
      loaded[name] = LIBRARY[name] and own[name] or module
    end
  end
  own._G, loaded._G = own, own
  own.package = setmetatable({ loaded = loaded }, { __index = package })
  loaded.package = own.package
  own.require = requirer(own)
  return own
end

-- To which of the workers a connection goes: as in the engine, to the one that has fewest.
function engine.worker_for(conns)
  local workers = engine.app.workers
  local counts = {}
  for i in ipairs(workers) do
    counts[i] = 0
  end
  for _, c in pairs(conns) do
    counts[c.worker] = counts[c.worker] + 1
  end
  local best = 1
  for i, count in ipairs(counts) do
    if count < counts[best] then
      best = i
    end
  end
  return best
end
