---@meta
-- What connmix offers to scripts, for editors that know LuaCATS annotations (lua-language-server). Nothing loads this file.
-- docs/lua-api.md tells the whole story of each function.
--
-- Annotate your hooks' parameters with the types from here, and the editor completes and checks what is in them:
--
--   ---@param msg mix.Message
--   ---@param conn mix.Connection
--   function on_message(msg, conn)

-- Types.

---A whole message of a WebSocket client.
---@class mix.Message
---@field type "text"|"binary"
---@field data string the bytes
---@field finish true always: messages come whole

---The upgrade request, without its headers.
---@class mix.Request
---@field Method string `GET`
---@field RequestUri string path and query: `/ws?token=x`
---@field ServerProtocol string `HTTP/1.1`
---@field Host string
---@field RemoteAddr string `ip:port`
---@field EventStream boolean the client gets an event stream, not a WebSocket
---@field LastEventId string? the position from which the client of an event stream wants to go on

---Plain data: what JSON and a connection's context can hold.
---@alias mix.Plain nil|boolean|number|string|table

---A client's id: a decimal string, or a number that spells the same.
---@alias mix.ClientId string|number

---@alias mix.Kind
---| "text"   # the default; the bytes must be UTF-8
---| "binary"

---@alias mix.Level 1|2|3|4|"debug"|"info"|"warn"|"error"

---@class mix.PublishOptions
---@field counts? boolean false: return at once, with nothing to wait for; true unless told
---@field except? mix.ClientId | mix.ClientId[] clients that do not get it
---@field key? string what it is about, for channels whose rule asks for it: at most 255 bytes
---@field priority? "high"|"normal"|"low" how much it matters, where the channel's rule has a limit

---@class mix.SubscribeOptions
---@field info? mix.Plain what others are told of the connection there (`mix.mesh.presence`): at most 1 KiB as JSON
---@field last? integer so many of the messages that the channel has kept come first; 0: none, only `at` is wanted
---@field since? string what came after this position comes first; with `last`, that many if some of it is missing

---@class mix.At
---@field position string where the connection is in the channel's messages
---@field recovered boolean false: some of what came after `since` is missing
---@field count integer the messages that come first

---@class mix.History
---@field p string where the next page begins
---@field recovered boolean false: some of what came after the position is missing
---@field m {p: string, d: string, t: "text"|"binary"}[] position, data and type, oldest first

---@class mix.Presence
---@field clients {c: string, node: string, i: mix.Plain}[] client_id, node and info, by client_id
---@field n integer how many there are, not only on this page
---@field after? string where the next page begins, if there is one
---@field u? integer nodes of a cluster that did not answer

---@class mix.DecodeOptions
---@field null? boolean true: null becomes `mix.null` instead of nil

---@class mix.Url
---@field scheme string
---@field opaque string
---@field user string
---@field host string with the port
---@field path string decoded
---@field raw_path string
---@field force_query boolean
---@field raw_query string
---@field fragment string decoded
---@field raw_fragment string
---@field query table<string, string|table> as `mix.parse_str` gives it

---@class mix.HttpAuth
---@field username string
---@field password string

---@class mix.HttpOptions
---@field query? string `"a=1&b=2"`
---@field cookies? table<string, string>
---@field body? string
---@field headers? table<string, string>
---@field timeout? number|string seconds, or `"500ms"`, `"10s"`, `"1h"`; 10 s unless told
---@field auth? mix.HttpAuth
---@field idle? number|string|false how long a kept connection may have been idle to be used, and is kept then; 60 s unless told, 1 h at most; with 0 or false the request has its own
---@field follow? integer|boolean redirects that are followed; 10 unless told, none with false

---@class mix.HttpResponse
---@field body string
---@field body_size integer
---@field headers table<string, string>
---@field cookies table<string, string>
---@field status_code integer
---@field url string after redirects

-- The connection.

---A client's connection. It may be kept in a variable; once it has ended, its methods fail with an err or return nil.
---@class mix.Connection
local Connection = {}

---The client's id: decimal, below 2^53. `local id = conn:client_id()`
---@return string
---@nodiscard
function Connection:client_id() end

---The client's `ip:port`; nil after its end. `print(conn:remote_addr())`
---@return string?
---@nodiscard
function Connection:remote_addr() end

---A copy of the whole context. `local uid = conn:context().uid`
---@return table<string, mix.Plain>
---@nodiscard
function Connection:context() end

---One value of the context. `local room = conn:context_value("room")`
---@param key string
---@return mix.Plain value
---@nodiscard
function Connection:context_value(key) end

---Sets every key of `values` and leaves the others. `conn:set_context({uid = 1001, name = "ann"})`
---@param values table<string, mix.Plain>
---@return string? err
function Connection:set_context(values) end

---Sets one value of the context; nil removes it. `conn:set_context_value("room", "video:1")`
---@param key string
---@param value mix.Plain
---@return string? err
function Connection:set_context_value(key, value) end

---Waits until some handler or back end has set the value; nil if the connection ends first.
---`local uid = conn:wait_context_value("uid")`
---@param key string
---@return mix.Plain value
function Connection:wait_context_value(key) end

---Joins channels: all of them or, with an err, none. `local err = conn:subscribe("news", "user:" .. id)`
---@param channel string 1 to 255 bytes, no spaces
---@param ... string | mix.SubscribeOptions options come last
---@return string? err
---@return mix.At | table<string, mix.At>? at with `last` or `since`; of several channels by their names
function Connection:subscribe(channel, ...) end

---Leaves channels. `conn:unsubscribe("news")`
---@param channel string
---@param ... string
---@return string? err
function Connection:unsubscribe(channel, ...) end

---The channels that it is in, in no particular order. `for _, name in ipairs(conn:channels()) do print(name) end`
---@return string[]
---@nodiscard
function Connection:channels() end

---Sends a message; on a socket server the bytes go out as they are. `conn:send('{"result":true}')`
---@param data string
---@param type? mix.Kind
---@return string? err
function Connection:send(data, type) end

---Closes it; what was sent before still goes out. `conn:close(4001, "please log in")`
---@param code? integer 1000 unless told
---@param reason? string
---@return string? err
function Connection:close(code, reason) end

---Forgets what was received and not consumed (socket servers). `conn:clear_buffer()`
---@return string? err
function Connection:clear_buffer() end

---All bytes of a socket connection that are not consumed yet.
---@class mix.Buffer
local Buffer = {}

---All bytes. `local all = buf:tostring()`
---@return string
---@nodiscard
function Buffer:tostring() end

---The next `n` bytes from the position; an err if there are fewer. `local head, err = buf:read(4)`
---@param n integer
---@return string? bytes
---@return string? err
function Buffer:read(n) end

---Where a text first stands, from 1; nil if it does not. Looks without copying. `local at = buf:find("\n")`
---@param text string
---@param from? integer
---@return integer?
---@nodiscard
function Buffer:find(text, from) end

---How many bytes have been read. `local at = buf:position()`
---@return integer
---@nodiscard
function Buffer:position() end

---How many bytes there are. `if buf:length() < 4 then return 0 end`
---@return integer
---@nodiscard
function Buffer:length() end

---A connection of the pool to a Redis of the configuration.
---@class mix.RedisConnection
local Redis = {}

---Runs a command. `local name, err = redis:command("get", "name")`
---@param name string
---@param ... string|number
---@return any reply number, string, table or nil; an error within a table is `{err = "..."}`
---@return string? err
function Redis:command(name, ...) end

-- The API.

---@class mixlib
mix = {}

---Levels of the log: `mix.log(mix.WARN, "text")`
mix.DEBUG = 1
mix.INFO = 2
mix.WARN = 3
mix.ERROR = 4

---What is encoded as `null`: `mix.json_encode({next = mix.null})`
---@type lightuserdata
mix.null = nil

---The connection whose handler runs; outside a handler nil and an err. `local conn = mix.websocket()`
---@return mix.Connection conn
---@return string? err
---@nodiscard
function mix.websocket() end

---Joins the current connection to channels. `mix.subscribe("news")`
---@param channel string
---@param ... string | mix.SubscribeOptions options come last
---@return string? err
---@return mix.At | table<string, mix.At>? at with `last` or `since`; of several channels by their names
function mix.subscribe(channel, ...) end

---Takes the current connection out of channels. `mix.unsubscribe("news")`
---@param channel string
---@param ... string
---@return string? err
function mix.unsubscribe(channel, ...) end

---A value's JSON. `local text, err = mix.json_encode({event = "hello", n = 1})`
---@param value any
---@return string? json
---@return string? err
function mix.json_encode(value) end

---JSON's value. `local data, err = mix.json_decode(msg.data)`
---@param json string
---@param options? mix.DecodeOptions
---@return any value
---@return string? err
function mix.json_decode(json, options) end

---Marks a table as an array, which matters while it is empty. `mix.json_encode(mix.json_array({}))` is `[]`
---@generic T: table
---@param t T
---@return T
function mix.json_array(t) end

---`mix.base64_encode("hi")` is `"aGk="`
---@param s string
---@return string
---@nodiscard
function mix.base64_encode(s) end

---`local bytes, err = mix.base64_decode("aGk")`; the URL-safe alphabet and missing padding are taken too.
---@param s string
---@return string? bytes
---@return string? err
function mix.base64_decode(s) end

---MD5 in hex. `mix.md5("a")` is `"0cc175b9c0f1b6a831c399e269772661"`
---@param s string
---@return string
---@nodiscard
function mix.md5(s) end

---MD5's 16 bytes. `mix.base64_encode(mix.md5_bin(s))`
---@param s string
---@return string
---@nodiscard
function mix.md5_bin(s) end

---SHA-1 in hex. `mix.sha1("a")`
---@param s string
---@return string
---@nodiscard
function mix.sha1(s) end

---SHA-1's 20 bytes. `mix.base64_encode(mix.sha1_bin(s))`
---@param s string
---@return string
---@nodiscard
function mix.sha1_bin(s) end

---SHA-256 in hex. `mix.sha256("a")`
---@param s string
---@return string
---@nodiscard
function mix.sha256(s) end

---SHA-256's 32 bytes. `mix.base64_encode(mix.sha256_bin(s))`
---@param s string
---@return string
---@nodiscard
function mix.sha256_bin(s) end

---HMAC with SHA-1, in hex. `mix.hmac_sha1("key", "text")`
---@param key string
---@param s string
---@return string
---@nodiscard
function mix.hmac_sha1(key, s) end

---HMAC with SHA-1, its 20 bytes. `mix.base64_encode(mix.hmac_sha1_bin("key", "text"))`
---@param key string
---@param s string
---@return string
---@nodiscard
function mix.hmac_sha1_bin(key, s) end

---HMAC with SHA-256, in hex. `mix.hmac_sha256("key", "text")`
---@param key string
---@param s string
---@return string
---@nodiscard
function mix.hmac_sha256(key, s) end

---HMAC with SHA-256, its 32 bytes. `mix.base64_encode(mix.hmac_sha256_bin("key", "text"))`
---@param key string
---@param s string
---@return string
---@nodiscard
function mix.hmac_sha256_bin(key, s) end

---The pieces of a text. `mix.str_split("100001@video", "@")` is `{"100001", "video"}`
---@param s string|number
---@param separator string plain; empty: into UTF-8 characters
---@return string[]
---@nodiscard
function mix.str_split(s, separator) end

---A query string as PHP reads it. `mix.parse_str("a=1&c[]=2").a` is `"1"`
---@param query string
---@return table<string, string|table>? t
---@return string? err
function mix.parse_str(query) end

---A URL's parts. `mix.parse_url("wss://example.com/a?x=1").query.x` is `"1"`
---@param url string
---@return mix.Url? t
---@return string? err
function mix.parse_url(url) end

---What `mix.parse_url` was called at first, for older scripts.
---@param url string
---@return mix.Url? t
---@return string? err
---@deprecated
function mix.url_parse(url) end

---The bytes with these values. `mix.bytes_tostring({72, 105})` is `"Hi"`
---@param bytes integer[]
---@return string
---@nodiscard
function mix.bytes_tostring(bytes) end

---PHP's `pack`. `local bytes, err = mix.php_pack("Nn", 1, 2)`
---@param format string
---@param ... string|number
---@return string? bytes
---@return string? err
function mix.php_pack(format, ...) end

---PHP's `unpack`. `local head, err = mix.php_unpack("Nlength/ntype", bytes)`
---@param format string
---@param bytes string
---@return table<string|integer, string|number>? t
---@return string? err
function mix.php_unpack(format, bytes) end

---A line of the log, with the script's file and line. `mix.log(mix.WARN, "no such room: " .. room)`
---@param level mix.Level
---@param text string|number
---@return true
function mix.log(level, text) end

---Suspends the handler, and no other. `mix.sleep(0.5)`
---@param seconds number 0 to 86,400
---@return string? err
function mix.sleep(seconds) end

---Text from one encoding into another: UTF-8, GBK, GB18030, Big5, Shift_JIS, Latin-1. `local s, err = mix.iconv(msg.data, "GBK", "UTF-8")`
---@param s string
---@param from string
---@param to string
---@return string? s
---@return string? err
function mix.iconv(s, from, to) end

---What is demanded of a token besides its signature.
---@class mix.TokenOptions
---@field aud? string|string[] who you are: its `aud` names one of them
---@field iss? string|string[] who may have issued it
---@field alg? string|string[] `HS256`, `RS256`, `ES256`, `EdDSA`; all unless told
---@field require? string[] claims that it must have
---@field leeway? number seconds by which clocks may differ; 0 unless told

---The claims of a JSON Web Token that may be trusted. `local user, err = mix.jwt_verify(token, secret, {aud = "push"})`
---@param token string
---@param keys string|string[] a secret, PEM, JSON Web Keys, or the URL of a set
---@param options? mix.TokenOptions
---@return table<string, any>? claims
---@return string? err
function mix.jwt_verify(token, keys, options) end

---All bytes, and the seed, by exclusive or. `if mix.xor(body) ~= sum then return -1 end`
---@param s string
---@param seed? integer
---@return integer
---@nodiscard
function mix.xor(s, seed) end

---A checksum of 16 bits, Modbus's unless told. `local sum = mix.crc16(frame, "xmodem")`
---@param s string
---@param kind? "modbus"|"arc"|"ibm"|"usb"|"ccitt-false"|"xmodem"|"kermit"|"ccitt"|"x25"|"mcrf4xx"
---@return integer
---@nodiscard
function mix.crc16(s, kind) end

---The checksum of Ethernet, gzip and PNG. `local sum = mix.crc32(frame)`
---@param s string
---@return integer
---@nodiscard
function mix.crc32(s) end

---Unix time in seconds, with a fraction. `local began = mix.now()`
---@return number
---@nodiscard
function mix.now() end

---A random UUID. `local ticket = mix.uuid()`
---@return string
---@nodiscard
function mix.uuid() end

---The server that the script belongs to.
---@class mixlib.server
mix.server = {}

---A value of the server's `options`. `local path = mix.server.option("path")`
---@param name string
---@return string?
---@nodiscard
function mix.server.option(name) end

---The `traceparent` of the handler that runs, where it is traced. `local parent = mix.traceparent()`
---@return string?
---@nodiscard
function mix.traceparent() end

---Any client, on any node.
---@class mixlib.mesh
mix.mesh = {}

---Publishes to a channel; how many connections were reached and how many not.
---`local reached, failed, err = mix.mesh.publish("video:1", "hello")`
---@param channel string
---@param data string
---@param type? mix.Kind
---@param options? mix.PublishOptions
---@return integer? reached
---@return integer? failed
---@return string? err
---@return integer? unanswered nodes of a cluster that did not answer
---@return integer? left_out 1 if it was over the limit of its channel
---@return integer? merged 1 if it was added to others then, which are delivered with their number
function mix.mesh.publish(channel, data, type, options) end

---How many connections are in a channel, on all nodes; delivers nothing. `local n = mix.mesh.count("room:7")`
---@param channel string
---@return integer? n
---@return string? err
function mix.mesh.count(channel) end

---Who is in a channel whose rule (`engine.channels`) says `presence: true`, on all nodes.
---`local page, err = mix.mesh.presence("room:7")`
---@param channel string
---@param limit? integer 1 to 1000 entries; 1000 unless given
---@param after? mix.ClientId the page begins behind this one
---@return mix.Presence? page
---@return string? err
function mix.mesh.presence(channel, limit, after) end

---What a channel whose rule (`engine.channels`) says `history` has kept: the newest messages, or those behind a position.
---`local page, err = mix.mesh.history("room:7", position)`
---@param channel string
---@param since? string a position; the newest messages unless given
---@param limit? integer 1 to 1000 messages; 1000 unless given
---@return mix.History? page
---@return string? err
function mix.mesh.history(channel, since, limit) end

---Closes one client, or all connections of a channel, on whichever node they are; how many were told to close.
---`mix.mesh.close({channel = "user:42"}, 4001, "logged in elsewhere")`
---@param who mix.ClientId | {channel: string}
---@param code? integer 1000 unless given
---@param reason? string at most 123 bytes
---@return integer? n
---@return string? err
function mix.mesh.close(who, code, reason) end

---Sends to one client. `local err = mix.mesh.send(client_id, "hello")`
---@param client_id mix.ClientId
---@param data string
---@param type? mix.Kind
---@return string? err
function mix.mesh.send(client_id, data, type) end

---Connections of socket servers.
---@class mixlib.socket
mix.socket = {}

---The connection whose handler runs; outside a handler nil and an err. `local conn = mix.socket.tcp()`
---@return mix.Connection conn
---@return string? err
---@nodiscard
function mix.socket.tcp() end

---Queues that back ends consume.
---@class mixlib.queue
mix.queue = {}

---Adds a message to a topic; how many wait there now. With `full: block` in the configuration it waits for room. `local n, err = mix.queue.push("login", {id = conn:client_id()})`
---@param topic string
---@param data any any JSON value
---@return integer? n
---@return string? err
function mix.queue.push(topic, data) end

---Plain values that all workers of the process share; they outlive reloads.
---@class mixlib.shared
mix.shared = {}

---A value; nil if it is not there. `local motd = mix.shared.get("motd")`
---@param key string
---@return mix.Plain value
---@return string? err
function mix.shared.get(key) end

---Sets a value, for `ttl` seconds or for good; nil removes. `mix.shared.set("motd", "hello", 3600)`
---@param key string
---@param value mix.Plain
---@param ttl? number
---@return string? err
function mix.shared.set(key, value, ttl) end

---Sets a value only if there is none. `if mix.shared.add("lock", true, 10) then work() end`
---@param key string
---@param value boolean|number|string|table
---@param ttl? number
---@return boolean? added
---@return string? err
function mix.shared.add(key, value, ttl) end

---Adds to a number; one that is not there begins with `init` (0) and is kept for `ttl` seconds. `local n = mix.shared.incr("hits", 1)`
---@param key string
---@param n number
---@param init? number
---@param ttl? number
---@return number? sum
---@return string? err
function mix.shared.incr(key, n, init, ttl) end

---Sets `new` only if what is there equals `old`; nil stands for nothing. `mix.shared.cas("state", "open", "closed")`
---@param key string
---@param old mix.Plain
---@param new mix.Plain
---@param ttl? number
---@return boolean? swapped
---@return string? err
function mix.shared.cas(key, old, new, ttl) end

---Removes a value; whether it was there. `mix.shared.delete("motd")`
---@param key string
---@return boolean? deleted
---@return string? err
function mix.shared.delete(key) end

---The keys that begin with `prefix`, in order. `for _, key in ipairs(mix.shared.keys("room:")) do print(key) end`
---@param prefix? string
---@return string[]? keys
---@return string? err
function mix.shared.keys(prefix) end

---Functions that run later, outside any connection.
---@class mixlib.timer
mix.timer = {}

---Runs the global function of that name once, after that many seconds. `mix.timer.after(5, "remind", conn:client_id())`
---@param seconds number
---@param name string
---@param ... mix.Plain|{connection: mix.Connection} with `{connection = conn}` first it ends with that connection
---@return integer? id
---@return string? err
function mix.timer.after(seconds, name, ...) end

---Runs it again and again; set once more, it is the same timer. `function on_start() mix.timer.every(60, "tick") end`
---@param seconds number
---@param name string
---@param ... mix.Plain|{connection: mix.Connection} with `{connection = conn}` first it ends with that connection
---@return integer? id
---@return string? err
function mix.timer.every(seconds, name, ...) end

---Ends a timer; whether there was one. `mix.timer.cancel(id)`
---@param id integer
---@return boolean? ended
---@return string? err
function mix.timer.cancel(id) end

---Redis servers of the configuration.
---@class mixlib.redis
mix.redis = {}

---A connection by its name in the configuration. `local redis, err = mix.redis.connection("default")`
---@param name string
---@return mix.RedisConnection? redis
---@return string? err
function mix.redis.connection(name) end

---Pushes JSON that names node, client and queue to a list of "default". `local n, err = mix.redis.push("login", "x")`
---@param queue string
---@param data any
---@return integer? n
---@return string? err
function mix.redis.push(queue, data) end

---HTTP requests.
---@class mixlib.http
mix.http = {}

---Asks another server; only the handler waits. `local resp, err = mix.http.request("GET", "https://example.com/")`
---@param method string
---@param url string
---@param options? mix.HttpOptions
---@return mix.HttpResponse? resp
---@return string? err
function mix.http.request(method, url, options) end

-- Names that scripts of CONNMIX take for granted.

---`mix_log(mix_DEBUG, "text")`
---@param level mix.Level
---@param text string|number
---@return true
function mix_log(level, text) end

mix_DEBUG = 1
mix_INFO = 2
mix_WARN = 3
mix_ERROR = 4

-- Hooks: the script defines them, the engine calls them.

---The script has been loaded in a worker, which serves no connection with it yet. An error refuses the script.
---@param worker integer its number, from 1
function on_start(worker) end

---A WebSocket server got a valid upgrade request. `return false, 401, "please log in"` refuses it.
---@param client_id string
---@param headers table<string, string> found under any letter case
---@param server mix.Request
---@param conn mix.Connection
---@return boolean? accept
---@return integer? status 400 to 599; 403 unless told
---@return string? text
function on_handshake(client_id, headers, server, conn) end

---A socket server accepted a connection.
---@param client_id string
---@param conn mix.Connection
function on_connect(client_id, conn) end

---A whole message has come; on a socket server what `protocol_decode` returned. `conn:send(msg.data)` is an echo.
---@param msg mix.Message
---@param conn mix.Connection
---@overload fun(msg: any, conn: mix.Connection)
function on_message(msg, conn) end

---The connection has ended: once, after its last message.
---@param client_id string
---@param err string? nil after a clean end
---@param conn mix.Connection
---@param code integer? of the client's close frame
---@param reason string? of the same; may be empty
function on_close(client_id, err, conn, code, reason) end

---How many bytes make the next package of a socket server: 0 for more, -1 to close.
---@param buf mix.Buffer
---@param conn mix.Connection
---@return integer
function protocol_input(buf, conn) end

---A package's bytes -> what `on_message` gets; nil: it gets nothing.
---@param str string
---@param conn mix.Connection
---@return any
function protocol_decode(str, conn) end

---What is published or sent by others -> the bytes for this connection.
---@param data string
---@param conn mix.Connection? nil with `protocol_encode_shared`
---@return string
function protocol_encode(data, conn) end

---true: `protocol_encode` is called once for all connections of a server.
---@type boolean
protocol_encode_shared = false
