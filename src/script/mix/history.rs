//! `mix.mesh.history`: what a channel has kept.

use crate::hub::MAX_PAGE;
use crate::hub::history::{At, Kept, Position};
use crate::message::{Channel, Kind};
use crate::script::current;
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{self, Outcome};
use crate::shard::context::Value;

/// The channel, the position, and how many messages.
pub(crate) fn history_args(args: &Args) -> Fallible<(Channel, Option<Position>, usize)> {
    let channel = args.bytes(1)?;
    let since = args.optional_bytes(2)?;
    let since = since.map(|text| Position::parse(&text).unwrap_or(Position::UNKNOWN));
    let limit = if args.is_nil(3) { MAX_PAGE as f64 } else { args.number(3)? };
    if limit.fract() != 0.0 || !(1.0..=MAX_PAGE as f64).contains(&limit) {
        let problem = format!("a number from 1 to {MAX_PAGE} expected, got {limit}");
        return Err(Raise::Argument { index: 3, problem });
    }
    Ok(Channel::from_script(&channel).map(|channel| (channel, since, limit as usize)).map_err(|e| e.to_string()))
}

/// `mix.mesh.history(channel[, since[, limit]])` -> page, err.
pub(super) fn history(args: &Args) -> Result<Outcome<Result<Value, String>>, Raise> {
    let (channel, since, limit) = match history_args(args)? {
        Ok(asked) => asked,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    let page = host.mesh.history(&channel, since, limit);
    Ok(Outcome::later(async move { page.await.map(|(at, kept)| page_of(&at, &kept)) }))
}

/// A page as the server API has it; binary data as they are.
pub(crate) fn page_of(at: &At, kept: &[Kept]) -> Value {
    let message = |(at, kept): (usize, &Kept)| {
        let mut fields = vec![
            (Value::str("p"), Value::str(kept.at.to_string())),
            (Value::str("d"), Value::Str(kept.message.data().into())),
            (Value::str("t"), Value::str(Kind::as_str(kept.message.kind()))),
        ];
        fields.extend(kept.message.count().map(|count| (Value::str("n"), Value::Number(count as f64))));
        (Value::Number(at as f64 + 1.0), Value::Table(fields.into()))
    };
    let fields = [
        (Value::str("p"), Value::str(at.position.to_string())),
        (Value::str("recovered"), Value::Bool(at.recovered)),
        (Value::str("m"), Value::Array(kept.iter().enumerate().map(message).collect())),
    ];
    Value::Table(fields.into())
}
