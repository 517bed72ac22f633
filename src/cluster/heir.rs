//! What a successor process does on the bus before it is the node: it makes sure that it reaches all others and is heard by
//! them, and keeps what they send. It comes to both processes: so whatever the one before has not seen when it hands over is
//! here, and what it has seen is known by its number. Nothing of it is acted on.

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

use super::link::WINDOW;
use super::node::{Output, Reach};
use super::protocol::{Header, Kind, Message, Messages, Run, envelop};

/// A node that has not answered is asked again after so many milliseconds.
const PROBE: u64 = 20;
/// And dialled again.
const DIAL: u64 = 500;

/// See the module.
pub struct Heir {
    run: Run,
    token: u64,
    others: BTreeMap<Run, Other>,
}

/// Another node.
struct Other {
    reach: Reach,
    /// It has answered.
    is_reached: bool,
    probed: Option<u64>,
    dialled: Option<u64>,
    /// The frames of its stream that came last, as many as may be under way before the process before has read them.
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// The last that came besides: it says how far this node's stream was read.
    aside: Option<Bytes>,
}

impl Heir {
    /// The successor of that node's process, which is to reach these nodes; `token` tells its questions from those of others.
    pub fn new(run: Run, token: u64, others: Vec<Reach>) -> Heir {
        let other = |reach: Reach| {
            let (frames, run) = (VecDeque::new(), reach.run);
            (run, Other { reach, is_reached: false, probed: None, dialled: None, frames, bytes: 0, aside: None })
        };
        Heir { run, token, others: others.into_iter().map(other).collect() }
    }

    /// A frame has come.
    pub fn frame(&mut self, frame: Bytes) {
        let Ok((Header { kind, from, .. }, body)) = Header::read(&frame) else { return };
        let Some(other) = self.others.get_mut(&from) else { return };
        if kind == Kind::Aside {
            let answers = |(_, message)| message == Message::Probed { token: self.token };
            other.is_reached |= Messages::new(body).filter_map(Result::ok).any(answers);
            other.aside = Some(frame);
            return;
        }
        // A frame is sent while fewer bytes than the window are under way.
        while other.bytes >= WINDOW
            && let Some(first) = other.frames.pop_front()
        {
            other.bytes -= first.len();
        }
        other.bytes += frame.len();
        other.frames.push_back(frame);
    }

    /// What is to be done. For a timer, many times in a second.
    pub fn tick(&mut self, now: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (run, other) in self.others.iter_mut().filter(|(_, other)| !other.is_reached) {
            let is_due = |last: Option<u64>, pause| last.is_none_or(|last| now >= last + pause);
            if is_due(other.dialled, DIAL) && !other.reach.at.is_empty() {
                other.dialled = Some(now);
                outputs.push(Output::Dial(*run, other.reach.at.clone()));
            }
            if is_due(other.probed, PROBE) {
                other.probed = Some(now);
                let mut frame = Vec::new();
                let (kind, from, epoch) = (Kind::Aside, self.run, other.reach.epoch);
                Header { kind, from, to: *run, epoch, seq: 0, read_epoch: 0, read: 0 }.write(&mut frame);
                envelop(&Message::Probe { token: self.token }.to_bytes(), 0, &mut frame);
                outputs.push(Output::Greet(*run, frame));
            }
        }
        outputs
    }

    /// The nodes that have not answered.
    pub fn missing(&self) -> Vec<Run> {
        self.others.iter().filter(|(_, other)| !other.is_reached).map(|(run, _)| *run).collect()
    }

    /// What has come of each node, in its order.
    pub fn into_frames(self) -> impl Iterator<Item = Bytes> {
        self.others.into_values().flat_map(|other| other.frames.into_iter().chain(other.aside))
    }
}
