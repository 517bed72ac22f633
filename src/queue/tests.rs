//! The queue by itself: its rules one by one, and all of them against a model.

use super::*;
use proptest::prelude::*;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake};

fn topic(name: &str) -> Topic {
    Topic::parse(name.as_bytes()).unwrap()
}

fn client() -> ClientId {
    ClientId::new(7).unwrap()
}

fn push(queue: &Queue, name: &str, data: &str) -> Result<usize, PushError> {
    queue.push(&topic(name), client(), Bytes::copy_from_slice(data.as_bytes()))
}

/// What a consumer can take now.
fn take(consumer: &Consumer) -> Vec<String> {
    let given = std::iter::from_fn(|| consumer.take(Waker::noop()));
    given.map(|g| String::from_utf8(g.data.to_vec()).unwrap()).collect()
}

fn queue() -> Arc<Queue> {
    Arc::new(Queue::new(5, 3))
}

#[test]
fn what_is_pushed_waits_for_a_consumer_in_order() {
    let queue = queue();
    for (i, data) in ["1", "2", "3"].iter().enumerate() {
        assert_eq!(push(&queue, "a", data), Ok(i + 1));
    }
    let consumer = queue.consumer();
    consumer.pop(&[topic("a"), topic("b"), topic("a")], false).unwrap();
    assert_eq!(queue.waiting(), [(topic("a"), 0), (topic("b"), 0)]);
    assert_eq!(push(&queue, "b", "4"), Ok(0));
    assert_eq!(take(&consumer), ["1", "2", "3", "4"]);
    assert_eq!(consumer.pop(&[topic("c"), topic("b")], false), Err(PopError::Already(topic("b"))));
    assert_eq!(queue.waiting().len(), 2, "all or nothing");
}

#[test]
fn consumers_of_a_topic_get_messages_in_turn() {
    let queue = queue();
    let consumers = [queue.consumer(), queue.consumer(), queue.consumer()];
    consumers.iter().for_each(|c| c.pop(&[topic("a")], false).unwrap());
    for i in 0..6 {
        push(&queue, "a", &i.to_string()).unwrap();
    }
    for (i, consumer) in consumers.iter().enumerate() {
        assert_eq!(take(consumer), [i.to_string(), (i + 3).to_string()]);
    }
}

fn push_or_wait(queue: &Arc<Queue>, name: &str, data: &[u8]) -> Result<Pushed, PushError> {
    queue.push_or_wait(&topic(name), client(), Bytes::copy_from_slice(data))
}

/// The result of a push that waits for room, if there is one yet.
fn now(waiting: &mut Waiting) -> Option<usize> {
    outcome(waiting).map(|n| n.expect("the queue is open"))
}

/// The same where the queue may be closed.
fn outcome(waiting: &mut Waiting) -> Option<Result<usize, Closed>> {
    match std::pin::Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(n) => Some(n),
        Poll::Pending => None,
    }
}

#[test]
fn a_push_that_waits_gets_room_in_its_turn_and_leaves_nothing_when_it_is_given_up() {
    let queue = Arc::new(Queue::new(2, 3).waiting_for_room(true));
    let mut waiting = Vec::new();
    for data in ["1", "2", "3", "4", "5", "6"] {
        match push_or_wait(&queue, "a", data.as_bytes()).unwrap() {
            Pushed::Now(n) => assert_eq!(n.to_string(), data),
            Pushed::Waits(push) => waiting.push(push),
        }
    }
    assert_eq!(queue.waiting(), [(topic("a"), 2)]);
    assert!(waiting.iter_mut().all(|push| now(push).is_none()));
    // A push that may not wait does not overtake those that do.
    assert_eq!(push(&queue, "a", "7"), Err(PushError::Full(topic("a"), 2)));
    // The fourth message's pusher gives up.
    drop(waiting.remove(1));
    let consumer = queue.consumer();
    consumer.pop(&[topic("a")], false).unwrap();
    assert_eq!(take(&consumer), ["1", "2", "3", "5", "6"]);
    assert!(waiting.iter_mut().all(|push| now(push).is_some()), "all have heard of it");
    assert!(matches!(push_or_wait(&queue, "a", b"8"), Ok(Pushed::Now(0))));
    consumer.written(10);
    drop(consumer);
    assert_eq!(queue.waiting().len(), 1, "what was taken and not written is back");
}

#[test]
fn closed_it_lets_nobody_wait_for_room() {
    let queue = Arc::new(Queue::new(1, 3).waiting_for_room(true));
    push(&queue, "a", "1").unwrap();
    let Ok(Pushed::Waits(mut waiting)) = push_or_wait(&queue, "a", b"2") else { panic!("there is no room for it") };
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    assert!(std::pin::Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
    queue.close();
    assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed), "it hears of it");
    assert_eq!(outcome(&mut waiting), Some(Err(Closed)));
    drop(waiting);
    assert!(matches!(push_or_wait(&queue, "a", b"3"), Err(PushError::Full(..))));
    assert!(matches!(push_or_wait(&queue, "b", b"4"), Ok(Pushed::Now(1))), "where there is room, it is taken");
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn what_waits_for_room_is_bounded_and_a_large_one_holds_up_only_those_behind_it() {
    let queue = Arc::new(Queue::new(100, 1).waiting_for_room(true));
    let large = vec![b'x'; TOPIC_BYTES / 2];
    assert!(matches!(push_or_wait(&queue, "a", &large), Ok(Pushed::Now(1))));
    let Ok(Pushed::Waits(mut first)) = push_or_wait(&queue, "a", &large) else { panic!("there is no room for it") };
    let Ok(Pushed::Waits(mut second)) = push_or_wait(&queue, "a", b"small") else { panic!("it stands behind another") };
    assert!(matches!(push_or_wait(&queue, "a", &large), Err(PushError::Bytes(_))), "64 MiB would wait for room");
    assert!(matches!(push_or_wait(&queue, "b", b"x"), Err(PushError::Topics(..))));
    assert_eq!((now(&mut first), now(&mut second)), (None, None));
    drop(first);
    assert_eq!(now(&mut second), Some(2), "there was room for it all along");
}

#[test]
fn a_topic_and_the_number_of_topics_are_bounded() {
    let queue = queue();
    for name in ["a", "b", "c"] {
        push(&queue, name, "0").unwrap();
    }
    assert_eq!(push(&queue, "d", "0"), Err(PushError::Topics(topic("d"), 3)));
    let consumer = queue.consumer();
    assert_eq!(consumer.pop(&[topic("a"), topic("d")], false), Err(PopError::Topics(topic("d"), 3)));
    (1..5).for_each(|i| assert_eq!(push(&queue, "a", "0"), Ok(i + 1)));
    assert_eq!(push(&queue, "a", "0"), Err(PushError::Full(topic("a"), 5)));
    // A topic that nobody needs any more makes room for another.
    consumer.pop(&[topic("b")], false).unwrap();
    assert_eq!(take(&consumer), ["0"]);
    consumer.unpop(None).unwrap();
    assert_eq!(push(&queue, "d", "0"), Err(PushError::Topics(topic("d"), 3)), "it may still come back");
    consumer.written(1);
    assert_eq!(push(&queue, "d", "0"), Ok(1));
}

#[test]
fn a_topic_is_bounded_in_bytes() {
    let queue = queue();
    let half = Bytes::from(vec![b' '; TOPIC_BYTES / 2 - OVERHEAD]);
    let a = topic("a");
    assert_eq!(queue.push(&a, client(), vec![b' '; TOPIC_BYTES].into()), Err(PushError::Bytes(a.clone())));
    assert_eq!(queue.waiting(), [], "no topic was made for it");
    assert_eq!(queue.push(&a, client(), half.clone()), Ok(1));
    assert_eq!(queue.push(&a, client(), half.clone()), Ok(2));
    assert_eq!(push(&queue, "a", "1"), Err(PushError::Bytes(a.clone())));
    // A consumer holds one message of any size, and then nothing more.
    let consumer = queue.consumer();
    consumer.pop(std::slice::from_ref(&a), false).unwrap();
    assert_eq!(queue.waiting(), [(a.clone(), 1)]);
    assert!(consumer.take(Waker::noop()).is_some());
    assert!(consumer.take(Waker::noop()).is_none());
    consumer.written(1);
    assert!(consumer.take(Waker::noop()).is_some());
}

#[test]
fn what_was_not_written_goes_back_to_the_head() {
    let queue = queue();
    let first = queue.consumer();
    first.pop(&[topic("a")], false).unwrap();
    (0..4).for_each(|i| drop(push(&queue, "a", &i.to_string())));
    for _ in 0..3 {
        first.take(Waker::noop()).unwrap();
    }
    first.written(1);
    drop(first);
    assert_eq!(queue.waiting(), [(topic("a"), 3)]);
    push(&queue, "a", "4").unwrap();
    let second = queue.consumer();
    second.pop(&[topic("a")], false).unwrap();
    assert_eq!(take(&second), ["1", "2", "3", "4"]);
}

#[test]
fn what_is_not_settled_is_given_again() {
    let queue = queue();
    let first = queue.consumer();
    first.pop(&[topic("a")], true).unwrap();
    (0..3).for_each(|i| drop(push(&queue, "a", &i.to_string())));
    let keys: Vec<u64> = std::iter::from_fn(|| first.take(Waker::noop())).map(|g| g.key.unwrap()).collect();
    first.written(3);
    assert_eq!(first.settle(&[keys[1], 99, keys[1]]), [99, keys[1]]);
    first.unpop(None).unwrap();
    let second = queue.consumer();
    second.pop(&[topic("a")], true).unwrap();
    assert_eq!(take(&second), Vec::<String>::new(), "the first may still settle them");
    assert_eq!(second.settle(&keys), keys, "but nobody else");
    drop(first);
    assert_eq!(take(&second), ["0", "2"]);
}

#[test]
fn a_consumer_without_room_is_passed_over() {
    let queue = Arc::new(Queue::new(10_000, 3));
    let (slow, fast) = (queue.consumer(), queue.consumer());
    for consumer in [&slow, &fast] {
        consumer.pop(&[topic("a")], false).unwrap();
    }
    let mut got = 0;
    for i in 0..WINDOW * 4 {
        assert_eq!(push(&queue, "a", &i.to_string()), Ok(0));
        let now = take(&fast).len();
        fast.written(now);
        got += now;
    }
    assert_eq!(got, WINDOW * 3);
    fast.unpop(None).unwrap();
    assert_eq!(push(&queue, "a", "x"), Ok(1), "nobody has room");
    assert_eq!(take(&slow).len(), WINDOW);
    assert_eq!(take(&slow).len(), 0);
    slow.written(1);
    assert_eq!(take(&slow), ["x"]);
}

#[test]
fn a_consumer_with_room_again_gets_from_all_its_topics() {
    let queue = Arc::new(Queue::new(10_000, 3));
    let consumer = queue.consumer();
    consumer.pop(&[topic("a"), topic("b")], false).unwrap();
    (0..WINDOW).for_each(|_| drop(push(&queue, "a", "0")));
    for name in ["a", "b"] {
        (0..10).for_each(|_| drop(push(&queue, name, &format!("\"{name}\""))));
    }
    assert_eq!(take(&consumer).len(), WINDOW);
    consumer.written(4);
    let mut got = take(&consumer);
    got.sort_unstable();
    assert_eq!(got, ["\"a\"", "\"a\"", "\"b\"", "\"b\""]);
}

#[test]
fn a_sleeping_consumer_is_woken_once() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let (queue, count) = (queue(), Arc::new(Count(AtomicUsize::new(0))));
    let waker = Waker::from(count.clone());
    let consumer = queue.consumer();
    consumer.pop(&[topic("a")], false).unwrap();
    assert!(consumer.take(&waker).is_none());
    push(&queue, "a", "1").unwrap();
    push(&queue, "a", "2").unwrap();
    assert_eq!(count.0.load(Relaxed), 1);
    assert_eq!(take(&consumer).len(), 2);
}

#[test]
fn unpop_names_what_is_not_consumed() {
    let queue = queue();
    let consumer = queue.consumer();
    assert_eq!(consumer.unpop(None), Err(UnpopError::Nothing));
    consumer.pop(&[topic("a"), topic("b")], false).unwrap();
    assert_eq!(consumer.unpop(Some(&[topic("a"), topic("c")])), Err(UnpopError::NotThat(topic("c"))));
    push(&queue, "a", "1").unwrap();
    consumer.unpop(Some(&[topic("a"), topic("a")])).unwrap();
    assert_eq!((take(&consumer), queue.waiting()), (vec![], vec![(topic("a"), 1), (topic("b"), 0)]));
    consumer.unpop(None).unwrap();
    assert_eq!(queue.waiting(), [(topic("a"), 1)]);
}

/// Everything that can happen to a queue.
#[derive(Debug, Clone)]
enum Act {
    Push(usize),
    Pop(usize, usize, bool),
    Unpop(usize, Option<usize>),
    Take(usize),
    Written(usize, usize),
    Settle(usize, usize),
    End(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let (consumer, topic) = (0..3usize, 0..3usize);
    prop_oneof![
        6 => topic.clone().prop_map(Act::Push),
        2 => (consumer.clone(), topic.clone(), any::<bool>()).prop_map(|(c, t, ack)| Act::Pop(c, t, ack)),
        1 => (consumer.clone(), prop::option::of(topic)).prop_map(|(c, t)| Act::Unpop(c, t)),
        5 => consumer.clone().prop_map(Act::Take),
        2 => (consumer.clone(), 0..3usize).prop_map(|(c, n)| Act::Written(c, n)),
        2 => (consumer.clone(), 0..4usize).prop_map(|(c, n)| Act::Settle(c, n)),
        1 => consumer.prop_map(Act::End),
    ]
}

/// The expected state of a consumer, as seen from outside.
#[derive(Default)]
struct Model {
    topics: BTreeMap<usize, bool>,
    /// Messages of its own, as topic and number, in the order it took them.
    unwritten: VecDeque<(usize, u64)>,
    unsettled: Vec<(u64, usize, u64)>,
}

proptest! {
    /// Nothing is lost, nothing is given to two consumers, each consumer sees a topic in order (except for returned
    /// messages), and the consumers of a topic get everything that waits there.
    #[test]
    fn a_queue_behaves_as_the_model(acts in prop::collection::vec(act(), 1..120)) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let queue = Arc::new(Queue::new(4, 3));
        let mut consumers: Vec<Consumer> = (0..3).map(|_| queue.consumer()).collect();
        let mut models: Vec<Model> = (0..3).map(|_| Model::default()).collect();
        // What is pushed and neither taken nor gone, by topic: numbers that only grow.
        let mut open: [std::collections::BTreeSet<u64>; 3] = Default::default();
        let mut next = 0u64;
        for act in acts {
            match act {
                Act::Push(t) => {
                    let consumed = models.iter().any(|m| m.topics.contains_key(&t));
                    let pushed = push(&queue, NAMES[t], &next.to_string());
                    if consumed {
                        prop_assert_eq!(&pushed, &Ok(0));
                    } else if open[t].len() >= 4 {
                        prop_assert_eq!(&pushed, &Err(PushError::Full(topic(NAMES[t]), 4)));
                    } else {
                        prop_assert_eq!(&pushed, &Ok(open[t].len() + 1));
                    }
                    if pushed.is_ok() {
                        open[t].insert(next);
                    }
                    next += 1;
                }
                Act::Pop(c, t, ack) => {
                    let popped = consumers[c].pop(&[topic(NAMES[t])], ack);
                    prop_assert_eq!(popped.is_ok(), !models[c].topics.contains_key(&t));
                    models[c].topics.entry(t).or_insert(ack);
                }
                Act::Unpop(c, t) => {
                    let names: Option<Vec<Topic>> = t.map(|t| vec![topic(NAMES[t])]);
                    let done = consumers[c].unpop(names.as_deref());
                    let topics = &mut models[c].topics;
                    prop_assert_eq!(done.is_ok(), t.map_or(!topics.is_empty(), |t| topics.contains_key(&t)));
                    topics.retain(|of, _| t.is_some_and(|t| t != *of));
                }
                Act::Take(c) => {
                    let Some(given) = consumers[c].take(Waker::noop()) else {
                        // With no other consumer to prefetch for, what is open belongs to this one.
                        for t in models[c].topics.keys() {
                            let alone = models.iter().enumerate().all(|(i, m)| i == c || !m.topics.contains_key(t));
                            prop_assert!(!alone || open[*t].is_empty());
                        }
                        continue;
                    };
                    let t = NAMES.iter().position(|n| *n == given.topic.as_str()).unwrap();
                    let number: u64 = std::str::from_utf8(&given.data).unwrap().parse().unwrap();
                    prop_assert!(open[t].remove(&number), "{} was given twice", number);
                    prop_assert_eq!(models[c].topics.get(&t), Some(&given.key.is_some()));
                    match given.key {
                        Some(key) => models[c].unsettled.push((key, t, number)),
                        None => models[c].unwritten.push_back((t, number)),
                    }
                }
                Act::Written(c, count) => {
                    consumers[c].written(count);
                    let some = count.min(models[c].unwritten.len());
                    models[c].unwritten.drain(..some);
                }
                Act::Settle(c, at) => {
                    let unsettled = &mut models[c].unsettled;
                    let (key, known) = match unsettled.get(at) {
                        Some((key, ..)) => (*key, true),
                        None => (u64::MAX, false),
                    };
                    prop_assert_eq!(consumers[c].settle(&[key]).is_empty(), known);
                    unsettled.retain(|(k, ..)| *k != key);
                }
                Act::End(c) => {
                    consumers[c] = queue.consumer();
                    let model = std::mem::take(&mut models[c]);
                    for (t, number) in model.unwritten {
                        open[t].insert(number);
                    }
                    for (_, t, number) in model.unsettled {
                        open[t].insert(number);
                    }
                }
            }
            for (t, open) in open.iter().enumerate() {
                let consumed = models.iter().any(|m| m.topics.contains_key(&t));
                let held = models.iter().any(|m| {
                    m.unwritten.iter().any(|(of, _)| *of == t) || m.unsettled.iter().any(|(_, of, _)| *of == t)
                });
                let waiting = queue.waiting().into_iter().find(|(name, _)| name.as_str() == NAMES[t]).map(|(_, n)| n);
                let want = if consumed { Some(0) } else { (held || !open.is_empty()).then_some(open.len()) };
                prop_assert_eq!(waiting, want, "topic {}", t);
            }
        }
        // In the end all that is open comes out, each topic in the order of pushing.
        drop(consumers);
        for model in models {
            for (t, number) in model.unwritten.into_iter().chain(model.unsettled.into_iter().map(|(_, t, n)| (t, n))) {
                open[t].insert(number);
            }
        }
        let last = queue.consumer();
        for t in 0..3 {
            last.pop(&[topic(NAMES[t])], false).unwrap();
            let want: Vec<String> = open[t].iter().map(u64::to_string).collect();
            prop_assert_eq!(take(&last), want);
        }
    }
}
