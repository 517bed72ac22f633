-- The back ends of scripts: a queue, and canned replies for HTTP and Redis.
local native, engine = ...

local type, error, tostring, tonumber, pairs, ipairs, next = type, error, tostring, tonumber, pairs, ipairs, next
local select, setmetatable, unpack, concat = select, setmetatable, unpack, table.concat
local format, upper, find, gsub = string.format, string.upper, string.find, string.gsub
local checked = engine.checked
local json_encode, json_decode = mix.json_encode, mix.json_decode
local later, post, after, seen, headers_meta = engine.later, engine.post, engine.after, engine.seen, engine.headers_meta
local GONE = native.gone

local function string_arg(name, index, value)
  if type(value) ~= "string" and type(value) ~= "number" then
    error(format("bad argument #%d to '%s' (string expected, got %s)", index, name, type(value)), 3)
  end
  return tostring(value)
end

-- Fails the test even where the script catches the error.
local function unexpected(what, how)
  local message = "unexpected " .. what .. "; " .. how
  engine.unexpected[#engine.unexpected + 1] = engine.failure(message, { native.place() })
  error(message, 3)
end

local topics, topic_count = {}, 0
mix.queue = {}
function mix.queue.push(...)
  local topic, wrong = checked("push", native.queue_args(...))
  local json, err = json_encode((select(2, ...)))
  if wrong or err then
    return nil, wrong or err
  elseif not topics[topic] and topic_count >= native.max_topics then
    local text = "topic \"%s\" can't be made: there are %d already (engine.luavm.queue.maxTopics)"
    return nil, format(text, topic, topic_count)
  elseif (topics[topic] or 0) >= native.topic_size and native.queue_blocks then
    -- It would wait for room, which no back end makes here.
    return later({ n = 2, nil, GONE }, function() end)
  elseif (topics[topic] or 0) >= native.topic_size then
    return nil, format("topic \"%s\" is full: %d messages wait (engine.luavm.queue.topicSize)", topic, topics[topic])
  end
  topic_count = topic_count + (topics[topic] and 0 or 1)
  topics[topic] = (topics[topic] or 0) + 1
  seen.queued[#seen.queued + 1] = { topic = topic, data = json_decode(json) }
  return topics[topic]
end

local function quoted(words)
  local shown = {}
  for i, word in ipairs(words) do
    shown[i] = find(word, "^[%w_:.*-]+$") and word or format("%q", word)
  end
  return concat(shown, " ")
end

-- The latest of the canned replies whose words the command begins with; more words win.
local function redis_reply(words)
  local best
  for _, canned in ipairs(engine.redis) do
    local fits = #canned.words <= #words and (not best or #canned.words >= #best.words)
    for i, word in ipairs(canned.words) do
      local got = words[i]
      fits = fits and (word == got or i == 1 and upper(word) == upper(got))
    end
    best = fits and canned or best
  end
  return best
end
local function redis_command(words)
  seen.commands[#seen.commands + 1] = words
  return redis_reply(words)
end
-- What a command returns for a reply: a reply that is an error becomes the err. In an array an error stays `{err =
-- "..."}`.
local function redis_result(reply, err)
  if type(reply) == "table" and type(reply.err) == "string" and next(reply) == "err" and next(reply, "err") == nil then
    return nil, reply.err
  end
  return reply, err
end
local function redis_wait(canned, words)
  return later({ n = 2, nil, GONE }, function(give)
    post(function()
      if type(canned.reply) == "function" then
        return give(redis_result(canned.reply(unpack(words))))
      end
      give(redis_result(canned.reply))
    end)
  end)
end
local function how_redis(words)
  return format("answer it with test.redis(\"%s\", ..., reply)", words[1])
end
-- To be called as the last thing a function does: the error is that function's.
local function redis_answer(words)
  local canned = redis_command(words)
  if not canned then
    unexpected("Redis command: " .. quoted(words), how_redis(words))
  end
  return redis_wait(canned, words)
end
local redis_methods, redis_names = {}, setmetatable({}, { __mode = "k" })
local redis_meta = { __index = redis_methods, __metatable = false }
function redis_methods.command(self, ...)
  local name = redis_names[self]
  if not name then
    error("not a Redis: got " .. type(self) .. " where one was expected (call methods with a colon: r:command(\"get\", \"k\"))", 2)
  end
  local words, err = checked("command", native.command_args(...))
  if err then
    return nil, "redis " .. name .. ": " .. err
  end
  return redis_answer(words)
end
mix.redis = {}
function mix.redis.connection(name)
  name = string_arg("connection", 1, name)
  if native.redis and not native.redis[name] then
    return nil, format("no Redis is called \"%s\" under engine.luavm.redis", name)
  end
  local redis = setmetatable({}, redis_meta)
  redis_names[redis] = name
  return redis
end
function mix.redis.push(queue, data)
  queue = string_arg("push", 1, queue)
  local c = engine.current()
  local json, err = json_encode({ n = "1", c = c and c.id, t = queue, d = data })
  if err then
    return nil, err
  end
  local words = { "lpush", queue, json }
  return redis_answer(words)
end

local function response(reply, request)
  if type(reply) ~= "table" then
    return reply
  end
  local body = tostring(reply.body or "")
  return {
    status_code = reply.status_code or 200, body = body, body_size = #body, url = reply.url or request.url,
    headers = setmetatable(reply.headers or {}, headers_meta), cookies = reply.cookies or {},
  }
end
-- The canned reply to a request, and the request as a test sees it.
local function http_reply(method, url, options)
  method, url = upper(method), tostring(url)
  local request, plain = {}, gsub(url, "[?#].*$", "")
  for key, value in pairs(options or {}) do
    request[key] = value
  end
  request.method, request.url, request.body = method, url, request.body or ""
  request.headers = setmetatable(request.headers or {}, headers_meta)
  if request.query and request.query ~= "" then
    request.url = url .. (find(url, "?", 1, true) and "&" or "?") .. request.query
  end
  seen.requests[#seen.requests + 1] = request
  local canned
  for _, candidate in ipairs(engine.http) do
    if candidate.method == method and (candidate.url == request.url or candidate.url == url or candidate.url == plain) then
      canned = candidate
    end
  end
  return canned, request
end
local function unanswered(request)
  return format("HTTP request: %s %s", request.method, request.url),
    format("answer it with test.http(%q, %q, reply)", request.method, request.url)
end
local function http_wait(canned, request, results)
  return later({ n = 2, nil, GONE }, function(give)
    post(function()
      local reply, err = canned.reply, nil
      if type(reply) == "function" then
        reply, err = reply(request)
      end
      local delay = type(reply) == "table" and tonumber(reply.delay) or 0
      after(delay, function() give(results(response(reply, request), err)) end)
    end)
  end)
end
local function same(...)
  return ...
end
mix.http = {}
function mix.http.request(method, url, options)
  local err = checked("request", native.request_problem(method, url, options))
  if err then
    return nil, err
  end
  local canned, request = http_reply(method, url, options)
  if not canned then
    unexpected(unanswered(request))
  end
  return http_wait(canned, request, same)
end

-- A key set is fetched each time: nothing is kept in a test.
function mix.jwt_verify(token, keys, options)
  local url, err = checked("jwt_verify", native.jwt_keys(token, keys, options))
  if err then
    return nil, err
  elseif not url then
    return native.jwt_claims({ engine.now() }, token, keys, options)
  end
  local canned, request = http_reply("GET", url)
  if not canned then
    unexpected(unanswered(request))
  end
  return http_wait(canned, request, function(reply, why)
    if why or type(reply) ~= "table" then
      return nil, "jwt_verify: " .. tostring(why)
    elseif reply.status_code ~= 200 then
      return nil, format("jwt_verify: %s answered with status %d", url, reply.status_code)
    end
    return native.jwt_claims({ engine.now(), reply.body }, token, keys, options)
  end)
end
