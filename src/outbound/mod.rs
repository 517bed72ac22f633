//! Scripts' requests to other programs: HTTP servers and Redis; and key sets of the former, which are kept.
//!
//! All of it runs on one thread of its own, which starts at the first use. So TLS delays no worker, a script that holds
//! its worker delays no other worker's answers, and all workers share the pools of connections. [`http`] and [`redis`]
//! describe what they demand of their callers; this module makes a worker wait for that thread. Only names are looked up
//! on further threads ([`names`]).

pub mod http;
mod jwks;
mod names;
pub mod redis;

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use self::http::{Http, Request, Response};
use self::jwks::Sets;
use self::names::Names;
use self::redis::{Command, Redis, Reply};
use crate::config;
use crate::jwt::Keys;

/// The thread's stack. Replies of Redis may be nested, and are read by recursion.
const STACK: usize = 8 * 1024 * 1024;

/// Names that are looked up at once for HTTP. Those of Redis servers, each with a thread of its own, are no part of it:
/// they do not wait for names of HTTP servers that nobody answers for.
const NAMES: usize = 64;

/// The descriptors that connections may have; the system gives the lowest free one.
#[derive(Clone, Copy)]
struct Sockets {
    below: RawFd,
}

impl Sockets {
    /// An error for a connection that has one of those that are kept for others.
    fn check(self, socket: &impl AsRawFd) -> Result<(), String> {
        match socket.as_raw_fd() < self.below {
            true => Ok(()),
            false => Err("too many open files (ulimit -n): the rest is kept for the APIs".into()),
        }
    }
}

/// What every call gets when the thread has ended or could not start.
const STOPPED: &str = "the engine is stopping";

/// An engine's clients of other programs. Any thread may call them. Nothing is connected before it is used.
pub struct Outbound {
    runtime: OnceLock<Runtime>,
    /// Locked while the thread is started.
    starting: Mutex<()>,
    http: Http,
    redis: Vec<Redis>,
    sets: Sets,
}

impl Outbound {
    /// With these Redis servers. Descriptors from `below` on are not for it.
    pub fn new(redis: &[config::Redis], below: RawFd) -> Outbound {
        let sockets = Sockets { below };
        Outbound {
            runtime: OnceLock::new(),
            starting: Mutex::new(()),
            http: Http::new(Names::new(NAMES), sockets),
            redis: redis.iter().map(|config| Redis::new(config.clone(), Names::new(1), sockets)).collect(),
            sets: Sets::default(),
        }
    }

    /// Sends a request and reads the whole response. The error says what failed, and with which server. Dropping the
    /// future gives the request up.
    pub fn request(&self, request: Request) -> impl Future<Output = Result<Response, String>> + use<> {
        let sent = self.http.send(request);
        let handle = self.handle();
        async move { Running::start(handle?, sent?, true).await }
    }

    /// Whether there is a Redis of that name.
    pub fn has_redis(&self, name: &str) -> bool {
        self.redis.iter().any(|redis| redis.name() == name)
    }

    /// Sends a command to the Redis of that name and reads its reply. A command is sent even if the future is dropped
    /// after its first poll; but one that blocks is then given up, with its connection.
    pub fn command(&self, name: &str, command: Command) -> impl Future<Output = Result<Reply, String>> + use<> {
        let handle = self.handle();
        let given_up = command.blocks();
        let sent = match self.redis.iter().find(|redis| redis.name() == name) {
            Some(redis) => redis.send(command),
            None => Err(unknown(name)),
        };
        async move { Running::start(handle?, sent?, given_up).await }
    }

    /// The JSON Web Keys that were fetched from that URL not long ago.
    pub fn kept_keys(&self, url: &str) -> Option<Arc<Keys>> {
        self.sets.kept(url)
    }

    /// Those of that URL, fetched unless that was tried a moment ago; where that fails, the ones from before for a while.
    pub async fn keys(&self, url: String) -> Result<Arc<Keys>, String> {
        self.sets.keys(url, async |request| self.request(request).await).await
    }

    /// The thread, started if need be. If that fails, the next call tries again.
    fn handle(&self) -> Result<Handle, String> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime.handle().clone());
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = match self.runtime.get() {
            Some(runtime) => runtime,
            None => {
                let started = Builder::new_multi_thread()
                    .worker_threads(1)
                    .thread_name("outbound")
                    .thread_stack_size(STACK)
                    // Sockets and timers are looked at so often although a server gives one request work without end.
                    .event_interval(8)
                    .enable_all()
                    .build()
                    .map_err(|e| format!("the thread for HTTP and Redis could not start: {e}"))?;
                self.runtime.get_or_init(|| started)
            }
        };
        Ok(runtime.handle().clone())
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting for it: this may be dropped within a task.
            runtime.shutdown_background();
        }
    }
}

/// The error for a Redis that the configuration does not have.
pub fn unknown(name: &str) -> String {
    format!("no Redis is called \"{}\" under engine.luavm.redis", name.escape_debug())
}

/// A call that is under way on the thread.
struct Running<T> {
    task: JoinHandle<Result<T, String>>,
    /// It ends when nobody waits for it any more.
    given_up: bool,
}

impl<T: Send + 'static> Running<T> {
    fn start(handle: Handle, call: impl Future<Output = Result<T, String>> + Send + 'static, given_up: bool) -> Self {
        Running { task: handle.spawn(call), given_up }
    }
}

impl<T> Future for Running<T> {
    type Output = Result<T, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(cx).map(|ended| match ended {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(STOPPED.into()),
            Err(_) => Err("internal error; the engine's log tells more".into()),
        })
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if self.given_up {
            self.task.abort();
        }
    }
}
