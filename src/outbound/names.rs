//! Names of other servers become addresses, by the system's resolver (getaddrinfo).
//!
//! That resolver holds its thread until it has an answer, half a minute where no name server gives one, and can't be
//! interrupted. So a name is looked up by one thread at a time, whose answer all callers get that wait for it, and the
//! threads are bounded. A caller that gives up leaves nothing behind: one that waits for a thread has begun nothing,
//! and a lookup under way serves the next caller of that name.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The stack of a thread that looks a name up.
const STACK: usize = 512 * 1024;

type Answer = Result<Arc<[SocketAddr]>, String>;
type Lookup = Shared<BoxFuture<'static, Answer>>;

/// What looks a name up; it may block.
type Resolver = fn(&str) -> Answer;

/// The names of one kind of callers; cheap to clone.
#[derive(Clone)]
pub(super) struct Names {
    under_way: Arc<Mutex<HashMap<String, Lookup>>>,
    threads: Arc<Semaphore>,
    resolver: Resolver,
}

impl Names {
    /// At most `threads` names are looked up at once.
    pub(super) fn new(threads: usize) -> Names {
        Names::with(threads, system)
    }

    fn with(threads: usize, resolver: Resolver) -> Names {
        Names { under_way: Arc::default(), threads: Arc::new(Semaphore::new(threads)), resolver }
    }

    /// The addresses of `host:port`; an address is its own.
    pub(super) async fn look_up(&self, place: &str) -> Answer {
        if let Ok(address) = place.parse::<SocketAddr>() {
            return Ok([address].into());
        }
        let known = self.lock().get(place).cloned();
        let lookup = match known {
            Some(lookup) => lookup,
            None => {
                let thread = self.threads.clone().acquire_owned().await.map_err(|e| e.to_string())?;
                self.begin(place, thread)
            }
        };
        lookup.await
    }

    /// Begins a lookup, unless another caller has begun it meanwhile.
    fn begin(&self, place: &str, thread: OwnedSemaphorePermit) -> Lookup {
        let mut under_way = self.lock();
        let new = match under_way.entry(place.to_owned()) {
            Entry::Occupied(known) => return known.get().clone(),
            Entry::Vacant(new) => new,
        };
        let (done, answer) = oneshot::channel();
        let answer = async move { answer.await.unwrap_or_else(|_| Err("the lookup of the name has failed".into())) };
        let lookup = new.insert(answer.boxed().shared()).clone();
        drop(under_way);
        // Out of the table however it ends.
        let entry = Removed { all: self.under_way.clone(), place: place.to_owned() };
        let resolver = self.resolver;
        let work = move || {
            let _thread = thread;
            let answer = resolver(&entry.place);
            drop(entry);
            let _ = done.send(answer);
        };
        // Not one of the runtime's: if the system has no thread to give, that is an error for those who wait.
        let started = std::thread::Builder::new().name("names".into()).stack_size(STACK).spawn(work);
        started.err().map_or(lookup, |e| fail(format!("a thread that looks names up could not start: {e}")))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lookup>> {
        lock(&self.under_way)
    }
}

fn fail(why: String) -> Lookup {
    std::future::ready(Err(why)).boxed().shared()
}

fn lock(table: &Mutex<HashMap<String, Lookup>>) -> MutexGuard<'_, HashMap<String, Lookup>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lookup out of the table when it is dropped.
struct Removed {
    all: Arc<Mutex<HashMap<String, Lookup>>>,
    place: String,
}

impl Drop for Removed {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.place);
    }
}

fn system(place: &str) -> Answer {
    match place.to_socket_addrs() {
        Ok(found) => Ok(found.collect()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;
    use tokio::time::timeout;

    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static HELD: AtomicUsize = AtomicUsize::new(0);
    static OPEN: AtomicBool = AtomicBool::new(false);

    /// Names that begin with `slow` have an answer once they are let.
    fn resolver(place: &str) -> Answer {
        ASKED.fetch_add(1, SeqCst);
        if place.starts_with("slow") {
            HELD.fetch_add(1, SeqCst);
            while !OPEN.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok([SocketAddr::from(([127, 0, 0, 1], 1))].into())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_is_looked_up_once_and_callers_that_give_up_leave_nothing_behind() {
        let names = Names::with(2, resolver);
        let soon = Duration::from_millis(20);
        assert_eq!(names.look_up("[::1]:80").await.unwrap()[0].to_string(), "[::1]:80");
        assert_eq!(ASKED.load(SeqCst), 0);
        for _ in 0..5 {
            assert!(timeout(soon, names.look_up("slow:1")).await.is_err());
        }
        names.look_up("quick:1").await.unwrap();
        assert_eq!(ASKED.load(SeqCst), 2, "one lookup serves all");
        // The second name takes the last thread, so the third waits for one: when it gives up, nothing is left of it.
        for name in ["slow:2", "slow:3", "slow:4"] {
            assert!(timeout(soon, names.look_up(name)).await.is_err());
        }
        let mut waiting = Box::pin(names.look_up("slow:1"));
        assert!(timeout(soon, &mut waiting).await.is_err());
        OPEN.store(true, SeqCst);
        waiting.await.unwrap();
        names.look_up("slow:5").await.unwrap();
        assert_eq!((ASKED.load(SeqCst), HELD.load(SeqCst)), (4, 3), "slow:3 and slow:4 were never begun");
        names.look_up("slow:1").await.unwrap();
        assert_eq!(ASKED.load(SeqCst), 5, "an answer is not kept");
    }
}
