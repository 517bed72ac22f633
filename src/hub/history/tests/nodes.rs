//! Several nodes with the same channel, step by step: what each of them knows, and what it tells.

use super::*;

/// One node.
struct Node {
    history: History,
    number: u16,
}

fn nodes<const N: usize>() -> [Node; N] {
    std::array::from_fn(|at| {
        let history = history(&rule(100, 0));
        history.share();
        Node { history, number: 1 + at as u16 }
    })
}

const ALL: Most = Most { messages: usize::MAX, bytes: usize::MAX };

/// What a node's connections get when it leads: whether that is all, and the messages.
type Missed = Option<(bool, Vec<String>)>;

fn texts(kept: &[Kept]) -> Vec<String> {
    kept.iter().map(|kept| String::from_utf8(kept.message.data().to_vec()).unwrap()).collect()
}

impl Node {
    fn run(&self) -> u64 {
        self.number.into()
    }

    fn clock(&self) -> (u16, u64) {
        (self.number, EPOCH)
    }

    /// Leads, with these logs of others.
    fn lead(&self, logs: Vec<LogCopy>) -> (Option<Position>, Missed) {
        let mut missed = None;
        let again = self.history.lead((&channel("c"), &rule(100, 0)), logs, self.clock(), |_, _, is_whole, kept| {
            missed = Some((is_whole, texts(kept)));
        });
        (again, missed)
    }

    /// Leads, with all that these others have.
    fn take(&self, others: &[&Node]) -> (Option<Position>, Missed) {
        self.lead(others.iter().filter_map(|other| other.give()).collect())
    }

    fn give(&self) -> Option<LogCopy> {
        self.history.give(&channel("c")).map(|(log, _)| log)
    }

    /// Orders a message; another node keeps a copy, which it gets if it has none.
    fn order_for(&self, text: &str, replica: Option<&Node>) -> Option<Position> {
        let (name, message) = (channel("c"), (Message::text(text), self.number, EPOCH));
        let stream = replica.map(|replica| (replica.run(), 1));
        let placed = self.history.order((&name, &rule(100, 0)), message, stream, |placed, _| (placed.at, placed.copy));
        let (at, copy) = placed?;
        if let Some((replica, copy)) = replica.zip(copy) {
            replica.history.keep_copy(&name, copy, (self.run(), 1), replica.clock());
        }
        Some(at)
    }

    fn order(&self, text: &str) -> Position {
        self.order_for(text, None).unwrap()
    }

    /// A message of another node comes on that stream, which is to be kept or not. Somebody is there.
    fn follow(&self, at: Position, text: &str, stream: Stream, keep: bool) -> Followed {
        let keep = keep.then(|| (Message::text(text).into(), EPOCH));
        let clock = (self.number, EPOCH, 1000);
        self.history.follow((&channel("c"), &rule(100, 0)), (at, &[], stream), keep, clock, |_| true)
    }

    /// Orders a message that the other one keeps.
    fn order_and_copy(&self, text: &str, replica: &Node) -> (Position, Followed) {
        let at = self.order_for(text, Some(replica)).unwrap();
        (at, replica.follow(at, text, (self.run(), 1), true))
    }

    /// What a reader gets here: whether that is all, and the messages. None: the node does not lead.
    fn since(&self, position: Position) -> Option<(bool, Vec<String>)> {
        let from = (From::Since(position, None), ALL);
        let rule = rule(100, 0);
        self.history.read((&channel("c"), &rule), from, self.clock(), |at, kept| (at.recovered, texts(&kept)))
    }

    /// What another node is told that is so far.
    fn read_for(&self, cursor: Position) -> Option<Reading> {
        let (nothing, rule) = ((From::Last(0), Most { messages: 0, bytes: 0 }, false), rule(100, 0));
        let mut reading = None;
        let clock = (Some(cursor), self.number, EPOCH);
        self.history.read_for((&channel("c"), &rule), nothing, clock, |read| reading = Some(read))?;
        reading
    }

    fn leads(&self) -> bool {
        self.history.leads(&channel("c"))
    }

    fn cursor(&self) -> Option<Position> {
        self.history.cursor(&channel("c"))
    }
}

fn whole(messages: &[&str]) -> (bool, Vec<String>) {
    (true, messages.iter().map(ToString::to_string).collect())
}

/// Two have gone on from the same log, and publishers were told by both.
#[test]
fn of_two_logs_that_were_led_beside_each_other_none_goes_on() {
    for is_late in [false, true] {
        // Of terms of the same moment the one with the larger number of its node is the later one.
        let [one, other, c] = nodes();
        let (a, b) = if is_late { (other, one) } else { (one, other) };
        a.lead(Vec::new());
        let first = a.order("1");
        let same = a.give().unwrap();
        [&a, &b].into_iter().for_each(|node| drop(node.lead(vec![same.clone()])));
        let (one, other) = (a.order("2 of a"), b.order("2 of b"));
        assert_eq!(one < other, !is_late);
        c.take(&[&a, &b]);
        for position in [first, one, other] {
            assert_eq!(c.since(position), Some((false, Vec::new())), "{position:?}");
        }
    }
}

/// A third one is not the whole, either, though nothing was ordered since.
#[test]
fn a_log_that_has_taken_the_place_of_two_does_not_give_way_to_a_third() {
    let [a, b, third, taken, d] = nodes();
    a.lead(Vec::new());
    a.order("1");
    let same = a.give().unwrap();
    [&a, &b, &third].into_iter().for_each(|node| drop(node.lead(vec![same.clone()])));
    let [_, _, at] = [&a, &b, &third].map(|node| node.order("2"));
    taken.take(&[&a, &b]);
    d.take(&[&third, &taken]);
    assert_eq!(d.since(at), Some((false, Vec::new())));
}

/// Where nothing was ordered, nothing is lost: nobody is told of a gap.
#[test]
fn a_log_that_was_begun_beside_another_one_and_not_used_gives_way() {
    let [a, b, c, d] = nodes();
    a.lead(Vec::new());
    let first = a.order("1");
    let same = a.give().unwrap();
    a.lead(vec![same.clone()]);
    let second = a.order("2");
    // Later, one with the same log, and one that knew of none.
    b.lead(vec![same]);
    c.lead(Vec::new());
    d.take(&[&a, &b, &c]);
    assert_eq!((d.since(first), d.since(second)), (Some(whole(&["2"])), Some(whole(&[]))));
}

/// The node that leads has a term that is over, and learns of it from one that follows another node.
#[test]
fn a_leader_that_learns_of_a_later_one_takes_the_channel_again() {
    let beside = |of_first: &[&str], is_gone: bool| {
        let [a, b, d] = nodes();
        a.lead(Vec::new());
        let first = a.order("1");
        let same = a.give().unwrap();
        [&a, &b].into_iter().for_each(|node| drop(node.lead(vec![same.clone()])));
        for text in of_first {
            a.order(text);
        }
        let later = b.order("2");
        assert_eq!(d.follow(later, "2", (b.run(), 1), false).follow, Follow::Next);
        // It reads of the wrong one.
        assert!(a.leads() && a.read_for(later).is_none() && !a.leads());
        assert!(a.order_for("3", None).is_none() && a.since(first).is_none());
        let (again, missed) = if is_gone { a.take(&[]) } else { a.take(&[&b]) };
        assert!(again.is_some_and(|head| head.term > later.term), "the others are to be told");
        assert_eq!(a.lead(Vec::new()), (None, None), "it leads");
        (missed.unwrap(), a.since(first).unwrap(), a.read_for(later).unwrap().is_whole)
    };
    let gap = || (false, Vec::new());
    assert_eq!(beside(&[], false), (whole(&["2"]), whole(&["2"]), true), "it goes on with the log of the later one");
    assert_eq!(
        beside(&["beside"], false),
        (gap(), gap(), false),
        "both have told publishers that something is published"
    );
    assert_eq!(beside(&[], true), (gap(), gap(), false), "what the later one had is not found");
}

/// A node that is told of another one that has led beside it: an earlier one, too.
#[test]
fn a_leader_that_is_told_of_another_one_takes_the_channel_again() {
    let [b, a, c] = nodes();
    a.lead(Vec::new());
    let first = a.order("1");
    let same = a.give().unwrap();
    [&a, &b].into_iter().for_each(|node| drop(node.lead(vec![same.clone()])));
    b.order("of the earlier one");
    let name = channel("c");
    // It is to lead no more, and says so.
    assert_eq!(b.history.contest(|_| None), []);
    let told = b.history.contest(|_| Some(a.run()));
    assert_eq!(told.iter().map(|(channel, _)| channel).collect::<Vec<_>>(), [&name]);
    assert_eq!((b.leads(), b.history.contest_one(&name, a.run())), (false, Some(told[0].1)), "until it is taken");
    assert!(c.history.outdated(&name, told[0].1, true).is_none(), "it does not lead");
    assert!(a.history.outdated(&name, told[0].1, true).is_some() && !a.leads());
    assert!(a.take(&[&b]).0.is_some());
    // Only the earlier one had ordered something.
    assert_eq!(a.since(first), Some(whole(&["of the earlier one"])));
    assert_eq!(b.history.contest(|_| Some(a.run())), [], "it has nothing any more");
    // One that is not to lead does not trust its log any more.
    assert!(a.history.outdated(&name, told[0].1, false).is_some());
    assert!(!a.give().unwrap().complete);
}

/// A node that leads gets a message of a later one: it follows, and tells it of what it has.
#[test]
fn a_node_that_has_led_beside_another_one_tells_it_when_it_follows() {
    let [a, b, c] = nodes();
    a.lead(Vec::new());
    let (at, _) = a.order_and_copy("1", &c);
    b.lead(Vec::new());
    let later = b.order("2");
    let followed = a.follow(later, "2", (b.run(), 1), false);
    assert_eq!(followed, Followed { follow: Follow::Ask(at), is_kept: true, beside: Some(at) });
    assert!(!a.leads() && a.follow(later, "2", (b.run(), 1), false).beside.is_none(), "once");
    // What it has is no whole log any more; nor is a copy of it.
    assert!(!a.give().unwrap().complete);
    assert_eq!(c.follow(later, "2", (b.run(), 1), false).beside, Some(at));
    assert!(!c.give().unwrap().complete);
    // One that has a later log follows no earlier one.
    a.lead(Vec::new());
    let last = a.order_and_copy("3", &c).0;
    assert_eq!(c.follow(later, "2", (b.run(), 1), true).follow, Follow::Stale(last));
    assert_eq!(a.follow(later, "2", (b.run(), 1), true).follow, Follow::Stale(last));
}

/// A copy is whole as long as all of it came on one stream.
#[test]
fn a_copy_that_may_lack_something_passes_for_no_whole_log() {
    let copied = |then: &dyn Fn(&Node, Position)| {
        let [a, b] = nodes();
        a.lead(Vec::new());
        let (at, followed) = a.order_and_copy("1", &b);
        assert_eq!(followed, Followed { follow: Follow::Next, is_kept: true, beside: None });
        then(&b, Position { offset: at.offset + 1, ..at });
        let log = b.give().unwrap();
        (log.complete, log.head)
    };
    let began = |run, epoch| copied(&|b, _| drop(b.history.began((run, epoch))));
    assert_eq!((began(1, 2), began(1, 1), began(2, 9)), ((false, 1), (true, 1), (true, 1)));
    // The next one; one that is not the next one; one of another stream; one that is not for the copy.
    let followed = |skipped, stream, keep| {
        copied(&|b, next| {
            let at = Position { offset: next.offset + skipped, ..next };
            let followed = b.follow(at, "2", stream, keep);
            assert_eq!(followed.is_kept, !keep || (skipped == 0 && stream == (1, 1)));
        })
    };
    assert_eq!(followed(0, (1, 1), true), (true, 2));
    assert_eq!((followed(1, (1, 1), true), followed(0, (1, 2), true)), ((false, 1), (false, 1)));
    // It has it already.
    let again = copied(&|b, next| {
        let at = Position { offset: next.offset - 1, ..next };
        assert_eq!(b.follow(at, "1", (1, 1), true), Followed { follow: Follow::Known, is_kept: true, beside: None });
        assert!(!b.follow(at, "1", (1, 2), true).is_kept, "of another stream");
    });
    assert_eq!(again, (false, 1));
}

/// What publishers of another leader were told is not replaced by a copy that knows nothing of it.
#[test]
fn a_copy_replaces_only_what_it_goes_on_from() {
    let [a, b, c] = nodes();
    a.lead(Vec::new());
    let (at, _) = a.order_and_copy("1", &c);
    b.lead(Vec::new());
    b.order("2");
    let (other, name) = (copy_of(&b), channel("c"));
    let keep = |node: &Node, log: &LogCopy| node.history.keep_copy(&name, log.clone(), (2, 1), node.clock());
    assert_eq!((keep(&c, &other), keep(&a, &other)), (Some(at), Some(at)));
    assert!(a.leads() && c.give().unwrap().head() == at);
    assert_eq!((keep(&c, &other), c.give()), (None, Some(other)));
    // One that leads keeps no copy of another one's log, even if that goes on from its own.
    b.give();
    b.lead(vec![copy_of(&a)]);
    b.order("3");
    let longer = copy_of(&b);
    assert_eq!((keep(&a, &longer), a.leads()), (None, true));
    assert_eq!(a.since(at), Some(whole(&[])));
    // A copy of the log so far, and one that goes on from it.
    assert_eq!((keep(&c, &copy_of(&a)), keep(&c, &longer)), (None, None));
    assert!(c.give().unwrap().head() == longer.head());
}

/// Its log, which it keeps.
fn copy_of(node: &Node) -> LogCopy {
    let log = node.give().unwrap();
    node.lead(vec![log]);
    let log = node.give().unwrap();
    node.lead(vec![log.clone()]);
    log
}

/// Another node that keeps the copy is told by the one that gives its log away.
#[test]
fn who_gives_its_log_away_says_who_else_has_a_copy() {
    let [a, b] = nodes();
    a.lead(Vec::new());
    a.order("1");
    let given = |node: &Node| node.history.give(&channel("c")).map(|(_, copied_to)| copied_to);
    assert_eq!(given(&a), Some(None));
    a.lead(Vec::new());
    a.order_and_copy("1", &b);
    assert_eq!((given(&a), given(&a), given(&b)), (Some(Some(b.run())), None, Some(None)));
}

/// Where a node that has led follows, its connections have all that was ordered, and nothing else.
#[test]
fn a_node_that_has_ordered_nothing_in_its_term_is_where_the_one_before_was() {
    let [a, b] = nodes();
    a.lead(Vec::new());
    let first = a.order("1");
    let same = a.give().unwrap();
    [&a, &b].into_iter().for_each(|node| drop(node.lead(vec![same.clone()])));
    a.history.contest(|_| Some(2));
    assert_eq!(a.cursor(), Some(first));
    let next = b.order("2");
    let ended = [first.term];
    let clock = (a.number, EPOCH, 1000);
    let rule = rule(100, 0);
    let followed = a.history.follow((&channel("c"), &rule), (next, &ended, (2, 1)), None, clock, |_| true);
    assert_eq!(followed.follow, Follow::Next);
}

/// A reader that has gone on meanwhile gets the rest of an answer; if the answer is no good, the node asks again.
#[test]
fn what_a_node_has_missed_is_delivered_or_told() {
    let [a, d] = nodes();
    a.lead(Vec::new());
    let first = a.order("1");
    d.follow(first, "1", (1, 1), false);
    let (second, third) = (a.order("2"), a.order("3"));
    let reading = a.read_for(first).unwrap();
    let catch_up = |asked, reading: &Reading| {
        let mut told = None;
        let fits = d.history.catch_up_to(&channel("c"), (asked, reading), d.clock(), |_, is_whole, missed| {
            told = Some((is_whole, texts(missed)));
            true
        });
        (fits, told)
    };
    let nowhere = Position { offset: 9, ..first };
    assert_eq!(catch_up(Some(nowhere), &reading), (false, None), "it was never there");
    assert_eq!(d.follow(second, "2", (1, 1), false).follow, Follow::Next);
    let gap = Reading { is_whole: false, ..reading.clone() };
    assert_eq!(catch_up(Some(first), &gap), (false, None), "it may be behind what it has had since");
    assert_eq!(catch_up(Some(first), &reading), (true, Some(whole(&["3"]))));
    assert_eq!(d.cursor(), Some(third));
    // It may lack something.
    let last = a.order("4");
    let gap = Reading { is_whole: false, ..a.read_for(third).unwrap() };
    assert_eq!(catch_up(Some(third), &gap), (true, Some((false, vec!["4".into()]))));
    assert_eq!(d.cursor(), Some(last));
}

/// A connection has read further elsewhere, or all of the node have: they are told of a gap instead of getting some of it again.
#[test]
fn nobody_gets_again_what_it_has_had_of_another_node() {
    let gap = || Some((false, Vec::new()));
    for (at, want) in [(0, Some(whole(&["2", "3"]))), (1, gap()), (2, gap())] {
        let [a, b, c, d] = nodes();
        a.lead(Vec::new());
        let first = a.order_and_copy("1", &b).0;
        let same = b.give().unwrap();
        b.lead(vec![same.clone()]);
        d.follow(first, "1", (a.run(), 1), false);
        let had = [first, b.order("2"), b.order("3")][at];
        // It comes from there to the node that has missed it, and leads beside; or to one that follows that.
        assert_eq!(a.since(had), if at == 0 { Some(whole(&[])) } else { gap() });
        let reading = a.read_for(first).unwrap();
        assert!(d.history.catch_up_to(&channel("c"), (Some(first), &reading), d.clock(), |_, _, _| true));
        d.history.has_read(&channel("c"), &rule(100, 0), had, &reading);
        a.history.contest(|_| Some(b.run()));
        let log = b.give().unwrap();
        assert_eq!(a.lead(vec![log.clone()]).1, want, "{at}");
        assert_eq!(d.lead(vec![log.clone()]).1, want, "{at}");
        // All of a node have followed the later one, and it leads with the log before.
        c.follow(had, "x", (b.run(), 1), false);
        let missed = if at == 0 { whole(&[]) } else { (false, Vec::new()) };
        assert_eq!(c.lead(vec![same]).1, Some(missed));
        c.history.contest(|_| Some(b.run()));
        let want = if at == 0 { Some(whole(&["2", "3"])) } else { gap() };
        assert_eq!(c.lead(vec![log]).1, want, "{at}");
    }
}
