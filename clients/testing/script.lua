-- For the clients' own tests. A client sends {"subscribe":"channel"}, {"push":data,"topic":"jobs"} or {"wait":"key"}.
function on_message(msg, conn)
  local request = mix.json_decode(msg.data)
  if request.subscribe then
    conn:subscribe(request.subscribe)
    conn:send(mix.json_encode({client = conn:client_id()}))
  elseif request.push then
    local n, err = mix.queue.push(request.topic or "jobs", request.push)
    conn:send(mix.json_encode({waiting = n, err = err}))
  elseif request.wait then
    conn:send(mix.json_encode({value = conn:wait_context_value(request.wait)}))
  end
end
