-- What runs outside any connection: `on_start`, and the functions of timers.
local native, engine = ...

local type, ipairs, rawget, unpack, format = type, ipairs, rawget, unpack, string.format
local checked, after, act, only_tests = engine.checked, engine.after, engine.act, engine.only_tests

-- Runs on_start of each worker, once. Before the first connection, and before the clock moves, if the test does not.
function engine.start_app()
  local app = engine.app
  if not app or app.started then
    return
  end
  app.started = true
  for i, worker in ipairs(app.workers) do
    if worker.hooks.on_start then
      engine.start_alone(worker, worker.hooks.on_start, nil, i)
    end
  end
end
function engine.start_by_test()
  only_tests("app:start")
  engine.start_app()
  act()
end

local timers, by_identity, last = {}, {}, 0
local fire

local function forget(timer)
  timers[timer.id], by_identity[timer.identity] = nil, nil
end

-- A timer that is set anew leaves what was scheduled before behind.
local function schedule(timer)
  timer.turn = timer.turn + 1
  local turn = timer.turn
  after(timer.after, function()
    if timers[timer.id] == timer and timer.turn == turn then
      fire(timer)
    end
  end)
end

function fire(timer)
  local c, args = timer.conn, timer.args
  if c and (not engine.is_live(c) or c.closing) then
    return forget(timer)
  elseif not timer.repeats then
    forget(timer)
  else
    schedule(timer)
    if timer.running then
      return
    end
  end
  local body = rawget(timer.home.globals, timer.name)
  if type(body) ~= "function" then
    local text = "a timer is to run %s, and %s defines no global function of that name"
    engine.failures[#engine.failures + 1] = engine.failure(format(text, timer.name, engine.app.file))
    return
  end
  timer.running = true
  local function done()
    timer.running = false
  end
  if c then
    engine.start_alone(timer.home, body, done, c.handle, unpack(args, 1, args.n))
  else
    engine.start_alone(timer.home, body, done, unpack(args, 1, args.n))
  end
end

local function set(repeats, c, seconds, name, identity, args, err)
  local home = engine.home()
  if err or not home then
    return nil, err or native.no_timers_here
  elseif c and (not engine.is_live(c) or c.closing) then
    return nil, native.gone
  end
  identity = identity .. (c and c.id or "")
  local known = by_identity[identity]
  if known then
    if known.after ~= seconds then
      known.after = seconds
      schedule(known)
    end
    return known.id
  end
  last = last + 1
  local timer = {
    id = last, identity = identity, home = home, conn = c, name = name, args = args, after = seconds, repeats = repeats, turn = 0,
  }
  timers[last], by_identity[identity] = timer, timer
  schedule(timer)
  return last
end

-- The connection that a timer is to end with: the first of its function's arguments is `{connection = conn}`.
local function tied(_, _, third)
  return type(third) == "table" and engine.conn_of(rawget(third, "connection")) or nil
end
local function without_third(first, second, _, ...)
  return first, second, ...
end

mix.timer = {}
function mix.timer.after(...)
  local c = tied(...)
  if c then
    return set(false, c, checked("after", native.after_args(without_third(...))))
  end
  return set(false, nil, checked("after", native.after_args(...)))
end
function mix.timer.every(...)
  local c = tied(...)
  if c then
    return set(true, c, checked("every", native.every_args(without_third(...))))
  end
  return set(true, nil, checked("every", native.every_args(...)))
end
function mix.timer.cancel(...)
  local timer = timers[checked("cancel", native.cancel_arg(...))]
  if not engine.home() then
    return nil, native.no_timers_here
  elseif timer then
    forget(timer)
  end
  return timer ~= nil
end
