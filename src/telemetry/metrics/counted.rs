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
