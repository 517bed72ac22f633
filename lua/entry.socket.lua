-- A TCP server whose wire protocol is a module: the option `module` names it (text, jsonrpc or websocket).
--
--   text:       "subscribe video:1" -> "ok"; "unsubscribe video:1" -> "ok"; any other line comes back
--   jsonrpc:    {"jsonrpc":"2.0","id":1,"method":"subscribe","params":["video:1"]} -> {"jsonrpc":"2.0","id":1,"result":true}
--   websocket:  messages like the lines of text
--
-- What is published to video:1 reaches all of them, and the clients of websocket servers in this process, each in its own
-- protocol.

local name = mix.server.option("module") or "text"
local protocol = require("protocols." .. name)

function protocol_input(buf)
  return protocol.input(buf)
end

protocol_decode, protocol_encode = protocol.decode, protocol.encode

-- The encoding is the same for every connection: it is made once for all of them.
protocol_encode_shared = true

local function change(words, conn)
  local op, channel = string.match(words, "^(%a+) (%S+)$")
  if op == "subscribe" then
    return true, conn:subscribe(channel)
  elseif op == "unsubscribe" then
    return true, conn:unsubscribe(channel)
  end
end

local methods = {
  echo = function(params)
    return params
  end,
  subscribe = function(params, conn)
    local err = conn:subscribe(unpack(params))
    return not err or nil, err
  end,
  unsubscribe = function(params, conn)
    local err = conn:unsubscribe(unpack(params))
    return not err or nil, err
  end,
}

function on_message(msg, conn)
  if name == "jsonrpc" then
    return protocol.serve(msg, methods)
  end
  local words = name == "websocket" and msg.data or msg
  local changed, err = change(words, conn)
  protocol.send_text(changed and (err or "ok") or words)
end

function on_close(client_id, err)
  if err then
    mix.log(mix.DEBUG, "client " .. client_id .. " was lost: " .. err)
  end
end
