-- A quiz for all who are connected: a question, a countdown, the right answer and the best scores, and so on.
--
--   ws://127.0.0.1:6790/quiz?name=Ann&player=SECRET     `player` is made up by the client: its score is kept under it
--   {"op":"answer","question":"1.2","choice":3}         answered with {"op":"answer","ok":true} or {"op":"answer","error":"why not"}
--
-- Everybody is told {"event":"question",...}, {"event":"time",...} once a second, and {"event":"result",...}.

local questions = require("questions")

local QUESTION_SECONDS, RESULT_SECONDS, TOP = 10, 5, 10
-- Scores of a game that is long over end by themselves.
local KEPT_SECONDS = 3600

local function tell(news)
  mix.mesh.publish("quiz", mix.json_encode(news), "text", { counts = false })
end

-- The quiz as it stands, the same for all workers: the numbers of the game and of its question, whether that is open to answers,
-- and the seconds left.
local function state()
  local quiz = mix.shared.get("quiz")
  if quiz and questions[quiz.number] then
    return quiz
  end
  -- Before the first question; or the list has become shorter, and the one that was asked is gone.
  return { game = quiz and quiz.game + 1 or 1, number = 0, open = false, left = 1 }
end

-- A question as players may see it, without the right choice. The id is another one in each game.
local function question_of(quiz)
  local question = questions[quiz.number]
  local id = quiz.game .. "." .. quiz.number
  return { event = "question", question = id, text = question.text, choices = question.choices, left = quiz.left }
end

-- The best players of a game, the first of them first, as {name, score}.
local function best_of(game)
  local best = mix.json_array({})
  for i, entry in ipairs(mix.shared.get("best:" .. game) or {}) do
    best[i] = { name = entry.name, score = entry.score }
  end
  return best
end

-- Puts a score among the best, if it belongs there. Players answer in all workers at the same time: what another worker has
-- changed meanwhile is looked at again.
local function enter_best(game, player, name, score)
  local key = "best:" .. game
  while true do
    local old = mix.shared.get(key)
    local new = {}
    for _, entry in ipairs(old or {}) do
      -- Two answers of one player may get here in either order; the higher score is the later one.
      if entry.player ~= player then
        new[#new + 1] = entry
      elseif entry.score >= score then
        return
      end
    end
    new[#new + 1] = { player = player, name = name, score = score }
    table.sort(new, function(a, b)
      return a.score > b.score
    end)
    new[TOP + 1] = nil
    local won, err = mix.shared.cas(key, old, new, KEPT_SECONDS)
    if won or err then
      return err
    end
  end
end

-- The clock of the quiz: one for the process, though each worker sets it.
function on_start(worker)
  mix.timer.every(1, "tick")
end

function tick()
  local quiz = state()
  quiz.left = quiz.left - 1
  local news
  if quiz.left > 0 then
    news = { event = "time", left = quiz.left, open = quiz.open }
  elseif quiz.open then
    quiz.open, quiz.left = false, RESULT_SECONDS
    news = { event = "result", right = questions[quiz.number].right, best = best_of(quiz.game) }
  else
    if quiz.number >= #questions then
      quiz.game, quiz.number = quiz.game + 1, 0
    end
    quiz.number, quiz.open, quiz.left = quiz.number + 1, true, QUESTION_SECONDS
    news = question_of(quiz)
  end
  -- First the state, then the news: who answers at once is not too early.
  local err = mix.shared.set("quiz", quiz)
  if err then
    return mix.log(mix.ERROR, "the quiz stands still: " .. err)
  end
  tell(news)
end

-- What went wrong with an answer, if anything did.
local function take(conn, data)
  local quiz = state()
  local question = questions[quiz.number]
  if data.op ~= "answer" then
    return "op must be answer"
  elseif not quiz.open or data.question ~= quiz.game .. "." .. quiz.number then
    return "that question is not open"
  elseif type(data.choice) ~= "number" or not question.choices[data.choice] then
    return "choice must be a number from 1 to " .. #question.choices
  end
  -- Atomic: of two answers, even in two workers at once, one is the first.
  local player = conn:context_value("player")
  local first, err = mix.shared.add("answer:" .. data.question .. ":" .. player, true, KEPT_SECONDS)
  if err or not first then
    return err or "you have answered already"
  elseif data.choice == question.right then
    -- Who is quicker gets more.
    local score
    score, err = mix.shared.incr("score:" .. quiz.game .. ":" .. player, 100 + 10 * quiz.left, 0, KEPT_SECONDS)
    return err or enter_best(quiz.game, player, conn:context_value("name"), score)
  end
end

function on_handshake(client_id, headers, server, conn)
  local url = mix.parse_url(server.RequestUri)
  local name, player = url and url.query.name, url and url.query.player
  if type(name) ~= "string" or name == "" or #name > 80 or name:find("%c") or not mix.json_encode(name) then
    return false, 400, "name must be 1 to 80 bytes"
  elseif type(player) ~= "string" or #player < 16 or #player > 64 or not player:find("^[%w-]+$") then
    return false, 400, "player must be 16 to 64 letters, digits or -"
  end
  -- First the channel, then the state: what changes between is told.
  local err = conn:set_context({ name = name, player = player }) or conn:subscribe("quiz")
  if err then
    mix.log(mix.ERROR, err)
    return false, 503, "please try again later"
  end
  local quiz = state()
  if quiz.open then
    conn:send(mix.json_encode(question_of(quiz)))
  end
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local err = type(data) ~= "table" and "a JSON object was expected" or take(conn, data)
  conn:send(mix.json_encode({ op = "answer", ok = not err or nil, error = err }))
end
