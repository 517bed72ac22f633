//! Nodes: the values of a file, each with its place.

use std::rc::Rc;
use zeroize::Zeroizing;

use crate::config::raw::Place;

/// A value and its place.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// How many nodes it stands for, aliases laid out.
    pub(super) size: usize,
}

/// What a node is.
#[derive(Debug)]
pub enum Kind {
    /// A scalar; `plain` if it stood without quotes.
    Scalar {
        /// Its text, unescaped. It may be a secret.
        text: Zeroizing<String>,
        /// Without quotes or `!!str`, so that `null` means nothing.
        plain: bool,
        /// Where it comes from.
        origin: Origin,
    },
    /// A list.
    List(Vec<Rc<Node>>),
    /// A mapping, without duplicates.
    Map(Vec<Entry>),
}

/// Where a scalar's text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file alone.
    File,
    /// A part of it from the environment, and so it is not for messages.
    Environment,
    /// It is unknown: a variable is not set, which has been reported.
    Unknown,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub name: String,
    /// The key's place.
    pub place: Place,
    /// The value.
    pub value: Rc<Node>,
}

impl Node {
    /// Whether it stands for "not given": empty, `~` or `null` without quotes.
    pub fn is_null(&self) -> bool {
        match &self.kind {
            Kind::Scalar { text, plain, .. } => *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            _ => false,
        }
    }
}
