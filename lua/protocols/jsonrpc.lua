-- JSON-RPC 2.0 (jsonrpc.org/specification), one JSON text a line.
--
--   local jsonrpc = require("protocols.jsonrpc")
--   protocol_input, protocol_decode, protocol_encode = jsonrpc.input, jsonrpc.decode, jsonrpc.encode
--   function on_message(msg, conn)
--     jsonrpc.serve(msg, { add = function(params) return params[1] + params[2] end })
--   end
--
-- A method gets the request's params and the connection, and returns its result; or nil, a message and a code.

local text = require("protocols.text")
local json_encode, json_decode, null = mix.json_encode, mix.json_decode, mix.null

local jsonrpc = {
  PARSE_ERROR = -32700,
  INVALID_REQUEST = -32600,
  METHOD_NOT_FOUND = -32601,
  INTERNAL_ERROR = -32603,
  -- Where a method gives no code of its own.
  SERVER_ERROR = -32000,
}

jsonrpc.input = text.input

-- What a line holds: {value = ...}, or {wrong = why} for one that is no JSON. `serve` takes it.
function jsonrpc.decode(line)
  local value, err = json_decode(line, { null = true })
  if err then
    return { wrong = err }
  end
  return { value = value }
end

-- What is published from elsewhere is a JSON text, and goes out as one line.
jsonrpc.encode = text.encode

local function failure(id, code, message)
  return { jsonrpc = "2.0", id = id, error = { code = code, message = message } }
end

-- The answer to one request; nil for a notification.
local function answer(request, methods, conn)
  if type(request) ~= "table" or request.jsonrpc ~= "2.0" or type(request.method) ~= "string" then
    return failure(null, jsonrpc.INVALID_REQUEST, "a request was expected")
  end
  local id, method = request.id, methods[request.method]
  local params = request.params
  if not method then
    return id ~= nil and failure(id, jsonrpc.METHOD_NOT_FOUND, "no method " .. request.method) or nil
  end
  local ran, result, message, code = pcall(method, params, conn)
  if not ran then
    -- The author reads the log; the client need not know the script.
    mix.log(mix.ERROR, "method " .. request.method .. ": " .. tostring(result))
    return id ~= nil and failure(id, jsonrpc.INTERNAL_ERROR, "internal error") or nil
  end
  if id == nil then
    return nil
  end
  if result == nil and message ~= nil then
    return failure(id, code or jsonrpc.SERVER_ERROR, tostring(message))
  end
  return { jsonrpc = "2.0", id = id, result = result == nil and null or result }
end

-- The text of an answer. A result that is no JSON becomes an error, and takes no other answer with it.
local function encoded(reply)
  local text, err = json_encode(reply)
  return text or json_encode(failure(reply.id, jsonrpc.INTERNAL_ERROR, "the result is no JSON: " .. err))
end

-- Answers what `decode` made of a line.
function jsonrpc.serve(msg, methods)
  local conn = mix.socket.tcp()
  if msg.wrong then
    return conn:send(encoded(failure(null, jsonrpc.PARSE_ERROR, msg.wrong)) .. "\n")
  end
  local batch = msg.value
  if type(batch) ~= "table" or batch[1] == nil then
    local reply = answer(batch, methods, conn)
    return reply and conn:send(encoded(reply) .. "\n")
  end
  local replies = {}
  for _, request in ipairs(batch) do
    local reply = answer(request, methods, conn)
    replies[#replies + 1] = reply and encoded(reply)
  end
  if #replies > 0 then
    return conn:send("[" .. table.concat(replies, ",") .. "]\n")
  end
end

-- Sends a notification to the connection whose handler is running; returns an err.
function jsonrpc.notify(method, params)
  local line, err = json_encode({ jsonrpc = "2.0", method = method, params = params })
  if err then
    return err
  end
  return mix.socket.tcp():send(line .. "\n")
end

return jsonrpc
