-- Run with: connmix test

local app, person
test.before_each(function()
  app = test.load("dashboard.lua", { options = { path = "/dashboard" } })
  person = app:connect({ uri = "/dashboard" })
end)

test.it("shows what devices report", function()
  test.equal(test.publish("reports", '{"device":"cam-1","event":"online"}'), 1)
  test.equal(person.sent, { { data = '{"device":"cam-1","event":"online"}', type = "text" } })
end)

test.it("tells how many connections a command has reached", function()
  person:message('{"device":"cam-1","command":"restart"}')
  test.equal(mix.json_decode(person.sent[1].data), { device = "cam-1", reached = 0 })
end)

test.it("answers what is not understood", function()
  person:message("hello")
  test.truthy(mix.json_decode(person.sent[1].data).error)
end)
