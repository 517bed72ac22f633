-- The message centre: the back end says whose token it is, and later publishes to the channel user:<uid> what that user
-- is to see, on every device that is open.
--
--   ws://127.0.0.1:6790/messages?token=...    a token that the back end knows; else HTTP 401
--   {"op":"read","id":17}                     the user has read it: the back end is told; {"op":"read","id":17,"ok":true}
--
-- What goes wrong is answered with {"op":...,"id":...,"error":"why"}.

local BACKEND = mix.server.option("backend")

-- Asks the back end. Returns its reply as a table and the status; or nil, the status if there was one, and what went wrong.
local function ask(method, path, token, body)
  local resp, err = mix.http.request(method, BACKEND .. path, {
    headers = { Authorization = "Bearer " .. token, ["Content-Type"] = "application/json" },
    body = body and mix.json_encode(body),
    timeout = "3s",
  })
  if err then
    return nil, nil, err
  elseif resp.status_code ~= 200 then
    return nil, resp.status_code, method .. " " .. path .. ": status " .. resp.status_code
  end
  local reply = mix.json_decode(resp.body)
  if type(reply) ~= "table" then
    return nil, 200, method .. " " .. path .. ": a JSON object was expected"
  end
  return reply, 200
end

-- A user's or a message's number as text, whether it came as a number or as text already; nil for anything else.
local function id_text(id)
  local text = type(id) == "number" and id % 1 == 0 and string.format("%.0f", id) or id
  return type(text) == "string" and #text <= 20 and text:match("^%d+$") or nil
end

function on_handshake(client_id, headers, server, conn)
  local url = mix.parse_url(server.RequestUri)
  local token = url and url.query.token
  -- What goes into a header must not hold anything that ends one.
  if type(token) ~= "string" or #token > 512 or not token:find("^[%w._~+/=-]+$") then
    return false, 401, "a token is needed"
  end
  local reply, status, err = ask("GET", "/auth", token)
  local uid = reply and id_text(reply.uid)
  if status == 401 then
    return false, 401, "that token is not valid"
  elseif not uid then
    mix.log(mix.ERROR, "the back end did not tell whose token it is: " .. (err or "no uid"))
    return false, 503, "please try again later"
  end
  err = conn:set_context({ uid = uid, token = token }) or conn:subscribe("user:" .. uid)
  if err then
    mix.log(mix.ERROR, err)
    return false, 503, "please try again later"
  end
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local id = type(data) == "table" and id_text(data.id)
  if not id or data.op ~= "read" then
    return conn:send(mix.json_encode({ error = 'expected {"op":"read","id":NUMBER}' }))
  end
  local _, status, err = ask("POST", "/read", conn:context_value("token"), { id = data.id })
  if err then
    mix.log(mix.WARN, err)
    err = status and status >= 400 and status < 500 and "refused" or "please try again later"
  end
  conn:send(mix.json_encode({ op = "read", id = data.id, ok = not err or nil, error = err }))
end
