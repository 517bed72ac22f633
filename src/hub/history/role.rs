//! What a node is to a channel that several nodes share.

use super::log::{At, Kept};
use super::position::Position;

/// Whether a log has all that publishers were told is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complete {
    /// It may not have.
    No,
    /// It had, until another node may have led the channel: good for a node that takes it from here, but not for this one.
    ForOthers,
    /// It has.
    Yes,
}

/// A stream of another node: its run, and the stream's epoch.
pub type Stream = (u64, u32);

/// What a node is to a channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    pub(super) leads: bool,
    pub(super) complete: Complete,
    /// How far the connections of this node are, while it follows.
    pub(super) cursor: Option<Position>,
    /// The leader was asked for what this node has missed: when, and which run.
    pub(super) asked: Option<(u64, u64)>,
    /// The node that has a copy, with the stream on which it was sent.
    pub(super) copied_to: Option<Stream>,
    /// The log is a copy of what came on that stream.
    pub(super) copy_of: Option<Stream>,
    /// Another node has led the channel beside this one, up to there: its log is to be found before this node leads again.
    pub(super) beside: Option<Position>,
    /// A connection has come here that has read further elsewhere: what this node has missed, it may have had.
    pub(super) ahead: bool,
}

impl Role {
    /// That of a node by itself, or of one that knows nothing of the channel.
    pub(super) fn new(leads: bool) -> Role {
        let complete = if leads { Complete::Yes } else { Complete::No };
        Role { leads, complete, cursor: None, asked: None, copied_to: None, copy_of: None, beside: None, ahead: false }
    }

    /// What the connections of this node get of what it has missed, and whether that is all of it. Nobody gets anything twice: so they are told
    /// of a gap instead, if one of them may have had some of it.
    pub(super) fn make_good<'a>(&mut self, is_whole: bool, missed: &'a [Kept]) -> (bool, &'a [Kept]) {
        let is_anything = !is_whole || !missed.is_empty();
        match is_anything && std::mem::take(&mut self.ahead) {
            true => (false, &[]),
            false => (is_whole, missed),
        }
    }
}

/// What comes of a message of the node that leads its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It is the next one.
    Next,
    /// This node has it, or will have it with others.
    Known,
    /// Some are missing, since this position: its sender is to be asked.
    Ask(Position),
    /// Its sender leads no more: there is a later term.
    Stale(Position),
}

/// What has come of a message of the node that leads its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// What comes of it.
    pub follow: Follow,
    /// False: it was to go into the copy that this node has, and there is no whole one.
    pub is_kept: bool,
    /// This node has led the channel itself up to there, or has a copy of what another node has led: its sender may know nothing of it.
    pub beside: Option<Position>,
}

/// What a reader on another node gets, and what that node itself has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Where the leader's log ends, and so the node.
    pub head: Position,
    /// Where the reader is.
    pub at: At,
    /// For the reader.
    pub kept: Vec<Kept>,
    /// The node has missed nothing else.
    pub is_whole: bool,
    /// What the node has missed.
    pub missed: Vec<Kept>,
}
