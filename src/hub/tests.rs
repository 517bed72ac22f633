//! The hub as a whole.

use super::*;
use crate::ids::{ClientIds, MAX_WORKERS};
use std::collections::HashSet;

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
        hub.join(&c, WorkerId(w));
    }
    let workers: Vec<u16> = hub.workers_of("video:1").iter().map(|w| w.0).collect();
    assert_eq!(workers, [0, 63, 64, 129]);
    for w in [64, 0, 129, 63] {
        hub.leave("video:1", WorkerId(w));
    }
    assert_eq!(hub.channels(), 0);
    assert_eq!(hub.workers_of("video:1"), WorkerSet::default());
    hub.leave("never", WorkerId(1));
}

fn delivery(bytes: usize) -> (Delivery, tokio::sync::oneshot::Receiver<Counts>) {
    let (tally, counts) = Tally::new();
    let message = Message::binary(vec![0; bytes]);
    (Delivery::Publish(Arc::new(Publication { channel: channel("c"), message }), tally.share()), counts)
}

#[test]
fn a_full_mailbox_refuses_and_has_room_again_once_taken() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    assert!(mailbox.offer(delivery(MAILBOX_BYTES * 2).0).is_ok(), "an empty box takes a message of any size");
    let Err(Refused::Full(refused)) = mailbox.offer(delivery(1).0) else { panic!("there is no room") };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(mailbox.poll_room(&refused, &mut cx).is_pending());
    let mut taken = std::collections::VecDeque::new();
    mailbox.take(&mut taken, std::task::Waker::noop());
    assert_eq!(taken.len(), 1);
    assert!(mailbox.poll_room(&refused, &mut cx).is_ready());
    assert!(mailbox.offer(refused).is_ok());
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
    assert!(mailbox.offer(delivery(MAILBOX_BYTES / 3).0).is_ok());
    let Err(Refused::Full(refused)) = mailbox.offer(delivery(MAILBOX_BYTES).0) else { panic!("there is no room") };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(mailbox.poll_room(&refused, &mut cx).is_pending(), "it would be refused again at once");
}

#[test]
fn a_closed_mailbox_fails_what_waits_and_what_comes() {
    let hub = hub(1);
    let mailbox = hub.mailbox(WorkerId(0));
    let (waiting, mut counts) = delivery(1);
    assert!(mailbox.offer(waiting).is_ok());
    mailbox.close();
    assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1 }));
    let (late, mut counts) = delivery(1);
    assert!(matches!(mailbox.offer(late), Err(Refused::Closed)));
    assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1 }));
}

#[test]
fn workers_are_found_by_the_lanes_of_their_clients() {
    for workers in [1, 3, MAX_WORKERS] {
        let hub = hub(workers);
        let mut seen = HashSet::new();
        for worker in (0..workers).map(|worker| WorkerId(worker as u16)) {
            let mut ids = ClientIds::new(hub.node(), hub.lanes_of(worker));
            for _ in 0..1000 {
                let id = ids.issue();
                assert_eq!((id.node(), hub.worker_of(id)), (Some(hub.node()), worker));
                assert!(seen.insert(id), "{id} was given twice");
            }
        }
    }
}
