//! The `mix` API, one file a topic.
