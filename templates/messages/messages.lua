-- A user's messages, on every device that is open. The back end signs the address that a page connects to, and publishes to
-- the channel user:<uid> what that user is to see.
--
--   ws://127.0.0.1:6790/messages?uid=1001&until=1798761600&sign=...
--   {"op":"read","id":17}       all devices of the user get {"event":"read","id":17}
--
-- The sign is the HMAC-SHA256, in hex, of "1001:1798761600" with the secret of the server's options; until is when it ends, in
-- seconds of Unix time. What goes wrong is answered with {"error":"why"}.

local SECRET = mix.server.option("secret") or error("the server needs the option secret")

local function channel_of(conn)
  return "user:" .. conn:context_value("uid")
end

function on_handshake(client_id, headers, server, conn)
  local url = mix.parse_url(server.RequestUri)
  local query = url and url.query or {}
  local uid, expires, sign = query.uid, query["until"], query.sign
  if type(uid) ~= "string" or not uid:find("^%d+$") or #uid > 20 or type(expires) ~= "string" or not expires:find("^%d+$") then
    return false, 401, "uid, until and sign are needed"
  elseif sign ~= mix.hmac_sha256(SECRET, uid .. ":" .. expires) then
    return false, 401, "sign is wrong"
  elseif tonumber(expires) < mix.now() then
    return false, 401, "that login has ended"
  end
  local err = conn:set_context_value("uid", uid) or conn:subscribe("user:" .. uid)
  if err then
    mix.log(mix.ERROR, err)
    return false, 503, "please try again later"
  end
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  if type(data) ~= "table" or data.op ~= "read" or type(data.id) ~= "number" or data.id % 1 ~= 0 then
    return conn:send(mix.json_encode({ error = 'expected {"op":"read","id":NUMBER}' }))
  end
  -- Not the number as Lua would write it: long ones keep all their digits.
  local news = string.format('{"event":"read","id":%.0f}', data.id)
  mix.mesh.publish(channel_of(conn), news, "text", { counts = false })
end
