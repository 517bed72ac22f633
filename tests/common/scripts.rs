//! Scripts that run what a message says, for tests of many files.

/// Each message is Lua, run with `conn`; its results come back, joined by spaces.
pub const RUN: &str = r#"
function on_message(msg, conn)
  local results = {assert(loadstring("local conn = ...\n" .. msg.data))(conn)}
  for i = 1, #results do results[i] = tostring(results[i]) end
  conn:send(#results > 0 and table.concat(results, " ") or "nil")
end
"#;

/// The same; the results are joined by commas, tables are JSON, and an error comes back as one.
pub const SHOW: &str = r#"
local function shown(ok, ...)
  local words = {}
  for i = 1, select('#', ...) do
    local v = select(i, ...)
    words[i] = type(v) == "table" and mix.json_encode(v) or tostring(v)
  end
  return (ok and "" or "error: ") .. table.concat(words, ", ")
end
function on_message(msg, conn)
  conn:send(shown(pcall(assert(loadstring("local conn = ... " .. msg.data, "=test")), conn)))
end
"#;
