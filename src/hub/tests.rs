//! The hub as a whole.

use super::*;
use crate::ids::{ClientIds, MAX_WORKERS};
use crate::message::Message;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Barrier, Mutex, PoisonError};

fn hub(workers: usize) -> Hub {
    Hub::new(NodeNumber::random(), workers)
}

fn channel(name: &str) -> Channel {
    Channel::parse(name.as_bytes()).unwrap()
}

#[test]
fn interest_comes_and_goes_without_a_trace() {
    let hub = hub(130);
    let c = channel("video:1");
    for w in [0, 63, 64, 129] {
        assert_eq!(hub.join(&c, WorkerId(w)), if w == 0 { Joined::First } else { Joined::Added });
        assert_eq!(hub.join(&c, WorkerId(w)), Joined::Already);
    }
    let workers: Vec<u16> = hub.workers_of("video:1").iter().map(|w| w.0).collect();
    assert_eq!(workers, [0, 63, 64, 129]);
    for w in [64, 0, 129, 63] {
        assert_eq!(hub.leave("video:1", WorkerId(w)), if w == 63 { Left::Last } else { Left::Removed });
        assert_eq!(hub.leave("video:1", WorkerId(w)), Left::Absent);
    }
    assert_eq!(hub.channels(), 0);
    assert_eq!(hub.workers_of("video:1"), WorkerSet::default());
    assert_eq!(hub.leave("never", WorkerId(1)), Left::Absent);
}

fn delivery(bytes: usize) -> (Delivery, tokio::sync::oneshot::Receiver<Counts>) {
    let (pending_counts, counts) = PendingCounts::new();
    let message = Message::binary(vec![0; bytes]);
    (Delivery::Publish(Arc::new(Publication::new(channel("c"), message)), pending_counts.ack()), counts)
}

#[test]
fn a_full_mailbox_refuses_and_has_room_again_once_taken() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    assert!(
        mailbox.offer(delivery(MAILBOX_BYTES * 2).0, Line::default()).is_ok(),
        "an empty box takes a message of any size"
    );
    let Err(Refused::Full(refused)) = mailbox.offer(delivery(1).0, Line::default()) else { panic!("there is no room") };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut line = Line::default();
    assert!(mailbox.poll_room(&refused, &mut line, &mut cx).is_pending());
    let mut taken = std::collections::VecDeque::new();
    mailbox.take(&mut taken, 0, std::task::Waker::noop());
    assert_eq!(taken.len(), 1);
    assert!(mailbox.poll_room(&refused, &mut line, &mut cx).is_ready());
    assert!(mailbox.offer(refused, line).is_ok());
}

#[test]
fn who_waited_for_room_goes_first() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    let (mut cx, mut taken) = (std::task::Context::from_waker(std::task::Waker::noop()), VecDeque::new());
    let offer = |line: Line| mailbox.offer(delivery(100).0, line).is_ok();
    let mut take = || {
        mailbox.take(&mut taken, 0, std::task::Waker::noop());
        taken.clear();
    };
    assert!(mailbox.offer(delivery(MAILBOX_BYTES * 2).0, Line::default()).is_ok());
    let [mut first, mut second, mut later] = [Line::default(); 3];
    for line in [&mut first, &mut second] {
        assert!(mailbox.poll_room(&delivery(100).0, line, &mut cx).is_pending());
    }
    take();
    // Room enough for all of them.
    assert!(offer(Line::default()), "an empty mailbox is closed to nobody");
    assert!(!offer(Line::default()), "two have waited");
    assert!(mailbox.poll_room(&delivery(100).0, &mut later, &mut cx).is_pending() && !offer(later));
    assert!(offer(first) && !offer(Line::default()) && !offer(later) && offer(second));
    assert!(offer(Line::default()), "nobody is expected any more");
    // One that waited has gone, and holds nobody up for longer than until the worker takes what there is.
    take();
    assert!(offer(Line::default()) && !offer(Line::default()));
    take();
    assert!(offer(Line::default()) && offer(Line::default()));
}

#[test]
fn a_mailbox_takes_less_where_deliveries_are_for_many() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    let fill = |pushes_each: usize| {
        let mut taken = std::collections::VecDeque::new();
        mailbox.take(&mut taken, 0, std::task::Waker::noop());
        assert!(mailbox.offer(delivery(100).0, Line::default()).is_ok());
        taken.clear();
        mailbox.take(&mut taken, 0, std::task::Waker::noop());
        taken.clear();
        // As told by the worker when it has delivered that one.
        mailbox.take(&mut taken, pushes_each, std::task::Waker::noop());
        (0..).take_while(|_| mailbox.offer(delivery(100).0, Line::default()).is_ok()).count()
    };
    let few = fill(1);
    assert!((60_000..80_000).contains(&few), "16 MiB of them, not {few}");
    assert!((250..280).contains(&fill(1_000)));
    assert!((5..50).contains(&fill(1_000_000)), "some bytes in any case");
    assert_eq!(fill(1), few);
}

#[test]
fn a_connection_with_few_subscriptions_finds_room_beside_those_with_many() {
    let hub = hub(1);
    hub.bound_subscriptions(100_000);
    let mut taken = Vec::new();
    for _ in 0..50 {
        let (mut low, mut high) = (0, 100_000);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if hub.may_subscribe(middle, middle) { low = middle } else { high = middle }
        }
        hub.count_subscriptions(0, low);
        taken.push(low);
    }
    assert_eq!(taken[0], 100_000 / SHARE);
    assert!(taken.is_sorted_by(|a, b| a >= b));
    assert!(hub.may_subscribe(FEW, FEW), "{} of {} are left", 100_000 - hub.subscriptions(), 100_000);
    hub.count_subscriptions(100_000 - hub.subscriptions(), 100_000);
    hub.count_subscriptions(hub.subscriptions(), 100_000);
    assert!(!hub.may_subscribe(1, 1));
}

#[test]
fn room_is_what_the_refused_delivery_needs() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    assert!(mailbox.offer(delivery(MAILBOX_BYTES / 3).0, Line::default()).is_ok());
    let Err(Refused::Full(refused)) = mailbox.offer(delivery(MAILBOX_BYTES).0, Line::default()) else {
        panic!("there is no room")
    };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        mailbox.poll_room(&refused, &mut Line::default(), &mut cx).is_pending(),
        "it would be refused again at once"
    );
}

#[test]
fn a_closed_mailbox_fails_what_waits_and_what_comes() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    let (waiting, mut counts) = delivery(1);
    assert!(mailbox.offer(waiting, Line::default()).is_ok());
    mailbox.close();
    assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1, ..Counts::default() }));
    let (late, mut counts) = delivery(1);
    assert!(matches!(mailbox.offer(late, Line::default()), Err(Refused::Closed)));
    assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1, ..Counts::default() }));
}

/// Records what it is told: the channels in order, and whether they came or went.
#[derive(Default)]
struct Told(Mutex<Vec<(String, bool)>>);

impl Told {
    fn push(&self, channel: &Channel, here: bool) {
        // Another thread's event would come first, if it could.
        std::thread::yield_now();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((channel.as_str().to_owned(), here));
    }

    fn take(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Whether the last event of a channel was its coming.
    fn is_here(&self, channel: &str) -> bool {
        let told = self.0.lock().unwrap();
        told.iter().rev().find(|(name, _)| name == channel).is_some_and(|(_, comes)| *comes)
    }
}

impl InterestSink for Told {
    fn gained(&self, channel: &Channel) {
        self.push(channel, true);
    }

    fn lost(&self, channel: &Channel) {
        self.push(channel, false);
    }
}

/// (worker, channel, whether it joins)
fn steps(workers: u16) -> impl Strategy<Value = Vec<(u16, u8, bool)>> {
    prop::collection::vec((0..workers, 0..4u8, any::<bool>()), 0..300)
}

/// The channels that exist after these events. The events of each channel must alternate between coming and going.
fn by_turns(events: &[(String, bool)]) -> BTreeSet<String> {
    let mut here = BTreeSet::new();
    for (name, comes) in events {
        let changes = if *comes { here.insert(name.clone()) } else { here.remove(name) };
        assert!(changes, "{name} {} twice: {events:?}", if *comes { "came" } else { "went" });
    }
    here
}

proptest! {
    /// The hub against a map of sets.
    #[test]
    fn first_and_last_subscribers_are_told(steps in steps(5)) {
        let told = Arc::new(Told::default());
        let hub = hub(5).telling(told.clone());
        let mut model: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for (worker, n, joins) in steps {
            let name = format!("c{n}");
            let workers = model.entry(name.clone()).or_default();
            let before = workers.len();
            let want = if joins { workers.insert(worker) } else { workers.remove(&worker) };
            let event = match joins {
                true => {
                    let joined = hub.join(&channel(&name), WorkerId(worker));
                    prop_assert_eq!(joined != Joined::Already, want);
                    prop_assert_eq!(joined == Joined::First, before == 0);
                    joined == Joined::First
                }
                false => {
                    let left = hub.leave(&name, WorkerId(worker));
                    prop_assert_eq!(left != Left::Absent, want);
                    prop_assert_eq!(left == Left::Last, before == 1 && want);
                    left == Left::Last
                }
            };
            prop_assert_eq!(told.take(), if event { vec![(name.clone(), joins)] } else { vec![] });
            let workers: BTreeSet<u16> = hub.workers_of(&name).iter().map(|w| w.0).collect();
            prop_assert_eq!(&workers, &model[&name]);
            model.retain(|_, workers| !workers.is_empty());
            prop_assert_eq!(hub.channels(), model.len());
        }
    }

    /// The same from all workers' threads at once: whatever the order was, the events of a channel report it.
    #[test]
    fn events_of_one_channel_come_in_their_true_order(steps in steps(4)) {
        let told = Arc::new(Told::default());
        let hub = hub(4).telling(told.clone());
        let begin = Barrier::new(4);
        let mut results = std::thread::scope(|scope| {
            let work = |worker: u16| {
                let (hub, told, begin, steps) = (&hub, &told, &begin, &steps);
                move || {
                    let mut results = Vec::new();
                    begin.wait();
                    // Its part of the steps, over and over.
                    for _ in 0..20 {
                        for (_, n, joins) in steps.iter().filter(|(w, ..)| *w == worker) {
                            let name = format!("c{n}");
                            let event = match joins {
                                true => {
                                    let joined = hub.join(&channel(&name), WorkerId(worker));
                                    assert!(told.is_here(&name), "{joined:?}, and it has not been told");
                                    joined == Joined::First
                                }
                                false => hub.leave(&name, WorkerId(worker)) == Left::Last,
                            };
                            if event {
                                results.push((name, *joins));
                            }
                        }
                    }
                    results
                }
            };
            let threads: Vec<_> = (0..4).map(|worker| scope.spawn(work(worker))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let mut model: BTreeSet<(u16, String)> = BTreeSet::new();
        for (worker, n, joins) in steps {
            let key = (worker, format!("c{n}"));
            let _ = if joins { model.insert(key) } else { model.remove(&key) };
        }
        let names: BTreeSet<String> = model.into_iter().map(|(_, name)| name).collect();
        let mut events = told.take();
        prop_assert_eq!(&by_turns(&events), &names);
        prop_assert_eq!(hub.channels(), names.len());
        // The callers were told the same, in their own order.
        events.sort();
        results.sort();
        prop_assert_eq!(events, results);
    }
}

#[test]
fn a_plain_channel_costs_its_name_and_its_workers() {
    assert_eq!(size_of::<ChannelState>(), size_of::<WorkerSet>());
    assert!(size_of::<(Channel, ChannelState)>() <= 40);
}

#[test]
fn workers_are_found_by_the_lanes_of_their_clients() {
    for workers in [1, 3, MAX_WORKERS] {
        let hub = hub(workers);
        let mut seen = HashSet::new();
        for worker in (0..workers).map(|worker| WorkerId(worker as u16)) {
            let mut ids = ClientIds::new(hub.lanes_of(worker));
            for _ in 0..1000 {
                let id = ids.issue(hub.node());
                assert_eq!((id.node(), hub.worker_of(id)), (Some(hub.node()), worker));
                assert!(seen.insert(id), "{id} was given twice");
            }
        }
    }
}
