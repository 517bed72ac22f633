-- Devices, over frames of bytes:
--
--   | length, 2 bytes, big-endian | type, 1 byte | body, length - 1 bytes |
--
--   type           a device sends                                        and gets
--   1 login        its id: 1 to 32 letters, digits or -                  1, empty
--   2 heartbeat    nothing                                               2, empty
--   3 report       temperature, a big-endian float; charge, a byte       3, empty
--   4 command                                                            4 and the command, whenever there is one
--   5 error                                                              5 and what is wrong; then the end
--
-- The first frame is the login. Whatever is published to device:<id> is a command. Reports go on to the channel "reports".

local LOGIN, HEARTBEAT, REPORT, COMMAND, ERROR = 1, 2, 3, 4, 5
local MAX_LENGTH = 1000

local function frame(kind, body)
  return mix.php_pack("nCa*", #body + 1, kind, body)
end

-- What dashboards show.
local function tell(event)
  event.time = math.floor(mix.now())
  mix.mesh.publish("reports", mix.json_encode(event), "text", { counts = false })
end

function protocol_input(buf)
  local head = buf:read(2)
  if not head then
    return 0
  end
  local length = mix.php_unpack("nlength", head).length
  if length == 0 or length > MAX_LENGTH then
    return -1
  end
  return 2 + length
end

function protocol_decode(bytes)
  return mix.php_unpack("nlength/Ctype/a*body", bytes)
end

-- A command, from a back end or a dashboard. The same for every connection of that device: made once.
protocol_encode_shared = true

function protocol_encode(data)
  if #data >= MAX_LENGTH then
    error("a command has more than " .. MAX_LENGTH - 1 .. " bytes")
  end
  return frame(COMMAND, data)
end

-- By type; each returns what is wrong, if anything is.
local handlers = {}

handlers[LOGIN] = function(conn, id)
  if conn:context_value("device") then
    return "logged in already"
  elseif #id > 32 or not id:find("^[%w-]+$") then
    return "an id is 1 to 32 letters, digits or -"
  end
  local err = conn:set_context_value("device", id) or conn:subscribe("device:" .. id)
  if not err then
    tell({ device = id, event = "online" })
  end
  return err
end

handlers[HEARTBEAT] = function() end

handlers[REPORT] = function(conn, body)
  if #body ~= 5 then
    return "a report has 5 bytes"
  end
  local report = mix.php_unpack("Gtemperature/Ccharge", body)
  -- Also false for what is no number at all.
  if not (report.temperature > -273.16 and report.temperature < 10000) or report.charge > 100 then
    return "a report is out of range"
  end
  report.device, report.event = conn:context_value("device"), "report"
  tell(report)
end

function on_message(msg, conn)
  local handler, err = handlers[msg.type], nil
  if not handler then
    err = "unknown type " .. msg.type
  elseif msg.type ~= LOGIN and not conn:context_value("device") then
    err = "log in first"
  else
    err = handler(conn, msg.body)
  end
  conn:send(err and frame(ERROR, err) or frame(msg.type, ""))
  if err then
    conn:close()
  end
end

function on_close(client_id, err, conn)
  local id = conn:context_value("device")
  if id then
    tell({ device = id, event = "offline", reason = err })
  end
end
