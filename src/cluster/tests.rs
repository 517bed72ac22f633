//! The mesh on one node: order, receipts, and workers that are stuck.

use super::*;
use crate::hub::{CommandError, MAILBOX_BYTES};
use crate::ids::NodeNumber;
use futures_util::FutureExt;
use std::collections::VecDeque;
use std::task::Waker;

fn world(workers: usize) -> (Arc<Hub>, Mesh, Channel) {
    let hub = Arc::new(Hub::new(NodeNumber::random(), workers));
    (hub.clone(), Mesh::new(hub, NodeId(1)), Channel::parse(b"c").unwrap())
}

/// What a worker's mailbox holds, which is empty then.
fn take(hub: &Hub, worker: u16) -> VecDeque<Delivery> {
    let mut taken = VecDeque::new();
    hub.mailbox(WorkerId(worker)).take(&mut taken, 0, Waker::noop());
    taken
}

fn full() -> Message {
    Message::binary(vec![0; MAILBOX_BYTES])
}

#[test]
fn a_publish_goes_behind_the_commands_that_it_must_not_overtake() {
    let (hub, mesh, channel) = world(3);
    let client = ClientId::new(7).unwrap();
    let mut command = mesh.command(client, ConnCommand::Subscribe(vec![channel.clone()])).now_or_never().unwrap();
    let behind = mesh.behind([client]);
    let mut publish = mesh.publish(Publication::new(channel, Message::text("x")), behind).now_or_never().unwrap();
    assert!((&mut command).now_or_never().is_none() && (&mut publish).now_or_never().is_none());
    let mut taken = take(&hub, hub.worker_of(client).0);
    assert!(matches!(taken.pop_front(), Some(Delivery::ConnCommand(..))));
    assert!(matches!(taken.pop_front(), Some(Delivery::Publish(..))));
    assert!(taken.is_empty());
    assert_eq!(command.now_or_never(), Some(Err(CommandError::NotConnected(7))), "the command was dropped");
    assert_eq!(publish.now_or_never(), Some(Counts { reached: 0, failed: 1, ..Counts::default() }));
}

#[test]
fn a_publish_that_one_worker_has_reaches_the_others_though_its_publisher_goes() {
    let (hub, mesh, channel) = world(3);
    // First the second worker's mailbox is full, then the first one's.
    for (full_one, others) in [(1, [1, 1]), (0, [0, 0])] {
        for worker in 0..3 {
            hub.leave("c", WorkerId(worker));
        }
        hub.join(&channel, WorkerId(full_one));
        assert!(mesh.publish_uncounted(Publication::new(channel.clone(), full())).now_or_never().is_some());
        for worker in 0..3 {
            hub.join(&channel, WorkerId(worker));
        }
        let publish = mesh.publish(Publication::new(channel.clone(), Message::text("x")), Behind::default());
        assert!(publish.now_or_never().is_none());
        // All, or none of them.
        let taken = |worker| take(&hub, worker).len();
        assert_eq!((taken(full_one), [taken(1 - full_one), taken(2)]), (1 + others[0], others));
    }
}

#[test]
fn a_receipt_is_given_when_the_mailbox_has_the_publication_and_its_counts_come_later() {
    let (hub, mesh, channel) = world(1);
    hub.join(&channel, WorkerId(0));
    assert!(mesh.publish_uncounted(Publication::new(channel.clone(), full())).now_or_never().is_some());
    let mut next = Box::pin(mesh.publish(Publication::new(channel.clone(), Message::text("x")), Behind::default()));
    assert!((&mut next).now_or_never().is_none(), "the mailbox is full");
    take(&hub, 0);
    let mut receipt = next.now_or_never().unwrap();
    let dropped = mesh.publish(Publication::new(channel, Message::text("y")), Behind::default()).now_or_never();
    drop(dropped);
    assert!((&mut receipt).now_or_never().is_none());
    let taken = take(&hub, 0);
    assert_eq!(taken.len(), 2, "a receipt that is dropped undoes nothing");
    for delivery in taken {
        let Delivery::Publish(_, ack) = delivery else { panic!("only publications are there") };
        ack.settle(Counts { reached: 3, failed: 0, ..Counts::default() });
    }
    assert_eq!(receipt.now_or_never(), Some(Counts { reached: 3, failed: 0, ..Counts::default() }));
}

/// One worker is stuck with the message in its mailbox, before or after it came there; another one takes its time.
#[test]
fn a_worker_that_is_not_stuck_is_waited_for_beside_one_that_is() {
    let (hub, mesh, channel) = world(2);
    for worker in [0, 1] {
        hub.join(&channel, WorkerId(worker));
    }
    let publish = || {
        mesh.publish(Publication::new(channel.clone(), Message::text("x")), Behind::default()).now_or_never().unwrap()
    };
    let mut before = publish();
    hub.stall(WorkerId(0));
    let mut after = publish();
    assert!((&mut before).now_or_never().is_none() && (&mut after).now_or_never().is_none());
    for delivery in take(&hub, 1) {
        let Delivery::Publish(_, ack) = delivery else { panic!("only publications are there") };
        ack.settle(Counts { reached: 2, failed: 0, ..Counts::default() });
    }
    let counts = Some(Counts { reached: 2, failed: 1, ..Counts::default() });
    assert_eq!((before.now_or_never(), after.now_or_never()), (counts, counts));
    assert_eq!(take(&hub, 0).len(), 2, "delivered once the worker goes on");
    // What its full mailbox does not take has failed at once, and is not missed besides.
    assert!(mesh.publish_uncounted(Publication::new(channel.clone(), full())).now_or_never().is_some());
    take(&hub, 1);
    let mut refused = publish();
    assert!((&mut refused).now_or_never().is_none());
    take(&hub, 1);
    assert_eq!(refused.now_or_never(), Some(Counts { reached: 0, failed: 2, ..Counts::default() }));
}

/// The worker has taken all of it out of its mailbox, and does nothing more.
#[test]
fn no_receipt_waits_for_a_worker_that_is_stuck() {
    let (hub, mesh, channel) = world(2);
    let [own, other] = [0, 1].map(WorkerId);
    let client = (1..).filter_map(ClientId::new).find(|client| hub.worker_of(*client) == own).unwrap();
    for worker in [own, other] {
        hub.join(&channel, worker);
    }
    let mut publish =
        mesh.publish(Publication::new(channel, Message::text("x")), Behind::default()).now_or_never().unwrap();
    let mut send = mesh.send(client, Message::text("x")).now_or_never().unwrap();
    let mut command = mesh.command(client, ConnCommand::Unsubscribe(Vec::new())).now_or_never().unwrap();
    let (_held, mut answered) = (take(&hub, own.0), take(&hub, other.0));
    let Some(Delivery::Publish(_, ack)) = answered.pop_front() else { panic!("one publication is there") };
    ack.settle(Counts { reached: 4, failed: 0, ..Counts::default() });
    assert!((&mut publish).now_or_never().is_none());
    assert!((&mut send).now_or_never().is_none());
    assert!((&mut command).now_or_never().is_none());
    hub.stall(own);
    assert_eq!(publish.now_or_never(), Some(Counts { reached: 4, failed: 1, ..Counts::default() }));
    assert_eq!(send.now_or_never(), Some(false));
    assert_eq!(command.now_or_never(), Some(Err(CommandError::Stuck { client, worker: own })));
}

#[test]
fn receipts_may_go_to_another_thread() {
    fn goes<T: Send + Unpin + 'static>() {}
    goes::<(Receipt, SendReceipt, CommandReceipt)>();
}
