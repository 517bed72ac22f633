//! Idempotent publishes: a publish with an id is done once, even if it is requested twice. One table for the process,
//! whichever worker is asked. It is bounded in time, number and bytes; the oldest id is forgotten first.

mod saved;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

use super::call::Outcome;
use super::params::Publish;
use crate::hub::PastPublish;
use crate::message::Channel;

/// How long an id is known, counted from its first publish.
const KNOWN: Duration = Duration::from_secs(300);
/// The most ids that are known at once.
const MAX_IDS: usize = 65_536;
/// The most bytes of the table. A single larger publish is still accepted, and is then the only one.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What an id takes besides its text, and each of its channels, in bytes; a generous estimate.
const PER_ID: usize = 512;
const PER_CHANNEL: usize = 256;

/// The outcome of a publish with an id, as far as this node knows.
#[derive(Debug, Clone)]
pub(super) enum Done {
    /// It was done.
    Known(Outcome),
    /// The node that does it has not answered. The caller may ask again; it is not done twice then.
    Unknown(Outcome),
}

/// A publish with an id, in the mailboxes: its outcome, for all callers that ask for it.
pub(super) type Enqueued = Shared<BoxFuture<'static, Outcome>>;
/// The same publish on its way into the mailboxes.
pub(super) type Enqueuing = Shared<BoxFuture<'static, Enqueued>>;

/// The ids that are known, and the publish of each.
#[derive(Default)]
pub struct IdempotencyTable(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    known: HashMap<Arc<str>, Entry>,
    /// The known ids, oldest first.
    order: VecDeque<(Instant, Arc<str>)>,
    bytes: usize,
    /// Numbers the entries, so that an id that was forgotten and came again is told from its earlier entry.
    next: u64,
}

struct Entry {
    number: u64,
    weight: usize,
    /// When it came, in milliseconds of Unix time.
    at: u64,
    channels: Vec<Channel>,
    /// Any caller that waits for it drives it: if the first caller leaves, the next one continues.
    under_way: Enqueuing,
}

impl IdempotencyTable {
    /// The publish with that id.
    pub(super) fn find(&self, id: &str) -> Option<PastPublish> {
        let table = lock(&self.0);
        let entry = table.known.get(id)?;
        let outcome = entry.under_way.peek().and_then(|enqueued| enqueued.peek());
        Some(PastPublish {
            at: entry.at,
            channels: entry.channels.iter().map(|channel| channel.as_str().to_owned()).collect(),
            outcome: outcome.and_then(|outcome| serde_json::to_string(outcome).ok()),
        })
    }

    /// The publish with that id: the earlier one if the id is known, else the one that `begin` begins. Its first stage
    /// ends when the mailboxes have it, its second with its outcome.
    pub(super) fn once<E, F>(&self, id: Arc<str>, publish: Publish, begin: impl FnOnce(Publish) -> E) -> Enqueuing
    where
        E: Future<Output = F> + Send + 'static,
        F: Future<Output = Done> + Send + 'static,
    {
        let channels = publish.channels.clone();
        self.once_at(Instant::now(), id, (weights(&publish), channels), || begin(publish))
    }

    /// `weights`: the bytes while the message has not been enqueued, and afterwards.
    fn once_at<E, F>(
        &self,
        now: Instant,
        id: Arc<str>,
        (weights, channels): ((usize, usize), Vec<Channel>),
        begin: impl FnOnce() -> E,
    ) -> Enqueuing
    where
        E: Future<Output = F> + Send + 'static,
        F: Future<Output = Done> + Send + 'static,
    {
        let mut table = lock(&self.0);
        let mut forgotten = table.forget_old(now);
        let under_way = match table.known.get(&id) {
            Some(entry) => entry.under_way.clone(),
            None => {
                let number = table.next;
                table.next += 1;
                let (begun, settling, own) = (begin(), Arc::downgrade(&self.0), id.clone());
                let under_way = async move {
                    let done = begun.await;
                    if let Some(table) = settling.upgrade() {
                        lock(&table).settle(&own, number, weights.1);
                    }
                    let outcome = async move {
                        match done.await {
                            Done::Known(outcome) => outcome,
                            Done::Unknown(outcome) => {
                                if let Some(table) = settling.upgrade() {
                                    lock(&table).forget(&own, number);
                                }
                                outcome
                            }
                        }
                    };
                    outcome.boxed().shared()
                };
                let under_way = under_way.boxed().shared();
                let weight = weights.0;
                let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
                table.known.insert(id.clone(), Entry { number, weight, at, channels, under_way: under_way.clone() });
                table.order.push_back((now, id));
                table.bytes += weight;
                table.make_room(&mut forgotten);
                under_way
            }
        };
        drop(table);
        // Forgotten entries are dropped here, outside the lock.
        drop(forgotten);
        under_way
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Nothing is done under the lock that could leave the table half changed.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that a publish counts for, before its message is enqueued and afterwards.
fn weights(publish: &Publish) -> (usize, usize) {
    let id = publish.id.as_ref().map_or(0, |id| id.len());
    let names: usize = publish.channels.iter().map(|channel| channel.as_str().len()).sum();
    let after = PER_ID + id + names + publish.channels.len() * PER_CHANNEL;
    (after + publish.message.data().len(), after)
}

impl Table {
    fn forget_old(&mut self, now: Instant) -> Vec<Entry> {
        let mut forgotten = Vec::new();
        while self.order.front().is_some_and(|&(since, _)| now.saturating_duration_since(since) >= KNOWN) {
            self.forget_oldest(&mut forgotten);
        }
        forgotten
    }

    /// The newest entry always stays.
    fn make_room(&mut self, forgotten: &mut Vec<Entry>) {
        while self.order.len() > 1 && (self.order.len() > MAX_IDS || self.bytes > MAX_BYTES) {
            self.forget_oldest(forgotten);
        }
    }

    fn forget_oldest(&mut self, forgotten: &mut Vec<Entry>) {
        let Some((_, id)) = self.order.pop_front() else { return };
        if let Some(entry) = self.known.remove(&id) {
            self.bytes -= entry.weight;
            forgotten.push(entry);
        }
    }

    /// The outcome of that entry is not known: the next request begins it anew.
    fn forget(&mut self, id: &str, number: u64) {
        if self.known.get(id).is_some_and(|entry| entry.number == number)
            && let Some(entry) = self.known.remove(id)
        {
            self.bytes -= entry.weight;
            self.order.retain(|(_, known)| **known != *id);
        }
    }

    /// The message of that entry has been enqueued.
    fn settle(&mut self, id: &str, number: u64, weight: usize) {
        if let Some(entry) = self.known.get_mut(id).filter(|entry| entry.number == number) {
            self.bytes = self.bytes - entry.weight + weight;
            entry.weight = weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::call::Published;
    use std::future::{Ready, ready};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::sync::oneshot;

    /// Publishes of which each counts itself.
    #[derive(Default)]
    struct World {
        repeats: IdempotencyTable,
        begun: Arc<AtomicUsize>,
    }

    fn outcome(s: usize) -> Outcome {
        Outcome::One(Published { s: s as u64, f: 0, u: 0, p: None, l: 0, m: 0 })
    }

    impl World {
        /// A publish that is done at once; its outcome is how many have been begun.
        fn publish(&self, now: Instant, id: &str, weight: usize) -> Outcome {
            let begun = self.begun.clone();
            let begin = move || {
                let number = begun.fetch_add(1, Relaxed) + 1;
                ready(ready(Done::Known(outcome(number))))
            };
            let enqueuing = self.repeats.once_at(now, id.into(), ((weight, weight.min(1000)), Vec::new()), begin);
            enqueuing.now_or_never().unwrap().now_or_never().unwrap()
        }

        fn known(&self) -> (usize, usize) {
            let table = lock(&self.repeats.0);
            assert_eq!(table.known.len(), table.order.len());
            assert_eq!(table.bytes, table.known.values().map(|entry| entry.weight).sum::<usize>());
            (table.known.len(), table.bytes)
        }
    }

    #[test]
    fn an_id_is_known_for_five_minutes_from_its_first_publish() {
        let (world, start) = (World::default(), Instant::now());
        assert_eq!(world.publish(start, "a", 700), outcome(1));
        let late = start + KNOWN - Duration::from_millis(1);
        assert_eq!(world.publish(late, "a", 700), outcome(1), "not begun again");
        assert_eq!(world.publish(late, "b", 700), outcome(2));
        assert_eq!(world.publish(start + KNOWN, "a", 700), outcome(3), "a repeat does not prolong it");
        assert_eq!(world.known(), (2, 1400));
    }

    #[test]
    fn beyond_the_bounds_the_oldest_ids_are_forgotten() {
        let (world, now) = (World::default(), Instant::now());
        for i in 0..MAX_IDS {
            world.publish(now, &i.to_string(), 700);
        }
        assert_eq!(world.known().0, MAX_IDS);
        world.publish(now, "one more", 700);
        assert_eq!(world.known().0, MAX_IDS);
        assert_eq!(world.publish(now, "1", 700), outcome(2), "the second oldest is known");
        assert_eq!(world.publish(now, "0", 700), outcome(MAX_IDS + 2), "the oldest is not");
        // While its message has not been enqueued, it counts: this one takes all there is.
        assert_eq!(world.publish(now, "large", MAX_BYTES + 1), outcome(MAX_IDS + 3));
        assert_eq!(world.known(), (1, 1000), "it has been enqueued since");
        assert_eq!(world.publish(now, "large", 700), outcome(MAX_IDS + 3));
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_goes_on_if_that_is_dropped() {
        let repeats = IdempotencyTable::default();
        let now = Instant::now();
        let (finish, finished) = oneshot::channel::<usize>();
        let begin = || async move { ready(Done::Known(outcome(finished.await.unwrap()))) };
        let mut first = repeats.once_at(now, "x".into(), ((700, 700), Vec::new()), begin);
        assert!((&mut first).now_or_never().is_none());
        let never = || -> Ready<Ready<Done>> { panic!("it is begun once") };
        let again = || repeats.once_at(now, "x".into(), ((700, 700), Vec::new()), never);
        let waiting = tokio::spawn(again());
        drop(first);
        finish.send(7).unwrap();
        assert_eq!(waiting.await.unwrap().await, outcome(7));
        assert_eq!(again().await.await, outcome(7));
    }

    #[tokio::test]
    async fn what_nobody_knows_the_outcome_of_is_begun_anew() {
        let world = World::default();
        let unknown = || ready(ready(Done::Unknown(outcome(0))));
        let now = Instant::now();
        assert_eq!(world.repeats.once_at(now, "x".into(), ((700, 700), Vec::new()), unknown).await.await, outcome(0));
        assert_eq!(world.known(), (0, 0));
        assert_eq!(world.publish(now, "x", 700), outcome(1));
        assert_eq!(world.publish(now, "x", 700), outcome(1));
    }
}
