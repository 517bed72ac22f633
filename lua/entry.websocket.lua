-- The barrage: a client subscribes to the channel of the video it watches, and gets what is published there.
--
--   client sends                                      client gets
--   {"op":"subscribe","channel":"100001@video"}       {"result":true}
--   {"op":"unsubscribe","channel":"100001@video"}     {"result":true}
--   anything else                                     {"code":1,"msg":"what is wrong"}
--
-- A back end publishes to the channel "video:100001" (POST /v1/mesh/publish). Save this file, and the next message is
-- handled by the new code; connections, contexts and subscriptions stay.

local json_encode, json_decode, str_split = mix.json_encode, mix.json_decode, mix.str_split

local OK = '{"result":true}'

local function fail(conn, reason)
  mix.log(mix.DEBUG, "refused: " .. reason)
  -- Put together by hand, since json_encode writes a table's keys in any order.
  conn:send('{"code":1,"msg":' .. json_encode(reason) .. "}")
end

-- "100001@video" -> "video:100001", or nil and what is wrong.
local function channel_of(name)
  if type(name) ~= "string" then
    return nil, "channel must be a string such as 100001@video"
  end
  local parts = str_split(name, "@")
  if #parts ~= 2 or parts[1] == "" or parts[2] ~= "video" then
    return nil, "unknown channel: " .. name
  end
  return "video:" .. parts[1]
end

-- Before the connection opens. Check a token of headers or query here; return false to refuse (403).
function on_handshake(client_id, headers, server, conn)
  return true
end

function on_message(msg, conn)
  if msg.type ~= "text" then
    return fail(conn, "text messages only")
  end
  local data, err = json_decode(msg.data)
  if err then
    return fail(conn, "invalid JSON: " .. err)
  end
  if type(data) ~= "table" then
    return fail(conn, "a JSON object was expected")
  end
  if data.op ~= "subscribe" and data.op ~= "unsubscribe" then
    return fail(conn, "op must be subscribe or unsubscribe")
  end

  local channel
  channel, err = channel_of(data.channel)
  if not err then
    if data.op == "subscribe" then
      err = conn:subscribe(channel)
    else
      err = conn:unsubscribe(channel)
    end
  end
  if err then
    return fail(conn, err)
  end
  conn:send(OK)
end

-- However it ended: err is nil after a clean close. Subscriptions end by themselves.
function on_close(client_id, err, conn)
  if err then
    mix.log(mix.DEBUG, "client " .. client_id .. " was lost: " .. err)
  end
end
