//! Tests of outboxes, against naive models.

use super::*;
use proptest::prelude::*;

use crate::message::{Channel, Key};

proptest! {
    /// Whatever is pushed comes out once, in order, however short the writes are.
    #[test]
    fn bytes_come_out_as_they_went_in(
        sizes in prop::collection::vec(0..200usize, 0..80),
        writes in prop::collection::vec(1..500usize, 1..50),
        capacity in 1..300usize,
    ) {
        let (mut outbox, mut want, mut got) = (Outbox::default(), Vec::new(), Vec::new());
        let mut scratch = Vec::with_capacity(capacity);
        let mut writes = writes.iter().cycle();
        for (i, size) in sizes.iter().enumerate() {
            let frame = vec![i as u8; *size];
            want.extend_from_slice(&frame);
            outbox.push(frame.into());
            if i % 3 == 0 {
                let next = outbox.next_write(&mut scratch);
                let n = next.len().min(*writes.next().unwrap());
                got.extend_from_slice(&next[..n]);
                outbox.advance(n);
            }
            prop_assert_eq!(outbox.bytes(), want.len() - got.len());
            prop_assert_eq!(outbox.weight() == 0, outbox.is_empty());
        }
        while !outbox.is_empty() {
            let next = outbox.next_write(&mut scratch);
            prop_assert!(!next.is_empty());
            let n = next.len().min(*writes.next().unwrap());
            got.extend_from_slice(&next[..n]);
            outbox.advance(n);
        }
        prop_assert_eq!(got, want);
        prop_assert!(!outbox.frames.spilled());
    }
}

/// What happens to an outbox.
#[derive(Debug, Clone)]
enum Step {
    /// A message of that size; None: it may not be dropped; Some: it may; of a subject, if there is one.
    Push(usize, Option<Option<u8>>),
    /// The same in the place of the newest of its subject, if one waits.
    Replace(usize, u8),
    /// So much less is to wait.
    Drop(usize),
    /// The socket takes so many bytes.
    Write(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let policy = prop_oneof![Just(None), Just(Some(None)), (0..4u8).prop_map(|k| Some(Some(k)))];
    prop_oneof![
        6 => (1..60usize, policy).prop_map(|(size, policy)| Step::Push(size, policy)),
        4 => (1..60usize, 0..4u8).prop_map(|(size, subject)| Step::Replace(size, subject)),
        1 => (1..400usize).prop_map(Step::Drop),
        2 => (1..150usize).prop_map(Step::Write),
    ]
}

fn subject(n: u8) -> Rc<Subject> {
    let channel = Channel::parse(b"c").unwrap();
    Rc::new(Subject { channel, key: Some(Key::parse(&[b'a' + n]).unwrap()) })
}

/// A frame that waits, in the model.
struct Waits {
    bytes: Vec<u8>,
    written: usize,
    loose: Option<Option<u8>>,
}

impl Waits {
    fn may_go(&self) -> bool {
        self.loose.is_some() && self.written == 0
    }
}

fn weight(model: &[Waits]) -> usize {
    model.iter().map(|w| w.bytes.len() - w.written + FRAME + if w.may_go() { LOOSE } else { 0 }).sum()
}

proptest! {
    /// Only whole frames that may go are dropped or replaced, and all else comes out in its order.
    #[test]
    fn frames_go_as_a_naive_model_says(
        steps in prop::collection::vec(step(), 0..300),
        capacity in 1..300usize,
    ) {
        let (mut outbox, mut model, mut scratch) = (Outbox::default(), Vec::<Waits>::new(), Vec::with_capacity(capacity));
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(size, loose) => {
                    let bytes = vec![i as u8; size];
                    let policy = match loose {
                        None => Policy::Keep,
                        Some(None) => Policy::DropOldest,
                        Some(Some(n)) => Policy::Latest(subject(n)),
                    };
                    outbox.push_as(bytes.clone().into(), &policy);
                    let loose = loose.filter(|_| !model.is_empty());
                    model.push(Waits { bytes, written: 0, loose });
                }
                Step::Replace(size, n) => {
                    let bytes = vec![i as u8; size];
                    let found = model.iter_mut().rev().find(|w| w.may_go() && w.loose == Some(Some(n)));
                    let replaced = found.is_some();
                    if let Some(waits) = found {
                        waits.bytes = bytes.clone();
                    }
                    prop_assert_eq!(outbox.replace(&bytes.into(), &subject(n)), replaced);
                }
                Step::Drop(excess) => {
                    let (most, before) = (weight(&model).saturating_sub(excess), model.len());
                    while weight(&model) > most
                        && let Some(oldest) = model.iter().position(Waits::may_go)
                    {
                        model.remove(oldest);
                    }
                    prop_assert_eq!(outbox.drop_oldest(excess), (before - model.len()) as u64);
                }
                Step::Write(most) => {
                    let next = outbox.next_write(&mut scratch);
                    let mut written = next.len().min(most);
                    let waits: Vec<u8> = model.iter().flat_map(|w| &w.bytes[w.written..]).copied().collect();
                    prop_assert_eq!(&next[..written], &waits[..written]);
                    outbox.advance(written);
                    while written > 0 {
                        let first = &mut model[0];
                        let part = written.min(first.bytes.len() - first.written);
                        first.written += part;
                        written -= part;
                        if first.written == first.bytes.len() {
                            model.remove(0);
                        }
                    }
                }
            }
            prop_assert_eq!(outbox.weight(), weight(&model));
            prop_assert_eq!(outbox.is_empty(), model.is_empty());
        }
        let mut rest = Vec::new();
        while !outbox.is_empty() {
            let next = outbox.next_write(&mut scratch);
            rest.extend_from_slice(next);
            let n = next.len();
            outbox.advance(n);
        }
        prop_assert_eq!(rest, model.iter().flat_map(|w| &w.bytes[w.written..]).copied().collect::<Vec<_>>());
        prop_assert!(outbox.lag.is_none() && !outbox.frames.spilled());
    }
}

#[test]
fn the_memory_of_a_message_that_is_dropped_is_freed() {
    let mut outbox = Outbox::default();
    let frames: Vec<Frame> = (0..20).map(|n| vec![n; 10].into()).collect();
    outbox.push(frames[0].clone());
    outbox.advance(1);
    frames[1..].iter().for_each(|frame| outbox.push_as(frame.clone(), &Policy::DropOldest));
    assert_eq!(outbox.drop_oldest(5 * (10 + FRAME + LOOSE)), 5);
    let held: Vec<bool> = frames.iter().map(|frame| Rc::strong_count(frame) > 1).collect();
    assert_eq!(held, (0..20).map(|n| n == 0 || n > 5).collect::<Vec<_>>());
    outbox.advance(usize::MAX);
    assert!(frames.iter().all(|frame| Rc::strong_count(frame) == 1));
}

#[test]
fn what_goes_before_all_others_does_so_whatever_was_dropped() {
    for dropped in 0..4 {
        let mut outbox = Outbox::default();
        (0..4).for_each(|n| outbox.push_as(vec![n; 10].into(), &Policy::Latest(subject(n))));
        assert_eq!(outbox.drop_oldest(dropped * (10 + FRAME + LOOSE)), dropped as u64);
        outbox.push_front(b"head".to_vec().into());
        assert!(outbox.replace(&vec![7; 5].into(), &subject(3)) == (dropped < 3));
        let mut want = b"head".to_vec();
        want.extend([0; 10]);
        (dropped as u8 + 1..3).for_each(|n| want.extend([n; 10]));
        want.extend(if dropped < 3 { &[7; 5][..] } else { &[] });
        assert_eq!(outbox.next_write(&mut Vec::with_capacity(100)), want);
    }
}

#[test]
fn messages_that_do_not_wait_behind_others_need_no_memory() {
    let mut outbox = Outbox::default();
    for n in 0..3 {
        outbox.push_as(vec![1; 10].into(), &Policy::Latest(subject(n)));
        assert!(outbox.lag.is_none() && !outbox.frames.spilled());
        outbox.advance(10);
    }
}

#[test]
fn small_frames_weigh_what_they_take_and_empty_ones_are_not_kept() {
    let mut outbox = Outbox::default();
    for _ in 0..1000 {
        outbox.push(Frame::default());
    }
    assert_eq!((outbox.weight(), outbox.frames.len()), (0, 0));
    for _ in 0..1000 {
        outbox.push(b"x".to_vec().into());
    }
    assert_eq!((outbox.bytes(), outbox.weight()), (1000, 1000 * (1 + FRAME)));
    outbox.advance(999);
    assert_eq!(outbox.weight(), 1 + FRAME);
}

#[test]
fn a_frame_that_is_begun_is_finished() {
    let mut outbox = Outbox::default();
    outbox.push(b"first".to_vec().into());
    outbox.push(b"second".to_vec().into());
    outbox.advance(2);
    outbox.clear_whole_frames();
    assert_eq!(outbox.next_write(&mut Vec::new()), b"rst");
    assert_eq!(outbox.bytes(), 3);
}
