-- Rooms over all nodes: {"op":"join","room":"tea"}, then {"op":"say","room":"tea","text":"Hello"}.
function on_message(msg, conn)
  local data, err = mix.json_decode(msg.data)
  local room = not err and type(data) == "table" and tostring(data.room):match("^%w+$")
  if not room then
    return conn:close(4000, "a room was expected")
  end
  if data.op == "join" then
    -- When this returns, what is said on any node reaches this client.
    err = conn:subscribe("room:" .. room)
    return conn:send(mix.json_encode({joined = room, err = err}))
  end
  local reached, _, failure = mix.mesh.publish("room:" .. room, tostring(data.text))
  conn:send(mix.json_encode({reached = reached, err = failure}))
end
