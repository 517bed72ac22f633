//! What a process has counted, on its way to a successor process, which goes on from there: counters, and the counts and
//! sums of histograms and summaries.

use std::collections::HashMap;

use super::counter::BOUNDS;

/// What was counted under one name and labels.
#[derive(Debug, Clone, PartialEq)]
pub enum Count {
    /// Of a counter.
    Value(f64),
    /// Of a histogram: how many were within each of [`BOUNDS`] and beyond, and their sum in nanoseconds.
    Durations(Box<[u64; BOUNDS.len() + 1]>, u64),
    /// Of a summary: how many, and their sum in nanoseconds.
    Summary(u64, u64),
}

impl Count {
    /// Adds what was counted before. Something of another type is another metric, and adds nothing.
    pub(super) fn add(&mut self, before: &Count) {
        match (self, before) {
            (Count::Value(value), Count::Value(before)) => *value += before,
            (Count::Durations(counts, nanos), Count::Durations(before, sum)) => {
                counts.iter_mut().zip(before.iter()).for_each(|(count, before)| *count += before);
                *nanos += sum;
            }
            (Count::Summary(count, nanos), Count::Summary(before, sum)) => {
                *count += before;
                *nanos += sum;
            }
            _ => {}
        }
    }
}

/// One line of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// The metric.
    pub name: String,
    /// Its labels, in the order of the page.
    pub labels: Vec<(String, String)>,
    /// What was counted.
    pub count: Count,
}

impl Counted {
    /// Whether it stands under these labels.
    pub(super) fn is_of(&self, labels: &[(&str, &str)]) -> bool {
        self.labels.iter().map(|(name, value)| (&**name, &**value)).eq(labels.iter().copied())
    }
}

/// What the processes before have counted, by name.
pub(super) type Before = HashMap<String, Vec<Counted>>;

/// What a process and those before it have counted, and what it uses now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Messages from clients.
    pub read: u64,
    /// Messages that were put into outboxes.
    pub sent: u64,
    /// The part of them that came through the mesh.
    pub delivered: u64,
    /// Messages that no client was given.
    pub dropped: u64,
    /// Messages that were published here, by scripts and over the API.
    pub published: u64,
    /// Subscriptions there are now.
    pub subscriptions: u64,
    /// Calls of hooks that failed.
    pub errors: u64,
    /// How many calls of hooks were within each of [`BOUNDS`], and beyond.
    pub handlers: [u64; BOUNDS.len() + 1],
    /// What they took together, in nanoseconds.
    pub handlers_nanos: u64,
    /// Calls of hooks that wait now.
    pub waiting: u64,
    /// Bytes that the Lua VMs use.
    pub lua: u64,
    /// Bytes that the process uses; 0 where the system does not tell.
    pub memory: u64,
    /// Its processor time in microseconds, likewise.
    pub cpu_micros: u64,
}

impl Totals {
    /// What of it is counted, and so goes on in a successor process.
    pub(super) fn counted(&self) -> Totals {
        Totals { subscriptions: 0, waiting: 0, lua: 0, memory: 0, ..self.clone() }
    }
}
