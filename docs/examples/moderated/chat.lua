-- Rooms where everyone has a name that nobody else has, and where moderators mute and kick.
--
--   {"op":"enter","room":"tea","name":"Ann","session":"..."}   first; moderators add their "key"
--   {"op":"say","text":"hello"}
--   {"op":"mute","name":"Bob","seconds":60}                    moderators only; 0 ends a mute
--   {"op":"kick","name":"Bob"}                                 moderators only
--
-- Each is answered with {"op":...,"ok":true} or {"op":...,"error":"why not"}; the answer to "enter" has "id" and "people" too.
-- The room is told {"event":"say" or "mute" or "kick","name":...}; who comes and goes the engine tells.

local SECRET = mix.server.option("secret")
local MAX_TEXT, MAX_MUTE, KICK_SECONDS, ENTER_SECONDS = 1000, 86400, 60, 10

local function answer(conn, op, err, more)
  local reply = more or {}
  reply.op, reply.ok, reply.error = op, not err or nil, err
  conn:send(mix.json_encode(reply))
end

-- Tells everybody in the room of this connection.
local function tell(conn, news)
  mix.mesh.publish("room:" .. conn:context_value("room"), mix.json_encode(news), "text", { counts = false })
end

-- A name in a room, as it stands in the keys of mix.shared: Ann and ANN are one.
local function handle_of(room, name)
  return room .. "/" .. name:lower()
end

-- How many seconds are left of what ends at the time that is kept there; nil if nothing is.
local function left(key)
  local ends = mix.shared.get(key)
  return ends and math.max(1, math.ceil(ends - mix.now()))
end

local function begin(key, seconds)
  return mix.shared.set(key, mix.now() + seconds, seconds)
end

-- What is wrong with the words of "enter", if anything is.
local function wrong(data)
  local room, name, session, key = data.room, data.name, data.session, data.key
  if type(room) ~= "string" or #room > 32 or not room:find("^[%w_-]+$") then
    return "room must be 1 to 32 letters, digits, - or _"
  elseif type(name) ~= "string" or name == "" or #name > 80 or name:find("%c") or name:find("^%s") or name:find("%s$") then
    return "name must be 1 to 80 bytes, without spaces around it"
  elseif type(session) ~= "string" or #session > 64 or not session:find("^[%w-]+$") or #session < 16 then
    return "session must be 16 to 64 letters, digits or -, made up by the client and kept secret"
  elseif key ~= nil and key ~= mix.hmac_sha256(SECRET, "moderator:" .. name) then
    return "that is no key for a moderator of this name"
  end
end

-- Takes the name for this connection, unless another session has it. One that was lost unnoticed makes room for the
-- same session's next one.
local function claim(conn, handle, data)
  local mine = { id = conn:client_id(), name = data.name, session = data.session, moderator = data.key ~= nil }
  while true do
    local held = mix.shared.get("name:" .. handle)
    if held and held.session ~= data.session then
      return "that name is taken"
    end
    local won, err = mix.shared.cas("name:" .. handle, held, mine)
    if won and held then
      mix.mesh.close(held.id, 4008, "you are here on another connection")
    end
    if won or err then
      return err
    end
  end
end

-- Gives the name back, if this connection still has it.
local function release(client_id, handle)
  local held = mix.shared.get("name:" .. handle)
  if held and held.id == client_id then
    mix.shared.cas("name:" .. handle, held, nil)
  end
end

local function people_in(channel)
  local people = mix.json_array({})
  local page, err = mix.mesh.presence(channel)
  for i, client in ipairs(page and page.clients or {}) do
    people[i] = { id = client.c, info = client.i }
  end
  return people, err
end

-- Each returns what went wrong, if anything did, and what else to answer.
local ops = {}

function ops.enter(conn, data)
  if conn:context_value("room") then
    return "you are in a room already"
  end
  local err = wrong(data)
  if err then
    return err
  end
  local handle, moderator = handle_of(data.room, data.name), data.key ~= nil
  local seconds = left("kick:" .. handle)
  if seconds then
    return "you have been kicked; come back in " .. seconds .. " s"
  end
  err = claim(conn, handle, data)
  if err then
    return err
  end
  local channel, reply = "room:" .. data.room, { id = conn:client_id() }
  err = conn:subscribe(channel, { info = { name = data.name, moderator = moderator } })
    or conn:set_context({ room = data.room, name = data.name, handle = handle, moderator = moderator })
  if not err then
    reply.people, err = people_in(channel)
  end
  if err then
    conn:unsubscribe(channel)
    conn:set_context_value("room", nil)
    release(conn:client_id(), handle)
  end
  return err, reply
end

function ops.say(conn, data)
  if type(data.text) ~= "string" or data.text == "" or #data.text > MAX_TEXT then
    return "text must be a string of 1 to " .. MAX_TEXT .. " bytes"
  end
  local seconds = left("mute:" .. conn:context_value("handle"))
  if seconds then
    return "you are muted for another " .. seconds .. " s"
  end
  tell(conn, { event = "say", name = conn:context_value("name"), text = data.text })
end

-- Who is meant by a moderator: who has the name, and the handle; or nil, nil and what is wrong.
local function target(conn, data)
  if not conn:context_value("moderator") then
    return nil, nil, "only moderators can"
  elseif type(data.name) ~= "string" then
    return nil, nil, "name must be a string"
  end
  local handle = handle_of(conn:context_value("room"), data.name)
  local held = #data.name <= 80 and mix.shared.get("name:" .. handle)
  if not held then
    return nil, nil, "nobody of that name is here"
  elseif held.moderator then
    return nil, nil, "that is a moderator"
  end
  return held, handle
end

function ops.mute(conn, data)
  local held, handle, err = target(conn, data)
  if err then
    return err
  end
  local seconds = data.seconds
  if type(seconds) ~= "number" or seconds < 0 or seconds > MAX_MUTE then
    return "seconds must be a number from 0 to " .. MAX_MUTE
  elseif seconds > 0 then
    err = begin("mute:" .. handle, seconds)
  else
    err = mix.shared.set("mute:" .. handle, nil)
  end
  if err then
    return err
  end
  tell(conn, { event = "mute", name = held.name, seconds = seconds, by = conn:context_value("name") })
end

function ops.kick(conn, data)
  local held, handle, err = target(conn, data)
  err = err or begin("kick:" .. handle, KICK_SECONDS)
  if err then
    return err
  end
  tell(conn, { event = "kick", name = held.name, by = conn:context_value("name") })
  local _, failed = mix.mesh.close(held.id, 4003, "kicked")
  return failed
end

-- Who connects and then says nothing does not stay.
function on_handshake(client_id, headers, server, conn)
  mix.timer.after(ENTER_SECONDS, "enter_or_leave", { connection = conn })
end

function enter_or_leave(conn)
  if not conn:context_value("room") then
    conn:close(4000, "enter a room within " .. ENTER_SECONDS .. " s")
  end
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  if type(data) ~= "table" then
    return answer(conn, nil, "a JSON object was expected")
  end
  local run = type(data.op) == "string" and ops[data.op]
  if not run then
    return answer(conn, nil, "op must be enter, say, mute or kick")
  elseif data.op ~= "enter" and not conn:context_value("room") then
    return answer(conn, data.op, "enter a room first")
  end
  answer(conn, data.op, run(conn, data))
end

-- However it ended, the name is free again.
function on_close(client_id, err, conn)
  local handle = conn:context_value("handle")
  if handle then
    release(client_id, handle)
  end
end
