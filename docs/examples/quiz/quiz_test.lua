-- Tests of the quiz; run them with `connmix test docs/examples/quiz -f docs/examples/quiz/connmix.yaml`.

local QUESTION, RESULT = 10, 5

local app
test.before_each(function()
  package.loaded.questions = {
    { text = "1 + 1?", choices = { "1", "2" }, right = 2 },
    { text = "2 + 2?", choices = { "3", "4", "5" }, right = 2 },
  }
  app = test.load("quiz.lua")
end)

-- The last message but those of the engine, which tell how many play.
local function last(client)
  for i = #client.sent, 1, -1 do
    local message = mix.json_decode(client.sent[i].data)
    if message.event ~= "@online" then
      return message
    end
  end
end

local function player(name)
  return app:connect({ uri = "/quiz?name=" .. name .. "&player=secret-of-" .. name .. "-0123456789" })
end

local function answer(client, question, choice)
  client:message(mix.json_encode({ op = "answer", question = question, choice = choice }))
  return last(client)
end

-- How many events of that kind a client has got.
local function count(client, event)
  local n = 0
  for _, message in ipairs(client.sent) do
    n = n + (mix.json_decode(message.data).event == event and 1 or 0)
  end
  return n
end

test.describe("the clock", function()
  test.it("asks, counts down, tells the answer, and goes on", function()
    local ann = player("Ann")
    test.equal(last(ann), nil)
    test.advance(1)
    test.equal(last(ann), { event = "question", question = "1.1", text = "1 + 1?", choices = { "1", "2" }, left = QUESTION })
    test.advance(1)
    test.equal(last(ann), { event = "time", left = QUESTION - 1, open = true })
    test.advance(QUESTION - 1)
    test.equal(last(ann), { event = "result", right = 2, best = {} })
    test.advance(RESULT)
    test.equal(last(ann).question, "1.2")
    test.advance(QUESTION + RESULT)
    test.equal(last(ann).question, "2.1")
  end)

  test.it("is one, though there are several workers", function()
    local ann, bob = player("Ann"), player("Bob")
    test.truthy(ann.worker ~= bob.worker)
    test.advance(1 + QUESTION)
    for _, client in ipairs({ ann, bob }) do
      test.equal(count(client, "question"), 1)
      test.equal(count(client, "time"), QUESTION - 1)
      test.equal(count(client, "result"), 1)
    end
  end)

  test.it("begins anew where the list has become shorter", function()
    local ann = player("Ann")
    mix.shared.set("quiz", { game = 4, number = 99, open = true, left = 3 })
    test.equal(answer(ann, "4.99", 1).error, "that question is not open")
    test.advance(1)
    test.equal(last(ann).question, "5.1")
  end)
end)

test.describe("an answer", function()
  test.it("counts once, and more if it is quick", function()
    local ann, bob, eve = player("Ann"), player("Bob"), player("Eve")
    test.advance(1)
    test.equal(answer(ann, "1.1", 2), { op = "answer", ok = true })
    test.equal(answer(ann, "1.1", 2).error, "you have answered already")
    test.equal(answer(eve, "1.1", 1).ok, true)
    test.equal(answer(eve, "1.1", 2).error, "you have answered already")
    test.advance(3)
    test.equal(answer(bob, "1.1", 2).ok, true)
    test.advance(QUESTION - 3)
    test.equal(last(bob).best, { { name = "Ann", score = 200 }, { name = "Bob", score = 170 } })
  end)

  test.it("adds to what the player has, in this game alone", function()
    local ann = player("Ann")
    test.advance(1)
    answer(ann, "1.1", 2)
    test.advance(QUESTION + RESULT)
    answer(ann, "1.2", 2)
    test.advance(QUESTION)
    test.equal(last(ann).best, { { name = "Ann", score = 400 } })
    test.advance(RESULT + QUESTION)
    test.equal(last(ann).best, {})
  end)

  test.it("belongs to the player, not to the connection", function()
    local ann = player("Ann")
    test.advance(1)
    answer(ann, "1.1", 2)
    ann:close("lost")
    ann = player("Ann")
    test.equal(last(ann).question, "1.1")
    test.equal(answer(ann, "1.1", 2).error, "you have answered already")
    test.advance(QUESTION)
    test.equal(last(ann).best, { { name = "Ann", score = 200 } })
  end)

  test.it("is refused when the question is over, is another one, or has no such choice", function()
    local ann = player("Ann")
    test.equal(answer(ann, "1.0", 1).error, "that question is not open")
    test.advance(1)
    test.equal(answer(ann, "1.2", 2).error, "that question is not open")
    for _, choice in ipairs({ 0, 3, 1.5, "2", false }) do
      test.equal(answer(ann, "1.1", choice).error, "choice must be a number from 1 to 2")
    end
    for _, wrong in ipairs({ "?", "7", "{}", '{"op":"cheat"}' }) do
      ann:message(wrong)
      test.truthy(last(ann).error, wrong)
    end
    test.advance(QUESTION)
    test.equal(answer(ann, "1.1", 2).error, "that question is not open")
  end)
end)

test.it("the best are ten, the first of them first", function()
  local players = {}
  for i = 1, 12 do
    players[i] = player("P" .. i)
  end
  test.advance(1)
  for _, client in ipairs(players) do
    answer(client, "1.1", 2)
  end
  test.advance(QUESTION + RESULT)
  answer(players[12], "1.2", 2)
  test.advance(QUESTION)
  local best = last(players[1]).best
  test.equal(#best, 10)
  test.equal(best[1], { name = "P12", score = 400 })
end)

test.it("players say who they are", function()
  for _, uri in ipairs({
    "/quiz", "/quiz?name=Ann", "/quiz?name=&player=0123456789abcdef", "/quiz?name=Ann&player=short",
    "/quiz?name=A%0An&player=0123456789abcdef", "/quiz?name=%FF&player=0123456789abcdef", "/quiz?name[]=A&player=0123456789abcdef",
    "/quiz?name=Ann&player=two%20words-0123456789",
  }) do
    test.equal(app:connect({ uri = uri }).refused.status, 400, uri)
  end
end)
