-- Lines over TCP: each comes back as it is, until "quit".

local text = require("protocols.text")

protocol_input, protocol_decode, protocol_encode = text.input, text.decode, text.encode

-- A line is the same for everybody: what is published is made a line once, not for each connection.
protocol_encode_shared = true

function on_connect(client_id, conn)
  conn:subscribe("news")
  text.send_text("you are " .. client_id)
end

function on_message(line, conn)
  if line == "quit" then
    text.send_text("bye")
    return conn:close()
  end
  text.send_text(line)
end
