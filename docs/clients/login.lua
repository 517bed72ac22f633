-- A client sends {"token":"..."}; a back end looks the token up, and tells us with conn.call who that is.

function on_message(msg, conn)
  local request = mix.json_decode(msg.data)
  if type(request) ~= "table" or type(request.token) ~= "string" then
    return conn:close(4000, "a token is missing")
  end
  local waiting, err = mix.queue.push("login", {token = request.token})
  if err then
    mix.log(mix.WARN, "login: " .. err)
    return conn:close(1013, "busy")
  end
  local uid = conn:wait_context_value("uid")
  if uid then
    conn:send(mix.json_encode({uid = uid}))
  end
end
