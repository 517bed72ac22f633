-- Channels that are told who came and who went, and how many are in them, as their rules say.
local native, engine = ...

local type, pairs, format, gsub = type, pairs, string.format, string.gsub
local post, after, now = engine.post, engine.after, engine.now

-- channel -> the number that it was told last and when, and whether it is to be told.
local numbers = {}

local function tell_number(channel, message)
  local told, n = numbers[channel], engine.count(channel)
  told.due, told.at = false, now()
  if n > 0 and n ~= told.n then
    local text = gsub(message, "%%n", format("%d", n))
    engine.tell_channel(channel, text, nil)
  end
  told.n = n
end

-- A connection has come to a channel, or has left it; `info`: what its script told of it.
local function moved(c, channel, came, info)
  local join_leave, presence, every, message = native.room_rule(channel)
  if join_leave then
    local told = type(info) == "string" and presence and ',"i":' .. info or ""
    local text = format('{"event":"%s","data":{"c":"%s"%s}}', came and "@join" or "@leave", c.id, told)
    post(function() engine.tell_channel(channel, text, { [c.id] = true }) end)
  end
  if every > 0 then
    local told = numbers[channel] or {}
    numbers[channel] = told
    if not told.due then
      told.due = true
      local wait = told.at and told.at + every - now() or 0
      after(wait > 0 and wait or 0, function() tell_number(channel, message) end)
    end
  end
end

-- Puts a connection into a channel, with what is told of it there or true; or, with nil, takes it out.
function engine.set_member(c, channel, member)
  local before = c.channels[channel]
  c.channels[channel] = member
  if (before == nil) ~= (member == nil) then
    moved(c, channel, member ~= nil, member or before)
  end
end

-- It has ended: it leaves all its channels.
function engine.leave_all(c)
  local channels = c.channels
  c.channels = {}
  for channel, info in pairs(channels) do
    moved(c, channel, false, info)
  end
end
