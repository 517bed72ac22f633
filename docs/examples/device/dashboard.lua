-- What devices report, for people to look at, and commands to devices:
--
--   {"device":"cam-1","command":"restart"}    answered with {"device":"cam-1","reached":1}: so many of its connections

function on_handshake(client_id, headers, server, conn)
  return not conn:subscribe("reports")
end

function on_message(msg, conn)
  local data = mix.json_decode(msg.data)
  local device = type(data) == "table" and data.device
  if type(device) ~= "string" or not device:find("^[%w-]+$") or type(data.command) ~= "string" then
    return conn:send(mix.json_encode({ error = 'expected {"device":ID,"command":TEXT}' }))
  end
  local reached, _, err = mix.mesh.publish("device:" .. device, data.command)
  conn:send(mix.json_encode({ device = device, reached = reached, error = err }))
end
