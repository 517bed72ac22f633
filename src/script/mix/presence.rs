//! Who is in a channel: what scripts tell of a connection, and `mix.mesh.presence`.

use serde_json::{Map, Number, Value as Json};
use std::sync::Arc;

use super::jwt::plain;
use crate::cluster::Behind;
use crate::hub::{Answer, MAX_INFO, MAX_PAGE, Question};
use crate::ids::ClientId;
use crate::message::Channel;
use crate::script::current;
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{self, Outcome};
use crate::shard::context::Value;

/// What a script tells of a connection in channels, as JSON.
pub type Info = Arc<str>;

/// A value as JSON.
pub(super) fn info_of(value: &Value) -> Result<Info, String> {
    let json = json(value).map_err(|problem| format!("info can't be told as JSON: {problem}"))?.to_string();
    match json.len() {
        0..=MAX_INFO => Ok(json.into()),
        length => Err(format!("info has {length} bytes as JSON, more than {MAX_INFO}")),
    }
}

fn json(value: &Value) -> Result<Json, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not valid UTF-8".to_owned());
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(is) => Json::Bool(*is),
        // Below 2^53 a whole number is exact.
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => Json::from(*n as i64),
        Value::Number(n) => Number::from_f64(*n).map(Json::Number).ok_or("a number is not finite")?,
        Value::Str(bytes) => Json::String(text(bytes)?),
        Value::Array(pairs) | Value::Table(pairs) => {
            let is_array = matches!(value, Value::Array(_)) || !pairs.is_empty();
            let mut items: Vec<Option<Json>> = vec![None; pairs.len()];
            let mut place = |key: &Value, value: &Value| -> Result<bool, String> {
                let Value::Number(n) = key else { return Ok(false) };
                let Some(item) = (*n as usize).checked_sub(1).and_then(|at| items.get_mut(at)) else {
                    return Ok(false);
                };
                *item = Some(json(value)?);
                Ok(n.fract() == 0.0)
            };
            let mut all = is_array;
            for (key, value) in pairs {
                all = all && place(key, value)?;
            }
            if let Some(items) = all.then(|| items.into_iter().collect::<Option<Vec<Json>>>()).flatten() {
                return Ok(Json::Array(items));
            }
            let mut object = Map::new();
            for (key, value) in pairs {
                let Value::Str(key) = key else { return Err("a table has keys that are no texts".into()) };
                object.insert(text(key)?, json(value)?);
            }
            Json::Object(object)
        }
    })
}

/// A page of who is in a channel; or why it can't be told.
type Page = Result<Value, String>;

/// The channel, how many entries, and behind which client.
pub(crate) fn presence_args(args: &Args) -> Fallible<(Channel, usize, u64)> {
    let channel = args.bytes(1)?;
    let limit = if args.is_nil(2) { MAX_PAGE as f64 } else { args.number(2)? };
    if limit.fract() != 0.0 || !(1.0..=MAX_PAGE as f64).contains(&limit) {
        return Err(Raise::Argument {
            index: 2,
            problem: format!("a number from 1 to {MAX_PAGE} expected, got {limit}"),
        });
    }
    let after = match (args.exact_integer(3), args.optional_bytes(3)?) {
        (Some(number), _) => Some(number),
        (None, Some(word)) => ClientId::parse(&word).map(ClientId::get),
        (None, None) => Some(0),
    };
    let Some(after) = after else { return Err(args.wrong(3, "client_id")) };
    Ok(Channel::from_script(&channel).map(|channel| (channel, limit as usize, after)).map_err(|e| e.to_string()))
}

/// `mix.mesh.presence(channel[, limit[, after]])` -> page, err.
pub(super) fn presence(args: &Args) -> Result<Outcome<Page>, Raise> {
    let (channel, limit, after) = match presence_args(args)? {
        Ok(asked) => asked,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    if !host.shard.has_presence(&channel) {
        return Ok(Outcome::Now(Err(no_presence(&channel))));
    }
    // Before the question: what connections are told from here on is newer than the answer.
    let asking = host.shard.ask_who_is_in(&channel);
    let asked = host.mesh.ask(Question::Presence { channel, after, limit }, Behind::default());
    let mesh = host.mesh.clone();
    Ok(Outcome::enqueue(asked, move |mut answer| {
        let node_of = |client| mesh.node_of(client).map(|node| node.0);
        let end = match asking {
            Some(asking) => asking.bring_up_to_date(&mut answer, (after, limit), node_of)?,
            None => answer.end(),
        };
        Ok(page(answer, end))
    }))
}

/// What to do where it is not told who is in a channel.
pub(crate) fn no_presence(channel: &Channel) -> String {
    format!("no rule of engine.channels says \"presence: true\" for channel {channel}")
}

/// A page as the server API has it. The next one begins behind `end`.
fn page(Answer { clients, count, unanswered, .. }: Answer, end: Option<u64>) -> Value {
    let after = end.map(|end| end.to_string());
    let client = |(at, present): (usize, crate::hub::Present)| {
        let mut fields = vec![
            (Value::str("c"), Value::str(present.client.to_string())),
            (Value::str("node"), Value::str(present.node.to_string())),
        ];
        let info = present.info.and_then(|info| serde_json::from_str::<Json>(&info).ok());
        fields.extend(info.map(|info| (Value::str("i"), plain(&info))));
        (Value::Number(at as f64 + 1.0), Value::Table(fields.into()))
    };
    let mut fields = vec![
        (Value::str("clients"), Value::Array(clients.into_iter().enumerate().map(client).collect())),
        (Value::str("n"), Value::Number(count as f64)),
    ];
    fields.extend(after.map(|after| (Value::str("after"), Value::str(after))));
    fields.extend((unanswered > 0).then(|| (Value::str("u"), Value::Number(unanswered as f64))));
    Value::Table(fields.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_json() {
        let n = |n: f64| Value::Number(n);
        let list = Value::Table([(n(1.0), Value::str("a")), (n(2.0), Value::Bool(true))].into());
        let object = Value::Table([(Value::str("name"), Value::str("Ann")), (Value::str("tags"), list)].into());
        assert_eq!(info_of(&object).as_deref(), Ok(r#"{"name":"Ann","tags":["a",true]}"#));
        assert_eq!(info_of(&n(7.0)).as_deref(), Ok("7"));
        assert_eq!(info_of(&Value::Table([].into())).as_deref(), Ok("{}"));
        assert_eq!(info_of(&Value::Array([].into())).as_deref(), Ok("[]"));
        for wrong in [
            n(f64::NAN),
            Value::Str([0xFF].into()),
            Value::Table([(n(1.0), n(1.0)), (n(3.0), n(1.0))].into()),
            Value::str("x".repeat(MAX_INFO)),
        ] {
            assert!(info_of(&wrong).is_err(), "{wrong:?}");
        }
    }
}
