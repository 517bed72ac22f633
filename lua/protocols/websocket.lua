-- WebSocket (RFC 6455) in Lua, over a socket server. A websocket server does the same natively and faster; this is for
-- protocols of your own beside it, and shows how a protocol is written.
--
--   local websocket = require("protocols.websocket")
--   function protocol_input(buf) return websocket.input(buf, on_handshake) end
--   protocol_decode, protocol_encode = websocket.decode, websocket.encode
--   function on_message(msg) websocket.send_text(msg.data) end      -- msg.type, msg.data, msg.finish
--
-- A message in several frames is taken as one package when its last frame is there: nothing of it is kept in Lua, so a
-- changed script goes on with connections in mid-message. That a connection is open stands in its context.

local bit = require("bit")
local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local byte, char, sub, lower, concat = string.byte, string.char, string.sub, string.lower, table.concat

local websocket = {}

local OPEN = "__websocket"
local MAX_HEAD = 16384
-- All frames of a message are checked again whenever more bytes arrive, so their number is limited.
local MAX_FRAGMENTS = 1000
local CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

-- Set by `input`, which is handed it with each call.
local on_handshake_hook

-- The frame that begins at the position of `buf`: length with its header, opcode, whether it is a message's last; 0 while
-- its header is incomplete, nil and why for what no client may send.
local function frame_header(buf)
  local head = buf:read(2)
  if not head then
    return 0
  end
  local first, second = byte(head, 1, 2)
  local opcode, final, length = band(first, 15), first >= 128, band(second, 127)
  if band(first, 112) ~= 0 then
    return nil, "reserved bits are set"
  elseif second < 128 then
    return nil, "a frame is not masked"
  elseif opcode > CLOSE - 1 and (not final or length > 125) or opcode > PONG or opcode > BINARY and opcode < CLOSE then
    return nil, "a frame is wrong"
  end
  local size = 6
  if length == 126 then
    local long = buf:read(2)
    if not long then
      return 0
    end
    local a, b = byte(long, 1, 2)
    length, size = a * 256 + b, 8
  elseif length == 127 then
    local long = buf:read(8)
    if not long then
      return 0
    end
    length, size = 0, 14
    for i = 1, 8 do
      length = length * 256 + byte(long, i)
    end
  end
  return size + length, opcode, final, size
end

-- The whole message at the beginning of `buf`: its bytes, 0 while some are missing, -1 for what is wrong.
local function message_length(buf)
  local total, within = 0, buf:length()
  for _ = 1, MAX_FRAGMENTS do
    local length, opcode, final, size = frame_header(buf)
    if not length then
      websocket.close(1002, opcode)
      return -1
    elseif length == 0 then
      return 0
    end
    total = total + length
    -- A control frame alone is answered at once; the end of the connection is, wherever it stands.
    if opcode == CLOSE or total == length and opcode > CLOSE or final and opcode < CLOSE then
      return total
    end
    if total > within then
      return 0
    end
    -- To the next frame: past the mask and the payload.
    buf:read(length - size + 4)
  end
  websocket.close(1009, "too many fragments")
  return -1
end

function websocket.input(buf, on_handshake)
  on_handshake_hook = on_handshake
  if mix.socket.tcp():context_value(OPEN) then
    return message_length(buf)
  end
  local head_end = buf:find("\r\n\r\n")
  if head_end then
    return head_end + 3
  end
  return buf:length() > MAX_HEAD and -1 or 0
end

local function refuse(conn, status)
  conn:send("HTTP/1.1 " .. status .. "\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
  conn:close()
end

-- The request's headers, names in lower case, several of one name joined by a comma, cookies by a semicolon; and its target.
local function parse_head(head)
  local method, target = string.match(head, "^(%S+) (%S+) HTTP/1%.1\r\n")
  local headers = {}
  for name, value in string.gmatch(head, "\r\n([^:%s]+):[ \t]*([^\r\n]-)[ \t]*%f[\r\n]") do
    name = lower(name)
    local before = headers[name]
    headers[name] = before and before .. (name == "cookie" and "; " or ", ") .. value or value
  end
  return method, target, headers
end

local function handshake(conn, head)
  local method, target, headers = parse_head(head)
  local key = headers["sec-websocket-key"]
  if method ~= "GET" or not key or #key ~= 24 or lower(headers.upgrade or "") ~= "websocket" then
    return refuse(conn, "400 Bad Request")
  elseif headers["sec-websocket-version"] ~= "13" then
    return refuse(conn, "426 Upgrade Required\r\nSec-WebSocket-Version: 13")
  end
  local path = mix.server.option("path")
  if path and path ~= string.match(target, "^[^?]*") then
    return refuse(conn, "404 Not Found")
  end
  if on_handshake_hook and on_handshake_hook(conn:client_id(), headers, { RequestUri = target }, conn) == false then
    return refuse(conn, "403 Forbidden")
  end
  local accept = mix.base64_encode(mix.sha1_bin(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
  conn:set_context_value(OPEN, true)
  conn:send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    .. "Sec-WebSocket-Accept: " .. accept .. "\r\n\r\n")
end

local function unmask(masked, mask)
  local keys, out = { byte(mask, 1, 4) }, {}
  -- In stretches that fit the stack.
  for start = 1, #masked, 4096 do
    local bytes = { byte(masked, start, start + 4095) }
    for i = 1, #bytes do
      bytes[i] = bxor(bytes[i], keys[(start + i - 2) % 4 + 1])
    end
    out[#out + 1] = char(unpack(bytes))
  end
  return concat(out)
end

-- Whether a string is UTF-8: JSON is made of nothing else, and its encoder looks at bytes natively.
local function is_utf8(s)
  return (mix.json_encode(s)) ~= nil
end

local function frame(opcode, data)
  local length = #data
  if length < 126 then
    return char(128 + opcode, length) .. data
  elseif length < 65536 then
    return char(128 + opcode, 126, rshift(length, 8), band(length, 255)) .. data
  end
  local bytes = {}
  for i = 8, 1, -1 do
    bytes[i] = length % 256
    length = (length - bytes[i]) / 256
  end
  return char(128 + opcode, 127, unpack(bytes)) .. data
end

-- Ends the connection as the client wants it: its code goes back, if it is one.
local function answer_close(conn, data)
  local a, b = byte(data, 1, 2)
  local code = b and a * 256 + b
  local known = code and (code < 1004 or code > 1006 and code < 1015 or code > 2999) and code > 999 and code < 5000
  if #data > 0 and not (known and is_utf8(sub(data, 3))) then
    return websocket.close(1002, "a close frame is wrong")
  end
  conn:send(frame(CLOSE, sub(data, 1, 2)))
  conn:close()
end

-- Turns a package into a message; nil for a frame that the protocol handles itself.
function websocket.decode(package)
  local conn = mix.socket.tcp()
  if not conn:context_value(OPEN) then
    handshake(conn, package)
    return nil
  end
  local parts, kind, at = {}, nil, 1
  while at <= #package do
    local first, second = byte(package, at, at + 1)
    local opcode, length = band(first, 15), band(second, 127)
    at = at + 2
    if length == 126 then
      local a, b = byte(package, at, at + 1)
      length, at = a * 256 + b, at + 2
    elseif length == 127 then
      length = 0
      for i = at, at + 7 do
        length = length * 256 + byte(package, i)
      end
      at = at + 8
    end
    local data = unmask(sub(package, at + 4, at + 3 + length), sub(package, at, at + 3))
    at = at + 4 + length
    if opcode == PING then
      conn:send(frame(PONG, data))
    elseif opcode == CLOSE then
      answer_close(conn, data)
      return nil
    elseif opcode ~= PONG then
      if (opcode == CONTINUATION) ~= (kind ~= nil) then
        websocket.close(1002, "a fragment is out of place")
        return nil
      end
      kind = kind or opcode
      parts[#parts + 1] = data
    end
  end
  if not kind then
    return nil
  end
  local data = concat(parts)
  if kind == TEXT and not is_utf8(data) then
    websocket.close(1007, "text is not UTF-8")
    return nil
  end
  return { type = kind == TEXT and "text" or "binary", data = data, finish = true }
end

-- What is published or sent from elsewhere: text where it can be.
function websocket.encode(data)
  return frame(is_utf8(data) and TEXT or BINARY, data)
end

function websocket.send_text(data)
  return mix.socket.tcp():send(frame(TEXT, data))
end

function websocket.send_binary(data)
  return mix.socket.tcp():send(frame(BINARY, data))
end

-- Sends a close frame and ends the connection.
function websocket.close(code, reason)
  local conn = mix.socket.tcp()
  conn:send(frame(CLOSE, char(rshift(code, 8), band(code, 255)) .. (reason or "")))
  return conn:close()
end

return websocket
