//! The spellings of older versions: those that are still accepted, and those whose error names today's spelling.

/// Keys of older versions that are none any more, and what they are called today.
pub const OLDER: [(&str, &str); 8] = [
    ("log", "logging"),
    ("logging.max_files", "maxFiles"),
    ("center.server", "apiServer"),
    ("engine.control", "apiServer"),
    ("engine.apiServer.username", "access.users"),
    ("engine.apiServer.password", "access.users"),
    ("engine.luavm.queue.size", "topicSize"),
    ("engine.luavm.queue.max", "maxTopics"),
];

/// The older spelling of a key that is taken, too. Messages offer only today's.
pub fn older_spelling(name: &str) -> Option<&'static str> {
    (name == "byteCodeExpires").then_some("bytecodeExpires")
}
