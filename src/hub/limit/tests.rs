//! Tests of limits, with a clock of their own.

use super::*;
use crate::config::{LimitRule, Rate};
use crate::hub::delivery::{Except, PublishOptions};
use crate::ids::ClientId;
use crate::message::{Key, Message};
use std::task::Waker;

const PER: Duration = Duration::from_millis(200);

fn rule(count: u64, over: Over) -> Arc<ChannelRule> {
    let limit = LimitRule { rate: Rate { count, per: PER }, reserve: 0, over };
    Arc::new(ChannelRule { limit, ..ChannelRule::of("c") })
}

fn publication(channel: &str, data: &str, key: Option<&str>) -> Publication {
    let channel = Channel::parse(channel.as_bytes()).unwrap();
    let key = key.map(|key| Key::parse(key.as_bytes()).unwrap());
    Publication::new(channel, Message::text(data)).with(PublishOptions { key, ..PublishOptions::default() })
}

/// What was added up: the data, and how many they were.
fn told(due: &[Publication]) -> Vec<(String, u64)> {
    let text = |one: &Publication| String::from_utf8(one.message.data().to_vec()).unwrap();
    due.iter().map(|one| (text(one), one.count.unwrap())).collect()
}

use Verdict::{Dropped, Merged, Pass};

#[test]
fn what_is_alike_is_added_up_until_its_window_ends() {
    let (limits, rule, began) = (PublishLimits::default(), rule(2, Over::Merge), Instant::now());
    let offer =
        |at: u64, data, key| limits.offer(began + Duration::from_millis(at), &publication("c", data, key), &rule);
    let sooner = |next| limits.poll_sooner(next, &mut Context::from_waker(Waker::noop())).is_ready();
    for at in 0..10 {
        assert!(!sooner(None) || at > 2);
        assert_eq!(offer(at, "like", Some("l")), if at < 2 { Pass } else { Merged });
    }
    assert!(sooner(None) && sooner(Some(began + PER * 2)) && !sooner(Some(began + PER)));
    assert_eq!(offer(20, "like", None), Dropped, "it has no key");
    assert_eq!(offer(30, "gift", Some("l")), Merged, "it is another one");
    assert_eq!(offer(40, "gift", Some("g")), Dropped, "the next window has places for two");
    let (due, next) = limits.take_due(began + PER / 2);
    assert!(due.is_empty() && next == Some(began + PER));
    let (due, next) = limits.take_due(began + PER);
    assert_eq!((told(&due), next), (vec![("like".into(), 8), ("gift".into(), 1)], None));
    // They have the places of the window in which they are sent.
    assert_eq!(offer(201, "like", Some("l")), Merged);
    // A publish after that window comes before its sender.
    assert_eq!(offer(401, "like", Some("l")), Pass);
    assert!(sooner(Some(began)));
    assert_eq!(told(&limits.take_due(began + PER * 2).0), [("like".into(), 1)]);
    let (due, next) = limits.take_due(began + PER * 9);
    assert!(due.is_empty() && next.is_none() && limits.lock().merged_bytes == 0);
    assert_eq!(limits.figures(), (2, 10));
}

#[test]
fn who_is_left_out_makes_a_difference() {
    let (limits, rule, now) = (PublishLimits::default(), rule(2, Over::Merge), Instant::now());
    let offer = |except: Option<u64>| {
        let mut publication = publication("c", "like", Some("l"));
        publication.options.except = Except::new(except.and_then(ClientId::new));
        limits.offer(now, &publication, &rule)
    };
    let verdicts = [None, None, None, Some(1), Some(1), Some(2), None].map(offer);
    assert_eq!(verdicts, [Pass, Pass, Merged, Merged, Merged, Dropped, Merged]);
}

#[test]
fn what_is_added_up_is_bounded_over_all_channels() {
    let (limits, rule, now) = (PublishLimits::default(), rule(1, Over::Merge), Instant::now());
    let data = "x".repeat(1 << 20);
    let mut merged = 0;
    for n in 0..40 {
        let publication = publication(&format!("c{n}"), &data, Some("k"));
        assert_eq!(limits.offer(now, &publication, &rule), Pass);
        merged += usize::from(limits.offer(now, &publication, &rule) == Merged);
    }
    assert_eq!(merged, MERGED_BYTES / (data.len() + PER_MESSAGE));
    assert_eq!((limits.take_due(now + PER).0.len(), limits.lock().merged_bytes), (merged, 0));
}

#[test]
fn channels_at_rest_are_forgotten() {
    let (limits, drop, merge) = (PublishLimits::default(), rule(1, Over::Drop), rule(1, Over::Merge));
    let began = Instant::now();
    for n in 0..2000 {
        limits.offer(began, &publication(&format!("c{n}"), "x", None), &drop);
    }
    for _ in 0..2 {
        limits.offer(began, &publication("merged", "x", Some("k")), &merge);
    }
    limits.offer(began + PER, &publication("busy", "x", None), &drop);
    assert_eq!(limits.lock().channels.len(), 2002);
    limits.offer(began + FORGET + PER * 2, &publication("busy", "x", None), &drop);
    assert_eq!(limits.lock().channels.len(), 2, "what has something to send stays");
    assert!(limits.lock().channels.capacity() < 1000);
    assert_eq!(limits.take_due(began + FORGET * 2).0.len(), 1);
}

#[test]
fn a_rule_that_changes_is_in_force_at_once() {
    let (limits, before, began) = (PublishLimits::default(), rule(1, Over::Merge), Instant::now());
    let publication = publication("c", "x", Some("k"));
    let verdict = |rule: &Arc<ChannelRule>, at| limits.offer(began + at, &publication, rule);
    assert_eq!(verdict(&before, Duration::ZERO), Pass);
    assert_eq!(verdict(&before, Duration::ZERO), Merged);
    let mut longer = ChannelRule::clone(&before);
    longer.limit.rate = Rate { count: 2, per: PER * 2 };
    assert_eq!(verdict(&Arc::new(longer), PER), Pass);
    let (due, next) = limits.take_due(began + PER);
    assert!(due.is_empty() && next == Some(began + PER * 2));
    assert_eq!(told(&limits.take_due(began + PER * 2).0), [("x".into(), 1)]);
}
