//! The ids of nodes, workers and clients. A client's id says which node has the client, and a lane by which that node
//! finds the worker; the ids of one lane only grow.

use std::fmt;
use std::num::NonZeroU16;
use std::time::{SystemTime, UNIX_EPOCH};

/// A worker thread of this process, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// The most workers a process may have: each owns at least one lane.
pub const MAX_WORKERS: usize = Lane::COUNT;

/// A node's number, 1 to [`NodeNumber::MAX`], different for all nodes of a cluster that live at the same time. It is
/// part of all client ids that the node issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeNumber(NonZeroU16);

impl NodeNumber {
    /// The largest: 10 bits.
    pub const MAX: u16 = (1 << NODE_BITS) - 1;

    /// The smallest.
    pub const MIN: NodeNumber = NodeNumber(NonZeroU16::MIN);

    /// The number, if it is valid for a node.
    pub fn new(number: u16) -> Option<NodeNumber> {
        NonZeroU16::new(number).filter(|number| number.get() <= NodeNumber::MAX).map(NodeNumber)
    }

    /// A random number, for a process that is in no cluster. So a process that replaces a killed one has another number
    /// in 1,022 of 1,023 cases, and does not repeat ids of the former one, even if its ids ran ahead of the clock
    /// ([`ClientIds`]).
    pub fn random() -> NodeNumber {
        let drawn = uuid::Uuid::new_v4().as_u128() as u32 % u32::from(NodeNumber::MAX);
        NodeNumber(NonZeroU16::MIN.saturating_add(drawn as u16))
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// One run of a node's process, as `/v1/nodes` and the messages of a queue name it: a random number below 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of a run that begins now.
    pub fn random() -> NodeId {
        NodeId(uuid::Uuid::new_v4().as_u128() as u64 % LIMIT)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of a node's sequences of client ids. Each lane belongs to one worker, which alone issues ids on it and has their
/// clients. The node decides which worker that is; ids don't contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u8);

impl Lane {
    /// The number of lanes: 8 bits.
    pub const COUNT: usize = 1 << LANE_BITS;

    /// All lanes, lowest first.
    pub fn all() -> impl Iterator<Item = Lane> {
        (0..=u8::MAX).map(Lane)
    }
}

/// A client connection's id, below 2^53, so that JSON readers of any language hold it exactly. From the top: 10 bits
/// for the [`NodeNumber`], 35 bits for a step of time, 8 bits for the [`Lane`]. [`ClientIds`] describes how far ids are
/// unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

const NODE_BITS: u32 = 10;
const STEP_BITS: u32 = 35;
const LANE_BITS: u32 = 8;
const STEP_MASK: u64 = (1 << STEP_BITS) - 1;
/// Ids are below it; numbers from here on don't all fit a double exactly.
const LIMIT: u64 = 1 << (NODE_BITS + STEP_BITS + LANE_BITS);

impl ClientId {
    /// The id of that number, if it is above 0 and below 2^53. It may be one that no node has issued: then there is no
    /// such client.
    pub fn new(number: u64) -> Option<ClientId> {
        (number > 0 && number < LIMIT).then_some(ClientId(number))
    }

    /// Builds an id from its parts. Only the lowest 35 bits of the step count.
    pub fn from_parts(node: NodeNumber, step: u64, lane: Lane) -> ClientId {
        let node = u64::from(node.get()) << (STEP_BITS + LANE_BITS);
        ClientId(node | (step & STEP_MASK) << LANE_BITS | u64::from(lane.0))
    }

    /// Reads the decimal text that scripts and back ends use.
    pub fn parse(text: &[u8]) -> Option<ClientId> {
        if text.is_empty() || text.len() > 16 || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok().and_then(ClientId::new)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The node that issued it; None: no node can have.
    pub fn node(self) -> Option<NodeNumber> {
        NodeNumber::new((self.0 >> (STEP_BITS + LANE_BITS)) as u16)
    }

    /// The lane that it was issued on.
    pub fn lane(self) -> Lane {
        Lane(self.0 as u8)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 2026-01-01T00:00:00Z, where the clock of client ids starts, in seconds of Unix time.
const EPOCH: u64 = 1_767_225_600;
/// Steps of that clock in a second. With 256 lanes, a node has 8,192 ids for each second.
const STEPS: u64 = 32;

/// The present step of the clock; 0 before its start.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    since.saturating_sub(EPOCH * 1000) * STEPS / 1000
}

/// Whether an id has been given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Issued {
    /// Not yet.
    Never,
    /// By this run of the node.
    Here,
    /// Not by this run: by one before, if at all.
    #[default]
    Before,
}

/// Issues the client ids of one worker, on its lanes in turn.
///
/// The steps of a lane begin at the clock's step when the process starts, and each id has the next step. So no id comes
/// twice in a run, and the clock is not read again. No id comes again after a restart either, and no file is needed for
/// that: a process that had at most 8,192 connections for each second of its life (and each worker its part of them)
/// has used no step that is still to come. An id can come twice only
///
/// - in two runs with the same node number (of processes in no cluster, one pair in 1,023), if the later run starts at
///   a step that the former one has used. Then the former run was ahead of the clock when it ended, because it had more
///   than 8,192 connections for each second of its life; or the clock was set back between the starts by just that much,
///   or stood before 2026 at both;
/// - from two processes that run at the same time in no cluster and have drawn the same node number;
/// - 34 years later: the steps wrap around in 2060.
pub struct ClientIds {
    /// The step at the start.
    start: u64,
    /// The step of each lane's last id; at first the step at the start.
    lanes: Box<[(Lane, u64)]>,
    /// The position of the lane that is next.
    next: usize,
}

impl ClientIds {
    /// Issues ids on these lanes; there must be at least one.
    pub fn new(lanes: impl IntoIterator<Item = Lane>) -> ClientIds {
        ClientIds::from(clock(), lanes)
    }

    fn from(start: u64, lanes: impl IntoIterator<Item = Lane>) -> ClientIds {
        let lanes: Box<[_]> = lanes.into_iter().map(|lane| (lane, start)).collect();
        debug_assert!(!lanes.is_empty());
        ClientIds { start, lanes, next: 0 }
    }

    /// Whether an id of its node has been given out here.
    pub fn issued(&self, id: ClientId) -> Issued {
        let step = id.0 >> LANE_BITS & STEP_MASK;
        match self.lanes.iter().find(|(lane, _)| *lane == id.lane()) {
            Some((_, last)) if step > *last => Issued::Never,
            Some(_) if step > self.start => Issued::Here,
            _ => Issued::Before,
        }
    }

    /// The last step of each lane.
    pub fn last(&self) -> impl Iterator<Item = (Lane, u64)> {
        self.lanes.iter().copied()
    }

    /// Ids of that lane up to that step have been issued by the process before.
    pub fn pass(&mut self, lane: Lane, step: u64) {
        if let Some((_, last)) = self.lanes.iter_mut().find(|(own, _)| *own == lane) {
            *last = step.max(*last);
        }
    }

    /// A new id of that node.
    pub fn issue(&mut self, node: NodeNumber) -> ClientId {
        let (lane, step) = &mut self.lanes[self.next];
        *step += 1;
        let id = ClientId::from_parts(node, *step, *lane);
        self.next = (self.next + 1) % self.lanes.len();
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn node(number: u16) -> NodeNumber {
        NodeNumber::new(number).unwrap()
    }

    #[test]
    fn an_id_holds_its_parts_and_stays_below_2_to_the_53() {
        for (number, step, lane) in [(1, 0, 0), (1, 1, 255), (1023, STEP_MASK, 255), (700, 901_770_144, 3)] {
            let id = ClientId::from_parts(node(number), step, Lane(lane));
            assert_eq!((id.node(), id.lane()), (Some(node(number)), Lane(lane)));
            assert_eq!(ClientId::new(id.get()), Some(id), "{id}");
            assert_eq!(ClientId::parse(id.to_string().as_bytes()), Some(id));
        }
        assert_eq!(ClientId::from_parts(node(1023), STEP_MASK, Lane(255)).get(), LIMIT - 1);
        assert_eq!(LIMIT, 1 << 53);
        let in_2060 = ClientId::from_parts(node(5), STEP_MASK + 1, Lane(9));
        assert_eq!((in_2060.node(), in_2060.lane()), (Some(node(5)), Lane(9)), "the steps begin anew");
    }

    #[test]
    fn node_numbers_are_1_to_1023() {
        assert_eq!((NodeNumber::new(0), NodeNumber::new(1024)), (None, None));
        assert_eq!([1, 1023].map(|n| NodeNumber::new(n).map(NodeNumber::get)), [Some(1), Some(1023)]);
        let drawn: HashSet<u16> = (0..20_000).map(|_| NodeNumber::random().get()).collect();
        assert!(drawn.iter().all(|n| (1..=1023).contains(n)));
        assert!(drawn.contains(&1) && drawn.contains(&1023) && drawn.len() > 1000, "{} of them", drawn.len());
    }

    #[test]
    fn the_clock_counts_32nds_of_a_second_and_is_good_until_2060() {
        let year = 31_556_952;
        assert!((33 * year..35 * year).contains(&((STEP_MASK + 1) / STEPS)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - EPOCH;
        assert!((now..now + 60).contains(&(clock() / STEPS)));
    }

    #[test]
    fn runs_of_nodes_are_told_apart() {
        let runs: HashSet<NodeId> = (0..1000).map(|_| NodeId::random()).collect();
        assert!(runs.len() == 1000 && runs.iter().all(|run| run.0 < LIMIT));
    }

    /// The step and the lane of an id.
    fn parts(id: ClientId) -> (u64, u8) {
        (id.get() >> LANE_BITS & STEP_MASK, id.lane().0)
    }

    #[test]
    fn lanes_take_turns() {
        let mut ids = ClientIds::from(1000, [Lane(3), Lane(200)]);
        let given: Vec<_> = (0..5).map(|_| parts(ids.issue(node(1)))).collect();
        assert_eq!(given, [(1001, 3), (1001, 200), (1002, 3), (1002, 200), (1003, 3)]);
        let issued = |step, lane| ids.issued(ClientId::from_parts(node(1), step, Lane(lane)));
        assert_eq!(
            [1000, 1001, 1003, 1004].map(|step| issued(step, 3)),
            [Issued::Before, Issued::Here, Issued::Here, Issued::Never]
        );
        assert_eq!((issued(1002, 200), issued(1003, 200)), (Issued::Here, Issued::Never));
    }

    #[test]
    fn a_successor_issues_no_id_again() {
        let mut before = ClientIds::from(1000, [Lane(3), Lane(4)]);
        let given: Vec<_> = (0..5).map(|_| parts(before.issue(node(1)))).collect();
        let mut after = ClientIds::from(1001, [Lane(2), Lane(3), Lane(4)]);
        before.last().for_each(|(lane, step)| after.pass(lane, step));
        let next: Vec<_> = (0..3).map(|_| parts(after.issue(node(1)))).collect();
        assert_eq!(next, [(1002, 2), (1004, 3), (1003, 4)]);
        assert!(next.iter().all(|id| !given.contains(id)));
    }

    #[test]
    fn a_run_is_ahead_of_the_clock_only_after_8192_ids_for_each_second_of_its_life() {
        let start = 1000;
        let mut ids = ClientIds::from(start, Lane::all());
        let last = (0..100 * 8192).map(|_| parts(ids.issue(node(1))).0).max();
        assert_eq!(last, Some(start + 100 * STEPS), "100 seconds");
    }

    #[test]
    fn text_forms_are_checked() {
        assert_eq!(ClientId::parse(b"123").map(ClientId::get), Some(123));
        assert_eq!(ClientId::parse(b"123").and_then(ClientId::node), None, "no node gives it");
        assert_eq!(ClientId::parse(b"9007199254740991").and_then(ClientId::node), Some(node(1023)));
        let first = (1u64 << 43).to_string();
        assert_eq!(ClientId::parse(first.as_bytes()).and_then(ClientId::node), Some(node(1)));
        for bad in ["", "0", "-1", "1.5", "9007199254740992", "99999999999999999", "x", "+1"] {
            assert_eq!(ClientId::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!([0, LIMIT, u64::MAX].map(ClientId::new), [None; 3]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Time passes, in steps of the clock.
        Wait(u64),
        /// The clock is set back.
        SetBack(u64),
        /// A worker gets that many connections at once.
        Burst(usize, usize),
        /// The process is killed, and another starts with the same node number or the next.
        Restart(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u64).prop_map(Step::Wait),
            (1..10u64).prop_map(Step::SetBack),
            (0..3usize, 1..600usize).prop_map(|(worker, count)| Step::Burst(worker, count)),
            any::<bool>().prop_map(Step::Restart),
        ]
    }

    /// The three workers of a process that starts now.
    fn workers(clock: u64) -> Vec<ClientIds> {
        let lanes = |worker| Lane::all().filter(move |lane| lane.0 % 3 == worker);
        (0..3).map(|worker| ClientIds::from(clock, lanes(worker))).collect()
    }

    proptest! {
        /// Ids of a run are never given twice, whatever the clock does; those of two runs only if they have one node
        /// number, and the later one starts before a step that the former has used.
        #[test]
        fn ids_come_once_but_where_it_is_said(steps in prop::collection::vec(step(), 1..60)) {
            let (mut clock, mut number, mut run) = (1_000_000u64, 1, 0);
            let mut ids = workers(clock);
            let mut given: HashMap<ClientId, u32> = HashMap::new();
            // The last step that was used, by node number.
            let mut used: HashMap<u16, u64> = HashMap::new();
            let mut may_repeat = false;
            for step in steps {
                match step {
                    Step::Wait(steps) => clock += steps,
                    Step::SetBack(steps) => clock -= steps,
                    Step::Burst(worker, count) => {
                        for _ in 0..count {
                            let id = ids[worker].issue(node(number));
                            prop_assert_eq!(id.node(), Some(node(number)));
                            prop_assert_eq!(usize::from(id.lane().0) % 3, worker);
                            let last = used.entry(number).or_default();
                            *last = parts(id).0.max(*last);
                            if let Some(before) = given.insert(id, run) {
                                prop_assert!(before != run, "{} was given twice in a run", id);
                                prop_assert!(may_repeat, "{} was given twice", id);
                            }
                        }
                    }
                    Step::Restart(same) => {
                        number += u16::from(!same);
                        run += 1;
                        ids = workers(clock);
                        may_repeat = used.get(&number).is_some_and(|&last| clock < last);
                    }
                }
            }
        }
    }
}
