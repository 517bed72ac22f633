-- Quotes: a client names the pairs that it wants, and gets the last quote of each at once and every new one from then on.
--
--   {"op":"subscribe","pairs":["BTC-USD","ETH-USD"]}      also "unsubscribe"
--
-- Each is answered with {"op":...,"ok":true}, or with {"op":...,"error":"why not"} and nothing is changed.
--
-- A back end connects like a client, with the word of the option "feed" where there is one, and sends what it knows:
--
--   {"op":"quote","pair":"BTC-USD","price":"64000.10"}
--
-- It is kept as the last one and published. A text, so that the price keeps its digits.

local FEED = mix.server.option("feed")
local MAX_PAIRS = 50

local function answer(conn, op, err)
  conn:send(mix.json_encode({ op = op, ok = not err or nil, error = err }))
  return not err
end

local function is_pair(pair)
  return type(pair) == "string" and #pair <= 32 and pair:find("^%u+-%u+$") ~= nil
end

-- The channels of the pairs of a request; or nil and what is wrong.
local function channels_of(names)
  if type(names) ~= "table" or #names == 0 or #names > MAX_PAIRS then
    return nil, "pairs must be a list of 1 to " .. MAX_PAIRS .. " names"
  end
  local channels = {}
  for i, pair in ipairs(names) do
    if not is_pair(pair) then
      return nil, "pairs must hold names such as BTC-USD"
    end
    channels[i] = "quote:" .. pair
  end
  return channels
end

local ops = {}

function ops.subscribe(conn, data)
  local channels, err = channels_of(data.pairs)
  if not answer(conn, "subscribe", err or conn:subscribe(unpack(channels))) then
    return
  end
  for _, channel in ipairs(channels) do
    local last = mix.shared.get(channel)
    if last then
      conn:send(last)
    end
  end
end

function ops.unsubscribe(conn, data)
  local channels, err = channels_of(data.pairs)
  answer(conn, "unsubscribe", err or conn:unsubscribe(unpack(channels)))
end

function ops.quote(conn, data)
  if not conn:context_value("feed") then
    return answer(conn, "quote", "only the feed may do that")
  elseif not is_pair(data.pair) or type(data.price) ~= "string" or not data.price:find("^%d+%.?%d*$") or #data.price > 32 then
    return answer(conn, "quote", "pair and price are needed")
  end
  local channel = "quote:" .. data.pair
  local text = string.format('{"pair":"%s","price":"%s","time":%d}', data.pair, data.price, mix.now())
  -- All workers see it; for a day, so that pairs that are gone do not stay.
  local err = mix.shared.set(channel, text, 86400)
  if not err then
    mix.mesh.publish(channel, text, "text", { counts = false })
  end
  answer(conn, "quote", err)
end

function on_handshake(client_id, headers, server, conn)
  local url = mix.parse_url(server.RequestUri)
  local feed = url and url.query.feed
  -- Without the option nobody is the feed.
  if FEED and feed == FEED then
    conn:set_context_value("feed", true)
  end
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local op = type(data) == "table" and type(data.op) == "string" and ops[data.op]
  if not op then
    return answer(conn, nil, "op must be subscribe, unsubscribe or quote")
  end
  op(conn, data)
end
