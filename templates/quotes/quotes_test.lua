-- Run with: connmix test

local app, client, feed
test.before_each(function()
  app = test.load("quotes.lua", { options = { path = "/quotes", feed = "f" } })
  client = app:connect({ uri = "/quotes" })
  feed = app:connect({ uri = "/quotes?feed=f" })
end)

-- What a connection gets for what it sends, decoded.
local function answer(conn, text)
  conn:message(text)
  return mix.json_decode(conn.sent[#conn.sent].data)
end

local QUOTE = '{"op":"quote","pair":"BTC-USD","price":"64000.10"}'

test.it("a quote goes to those who want the pair", function()
  test.equal(answer(client, '{"op":"subscribe","pairs":["BTC-USD"]}'), { op = "subscribe", ok = true })
  test.equal(answer(feed, QUOTE), { op = "quote", ok = true })
  test.equal(mix.json_decode(client.sent[2].data).price, "64000.10")
end)

test.it("who comes later gets the last one", function()
  feed:message(QUOTE)
  client:message('{"op":"subscribe","pairs":["ETH-USD","BTC-USD"]}')
  test.equal(#client.sent, 2)
  test.equal(mix.json_decode(client.sent[2].data).pair, "BTC-USD")
end)

test.it("unsubscribe ends it", function()
  client:message('{"op":"subscribe","pairs":["BTC-USD"]}')
  client:message('{"op":"unsubscribe","pairs":["BTC-USD"]}')
  feed:message(QUOTE)
  test.equal(#client.sent, 2)
end)

test.it("only the feed sends quotes", function()
  test.equal(answer(client, QUOTE), { op = "quote", error = "only the feed may do that" })
  test.equal(app:connect({ uri = "/quotes?feed=x" }).context.feed, nil)
end)

test.describe("what is not understood changes nothing", function()
  for _, text in ipairs({ "hello", "{}", '{"op":"subscribe"}', '{"op":"subscribe","pairs":["btc"]}', '{"op":"subscribe","pairs":[7]}' }) do
    test.it(text, function()
      test.truthy(answer(client, text).error)
      test.equal(client:channels(), {})
    end)
  end

  test.it("a price that is no number", function()
    test.truthy(answer(feed, '{"op":"quote","pair":"BTC-USD","price":"much"}').error)
  end)
end)
