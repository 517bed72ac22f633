-- Run with: connmix test

local app, device
test.before_each(function()
  app = test.load("device.lua")
  device = app:connect()
end)

local LOGIN, HEARTBEAT, REPORT, COMMAND, ERROR = 1, 2, 3, 4, 5

local function frame(kind, body)
  return mix.php_pack("nCa*", #body + 1, kind, body)
end

-- The type and the body of the last frame that a device got.
local function last(client)
  local got = mix.php_unpack("nlength/Ctype/a*body", client.sent[#client.sent].data)
  return got.type, got.body
end

test.it("a device logs in, and is in the channel of its commands", function()
  device:bytes(frame(LOGIN, "cam-1"))
  test.equal({ last(device) }, { LOGIN, "" })
  test.equal(device:channels(), { "device:cam-1" })
end)

test.it("a frame may come in any pieces", function()
  for byte in frame(LOGIN, "cam-1"):gmatch(".") do
    device:bytes(byte)
  end
  device:bytes(frame(HEARTBEAT, "") .. frame(HEARTBEAT, ""))
  test.equal(#device.sent, 3)
end)

test.it("a command reaches it", function()
  device:bytes(frame(LOGIN, "cam-1"))
  test.equal(test.publish("device:cam-1", "restart"), 1)
  test.equal({ last(device) }, { COMMAND, "restart" })
end)

test.it("what it reports is published", function()
  device:bytes(frame(LOGIN, "cam-1"))
  device:bytes(frame(REPORT, mix.php_pack("GC", 21.5, 80)))
  test.equal({ last(device) }, { REPORT, "" })
end)

test.describe("what is wrong ends the connection:", function()
  for name, bytes in pairs({
    ["a heartbeat before the login"] = frame(HEARTBEAT, ""),
    ["an id with a space"] = frame(LOGIN, "cam 1"),
    ["an unknown type"] = frame(9, ""),
  }) do
    test.it(name, function()
      device:bytes(bytes)
      test.equal((last(device)), ERROR)
      test.truthy(device.closed)
    end)
  end
end)
