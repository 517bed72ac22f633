-- Run with: connmix test

local app
test.before_each(function()
  app = test.load("messages.lua", { options = { path = "/messages", secret = "s" } })
end)

local function connect(uid, expires, sign)
  expires = string.format("%d", expires or mix.now() + 60)
  sign = sign or mix.hmac_sha256("s", uid .. ":" .. expires)
  return app:connect({ uri = "/messages?uid=" .. uid .. "&until=" .. expires .. "&sign=" .. sign })
end

test.describe("a login", function()
  test.it("puts the client into the channel of its user", function()
    test.equal(connect("1001"):channels(), { "user:1001" })
  end)

  test.it("that is signed by nobody is refused", function()
    test.equal(connect("1001", nil, "00").refused, { status = 401, text = "sign is wrong" })
  end)

  test.it("that has ended is refused", function()
    test.equal(connect("1001", mix.now() - 1).refused, { status = 401, text = "that login has ended" })
  end)
end)

test.it("what was read is told to all devices of the user, and to nobody else", function()
  local phone, desk, other = connect("1001"), connect("1001"), connect("1002")
  phone:message('{"op":"read","id":17}')
  for _, device in ipairs({ phone, desk }) do
    test.equal(device.sent, { { data = '{"event":"read","id":17}', type = "text" } })
  end
  test.equal(other.sent, {})
end)

test.it("what is not understood is answered", function()
  local client = connect("1001")
  client:message("hello")
  test.equal(mix.json_decode(client.sent[1].data), { error = 'expected {"op":"read","id":NUMBER}' })
end)
