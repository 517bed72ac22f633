-- A board of quotes: a client watches one board at a time, and always has the newest quote of each symbol.
--
--   {"op":"watch","board":"crypto"}     the last quotes come, then {"op":"watch","ok":true}, then what is published
--
-- A back end publishes to board:crypto with the symbol as the key: {"c":"board:crypto","k":"BTC-USD","d":"{...}"}.

local BOARDS = { crypto = true, metals = true }
-- What is kept of a board (engine.channels) has several quotes of each symbol; the newest comes last.
local LAST = 100

local function watch(conn, data)
  if data.op ~= "watch" or type(data.board) ~= "string" or not BOARDS[data.board] then
    return 'expected {"op":"watch","board":"crypto"}, or metals'
  end
  for _, channel in ipairs(conn:channels()) do
    conn:unsubscribe(channel)
  end
  return (conn:subscribe("board:" .. data.board, { last = LAST }))
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local err = type(data) ~= "table" and "a JSON object was expected" or watch(conn, data)
  conn:send(mix.json_encode({ op = "watch", ok = not err or nil, error = err }))
end
