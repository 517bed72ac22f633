-- Tests of the barrage's handler; run them with `connmix test`.

local app, client
test.before_each(function()
  app = test.load("entry.websocket.lua")
  client = app:connect()
end)

-- What the client gets for what it sends.
local function answer(text, kind)
  client:message(text, kind)
  return client.sent[#client.sent].data
end

test.describe("subscribing", function()
  test.it("puts the client into the channel of its video", function()
    test.equal(answer('{"op":"subscribe","channel":"100001@video"}'), '{"result":true}')
    test.equal(client:channels(), {"video:100001"})
    test.equal(test.publish("video:100001", "hello"), 1)
    test.equal(client.sent[2], {data = "hello", type = "text"})
  end)

  test.it("twice delivers once", function()
    answer('{"op":"subscribe","channel":"7@video"}')
    answer('{"op":"subscribe","channel":"7@video"}')
    test.publish("video:7", "hello")
    test.equal(#client.sent, 3)
  end)

  test.it("ends with unsubscribe, for that video alone", function()
    answer('{"op":"subscribe","channel":"7@video"}')
    answer('{"op":"subscribe","channel":"8@video"}')
    test.equal(answer('{"op":"unsubscribe","channel":"7@video"}'), '{"result":true}')
    test.equal(client:channels(), {"video:8"})
  end)
end)

test.describe("what is not understood", function()
  for _, case in ipairs({
    {'{"op":"subscribe","channel":"video:100001"}', "unknown channel: video:100001"},
    {'{"op":"subscribe","channel":"@video"}', "unknown channel: @video"},
    {'{"op":"subscribe","channel":"1@2@video"}', "unknown channel: 1@2@video"},
    {'{"op":"subscribe","channel":7}', "channel must be a string such as 100001@video"},
    {'{"op":"shout","channel":"7@video"}', "op must be subscribe or unsubscribe"},
    {'{}', "op must be subscribe or unsubscribe"},
    {'7', "a JSON object was expected"},
  }) do
    local text, reason = case[1], case[2]
    test.it("is answered with the reason: " .. text, function()
      test.equal(mix.json_decode(answer(text)), {code = 1, msg = reason})
      test.equal(client:channels(), {})
    end)
  end

  test.it("includes what is no JSON", function()
    test.match(answer("hello"), '^{"code":1,"msg":"invalid JSON: .* line 1 column 1"}$')
  end)

  test.it("includes binary messages", function()
    test.equal(answer("{}", "binary"), '{"code":1,"msg":"text messages only"}')
  end)

  test.it("leaves the connection open", function()
    answer("hello")
    test.equal(client.closed, nil)
    test.equal(answer('{"op":"subscribe","channel":"7@video"}'), '{"result":true}')
  end)
end)

test.it("logs why a client was lost", function()
  client:close("connection reset")
  test.equal(app.logged[1].level, "debug")
  test.match(app.logged[1].text, "^client %d+ was lost: connection reset$")
end)
