-- Rooms to talk in. A client comes with its name, ws://127.0.0.1:6790/chat?name=Ann, and sends
--
--   {"op":"join","room":"tea"}
--   {"op":"send","room":"tea","text":"hello"}
--   {"op":"quit","room":"tea"}
--   {"op":"rooms"}                            answered with the rooms that it is in
--
-- Each is answered with {"op":...,"ok":true}, or with {"op":...,"error":"why not"}. All members of a room, the sender too,
-- get {"event":"join" or "send" or "quit","room":...,"name":...}; "send" has a "text" besides.

local MAX_ROOMS, MAX_TEXT = 20, 4000

local function answer(conn, op, err, rooms)
  conn:send(mix.json_encode({ op = op, ok = not err or nil, error = err, rooms = rooms }))
end

-- Tells the members of a channel, without waiting for how many there are.
local function tell(conn, channel, event, text)
  local news = { event = event, room = channel:sub(#"room:" + 1), name = conn:context_value("name"), text = text }
  mix.mesh.publish(channel, mix.json_encode(news), "text", { counts = false })
end

local function is_in(conn, channel)
  for _, joined in ipairs(conn:channels()) do
    if joined == channel then
      return true
    end
  end
  return false
end

-- The channel of a room, or nil and what is wrong with its name.
local function channel_of(room)
  if type(room) ~= "string" or #room > 32 or not room:find("^[%w_-]+$") then
    return nil, "room must be 1 to 32 letters, digits, - or _"
  end
  return "room:" .. room
end

-- Each returns what went wrong, if anything did.
local ops = {}

function ops.join(conn, channel)
  if is_in(conn, channel) then
    return "you are in that room already"
  elseif #conn:channels() >= MAX_ROOMS then
    return "you are in " .. MAX_ROOMS .. " rooms already"
  end
  local err = conn:subscribe(channel)
  if not err then
    tell(conn, channel, "join")
  end
  return err
end

function ops.quit(conn, channel)
  if not is_in(conn, channel) then
    return "you are not in that room"
  end
  local err = conn:unsubscribe(channel)
  if not err then
    tell(conn, channel, "quit")
  end
  return err
end

function ops.send(conn, channel, data)
  if type(data.text) ~= "string" or data.text == "" or #data.text > MAX_TEXT then
    return "text must be a string of 1 to " .. MAX_TEXT .. " bytes"
  elseif not is_in(conn, channel) then
    return "you are not in that room"
  end
  tell(conn, channel, "send", data.text)
end

local function rooms_of(conn)
  local rooms = mix.json_array({})
  for i, channel in ipairs(conn:channels()) do
    rooms[i] = channel:sub(#"room:" + 1)
  end
  table.sort(rooms)
  return rooms
end

function on_handshake(client_id, headers, server, conn)
  local url = mix.parse_url(server.RequestUri)
  local name = url and url.query.name
  -- All that is told is JSON: what can't be encoded is no name.
  if type(name) ~= "string" or name == "" or #name > 32 or name:find("%c") or not mix.json_encode(name) then
    return false, 400, "name must be 1 to 32 bytes: /chat?name=Ann"
  end
  return not conn:set_context_value("name", name)
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  if type(data) ~= "table" then
    return answer(conn, nil, "a JSON object was expected")
  elseif data.op == "rooms" then
    return answer(conn, data.op, nil, rooms_of(conn))
  elseif type(data.op) ~= "string" or not ops[data.op] then
    return answer(conn, nil, "op must be join, send, quit or rooms")
  end
  local channel, err = channel_of(data.room)
  answer(conn, data.op, err or ops[data.op](conn, channel, data))
end

-- However it ended, its rooms hear of it.
function on_close(client_id, err, conn)
  for _, channel in ipairs(conn:channels()) do
    tell(conn, channel, "quit")
  end
end
