-- Tests of the room; run them with `connmix test docs/examples/live -f docs/examples/live/connmix.yaml`.

local app
test.before_each(function()
  app = test.load("live.lua")
end)

local function ask(client, request)
  client:message(mix.json_encode(request))
  for i = #client.sent, 1, -1 do
    local message = mix.json_decode(client.sent[i].data)
    if message.result or message.code then
      return message
    end
  end
end

-- The comments that a client has got, oldest first; and the position of the last of them.
local function comments(client)
  local list, position = {}, nil
  for _, sent in ipairs(client.sent) do
    local message = mix.json_decode(sent.data)
    if message.d then
      list[#list + 1] = mix.json_decode(message.d).data.msg
      position = message.p
    end
  end
  return list, position
end

local function watch(since)
  local client = app:connect()
  return client, ask(client, { op = "subscribe", channel = "7@video", since = since })
end

local function comment(client, text)
  return ask(client, { op = "comment", channel = "7@video", msg = text })
end

test.it("a comment reaches all who watch that video", function()
  local ann, bob, eve = watch(), watch(), app:connect()
  ask(eve, { op = "subscribe", channel = "8@video" })
  test.equal(comment(ann, "<b>hi</b>"), { result = true })
  test.equal(comments(ann), { "<b>hi</b>" })
  test.equal(comments(bob), { "<b>hi</b>" })
  test.equal(comments(eve), {})
end)

test.it("who comes is told how many are there", function()
  test.equal(select(2, watch()).online, 1)
  test.equal(select(2, watch()).online, 2)
end)

test.describe("who comes late", function()
  test.it("gets the last fifty, and then what comes", function()
    local ann = watch()
    for i = 1, 60 do
      comment(ann, "comment " .. i)
      test.advance(0.02)
    end
    local bob, reply = watch()
    test.equal(reply.result, true)
    local got = comments(bob)
    test.equal({ #got, got[1], got[50] }, { 50, "comment 11", "comment 60" })
    comment(ann, "news")
    test.equal(select(1, comments(bob))[51], "news")
  end)

  test.it("gets no comment of ten minutes ago", function()
    local ann = watch()
    comment(ann, "old")
    test.advance(601)
    comment(ann, "new")
    test.equal(comments((watch())), { "new" })
  end)
end)

test.describe("who comes back", function()
  test.it("gets what was missed, and nothing twice", function()
    local ann, bob = watch(), watch()
    comment(ann, "seen")
    local _, position = comments(bob)
    bob:close("lost")
    comment(ann, "missed")
    local again, reply = watch(position)
    test.equal(reply.recovered, true)
    test.equal(comments(again), { "missed" })
  end)

  test.it("is told when some of it is gone", function()
    local ann, first = watch()
    for i = 1, 60 do
      comment(ann, "comment " .. i)
      test.advance(0.02)
    end
    local bob, reply = watch(first.position)
    test.equal(reply.recovered, false)
    test.equal(#comments(bob), 50)
    test.equal(select(2, watch("no position at all")).recovered, false)
  end)

  test.it("has a position from the start", function()
    local ann, first = watch()
    comment(ann, "news")
    local bob, reply = watch(first.position)
    test.equal(reply.recovered, true)
    test.equal((comments(bob)), { "news" })
  end)
end)

test.describe("where all type at once", function()
  test.it("what is the same is added up", function()
    local ann, bob = watch(), watch()
    for _ = 1, 50 do
      comment(ann, "666")
    end
    test.equal(#comments(bob), 20)
    test.advance(0.2)
    test.equal(#comments(bob), 21)
    test.equal(mix.json_decode(bob.sent[#bob.sent].data).n, 30)
  end)

  test.it("a viewer is told that it was one too many", function()
    local ann = watch()
    for _ = 1, 20 do
      test.equal(comment(ann, "hi"), { result = true })
    end
    test.equal(comment(ann, "hi"), { result = true, over = true })
    test.advance(1)
    test.equal(comment(ann, "hi"), { result = true })
  end)

  test.it("the host is heard", function()
    local ann = watch()
    for i = 1, 100 do
      comment(ann, "comment " .. i)
    end
    local _, _, over = test.publish("video:7", '{"event":"@video","data":{"msg":"silence"}}', "text", { priority = "high" })
    test.equal(over, nil)
    local got = comments(ann)
    test.equal(got[#got], "silence")
  end)
end)

test.it("what can not be done is answered, and changes nothing", function()
  local ann = app:connect()
  for _, wrong in ipairs({ "?", "7", "{}", '{"op":"dance"}', '{"op":{}}', '{"op":"subscribe"}', '{"op":"subscribe","channel":7}',
    '{"op":"subscribe","channel":"7"}', '{"op":"subscribe","channel":"7@radio"}', '{"op":"subscribe","channel":"a b@video"}',
    '{"op":"subscribe","channel":"7@video","since":7}', '{"op":"comment","channel":"7@video","msg":"hi"}' }) do
    ann:message(wrong)
    test.equal(mix.json_decode(ann.sent[#ann.sent].data).code, 1, wrong)
  end
  test.equal(ann:channels(), {})
  ask(ann, { op = "subscribe", channel = "7@video" })
  for _, text in ipairs({ "", ("x"):rep(201), 7, false }) do
    test.match(comment(ann, text).msg, "^msg must be")
  end
  test.equal(app.published, {})
  ask(ann, { op = "unsubscribe", channel = "7@video" })
  test.equal(comment(ann, "hi").msg, "subscribe first")
end)
