//! Tests of `link`.

use super::*;
use crate::cluster::protocol::Messages;
use crate::hub::{CommandError, PendingCounts};
use crate::ids::ClientId;
use proptest::prelude::*;
use tokio::sync::oneshot;

fn link() -> Link {
    Link::new(Run(1), Run(2), 0, 1, Arc::default())
}

fn frame(link: &Link) -> Option<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    link.frame(0, &mut out).then(|| {
        let (header, body) = Header::read(&out).unwrap();
        (header, body.to_vec())
    })
}

fn publish(data: &[u8]) -> Bytes {
    Message::Publish { channel: "c", binary: true, data, except: &[], key: None }.to_bytes()
}

#[test]
fn many_messages_share_a_frame_and_no_more_than_the_window_is_under_way() {
    let link = link();
    for _ in 0..10 {
        link.force(&publish(b"x"), None, 0);
    }
    let (header, body) = frame(&link).unwrap();
    assert_eq!((header.epoch, header.seq, Messages::new(&body).count()), (1, 0, 10));
    assert!(frame(&link).is_none());
    let large = publish(&vec![0; 50_000]);
    (0..200).for_each(|_| link.force(&large, None, 0));
    let mut sent = 0;
    while frame(&link).is_some() {
        sent += 1;
    }
    assert_eq!(sent, WINDOW / 50_000 + 1);
    link.was_read(1, 1);
    assert!(frame(&link).is_none(), "that was a small one");
    link.was_read(1, 3);
    assert!(frame(&link).is_some());
    link.was_read(2, 100);
    assert_eq!(link.unread_since(), Some(0), "another stream's");
}

#[test]
fn a_full_link_refuses_and_a_suspect_one_waits_for_nobody() {
    let link = link();
    let large = publish(&vec![0; QUEUE - 100]);
    let (counts, mut told) = PendingCounts::new();
    assert!(link.offer(&large, Some(Request::Counts(counts.ack())), 0).is_ok());
    let Err(Full(Some(request))) = link.offer(&large, Some(Request::Counts(counts.ack())), 0) else { panic!() };
    let mut cx = Context::from_waker(Waker::noop());
    assert!(link.poll_room(large.len(), &mut cx).is_pending());
    assert!(link.set_suspect(true));
    assert!(link.poll_room(large.len(), &mut cx).is_ready());
    assert!(link.offer(&large, Some(request), 0).is_ok(), "dropped, and told");
    drop(counts);
    assert!(told.try_recv().is_err(), "one is on its way");
    link.close();
    assert_eq!(told.try_recv(), Ok(Counts { unanswered: 2, ..Counts::default() }));
    assert!(link.offer(&large, None, 0).is_ok());
    assert!(frame(&link).is_none());
}

#[test]
fn replies_find_their_request_and_late_ones_none() {
    let link = link();
    let ask = |at| {
        let (counts, told) = PendingCounts::new();
        link.force(&publish(b"x"), Some(Request::Counts(counts.ack())), at);
        told
    };
    let (mut first, mut second, mut third) = (ask(0), ask(5), ask(10));
    let (_, body) = frame(&link).unwrap();
    let numbers: Vec<u64> = Messages::new(&body).map(|message| message.unwrap().0).collect();
    let Some(Request::Counts(ack)) = link.take_request(numbers[1]) else { panic!() };
    ack.settle(Counts { reached: 3, ..Counts::default() });
    assert_eq!(second.try_recv().unwrap().reached, 3);
    assert!(link.take_request(numbers[1]).is_none());
    assert_eq!(link.expire(10, 10), 1);
    assert_eq!(first.try_recv().unwrap().unanswered, 1);
    assert!(link.take_request(numbers[0]).is_none());
    link.restart_with(2, &[]);
    assert_eq!(third.try_recv().unwrap().unanswered, 1);
    assert!(link.take_request(numbers[2]).is_none());
    let _fourth = ask(11);
    let (header, body) = frame(&link).unwrap();
    assert_eq!((header.epoch, header.seq), (2, 0));
    assert_eq!(Messages::new(&body).next().unwrap().unwrap().0, numbers[2] + 1);
}

#[test]
fn what_was_read_is_told_with_frames_or_without() {
    let link = link();
    link.has_read(7, 3, false);
    assert!(frame(&link).is_none());
    link.has_read(7, 4, true);
    let (header, _) = frame(&link).unwrap();
    assert_eq!((header.kind, header.read_epoch, header.read, header.seq), (Kind::Aside, 7, 4, 0));
    link.aside(Some(&Message::Lost { epoch: 7 }));
    link.force(&publish(b"x"), None, 0);
    assert_eq!(frame(&link).unwrap().0.kind, Kind::Stream);
    let (header, body) = frame(&link).unwrap();
    assert_eq!((header.kind, header.seq), (Kind::Aside, 1));
    assert_eq!(Messages::new(&body).next().unwrap().unwrap().1, Message::Lost { epoch: 7 });
}

#[test]
fn replies_to_a_node_that_reads_nothing_are_bounded() {
    let link = link();
    let large = publish(&vec![0; 50_000]);
    (0..200).for_each(|_| link.force(&large, None, 0));
    while frame(&link).is_some() {}
    (0..QUEUE as u64).for_each(|request| link.counts(request, Counts::default()));
    assert!(link.holds().0 <= 2 * QUEUE, "{:?}", link.holds());
}

#[test]
fn what_waits_for_a_node_that_reads_nothing_is_bounded_and_its_loss_is_told() {
    let link = link();
    let (counts, mut told) = PendingCounts::new();
    let large = publish(&vec![0; 50_000]);
    link.force(&large, Some(Request::Counts(counts.ack())), 0);
    drop(counts);
    for _ in 0..2000 {
        link.force(&large, None, 0);
        assert!(link.holds().0 <= MOST);
    }
    assert_eq!(told.try_recv(), Ok(Counts { unanswered: 1, ..Counts::default() }));
    let (header, _) = frame(&link).unwrap();
    assert!(header.seq > 0, "a gap: nothing was sent before");
    // What a stream begins with does not count.
    let first: Vec<Bytes> = (0..2000).map(|_| large.clone()).collect();
    link.restart_with(2, &first);
    link.force(&large, None, 0);
    assert_eq!(frame(&link).unwrap().0.seq, 0);
    assert!(link.holds().0 > 1999 * 50_000);
}

#[test]
fn commands_are_waited_for_longer_than_counts() {
    let link = link();
    let (done, mut command) = oneshot::channel();
    let client = ClientId::new(7).unwrap();
    link.force(&publish(b"x"), Some(Request::Command(client, done)), 0);
    let (counts, mut told) = PendingCounts::new();
    link.force(&publish(b"x"), Some(Request::Counts(counts.ack())), 5);
    drop(counts);
    assert_eq!(link.expire(10, 0), 1);
    assert!(told.try_recv().is_ok() && command.try_recv().is_err());
    assert_eq!(link.expire(20, 10), 1);
    assert_eq!(command.try_recv(), Ok(Err(CommandError::Unanswered(client))));
}

#[test]
fn what_is_too_long_for_another_node_is_told_at_once() {
    let link = link();
    let (counts, mut told) = PendingCounts::new();
    let large = Bytes::from(vec![0; MAX_MESSAGE + 1]);
    assert!(link.offer(&large, Some(Request::Counts(counts.ack())), 0).is_ok());
    drop(counts);
    assert_eq!(told.try_recv(), Ok(Counts { unanswered: 1, ..Counts::default() }));
    assert!(frame(&link).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever a node says it has read and answered: frames of a stream have no gap in their numbers, what is under way is
    /// bounded, and each request is settled once.
    #[test]
    fn numbers_hold_whatever_the_node_says(ops in proptest::collection::vec((0..9u8, any::<u64>(), 0..60u64), 0..300)) {
        let (link, mut epoch, mut next, mut now) = (link(), 1, 0, 0);
        let mut asked = Vec::new();
        for (op, wild, n) in ops {
            // Near what is there, and anything.
            let number = if wild % 2 == 0 { n } else { wild };
            match op {
                0 | 1 => {
                    let (counts, told) = PendingCounts::new();
                    let request = Some(Request::Counts(counts.ack()));
                    let message = publish(&vec![0; n as usize * 1000]);
                    match op {
                        0 => link.force(&message, request, now),
                        // Full: it is dropped, which is a failure.
                        _ => drop(link.offer(&message, request, now)),
                    }
                    asked.push(told);
                }
                2 => link.was_read(if n % 3 == 0 { number as u32 } else { epoch }, number),
                3 => if let Some(Request::Counts(ack)) = link.take_request((1 << 32) * u64::from(epoch) + number) {
                    ack.settle(Counts::default());
                },
                4 => { link.expire(number, number); }
                5 => link.has_read(number as u32, number, n % 2 == 0),
                6 if n == 0 => {
                    epoch += 1;
                    next = 0;
                    link.restart_with(epoch, &[publish(b"first")]);
                }
                7 => { link.set_suspect(n % 2 == 0); }
                _ => if let Some((header, _)) = frame(&link) {
                    prop_assert_eq!(header.epoch, epoch);
                    prop_assert_eq!(header.seq, next);
                    next += u64::from(header.kind == Kind::Stream);
                }
            }
            now += n;
            prop_assert!(link.holds().1 <= WINDOW + 2 * FRAME);
        }
        link.close();
        for mut told in asked {
            prop_assert!(told.try_recv().is_ok(), "a request is neither answered nor given up");
        }
    }
}
