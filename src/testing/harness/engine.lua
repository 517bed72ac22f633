-- A small engine for tests: its clock, which only the test moves, and its handlers. Hooks run as in the engine: each in
-- a coroutine, one at a time for a connection. What they do to others takes effect when they have yielded.
local native, prelude = ...

local type, error, tostring, select, setmetatable, unpack = type, error, tostring, select, setmetatable, unpack
local getmetatable, ipairs = getmetatable, ipairs
local create, status, yield, isyieldable = coroutine.create, coroutine.status, prelude.yield, prelude.isyieldable
local engaged = prelude.engaged
local remove, find, sub = table.remove, string.find, string.sub
local WAITING = native.marker

local engine = {
  failures = {}, -- what hooks raised, until the test has heard of it
  unexpected = {}, -- calls that nothing answers
  app = nil, -- the one that is loaded
  before = {}, -- the globals that were there before it
  required = {}, peeked = false, -- what the test itself has looked at in the first worker
  http = {}, redis = {}, -- canned replies
}
-- What the script is seen to do, from its first line on.
local seen = { published = {}, queued = {}, logged = {}, requests = {}, commands = {} }
engine.seen = seen

-- The clock starts at a fixed time, and so do client ids and random numbers, so that every run is the same.
local START = 1767225600
local now = START
math.randomseed(now)
local timers, ready = {}, { first = 1, last = 0 }
local current -- the task whose handler runs

-- What a hook raised; also what the test's own checks raise.
local Failure = {}
Failure.__tostring = function(failure) return failure.message end
function engine.failure(message, traceback)
  return setmetatable({ message = message, traceback = traceback or {} }, Failure)
end
function engine.is_failure(value)
  return type(value) == "table" and getmetatable(value) == Failure
end

local function text_of(err)
  if type(err) == "string" or type(err) == "number" then
    return tostring(err)
  elseif engine.is_failure(err) then
    return err.message
  end
  return "error object is a " .. type(err) .. " value"
end

-- Arguments are read by the engine's own code; here only the error is raised, at the line of the script.
local function checked(name, index, problem, ...)
  if problem then
    if index > 0 then
      problem = "bad argument #" .. index .. " to '" .. name .. "' (" .. problem .. ")"
    end
    error(problem, 3)
  end
  return ...
end

-- Tasks run in the order in which they were posted.
local function post(work, a, b)
  ready.last = ready.last + 1
  ready[ready.last] = { work, a, b }
end

local timer_number = 0
local function after(seconds, work)
  timer_number = timer_number + 1
  local timer = { at = now + seconds, number = timer_number, work = work }
  local i = #timers
  while i > 0 and timers[i].at > timer.at do
    timers[i + 1] = timers[i]
    i = i - 1
  end
  timers[i + 1] = timer
end

-- What the engine's own code is told of the time, too.
local function set_now(time)
  now = time
  native.set_clock(now - START)
  native.set_history_clock(now - START)
end

local function settle()
  while true do
    if ready.first <= ready.last then
      local job = ready[ready.first]
      ready[ready.first] = nil
      ready.first = ready.first + 1
      job[1](job[2], job[3])
    elseif timers[1] and timers[1].at <= now then
      remove(timers, 1).work()
    else
      return
    end
    if native.is_late() then
      error(engine.failure(engine.too_long), 0)
    end
  end
end

-- Called when the test has done something: carries out all that follows from it, and reports to the test what hooks
-- raised.
local function act()
  settle()
  local failure = remove(engine.failures, 1)
  if failure then
    error(failure, 0)
  end
end

local function only_tests(what)
  if current then
    error(what .. " is for tests; a handler called it", 3)
  end
end

function engine.advance(seconds)
  only_tests("test.advance")
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds < 1e12) then
    error("test.advance wants a number of seconds, got " .. tostring(seconds), 2)
  end
  engine.start_app()
  settle()
  local deadline = now + seconds
  while timers[1] and timers[1].at <= deadline do
    set_now(timers[1].at)
    settle()
  end
  set_now(deadline)
  act()
end

-- A coroutine in which what is compiled, and what it makes, has the globals of that worker.
local function create_in(worker, body)
  local co = create(body)
  if worker then
    native.set_globals(co, worker.globals)
  end
  return co
end
engine.create_in = create_in

-- The same of the engine's own, which scripts can neither resume nor yield from.
local function handler_of(worker, body)
  local co = create_in(worker, body)
  engaged[co] = true
  return co
end

local function pack(...)
  return { n = select("#", ...), ... }
end

-- One stretch of a handler, from a resume to its next wait or its end.
local function run(task, ...)
  current = task
  local got = pack(native.resume(task.co, engine.budget, ...))
  engine.end_of_stretch()
  current = nil
  if got[1] and status(task.co) == "suspended" then
    if got[2] == WAITING and task.wait then
      return
    end
    got = pack(false, "attempt to yield from outside a coroutine")
  end
  local c = task.conn
  if c then
    c.task = nil
  end
  if not got[1] then
    engine.failures[#engine.failures + 1] = engine.failure(text_of(got[2]), native.trace(task.co))
    if c then
      c:shut({ code = 1011, reason = "handler error", err = "handler error" })
    end
  end
  if task.done then
    task.done(unpack(got, 1, got.n))
  end
  if c then
    post(c.pump, c)
  end
end

local function start(c, body, done, ...)
  c.task = { conn = c, co = handler_of(c.home, body), done = done }
  run(c.task, ...)
end

-- The same for a function that belongs to no connection.
local function start_alone(worker, body, done, ...)
  run({ worker = worker, co = handler_of(worker, body), done = done }, ...)
end

-- Suspends the handler. `begin` starts what it waits for, and gets the function to be called with the results.
-- `interrupted` is what the handler gets when its connection ends first. To be called in a tail call only: so the errors
-- bear the script's line.
local function later(interrupted, begin)
  local task = current
  if not task then
    error(native.not_at_top_level, 2)
  elseif task.no_wait then
    error("this function waits, which protocol_encode can't: a delivery is on its way", 2)
  elseif task.interrupted then
    task.in_vain = (task.in_vain or 0) + 1
    if task.in_vain > native.most_in_vain then
      error(native.in_vain, 2)
    end
    begin(function() end)
    return unpack(interrupted, 1, interrupted.n)
  elseif not isyieldable() then
    error(native.not_here, 2)
  end
  local wait = { interrupted = interrupted }
  task.wait = wait
  begin(function(...)
    if task.wait == wait then
      task.wait = nil
      run(task, ...)
    end
  end)
  return yield(WAITING)
end

-- Runs a function for a connection of a worker (or for all of them: nil) that must not wait: whether it worked, and its result.
local function at_once(worker, c, work, ...)
  local outer = current
  current = { conn = c, worker = worker, no_wait = true }
  local co = handler_of(worker, work)
  local ok, result = native.resume(co, engine.budget, ...)
  engine.end_of_stretch()
  current = outer
  if not ok then
    return false, text_of(result)
  elseif status(co) ~= "dead" then
    return false, "attempt to yield from outside a coroutine"
  end
  return true, result
end

local function log(level, text, place)
  local c = current and current.conn
  seen.logged[#seen.logged + 1] = { level = level, text = text, place = place, client_id = c and c.id }
end

-- What scripts print. A line that `io.write` has begun ends with its handler's stretch, as in the engine.
local begun = {}
function engine.flush(stream)
  local line = begun[stream]
  if line then
    begun[stream] = nil
    log(stream == "stderr" and "warn" or "info", line.text, line.place)
  end
end
function engine.end_of_stretch()
  engine.flush("stdout")
  engine.flush("stderr")
end
function engine.print(text)
  engine.flush("stdout")
  log("info", text, native.place())
end
function engine.write(stream, text)
  while text ~= "" do
    local at = find(text, "\n", 1, true)
    local line = begun[stream] or { text = "", place = native.place() }
    begun[stream] = line
    line.text = line.text .. sub(text, 1, (at or #text + 1) - 1)
    text = at and sub(text, at + 1) or ""
    if at then
      engine.flush(stream)
    end
  end
end

-- The connection whose handler runs.
function engine.current()
  return current and current.conn
end
-- The worker whose handler runs.
function engine.home()
  return current and (current.worker or current.conn.home)
end
function engine.now()
  return now
end

engine.checked, engine.only_tests, engine.log = checked, only_tests, log
engine.post, engine.after, engine.act = post, after, act
engine.start_alone = start_alone
engine.start, engine.run, engine.later, engine.at_once = start, run, later, at_once
return engine
