-- Tests of the chat with moderators; run them with `connmix test docs/examples/moderated -f docs/examples/moderated/connmix.yaml`.

local app
test.before_each(function()
  app = test.load("chat.lua", { options = { secret = "s3cret" } })
end)

local function last(client)
  return mix.json_decode(client.sent[#client.sent].data)
end

-- The answer to a request. What the room is told of it comes before or behind.
local function ask(client, request)
  client:message(mix.json_encode(request))
  for i = #client.sent, 1, -1 do
    local message = mix.json_decode(client.sent[i].data)
    if message.op then
      return message
    end
  end
end

-- A client that is in the room "tea" under that name; with a key, a moderator.
local function enter(name, more)
  local client = app:connect()
  local request = { op = "enter", room = "tea", name = name, session = "session-of-" .. client.id .. "-0000" }
  for key, value in pairs(more or {}) do
    request[key] = value
  end
  return client, ask(client, request)
end

local function moderator(name)
  return enter(name, { key = mix.hmac_sha256("s3cret", "moderator:" .. name) })
end

test.describe("entering", function()
  test.it("tells who is there", function()
    local ann, reply = enter("Ann")
    test.equal(reply, { op = "enter", ok = true, id = ann.id, people = { { id = ann.id, info = { name = "Ann", moderator = false } } } })
    local mia, second = moderator("Mia")
    test.equal(second.people[2], { id = mia.id, info = { name = "Mia", moderator = true } })
  end)

  test.it("and leaving are told to the room, by the engine", function()
    local ann, bob = enter("Ann"), enter("Bob")
    local event = { event = "@join", data = { c = bob.id, i = { name = "Bob", moderator = false } } }
    test.equal(last(ann), event)
    bob:close()
    event.event = "@leave"
    test.equal(last(ann), event)
  end)

  test.it("takes a name that nobody else has, in any letter case", function()
    local ann = enter("Ann")
    local other, reply = enter("ANN")
    test.equal(reply, { op = "enter", error = "that name is taken" })
    test.equal(other:channels(), {})
    ann:close()
    test.equal(ask(other, { op = "enter", room = "tea", name = "ANN", session = "another-session-1" }).ok, true)
  end)

  test.it("takes a name once in each room", function()
    enter("Ann")
    test.equal(select(2, enter("Ann", { room = "coffee" })).ok, true)
  end)

  test.it("lets a session take its name over from its own lost connection", function()
    local old = enter("Ann", { session = "the-same-session" })
    local new, reply = enter("Ann", { session = "the-same-session" })
    test.equal(reply.ok, true)
    test.equal(old.closed, { code = 4008, reason = "you are here on another connection" })
    -- The old one's end has not given the name away.
    test.equal(select(2, enter("Ann")).error, "that name is taken")
    new:close("lost")
    test.equal(select(2, enter("Ann")).ok, true)
  end)

  test.it("frees the name however the connection ends", function()
    for _, how in ipairs({ "lost", 1000, 1001 }) do
      local ann, reply = enter("Ann")
      test.equal(reply.ok, true)
      ann:close(how)
    end
  end)

  test.it("is no place for wrong words", function()
    for field, values in pairs({
      room = { false, "", "two words", "a/b", ("x"):rep(33), { "tea" } },
      name = { false, "", " Ann", "Ann ", "A\nnn", ("x"):rep(81), 7 },
      session = { false, "short", "with a space in it", ("x"):rep(65), 7 },
      key = { "", "wrong", false, mix.hmac_sha256("s3cret", "moderator:Bob") },
    }) do
      for _, value in ipairs(values) do
        local client, reply = enter("Ann", { [field] = value })
        test.truthy(reply.error, field)
        test.equal(client:channels(), {})
      end
    end
    test.equal(app.published, {})
  end)

  test.it("comes first, once, and soon", function()
    local client = app:connect()
    test.equal(ask(client, { op = "say", text = "hi" }).error, "enter a room first")
    test.advance(10)
    test.equal(client.closed, { code = 4000, reason = "enter a room within 10 s" })
    local ann = enter("Ann")
    test.advance(100)
    test.equal(ann.closed, nil)
    test.equal(ask(ann, { op = "enter", room = "tea", name = "Eve", session = "another-session-1" }).error, "you are in a room already")
  end)
end)

test.describe("speaking", function()
  test.it("reaches everybody in the room, and nobody else", function()
    local ann, bob, eve = enter("Ann"), enter("Bob"), enter("Eve", { room = "coffee" })
    local before = #eve.sent
    test.equal(ask(ann, { op = "say", text = "<b>hi</b>" }), { op = "say", ok = true })
    test.equal(last(bob), { event = "say", name = "Ann", text = "<b>hi</b>" })
    test.equal(#eve.sent, before)
  end)

  test.it("wants words", function()
    local ann = enter("Ann")
    for _, text in ipairs({ "", ("x"):rep(1001), 7, false }) do
      test.match(ask(ann, { op = "say", text = text }).error, "^text must be")
    end
    for _, wrong in ipairs({ "?", "7", "{}", '{"op":"dance"}', '{"op":{}}' }) do
      ann:message(wrong)
      test.truthy(last(ann).error)
    end
    test.equal(app.published, {})
  end)
end)

test.describe("a mute", function()
  test.it("holds for its time, and outlasts a new connection", function()
    local mia, bob = moderator("Mia"), enter("Bob")
    test.equal(ask(mia, { op = "mute", name = "bob", seconds = 60 }), { op = "mute", ok = true })
    test.equal(last(bob), { event = "mute", name = "Bob", seconds = 60, by = "Mia" })
    test.advance(20)
    test.equal(ask(bob, { op = "say", text = "hi" }).error, "you are muted for another 40 s")
    bob:close()
    bob = enter("Bob")
    test.match(ask(bob, { op = "say", text = "hi" }).error, "muted")
    test.advance(40)
    test.equal(ask(bob, { op = "say", text = "hi" }).ok, true)
  end)

  test.it("can be ended", function()
    local mia, bob = moderator("Mia"), enter("Bob")
    ask(mia, { op = "mute", name = "Bob", seconds = 60 })
    ask(mia, { op = "mute", name = "Bob", seconds = 0 })
    test.equal(ask(bob, { op = "say", text = "hi" }).ok, true)
  end)

  test.it("has bounds", function()
    local mia = moderator("Mia")
    enter("Bob")
    for _, seconds in ipairs({ -1, 86401, "60", false }) do
      test.match(ask(mia, { op = "mute", name = "Bob", seconds = seconds }).error, "^seconds must be")
    end
  end)
end)

test.describe("a kick", function()
  test.it("closes the connection, tells the room, and keeps the name out for a minute", function()
    local mia, bob = moderator("Mia"), enter("Bob")
    test.equal(ask(mia, { op = "kick", name = "Bob" }).ok, true)
    test.equal(bob.closed, { code = 4003, reason = "kicked" })
    test.equal(last(bob), { event = "kick", name = "Bob", by = "Mia" })
    test.equal(select(2, enter("bob")).error, "you have been kicked; come back in 60 s")
    test.advance(60)
    test.equal(select(2, enter("Bob")).ok, true)
  end)
end)

test.it("only moderators mute and kick, and not each other, nor who is not there", function()
  local ann, mia = enter("Ann"), moderator("Mia")
  moderator("Max")
  for _, op in ipairs({ "mute", "kick" }) do
    test.equal(ask(ann, { op = op, name = "Mia", seconds = 1 }).error, "only moderators can")
    test.equal(ask(mia, { op = op, name = "Max", seconds = 1 }).error, "that is a moderator")
    test.equal(ask(mia, { op = op, name = "Bob", seconds = 1 }).error, "nobody of that name is here")
    test.equal(ask(mia, { op = op, name = 7, seconds = 1 }).error, "name must be a string")
    test.equal(ask(mia, { op = op, name = ("x"):rep(5000), seconds = 1 }).error, "nobody of that name is here")
  end
  test.equal(app.published, {})
end)
