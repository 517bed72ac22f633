//! The rows of `engine.memory`.

use crate::config::changes::Changes;
use crate::config::changes::Effect::Live;
use crate::config::kinds::parsed;
use crate::config::raw::units::{self, Quantity, parse_size};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::types::High;

section! {
    /// When there is too little memory for more clients.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Memory {
        /// Above it, new clients are refused and those that hold the most are closed; 0 = no bound.
        pub high: High = "high", parsed(
            "a part such as \"80%\" or a size such as \"1GiB\"",
            High::Percent(80),
            high,
            |high| high.to_string().into(),
        ), Live;
        /// What a part is a part of. auto: the least of the machine's memory and the limits of the process and its control groups.
        pub of: Option<usize> = "of", parsed(
            "auto or a size such as \"1GiB\"",
            None,
            of,
            |of| of.map_or_else(|| "auto".to_owned(), units::size).into(),
        ), Live;
    }
}

fn high(text: &str) -> Option<High> {
    let percent = text.trim().strip_suffix('%').map(|number| number.trim().parse().ok());
    match (percent, parse_size(text)) {
        (Some(percent), _) => percent.filter(|percent| (1..=100).contains(percent)).map(High::Percent),
        (None, Quantity::Is(bytes)) => Some(High::Bytes(bytes)),
        _ => None,
    }
}

fn of(text: &str) -> Option<Option<usize>> {
    match (text, parse_size(text)) {
        ("auto", _) => Some(None),
        (_, Quantity::Is(bytes @ 1..)) => Some(Some(bytes)),
        _ => None,
    }
}
