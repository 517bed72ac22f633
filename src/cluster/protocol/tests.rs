//! Tests of `protocol`.

use super::*;
use proptest::prelude::*;

fn hello() -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        run: Run(7),
        number: 3,
        engine: true,
        center: false,
        serving: true,
        started: 1,
        clients: 2,
        nonce: [9; 16],
        api: "host:1".into(),
    }
}

#[test]
fn what_watchers_ask_travels_as_it_is() {
    use crate::hub::{Question, Wanted, Watch};
    use crate::ids::ClientId;
    let client = ClientId::new(9);
    let wanted = Wanted { channel: Some("a*".into()), client, errors: true, bodies: false };
    let questions = [
        Question::Story(client.unwrap()),
        Question::Tail(Watch { id: 7, wanted }),
        Question::Tail(Watch { id: 8, wanted: Wanted { bodies: true, ..Wanted::default() } }),
    ];
    for question in questions {
        let mut bytes = Vec::new();
        envelop(&Message::Ask { asking: Asking::of(&question).unwrap() }.to_bytes(), 1, &mut bytes);
        let read = Messages::new(&bytes).next().unwrap().unwrap().1;
        let Message::Ask { asking } = read else { panic!("{read:?}") };
        assert_eq!(asking.question(), Some(question));
    }
    let long = "x".repeat(300);
    let asking = Asking::Tail { watch: 1, channel: Some(&long), client: None, errors: false, bodies: false };
    assert_eq!(asking.question(), None);
    assert_eq!(Asking::Story { client: 0 }.question(), None);
}

#[test]
fn what_is_written_is_read_and_what_is_unknown_is_passed_over() {
    let mut replies = Vec::new();
    Reply { request: 1, reached: 2, failed: 3 }.write(&mut replies);
    let all = [
        Message::Begin { hello: hello(), proof: [1; 32] },
        Message::Snapshot { version: 1, hashes: &longs([1, u64::MAX]), last: true },
        Message::Interest { version: 2, gone: &longs([]), come: &longs([5]) },
        Message::InterestKnown { version: 2 },
        Message::Publish { channel: "a", binary: false, data: b"x", except: &longs([7]), key: Some("k") },
        Message::Send { client: 1 << 52, binary: true, data: &[0, 255] },
        Message::Command { client: 4, command: b"c" },
        Message::Replies(&replies),
        Message::CommandReply { request: 3, problem: Some("p") },
        Message::Lost { epoch: 1 },
        Message::Leave,
        Message::PublishOnce {
            id: "i",
            channels: vec!["a", "b"],
            list: true,
            binary: false,
            data: b"x",
            except: &[],
            key: None,
            priority: 1,
        },
        Message::OnceReply { request: 4, counts: vec![crate::hub::Counts::default().into(); 2] },
        Message::Nodes { nodes: vec![Listed { run: Run(4), center: true, serving: false, at: vec!["a:1", "b:2"] }] },
        Message::Reached { at: vec!["a:1"] },
        Message::Count { channel: "a" },
        Message::Close { channel: "a", code: 4000, reason: "bye" },
        Message::Ask { asking: Asking::Channels { prefix: "a", after: "ab", limit: 7 } },
        Message::Stirred { channel: "a", ago: Some(7) },
        Message::Online { channel: "a", count: 3 },
        Message::Answer { request: 5, answer: &write_answer(&crate::hub::Answer::default()) },
        Message::Figures,
        Message::Remember { id: "order-1" },
        Message::Ordered { channel: "a", body: &[5] },
        Message::Moving,
        Message::Back,
        Message::Probe { token: u64::MAX },
        Message::Probed { token: 1 },
        Message::Moved { channel: "a", data: b"x", client: 7, came: true },
    ];
    let kinds: std::collections::BTreeSet<u8> = all.iter().map(|message| message.to_bytes()[0]).collect();
    assert!(kinds.into_iter().eq(0..KINDS), "each kind there is, and no other");
    let mut bytes = Vec::new();
    for message in &all {
        envelop(&message.to_bytes(), 3, &mut bytes);
        envelop(&[KINDS, 0], 0, &mut bytes);
    }
    let read: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();
    assert_eq!(read, all.map(|message| (3, message)));
    assert_eq!(Reply::read_all(&replies).count(), 1);
    let mut bytes = Vec::new();
    hello().write(&mut bytes);
    assert_eq!(Hello::read(&bytes), Ok(hello()));
}

#[test]
fn an_answer_that_is_more_than_a_page_is_not_read() {
    use crate::hub::{Answer, Crowd, MAX_INFO, MAX_PAGE, PastPublish, Present};
    let crowd = |n: usize| Crowd { channel: format!("c{n}"), count: 1 };
    let page = |many| Answer { channels: (0..many).map(crowd).collect(), ..Answer::default() };
    let info =
        |info: String| Answer { clients: vec![Present { client: 1, node: 2, info: Some(info) }], ..Answer::default() };
    let long = format!("\"{}\"", "x".repeat(MAX_INFO - 2));
    for right in [page(MAX_PAGE), info("{}".into()), info(long.clone())] {
        assert_eq!(read_answer(&write_answer(&right)), Some(right));
    }
    let no_name = Answer { channels: vec![Crowd { channel: "a b".into(), count: 1 }], ..Answer::default() };
    for wrong in [page(MAX_PAGE + 1), info("no json".into()), info(long + " "), no_name] {
        assert_eq!(read_answer(&write_answer(&wrong)), None);
    }
    assert_eq!(read_answer(b"no answer"), None);
    let publish = |channel: &str, outcome: &str| {
        let publish = PastPublish { at: 7, channels: vec![channel.into()], outcome: Some(outcome.into()) };
        Answer { publish: Some(Box::new(publish)), ..Answer::default() }
    };
    let right = publish("a", r#"{"s":1}"#);
    assert_eq!(read_answer(&write_answer(&right)), Some(right));
    for wrong in [publish("a b", "{}"), publish("a", "no json")] {
        assert_eq!(read_answer(&write_answer(&wrong)), None);
    }
}

#[test]
fn a_newer_hello_may_have_more_at_its_end() {
    let mut bytes = Vec::new();
    hello().write(&mut bytes);
    bytes.extend_from_slice(b"what a later version adds");
    assert_eq!(Hello::read(&bytes), Ok(hello()));
}

#[test]
fn of_the_addresses_that_come_few_and_short_ones_are_kept() {
    let long = "a".repeat(MAX_TEXT + 1);
    let mut at = vec!["", &long];
    at.extend(["a:1"; 2 * MAX_ADDRESSES]);
    assert_eq!(read_addresses(&at).collect::<Vec<_>>(), ["a:1"; MAX_ADDRESSES]);
}

proptest! {
    #[test]
    fn headers_come_back(from: u64, to: u64, epoch: u32, seq: u64, read_epoch: u32, read: u64, aside: bool) {
        let kind = if aside { Kind::Aside } else { Kind::Stream };
        let header = Header { kind, from: Run(from), to: Run(to), epoch, seq, read_epoch, read };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        bytes.push(1);
        prop_assert_eq!(Header::read(&bytes), Ok((header, &[1][..])));
        prop_assert_eq!(Header::read(&bytes[..HEADER - 1]), Err(Malformed::Short));
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Hello::read(&bytes);
        let _ = Header::read(&bytes);
        prop_assert!(Messages::new(&bytes).count() <= bytes.len().div_ceil(ENVELOPE));
    }

    #[test]
    fn what_is_cut_or_changed_is_read_without_harm(at in 0..400usize, byte: u8, cut in 0..400usize) {
        let mut bytes = Vec::new();
        envelop(&Message::Begin { hello: hello(), proof: [1; 32] }.to_bytes(), 0, &mut bytes);
        envelop(&Message::Publish { channel: "ä", binary: false, data: b"x", except: &[], key: None }.to_bytes(), 1, &mut bytes);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut % bytes.len());
        // A length that has become less leaves the rest of its message for more of them.
        prop_assert!(Messages::new(&bytes).count() <= bytes.len().div_ceil(ENVELOPE));
    }
}
