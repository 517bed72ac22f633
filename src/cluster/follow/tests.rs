//! A node with links to others that are played by hand, message by message: what it says of a channel, and when.

use super::*;
use crate::cluster::interest::hash;
use crate::cluster::link::QUEUE;
use crate::cluster::protocol::ordered::{Copied, place};
use crate::cluster::protocol::{Header, Hello, MAJOR, MINOR, Message as Said, Messages, Run};
use crate::config::HistoryRule;
use crate::hub::Hub;
use crate::hub::history::{At, Kept, LogCopy, Reading};
use crate::ids::NodeNumber;
use std::task::Waker;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const RULE: &str = "c:";

fn hello(run: Run, serving: bool) -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        run,
        number: run.0 as u16,
        engine: true,
        center: false,
        serving,
        started: 1,
        clients: 0,
        nonce: [1; 16],
        api: String::new(),
    }
}

/// The node: run 1. The others are 2 and 3.
struct Node {
    nodes: Nodes,
    shared: Arc<Shared>,
    ordered: OrderedChannels,
    links: [Arc<Link>; 2],
    rule: Arc<ChannelRule>,
    /// What takes longer.
    later: Vec<BoxFuture<'static, ()>>,
}

fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    future.now_or_never()
}

/// A channel for which the nodes come in that order.
fn channel(order: [u64; 3]) -> Channel {
    let is_in_order = |name: &String| {
        let rank = order.map(|run| xxh3_64_with_seed(name.as_bytes(), run));
        rank[0] > rank[1] && rank[1] > rank[2]
    };
    let name = (0..).map(|n| format!("{RULE}{n}")).find(is_in_order).unwrap();
    Channel::parse(name.as_bytes()).unwrap()
}

fn node() -> Node {
    let shared = Arc::new(Shared::default());
    let hub = Arc::new(Hub::new(NodeNumber::new(1).unwrap(), 1));
    let history = HistoryRule { size: 100, age: std::time::Duration::ZERO };
    let rule = ChannelRule { history, ..ChannelRule::of(RULE) };
    hub.history().set_rules(std::slice::from_ref(&rule));
    hub.history().share();
    let link = |run| shared.open(|slot| Link::new(Run(1), Run(run), slot, 1, Arc::default())).unwrap();
    let links = [link(2), link(3)];
    let nodes = Nodes { hub, others: Some(shared.clone()) };
    let ordered = OrderedChannels::new(nodes.clone());
    let mut node = Node { nodes, shared, ordered, links, rule: Arc::new(rule), later: Vec::new() };
    node.serve(&[1, 2, 3]);
    node.go_on();
    node
}

impl Node {
    /// These nodes serve, as this one knows.
    fn serve(&self, runs: &[u64]) {
        let hellos = [1, 2, 3].map(|run| hello(Run(run), runs.contains(&run)));
        self.shared.set_members(hellos.to_vec(), std::iter::empty());
    }

    fn link(&self, run: u64) -> &Arc<Link> {
        &self.links[run as usize - 2]
    }

    /// What this node has said to another one: the words, each with the number of its request.
    fn said(&self, run: u64) -> Vec<(&'static str, u64)> {
        let mut out = Vec::new();
        let mut said = Vec::new();
        while self.link(run).frame(self.shared.now(), &mut out) {
            let (header, body) = Header::read(&out).unwrap();
            self.link(run).was_read(header.epoch, header.seq + 1);
            for message in Messages::new(body) {
                let (request, message) = message.unwrap();
                said.push((word(&message), request));
            }
            out.clear();
        }
        said
    }

    fn words(&self, run: u64) -> Vec<&'static str> {
        self.said(run).into_iter().map(|(word, _)| word).collect()
    }

    /// Another node says something of a channel.
    fn hear(&mut self, run: u64, channel: &Channel, said: &Ordered<'_>) {
        let message = said.to_bytes(channel.as_str());
        let Ok(Said::Ordered { body, .. }) = postcard::from_bytes(&message) else { panic!("{said:?}") };
        let came = Came { from: self.link(run).clone(), epoch: 1, request: 0 };
        let body = Bytes::copy_from_slice(body);
        let Node { ordered, later, .. } = self;
        let waits = ordered.came((channel.as_str(), &body), came, WorkerSet::default(), &mut |what| later.push(what));
        assert!(waits.is_none());
        self.go_on();
    }

    /// Goes on with what takes longer.
    fn go_on(&mut self) {
        let Node { ordered, later, .. } = self;
        ordered.poll(&mut Context::from_waker(Waker::noop()), &mut |what| later.push(what));
        later.retain_mut(|what| poll(what).is_none());
    }

    /// Another node answers all that was asked for its log.
    fn give(&mut self, run: u64, channel: &Channel, log: Option<&LogCopy>) {
        let asked: Vec<u64> = self.said(run).into_iter().filter(|(word, _)| *word == "take").map(|(_, n)| n).collect();
        assert_eq!(asked.len(), 1, "it was asked once");
        self.hear(run, channel, &Ordered::Taken { request: asked[0], log: log.map(Log::of) });
    }

    /// Leads a channel, of which nobody has anything.
    fn lead(&self, channel: &Channel) {
        assert_eq!(self.nodes.hub.lead(channel, &self.rule, Vec::new()), None);
    }

    fn leads(&self, channel: &Channel) -> bool {
        self.nodes.hub.history().leads(channel)
    }

    /// Publishes: the publish, and its counts.
    fn publish(&self, channel: &Channel) -> (BoxFuture<'static, Option<Position>>, oneshot::Receiver<Counts>) {
        let (pending, counts) = PendingCounts::new();
        let publication = Publication::new(channel.clone(), Message::text("x"));
        let publish = self.nodes.clone().publish(self.rule.clone(), publication, (pending, WorkerSet::default()), 0);
        (publish.map(|(_, at)| at).boxed(), counts)
    }

    /// Reads a page.
    fn page(&self, channel: &Channel) -> (BoxFuture<'static, ()>, oneshot::Receiver<(At, Vec<Kept>)>) {
        let (answer, page) = oneshot::channel();
        let what = ReadFor::Page { since: None, most: Most { messages: 10, bytes: 1000 }, answer };
        let wanted = Wanted { channel: channel.clone(), rule: self.rule.clone(), what };
        (self.nodes.clone().read(wanted).boxed(), page)
    }
}

fn word(message: &Said<'_>) -> &'static str {
    let Said::Ordered { body, .. } = message else { return "other" };
    match Ordered::read(body) {
        Some(Ordered::Publish { .. }) => "publish",
        Some(Ordered::Next { .. }) => "next",
        Some(Ordered::Read { .. }) => "read",
        Some(Ordered::Take) => "take",
        Some(Ordered::Taken { .. }) => "taken",
        Some(Ordered::Copy { .. }) => "copy",
        Some(Ordered::Release) => "release",
        Some(Ordered::Outdated { .. }) => "outdated",
        Some(Ordered::Lacking) => "lacking",
        _ => "other",
    }
}

/// While this node takes a channel, it learns that another one is to lead it: that one may have taken it, too.
#[test]
fn a_channel_that_was_taken_too_late_is_left_to_the_other_one() {
    let channel = channel([2, 1, 3]);
    let mut node = node();
    node.serve(&[1, 3]);
    let (mut publish, _counts) = node.publish(&channel);
    let (mut read, _page) = node.page(&channel);
    assert!(poll(&mut publish).is_none() && poll(&mut read).is_none());
    node.serve(&[1, 2, 3]);
    node.go_on();
    for run in [2, 3] {
        node.give(run, &channel, None);
    }
    assert_eq!(poll(&mut publish), Some(None), "it is not ordered here");
    assert_eq!(poll(&mut read), Some(()));
    assert_eq!((node.words(2), node.leads(&channel)), (vec!["outdated", "publish", "read"], false));
    assert_eq!(node.words(3), [""; 0]);
}

/// The other one does not lead yet, or not any more.
#[test]
fn what_is_read_of_a_node_that_does_not_lead_is_read_again() {
    let channel = channel([2, 1, 3]);
    let mut node = node();
    let (mut read, mut page) = node.page(&channel);
    assert_eq!(poll(&mut read), Some(()));
    let asked = |node: &Node| match node.said(2)[..] {
        [("read", request)] => request,
        ref said => panic!("{said:?}"),
    };
    let request = asked(&node);
    node.hear(2, &channel, &Ordered::Reading { request, reading: None });
    assert_eq!(node.words(2), [""; 0], "not at once");
    node.shared.set_now(AGAIN);
    node.go_on();
    let request = asked(&node);
    let at = At { position: Position { term: 7, offset: 3 }, recovered: true, count: 0 };
    let reading = Reading { head: at.position, at, kept: Vec::new(), is_whole: true, missed: Vec::new() };
    node.hear(2, &channel, &Ordered::Reading { request, reading: Some(Read::of(&reading)) });
    assert_eq!(page.try_recv().unwrap().0, at);
}

/// A node has a subscriber while a publisher waits for room on the way to another one.
#[test]
fn a_message_goes_to_nodes_that_come_while_its_publisher_waits() {
    let channel = channel([1, 2, 3]);
    let node = node();
    node.lead(&channel);
    node.link(2).force(&Bytes::from(vec![u8::MAX; QUEUE]), None, 0);
    let (mut publish, _counts) = node.publish(&channel);
    assert!(poll(&mut publish).is_none(), "there is no room");
    node.shared.others.come(node.link(3).slot, [hash(channel.as_str())].into_iter());
    assert_eq!(node.words(2), [""; 0], "the other message is none");
    assert!(poll(&mut publish).flatten().is_some());
    assert_eq!((node.words(2), node.words(3)), (vec!["copy", "next"], vec!["next"]));
}

/// What another node has led beside this one is gathered with all else, and those that follow read what they may have missed.
#[test]
fn a_leader_that_is_told_of_another_one_gathers_all_logs() {
    let channel = channel([1, 2, 3]);
    let mut node = node();
    node.lead(&channel);
    node.shared.others.come(node.link(3).slot, [hash(channel.as_str())].into_iter());
    let first = poll(&mut node.publish(&channel).0).flatten().unwrap();
    assert_eq!((node.words(2), node.words(3)), (vec!["copy", "next"], vec!["next"]));
    let seen = Position { term: first.term + 7, offset: 2 };
    node.hear(2, &channel, &Ordered::Outdated { later: place(seen) });
    assert!(!node.leads(&channel));
    let (mut publish, _counts) = node.publish(&channel);
    assert!(poll(&mut publish).is_none());
    // The log of the other one goes on from this one's.
    let kept = |term, offset| Kept { at: Position { term, offset }, when: 1, message: Message::text("x") };
    let terms = vec![(first.term, 1), (seen.term, 2)];
    let kept = vec![kept(first.term, 1), kept(seen.term, 2)];
    node.give(2, &channel, Some(&LogCopy { terms, head: 2, kept, complete: true }));
    assert!(!node.leads(&channel));
    node.give(3, &channel, None);
    assert!(node.leads(&channel));
    let next = poll(&mut publish).flatten().unwrap();
    assert!(next.term > seen.term && next.offset == 3);
    assert_eq!((node.words(2), node.words(3)), (vec!["copy", "next"], vec!["outdated", "next"]));
}

/// A node that has answered that it has nothing leads the channel all the same, while this one still waits for others.
#[test]
fn a_node_that_leads_while_another_one_takes_the_channel_is_asked_again() {
    let channel = channel([1, 2, 3]);
    let seen = Position { term: 7, offset: 1 };
    let outdated = Ordered::Outdated { later: place(seen) };
    let kept = vec![Kept { at: seen, when: 1, message: Message::text("x") }];
    let log = LogCopy { terms: vec![(7, 1)], head: 1, kept, complete: true };
    for is_asked_again in [false, true] {
        let mut node = node();
        let (mut publish, _counts) = node.publish(&channel);
        assert!(poll(&mut publish).is_none());
        if is_asked_again {
            node.give(2, &channel, None);
            node.hear(2, &channel, &outdated);
            node.give(3, &channel, None);
            assert!(poll(&mut publish).is_none());
            node.give(3, &channel, None);
        } else {
            // Then its answer has it.
            node.hear(2, &channel, &outdated);
            node.give(3, &channel, None);
        }
        node.give(2, &channel, Some(&log));
        let next = poll(&mut publish).flatten().unwrap();
        assert!(next.term > seen.term && next.offset == 2, "{next:?}");
    }
}

/// One that is not to lead, and one that follows.
#[test]
fn a_node_that_is_told_of_another_leader_hands_on_or_reads() {
    let channel = channel([2, 1, 3]);
    let mut node = node();
    node.lead(&channel);
    let seen = |term| Ordered::Outdated { later: (term, 9) };
    node.hear(3, &channel, &seen(1));
    assert_eq!((node.leads(&channel), node.words(2), node.words(3)), (false, vec!["outdated"], vec![]));
    // It is where its log has ended; the other one has led since.
    let cursor = node.nodes.hub.history().cursor(&channel).unwrap();
    node.hear(2, &channel, &seen(cursor.term));
    assert_eq!(node.words(2), [""; 0]);
    node.hear(2, &channel, &seen(cursor.term + 1));
    assert_eq!((node.words(2), node.words(3)), (vec!["read"], vec![]));
}

/// Nodes have come, one of which is to lead, and leads already.
#[test]
fn a_node_that_leads_no_more_tells_the_one_that_does() {
    let channel = channel([2, 1, 3]);
    let mut node = node();
    node.serve(&[1, 3]);
    node.go_on();
    node.lead(&channel);
    node.go_on();
    assert!(node.leads(&channel) && node.words(2).is_empty());
    node.serve(&[1, 2, 3]);
    node.go_on();
    assert_eq!((node.leads(&channel), node.words(2), node.words(3)), (false, vec!["outdated", "read"], vec![]));
}

/// The node that takes a channel, a node that has a copy, and one that has another log.
#[test]
fn logs_that_are_given_away_or_not_taken_are_told_of() {
    let channel = channel([1, 3, 2]);
    let mut node = node();
    node.lead(&channel);
    assert!(poll(&mut node.publish(&channel).0).flatten().is_some());
    assert_eq!(node.words(3), ["copy", "next"]);
    node.hear(2, &channel, &Ordered::Take);
    assert_eq!((node.words(2), node.words(3)), (vec!["taken"], vec!["release"]));
    // Who takes it is the one that has the copy.
    node.lead(&channel);
    assert!(poll(&mut node.publish(&channel).0).flatten().is_some());
    assert_eq!(node.words(3), ["copy", "next"]);
    node.hear(3, &channel, &Ordered::Take);
    assert_eq!((node.words(2), node.words(3)), (vec![], vec!["taken"]));
    // Another leader's copy, which knows nothing of what was ordered here.
    node.lead(&channel);
    let at = poll(&mut node.publish(&channel).0).flatten().unwrap();
    node.words(3);
    let copy = LogCopy { terms: vec![(at.term + 1, 1)], head: 0, kept: Vec::new(), complete: true };
    node.hear(2, &channel, &Ordered::Copy { log: Log::of(&copy) });
    assert_eq!((node.words(2), node.leads(&channel)), (vec!["outdated"], true));
    let kept = Kept { at: Position { term: at.term + 1, offset: 1 }, when: 1, message: Message::text("x") };
    let message = Copied::of(&kept);
    node.hear(2, &channel, &Ordered::Next { message, except: &[], key: None, count: None, keep: true, ended: vec![] });
    assert_eq!((node.words(2), node.leads(&channel)), (vec!["outdated", "lacking", "read"], false));
}

/// The link to a node ends a moment before it is no member any more.
#[test]
fn a_node_that_has_just_gone_is_not_replaced_by_one_that_is_not_next() {
    let node = node();
    let leader = |channel: &Channel| node.nodes.leader(channel).map(|link| link.peer.0);
    let second = |channel: &Channel| node.shared.second_of(channel.as_str()).map(|link| link.peer.0);
    let (last, first) = (channel([2, 3, 1]), channel([1, 2, 3]));
    assert_eq!((leader(&last), leader(&first), second(&first)), (Some(2), None, Some(2)));
    node.shared.end(node.link(2));
    assert_eq!((leader(&last), leader(&first), second(&first)), (Some(3), None, Some(3)));
    assert_eq!(leader(&channel([2, 1, 3])), None);
}
