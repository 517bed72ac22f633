-- Tests of the socket handler and the protocol modules; run them with `connmix test`.

local app, client

local function connect(module, options)
  options = options or {}
  options.module = module
  app = test.load("entry.socket.lua", {options = options})
  client = app:connect()
end

-- What the client has got since it was last asked, in one piece.
local seen = 0
local function got()
  local pieces = {}
  for i = seen + 1, #client.sent do
    pieces[#pieces + 1] = client.sent[i].data
  end
  seen = #client.sent
  return table.concat(pieces)
end

test.before_each(function()
  seen = 0
end)

test.describe("text", function()
  test.before_each(function() connect("text") end)

  test.it("answers lines, however they arrive", function()
    client:bytes("hel")
    test.equal(got(), "")
    client:bytes("lo\r\nagain\n")
    test.equal(got(), "hello\nagain\n")
  end)

  test.it("subscribes and gets what is published as a line", function()
    client:bytes("subscribe video:1\n")
    test.equal(got(), "ok\n")
    test.equal(client:channels(), {"video:1"})
    test.equal(test.publish("video:1", "two\nlines"), 1)
    test.equal(got(), "two lines\n")
    client:bytes("unsubscribe video:1\n")
    test.equal(client:channels(), {})
  end)

  test.it("tells why a channel is none", function()
    client:bytes("subscribe " .. string.rep("x", 256) .. "\n")
    test.match(got(), "^a channel name has 256 bytes")
  end)

  test.it("logs a client that was lost", function()
    client:close("reset")
    test.match(app.logged[1].text, "was lost: reset")
  end)
end)

test.describe("jsonrpc", function()
  test.before_each(function() connect("jsonrpc") end)

  local function ask(line)
    client:bytes(line .. "\n")
    return mix.json_decode(got())
  end

  test.it("calls methods", function()
    local reply = ask('{"jsonrpc":"2.0","id":7,"method":"echo","params":[1,2]}')
    test.equal(reply, {jsonrpc = "2.0", id = 7, result = {1, 2}})
    test.equal(ask('{"jsonrpc":"2.0","id":8,"method":"subscribe","params":["a"]}').result, true)
    test.equal(client:channels(), {"a"})
  end)

  test.it("does not answer notifications", function()
    client:bytes('{"jsonrpc":"2.0","method":"subscribe","params":["a"]}\n')
    test.equal(got(), "")
    test.equal(client:channels(), {"a"})
  end)

  test.it("says what is wrong", function()
    test.equal(ask("nonsense").error.code, -32700)
    test.equal(ask("{}").error.code, -32600)
    test.equal(ask('{"jsonrpc":"2.0","id":1,"method":"none"}').error.code, -32601)
    test.equal(ask('{"jsonrpc":"2.0","id":1,"method":"subscribe","params":["a b"]}').error.code, -32000)
  end)
end)

test.describe("websocket", function()
  local function handshake(path)
    client:bytes("GET " .. path .. " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      .. "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    return got()
  end

  -- A frame whose mask is zeros: it changes nothing.
  local function frame(first, data)
    return string.char(first, 128 + #data) .. "\0\0\0\0" .. data
  end

  test.before_each(function() connect("websocket", {path = "/ws"}) end)

  test.it("shakes hands, with the answer of RFC 6455's example", function()
    test.match(handshake("/ws?x=1"), "\r\nSec%-WebSocket%-Accept: s3pPLMBiTxaQ9kYGzzhZRbK%+xOo=\r\n")
  end)

  test.it("refuses another path", function()
    test.match(handshake("/other"), "^HTTP/1.1 404 ")
    test.truthy(client.closed)
  end)

  test.it("puts fragments together, and answers pings between messages", function()
    handshake("/ws")
    client:bytes(frame(0x01, "hel"))
    client:bytes(frame(0x80, "lo"))
    test.equal(got(), "\129\5hello")
    client:bytes(frame(0x89, "p"))
    test.equal(got(), "\138\1p")
  end)

  test.it("closes on what breaks the protocol", function()
    handshake("/ws")
    client:bytes("\129\1x")
    test.equal(string.sub(got(), 1, 4), "\136" .. string.char(2 + #"a frame is not masked") .. "\3\234")
    test.truthy(client.closed)
  end)
end)
