-- Comments over a video, for who is there, who comes late and who comes back.
--
--   {"op":"subscribe","channel":"100001@video"}                   the last 50 comments come first
--   {"op":"subscribe","channel":"100001@video","since":"..."}     those that came after that position come first
--   {"op":"unsubscribe","channel":"100001@video"}
--   {"op":"comment","channel":"100001@video","msg":"Hello"}
--
-- Each is answered with {"result":true} or {"code":1,"msg":"what is wrong"}; "subscribe" with "position", "recovered" and "online" too. A
-- comment comes as {"c":"video:100001","p":position,"d":"{\"event\":\"@video\",\"data\":{\"msg\":\"Hello\"}}"}, with "n" if many said the same
-- at once; who is told "over":true was one too many, and is in that number or left out.

local LAST, MAX_MSG = 50, 200

-- "100001@video" -> "video:100001", or nil and what is wrong.
local function channel_of(name)
  local video = type(name) == "string" and #name < 30 and name:match("^(%d+)@video$")
  if not video then
    return nil, "channel must be a string such as 100001@video"
  end
  return "video:" .. video
end

local function is_in(conn, channel)
  for _, name in ipairs(conn:channels()) do
    if name == channel then
      return true
    end
  end
  return false
end

-- Each returns what went wrong, if anything did, and what else to answer.
local ops = {}

function ops.subscribe(conn, channel, data)
  local since = data.since
  if since ~= nil and (type(since) ~= "string" or #since > 100) then
    return "since must be a position"
  end
  local err, at = conn:subscribe(channel, { since = since, last = LAST })
  if err then
    return err
  end
  local reply = { position = at.position, recovered = at.recovered }
  reply.online = mix.mesh.count(channel)
  return nil, reply
end

function ops.unsubscribe(conn, channel)
  return conn:unsubscribe(channel)
end

function ops.comment(conn, channel, data)
  if type(data.msg) ~= "string" or data.msg == "" or #data.msg > MAX_MSG then
    return "msg must be a string of 1 to " .. MAX_MSG .. " bytes"
  elseif not is_in(conn, channel) then
    return "subscribe first"
  end
  -- Put together by hand: json_encode writes the keys in any order, and the same words are to be the same bytes.
  local event = '{"event":"@video","data":{"msg":' .. mix.json_encode(data.msg) .. "}}"
  local _, _, err, _, over = mix.mesh.publish(channel, event, "text", { key = "comment" })
  return err, { over = over and true }
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local run = type(data) == "table" and type(data.op) == "string" and ops[data.op]
  local channel, err, reply
  if not run then
    err = "op must be subscribe, unsubscribe or comment"
  else
    channel, err = channel_of(data.channel)
  end
  if not err then
    err, reply = run(conn, channel, data)
  end
  if err then
    reply = { code = 1, msg = err }
  else
    reply = reply or {}
    reply.result = true
  end
  conn:send(mix.json_encode(reply))
end
