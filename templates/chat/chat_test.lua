-- Run with: connmix test

local app, ann, bob
test.before_each(function()
  app = test.load("chat.lua", { options = { path = "/chat" } })
  ann = app:connect({ uri = "/chat?name=Ann" })
  bob = app:connect({ uri = "/chat?name=Bob" })
end)

-- All that a client got, decoded.
local function got(client)
  local all = {}
  for i, message in ipairs(client.sent) do
    all[i] = mix.json_decode(message.data)
  end
  return all
end

local function join(client, room)
  client:message('{"op":"join","room":"' .. room .. '"}')
end

test.it("what is said in a room reaches all who are in it", function()
  join(ann, "tea")
  join(bob, "tea")
  bob:message('{"op":"send","room":"tea","text":"hello"}')
  local all = got(ann)
  test.equal(all[#all], { event = "send", room = "tea", name = "Bob", text = "hello" })
end)

test.it("who is not in a room says nothing there", function()
  join(ann, "tea")
  bob:message('{"op":"send","room":"tea","text":"hello"}')
  test.equal(got(bob), { { op = "send", error = "you are not in that room" } })
end)

test.it("who leaves is told of, however it was", function()
  join(ann, "tea")
  join(bob, "tea")
  bob:close("connection reset")
  local all = got(ann)
  test.equal(all[#all], { event = "quit", room = "tea", name = "Bob" })
end)

test.it("a room can be left", function()
  join(ann, "tea")
  ann:message('{"op":"quit","room":"tea"}')
  ann:message('{"op":"rooms"}')
  local all = got(ann)
  test.equal(all[#all], { op = "rooms", ok = true, rooms = {} })
end)

test.it("nobody comes without a name", function()
  test.equal(app:connect({ uri = "/chat" }).refused.status, 400)
end)

test.it("what is not understood is answered", function()
  ann:message("hello")
  test.equal(got(ann), { { error = "a JSON object was expected" } })
end)
