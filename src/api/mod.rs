//! The API for back ends: the mesh over HTTP and WebSocket, and the center. Served by the workers, each with its own
//! [`Api`].
//!
//! From the bottom up: `error`, `fields` (what the JSON says), `params`, `call` (one publish, one send), `idempotency`; `callers`,
//! `login_throttle` and `verifier`; `work_time`; `stage`; `state`, which holds all of them for a worker; `moving`; `trace`; `publish` and `batch`, `auth`, `pages`,
//! `center`, `dispatch`, `console`; `route`; `ws`; `fast_path` and `http`, the two ways a request is read; `serve`, the life of a
//! connection.

mod access_log;
mod answer;
mod asking;
pub mod auth;
mod batch;
pub mod call;
mod callers;
mod center;
mod channel_call;
mod command;
mod console;
mod dispatch;
pub mod error;
mod fast_path;
pub mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod history;
mod http;
pub mod idempotency;
mod linger;
mod login_throttle;
mod moving;
mod pages;
pub mod params;
mod publish;
mod query;
mod route;
mod serve;
mod stage;
mod state;
mod tail;
mod trace;
mod verifier;
mod why;
mod work_time;
mod ws;

pub use answer::stuck;
pub use callers::Callers;
pub use login_throttle::LoginThrottle;
pub use publish::OnceHere;
pub use stage::Stage;
pub use state::{Api, Parts};
pub use verifier::Verifier;
