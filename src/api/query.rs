//! The queries of requests: `name=value` pairs, percent-encoded.

use percent_encoding::percent_decode;
use std::borrow::Cow;

use super::error::ApiError;
use super::fields::invalid;

/// The pairs of a query; a `+` stands for itself.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = Result<(&str, Cow<'_, str>), ApiError>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decode(value.as_bytes()).decode_utf8();
        let shown = || name.chars().take(64).collect::<String>();
        decoded.map(|value| (name, value)).map_err(|_| invalid(format!("parameter \"{}\" is not valid UTF-8", shown())))
    })
}

/// Whether a switch is on: `1` or `true`, or its name alone; `0` and `false` are off.
pub(super) fn is_on(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(invalid(format!("parameter \"{name}\" must be 1 or 0"))),
    }
}
