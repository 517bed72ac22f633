-- Lines: a package is what comes before a line feed; a carriage return before that is left out.
--
--   local text = require("protocols.text")
--   protocol_input, protocol_decode, protocol_encode = text.input, text.decode, text.encode

local text = {}

-- How many bytes make the next line, with its end; 0 while it is incomplete.
function text.input(buf)
  return buf:find("\n") or 0
end

function text.decode(line)
  return (string.gsub(line, "\r?\n$", ""))
end

-- What is published or sent from elsewhere arrives as one line.
function text.encode(data)
  return (string.gsub(data, "\r?\n", " ")) .. "\n"
end

-- Sends a line to the connection whose handler is running.
function text.send_text(data)
  return mix.socket.tcp():send(text.encode(data))
end

return text
