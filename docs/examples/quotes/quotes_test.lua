-- Tests of the board; run them with `connmix test docs/examples/quotes -f docs/examples/quotes/connmix.yaml`.

local app, client
test.before_each(function()
  app = test.load("quotes.lua")
  client = app:connect()
end)

local function last()
  return mix.json_decode(client.sent[#client.sent].data)
end

local function watch(board)
  client:message(mix.json_encode({ op = "watch", board = board }))
  return last()
end

test.it("a board that is opened shows the last quotes first, then what is published", function()
  test.publish("board:crypto", "one")
  test.publish("board:metals", "other")
  test.publish("board:crypto", "two")
  test.equal(watch("crypto"), { op = "watch", ok = true })
  test.publish("board:crypto", "three")
  local got = {}
  for i, message in ipairs(client.sent) do
    got[i] = message.data
  end
  test.equal({ got[1], got[2], got[4] }, { "one", "two", "three" })
end)

test.it("one board at a time", function()
  watch("crypto")
  watch("metals")
  test.equal(client:channels(), { "board:metals" })
  watch("metals")
  test.equal(client:channels(), { "board:metals" })
end)

test.it("what is no board is refused, and changes nothing", function()
  watch("crypto")
  for _, board in ipairs({ "stocks", "", "crypto metals", 7, false, { "crypto" } }) do
    test.match(watch(board).error, "^expected")
  end
  for _, wrong in ipairs({ "?", "7", "{}", '{"op":"sell","board":"crypto"}' }) do
    client:message(wrong)
    test.truthy(last().error, wrong)
  end
  test.equal(client:channels(), { "board:crypto" })
end)
