//! What connects simulated nodes: bytes are late and cut off, in order for each pair of nodes. And what all simulated nodes are.

use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::cluster::heir::Heir;
use crate::cluster::link::Link;
use crate::cluster::node::{Clients, HELLO, Node, Output, Settings};
use crate::cluster::protocol::Run;

/// When something comes, its bytes, and whether it is a hello.
pub(super) type UnderWay = (u64, Bytes, bool);

/// All that is on its way.
#[derive(Default)]
pub(super) struct Network {
    /// In order for each pair.
    pub(super) under_way: BTreeMap<(Run, Run), VecDeque<UnderWay>>,
    /// The same of processes that have handed over: what their successors send goes another way.
    before: Vec<((Run, Run), UnderWay)>,
    /// What has come to a process and to its successor, as far as they have not taken it.
    came: BTreeMap<Run, Came>,
    /// What the first sends to the second is lost.
    pub(super) cut: HashSet<(Run, Run)>,
    /// What the first sends to the second stays on its way.
    pub(super) held: HashSet<(Run, Run)>,
}

/// What has come to a node, with whether it is a hello.
#[derive(Default)]
struct Came {
    node: VecDeque<(Bytes, bool)>,
    heir: VecDeque<Bytes>,
}

impl Network {
    /// Bytes go on their way: they come that much later, and behind all that went before.
    pub(super) fn send(&mut self, pair: (Run, Run), (bytes, hello): (Bytes, bool), (now, delay): (u64, u64)) {
        let queue = self.under_way.entry(pair).or_default();
        let at = queue.back().map_or(0, |(at, ..)| *at).max(now + delay);
        queue.push_back((at, bytes, hello));
    }

    /// What has come to a node by now is heard by it, and by the successor of its process if it hands over: by each if it is awake, or
    /// when it is.
    pub(super) fn arrive<C: Clients>(
        &mut self,
        to: Run,
        (node, is_awake): (&mut Node<C>, bool),
        heir: Option<(&mut Heir, bool)>,
        now: u64,
    ) {
        let came = self.came.entry(to).or_default();
        let mut take = |bytes: Bytes, hello: bool| {
            if heir.is_some() && !hello {
                came.heir.push_back(bytes.clone());
            }
            came.node.push_back((bytes, hello));
        };
        for (pair, queue) in &mut self.under_way {
            while pair.1 == to && !self.held.contains(pair) && queue.front().is_some_and(|(at, ..)| *at <= now) {
                let Some((_, bytes, hello)) = queue.pop_front() else { break };
                take(bytes, hello);
            }
        }
        for (_, (_, bytes, hello)) in self.before.extract_if(.., |((_, whom), (at, ..))| *whom == to && *at <= now) {
            take(bytes, hello);
        }
        if is_awake {
            for (bytes, hello) in came.node.drain(..) {
                if hello { node.hear(&bytes, now) } else { node.frame(bytes, now) }
            }
        }
        match heir {
            Some((heir, true)) => came.heir.drain(..).for_each(|frame| heir.frame(frame)),
            Some((_, false)) => {}
            None => came.heir.clear(),
        }
    }

    /// A node is another process now: what that one sends may overtake what the one before has sent.
    pub(super) fn succeed(&mut self, run: Run) {
        let came = self.came.entry(run).or_default();
        came.node = came.heir.drain(..).map(|frame| (frame, false)).collect();
        let under_way = self.under_way.iter_mut().filter(|((from, _), _)| *from == run);
        self.before.extend(under_way.flat_map(|(pair, queue)| queue.drain(..).map(|frame| (*pair, frame))));
    }
}

/// What a node sends now, and to whom; None: to all. Its new links are added to those that it has; `other` gets what is not for
/// the network.
pub(super) fn said<C: Clients>(
    node: &mut Node<C>,
    links: &mut Vec<Arc<Link>>,
    now: u64,
    mut other: impl FnMut(Output),
) -> Vec<(Option<Run>, Bytes)> {
    let mut said = Vec::new();
    for output in node.outputs() {
        match output {
            Output::Announce(bytes) => said.push((None, Bytes::from(bytes))),
            Output::Greet(to, frame) => said.push((Some(to), Bytes::from(frame))),
            Output::Send(link) => links.push(link),
            output => other(output),
        }
    }
    for link in links {
        let mut out = Vec::new();
        let mut frames = 0;
        while frames < 4 && link.frame(now, &mut out) {
            said.push((Some(link.peer), Bytes::from(std::mem::take(&mut out))));
            frames += 1;
        }
    }
    said
}

/// Those of a simulated node.
pub(super) fn settings(run: Run, number: u16, now: u64) -> Settings {
    Settings {
        run,
        secret: "s".into(),
        nonce: [run.0 as u8; 16],
        engine: true,
        center: run.0 % 3 == 1,
        centers: Vec::new(),
        number,
        started: now,
        api: format!("node-{}", run.0),
        reached: vec![format!("node-{}:1", run.0)],
        hello: HELLO,
        reply_timeout: 500,
        leave: 3000,
    }
}
