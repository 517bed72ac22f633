//! The rows of the configuration: one for each key, with everything that is known of it.
//!
//! The rows themselves stand in `keys`, in `section!` blocks. A block makes a type with a field for each row, and
//! reading, listing, comparing and merging of that type, field by field; what a field can hold is up to its `Kind`.

use super::changes::{Changes, Effect};
use super::raw::value::Value;
use serde_json::Value as Json;

/// A key, with its value in some configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its path: `engine.servers[0].port`; without a number (`access.users[].host`) in a list that has no entries.
    pub path: String,
    /// What it is: `number`, `duration`, `sections` (a list of sections, whose keys have rows of their own).
    pub kind: &'static str,
    /// Which values it takes, in words; may be empty.
    pub bounds: String,
    /// Its default as the file spells it, null = unset; None = it must be given.
    pub default: Option<Json>,
    /// When a change takes effect.
    pub effect: Effect,
    /// What it means, for the documentation.
    pub words: String,
    /// Its value; None where there is none: it is unused, in a list without entries, or holds sections. A secret reads
    /// `***`.
    pub value: Option<Json>,
    /// Whether the value is a secret that is set.
    pub hidden: bool,
}

/// The part of a row that does not depend on the key's type.
#[derive(Debug, Clone)]
pub struct Head {
    /// The key's path.
    pub path: String,
    /// When a change takes effect.
    pub effect: Effect,
    /// What it means.
    pub words: &'static str,
}

impl Head {
    /// The row of a key below `section`.
    pub fn new(section: &str, key: &str, effect: Effect, words: &'static str) -> Head {
        Head { path: below(section, key), effect, words: words.trim() }
    }
}

/// A key's path below a section's. Either may be empty: the section is the file, or its keys stand in the section
/// itself.
pub fn below(section: &str, key: &str) -> String {
    let dot = if section.is_empty() || key.is_empty() { "" } else { "." };
    format!("{section}{dot}{key}")
}

/// What may stand at a key, and what is made of it.
pub trait Kind {
    /// The value in the program.
    type Value: Clone;

    /// Reads what stands there, or the default. Problems go where `at` reports them.
    fn read(&self, at: &Value<'_>) -> Self::Value;

    /// Adds the key's row, or those of all keys below it; with a value's parts, if there is one.
    fn rows(&self, head: &Head, value: Option<&Self::Value>, rows: &mut Vec<Row>);

    /// Adds what differs.
    fn compare(&self, head: &Head, old: &Self::Value, new: &Self::Value, changes: &mut Changes);

    /// What is in force once a file with `new` has been taken.
    fn merge(&self, effect: Effect, old: &Self::Value, new: &Self::Value) -> Self::Value {
        match effect {
            Effect::Live => new.clone(),
            Effect::Restart(_) | Effect::Unused => old.clone(),
        }
    }
}

/// A section of keys: what `section!` makes. The functions are those of `Kind`, for each row in turn.
pub trait Section: Clone {
    /// Reads the section at `at`.
    fn read(at: &Value<'_>) -> Self;
    /// Adds the rows of the section at that path.
    fn rows(path: &str, value: Option<&Self>, rows: &mut Vec<Row>);
    /// Adds what differs in the section at that path.
    fn compare(path: &str, old: &Self, new: &Self, changes: &mut Changes);
    /// What is in force once a file with `new` has been taken.
    fn merge(old: &Self, new: &Self) -> Self;
}

/// Makes a section's type from its rows:
///
/// ```text
/// /// Words for the documentation.
/// pub FIELD: TYPE = "KEY", KIND, EFFECT;
/// ```
///
/// KEY is the path below the section (`queue.full`); empty, the keys of KIND stand in this section itself. A `part()`
/// has no EFFECT, since each of its keys has its own. Rows under `unused` are checked and have no field; fields under
/// `plain` have no row.
macro_rules! section {
    (@effect) => { Effect::Unused };
    (@effect $effect:expr) => { $effect };
    (
        $(#[$attr:meta])*
        pub struct $Name:ident {
            $( $(#[doc = $words:literal])+ pub $field:ident: $Type:ty = $key:literal, $kind:expr $(, $effect:expr)?; )*
        }
        $( unused { $( $(#[doc = $unused_words:literal])+ $unused_key:literal, $unused_kind:expr; )* } )?
        $( plain { $( $(#[doc = $plain_words:literal])+ pub $plain:ident: $Plain:ty = $init:expr; )* } )?
    ) => {
        $(#[$attr])*
        pub struct $Name {
            $( $(#[doc = $words])+ #[doc = concat!("\n\nKey: `", $key, "`.")] pub $field: $Type, )*
            $($( $(#[doc = $plain_words])+ pub $plain: $Plain, )*)?
        }

        impl $crate::config::rows::Section for $Name {
            fn read(at: &Value<'_>) -> Self {
                $($( let _ = $unused_kind.read(&at.get($unused_key)); )*)?
                $Name {
                    $( $field: $kind.read(&at.get($key)), )*
                    $($( $plain: $init, )*)?
                }
            }

            fn rows(path: &str, value: Option<&Self>, rows: &mut Vec<Row>) {
                $(
                    let head = Head::new(path, $key, section!(@effect $($effect)?), concat!($($words),+));
                    $kind.rows(&head, value.map(|value| &value.$field), rows);
                )*
                $($(
                    let head = Head::new(path, $unused_key, Effect::Unused, concat!($($unused_words),+));
                    $unused_kind.rows(&head, None, rows);
                )*)?
            }

            fn compare(path: &str, old: &Self, new: &Self, changes: &mut Changes) {
                $(
                    let head = Head::new(path, $key, section!(@effect $($effect)?), "");
                    $kind.compare(&head, &old.$field, &new.$field, changes);
                )*
            }

            fn merge(old: &Self, new: &Self) -> Self {
                $Name {
                    $( $field: $kind.merge(section!(@effect $($effect)?), &old.$field, &new.$field), )*
                    $($( $plain: old.$plain.clone(), )*)?
                }
            }
        }
    };
}

pub(super) use section;
