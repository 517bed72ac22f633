-- Quotes for everybody, orders for the user that they belong to.
--
--   {"op":"subscribe","channels":["ticker:BTC-USD","depth:BTC-USD"]}        also "unsubscribe"
--   {"op":"login","uid":"1001","time":1767225600,"sign":"..."}             then also the channel "orders:1001"
--
-- Each is answered with {"op":...,"ok":true}, or with {"op":...,"error":"why not"} and nothing is changed. The sign is the
-- HMAC-SHA256, in hex, of "1001:1767225600" with the secret of the server's options; the back end makes it.
--
-- After a subscription come the last quotes of its channels, as far as the back end has kept any in Redis; see README.md.

local SECRET = mix.server.option("secret") or error("the server needs the option secret")
-- Seconds that a client's clock, and the way to here, may be off.
local WINDOW = 30
local MAX_CHANNELS = 50

local quotes = assert(mix.redis.connection("quotes"))

-- Whether a connection may have that channel: nil, or why not.
local function refusal(conn, name)
  if type(name) ~= "string" or #name > 64 then
    return "channels must hold names such as ticker:BTC-USD"
  end
  local kind, of = name:match("^(%l+):([%w-]+)$")
  if kind == "ticker" or kind == "depth" then
    return not of:find("^%u+-%u+$") and "no such pair: " .. of or nil
  elseif kind == "orders" then
    return of ~= conn:context_value("uid") and "log in as that user first" or nil
  end
  return "no such channel: " .. name
end

-- The list of channels of a request, checked; or nil and what is wrong.
local function checked(conn, channels)
  if type(channels) ~= "table" or #channels == 0 or #channels > MAX_CHANNELS then
    return nil, "channels must be a list of 1 to " .. MAX_CHANNELS .. " names"
  end
  for _, name in ipairs(channels) do
    local err = refusal(conn, name)
    if err then
      return nil, err
    end
  end
  return channels
end

-- Sends the last quote of each channel that has one. It waits for Redis: what is published meanwhile goes out before it.
local function send_last(conn, channels)
  local keys = {}
  for _, name in ipairs(channels) do
    -- What is private is not kept there.
    if not name:find("^orders:") then
      keys[#keys + 1] = "last:" .. name
    end
  end
  if #keys == 0 then
    return
  end
  local last, err = quotes:command("mget", unpack(keys))
  if err then
    return mix.log(mix.WARN, "no last quotes: " .. err)
  end
  for i = 1, #keys do
    -- Word for word as it was published.
    if last[i] then
      conn:send(last[i])
    end
  end
end

local function answer(conn, op, err)
  conn:send(mix.json_encode({ op = op, ok = not err or nil, error = err }))
  return not err
end

local ops = {}

function ops.subscribe(conn, data)
  local channels, err = checked(conn, data.channels)
  if answer(conn, "subscribe", err or conn:subscribe(unpack(channels))) then
    send_last(conn, channels)
  end
end

function ops.unsubscribe(conn, data)
  local channels, err = checked(conn, data.channels)
  answer(conn, "unsubscribe", err or conn:unsubscribe(unpack(channels)))
end

function ops.login(conn, data)
  local uid, time, sign = data.uid, data.time, data.sign
  local err
  if type(uid) ~= "string" or not uid:find("^%d+$") or #uid > 20 or type(time) ~= "number" or type(sign) ~= "string" then
    err = "uid, time and sign are needed"
  elseif math.abs(mix.now() - time) > WINDOW then
    err = "time is more than " .. WINDOW .. " s off"
  elseif sign ~= mix.hmac_sha256(SECRET, string.format("%s:%.0f", uid, time)) then
    err = "sign is wrong"
  elseif (conn:context_value("uid") or uid) ~= uid then
    -- Its private channels would stay.
    err = "this connection is another user's"
  end
  answer(conn, "login", err or conn:set_context_value("uid", uid))
end

function on_message(msg, conn)
  -- A null in a list is no hole, at which ipairs would stop.
  local data = mix.json_decode(msg.data, { null = true })
  local op = type(data) == "table" and type(data.op) == "string" and ops[data.op]
  if not op then
    return answer(conn, nil, "a JSON object with op subscribe, unsubscribe or login was expected")
  end
  op(conn, data)
end
