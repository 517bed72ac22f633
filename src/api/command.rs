//! `conn.call`: a connection command, read from a back end's JSON.

use serde::Deserialize;
use serde_json::Value as Json;

use super::error::ApiError;
use super::fields::{Addressee, Field, Identified, RequestId, addressee, invalid, read, text};
use crate::hub::ConnCommand;
use crate::message::{Channel, close_code};
use crate::value::Value;
use crate::wire::frame::MAX_REASON;

/// The deepest nesting of a context value, as in scripts.
const MAX_DEPTH: usize = 64;
/// Above this, a double does not hold every integer.
const MAX_EXACT: u64 = 1 << 53;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params<'a> {
    #[serde(borrow)]
    c: Option<Field<'a>>,
    #[serde(borrow)]
    f: Option<Field<'a>>,
    a: Option<Json>,
    #[serde(borrow)]
    i: Option<Field<'a>>,
}

/// Reads the parameters of `conn.call`; `what` names them in error messages. With the caller's request id.
pub(super) fn parse(text: &[u8], what: &str) -> (Result<(Addressee, ConnCommand), ApiError>, Option<RequestId>) {
    read((text, what, r#"{"c": client_id, "f": function, "a": [args]}"#), command)
}

impl Identified for Params<'_> {
    fn id(&self) -> &Option<Field<'_>> {
        &self.i
    }
}

fn command(params: Params<'_>) -> Result<(Addressee, ConnCommand), ApiError> {
    let client = addressee(&params.c)?;
    let args = match params.a {
        None => Vec::new(),
        Some(Json::Array(args)) => args,
        Some(_) => return Err(invalid("field \"a\" (arguments) must be an array")),
    };
    let order = match text(&params.f, "f", "function")? {
        "set_context_value" => set_context_value(args)?,
        "set_context" => set_context(args)?,
        "subscribe" => ConnCommand::Subscribe(channels(args)?),
        "unsubscribe" => ConnCommand::Unsubscribe(channels(args)?),
        "close" => close(args)?,
        _ => {
            return Err(invalid(
                "field \"f\" (function) must be set_context_value, set_context, subscribe, unsubscribe or close",
            ));
        }
    };
    Ok((client, order))
}

fn set_context_value(args: Vec<Json>) -> Result<ConnCommand, ApiError> {
    match <[Json; 2]>::try_from(args) {
        Ok([Json::String(key), json]) => Ok(ConnCommand::SetContext(vec![(key, value(json, 0)?)])),
        _ => Err(invalid("field \"a\": set_context_value takes [key, value], the key a string")),
    }
}

fn set_context(args: Vec<Json>) -> Result<ConnCommand, ApiError> {
    match <[Json; 1]>::try_from(args) {
        Ok([Json::Object(pairs)]) => {
            let values = pairs.into_iter().map(|(key, json)| Ok((key, value(json, 0)?)));
            Ok(ConnCommand::SetContext(values.collect::<Result<_, ApiError>>()?))
        }
        // PHP's empty object.
        Ok([Json::Array(none)]) if none.is_empty() => Ok(ConnCommand::SetContext(Vec::new())),
        _ => Err(invalid("field \"a\": set_context takes [object]")),
    }
}

fn channels(args: Vec<Json>) -> Result<Vec<Channel>, ApiError> {
    if args.is_empty() {
        return Err(invalid("field \"a\": at least one channel is expected"));
    }
    let name = |json: Json| match json {
        Json::String(name) => Channel::parse(name.as_bytes()).map_err(|e| invalid(format!("field \"a\": {e}"))),
        _ => Err(invalid("field \"a\": channels must be strings")),
    };
    args.into_iter().map(name).collect()
}

fn close(args: Vec<Json>) -> Result<ConnCommand, ApiError> {
    let mut args = args.into_iter();
    let (code, reason) = close_args(args.next(), args.next())?;
    if args.next().is_some() {
        return Err(invalid("field \"a\": close takes [code, reason]"));
    }
    Ok(ConnCommand::Close { code, reason })
}

/// What a connection is closed with: 1000 and no reason unless told.
pub(super) fn close_args(code: Option<Json>, reason: Option<Json>) -> Result<(u16, Box<str>), ApiError> {
    let code = match code {
        None | Some(Json::Null) => close_code::NORMAL,
        Some(json) => {
            let code = json.as_u64().and_then(|code| u16::try_from(code).ok());
            code.filter(|&code| close_code::may_be_sent(code))
                .ok_or_else(|| invalid("the close code must be a number that may be sent (1000, 3000 to 4999)"))?
        }
    };
    match reason {
        None | Some(Json::Null) => Ok((code, "".into())),
        Some(Json::String(reason)) if reason.len() <= MAX_REASON => Ok((code, reason.into())),
        Some(_) => Err(invalid(format!("the reason must be a string of at most {MAX_REASON} bytes"))),
    }
}

/// A JSON value as scripts would decode it: null is nil, and integers that a double can't hold are strings.
fn value(json: Json, depth: usize) -> Result<Value, ApiError> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!("field \"a\": nested deeper than {MAX_DEPTH}")));
    }
    let whole = |n: u64, text: String| if n <= MAX_EXACT { None } else { Some(Value::str(text)) };
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => {
            let exact = n.as_u64().or_else(|| n.as_i64().map(i64::unsigned_abs));
            let text = exact.and_then(|magnitude| whole(magnitude, n.to_string()));
            text.unwrap_or_else(|| Value::Number(n.as_f64().unwrap_or_default()))
        }
        Json::String(text) => Value::str(text),
        Json::Array(items) => {
            let mut pairs = Vec::with_capacity(items.len());
            for (i, item) in items.into_iter().enumerate().filter(|(_, item)| !item.is_null()) {
                pairs.push((Value::Number(i as f64 + 1.0), value(item, depth + 1)?));
            }
            Value::Array(pairs.into())
        }
        Json::Object(fields) => {
            let mut pairs = Vec::with_capacity(fields.len());
            for (key, item) in fields.into_iter().filter(|(_, item)| !item.is_null()) {
                pairs.push((Value::str(key), value(item, depth + 1)?));
            }
            Value::Table(pairs.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClientId;
    use serde_json::json;

    fn order(f: &str, a: Json) -> Result<ConnCommand, ApiError> {
        parse(json!({"c": "7", "f": f, "a": a}).to_string().as_bytes(), "field \"p\"").0.map(|(client, order)| {
            assert_eq!(client.map(ClientId::get), Ok(7));
            order
        })
    }

    #[test]
    fn values_come_out_as_scripts_know_them() {
        let got = order(
            "set_context",
            json!([{"a": [1, null, "x"], "b": null, "n": 9007199254740993u64, "m": -3, "d": 0.5}]),
        );
        let Ok(ConnCommand::SetContext(mut values)) = got else { panic!("{got:?}") };
        values.sort_by(|a, b| a.0.cmp(&b.0));
        let list = [(Value::Number(1.0), Value::Number(1.0)), (Value::Number(3.0), Value::str("x"))];
        let want = [
            ("a", Value::Array(list.into())),
            ("b", Value::Nil),
            ("d", Value::Number(0.5)),
            ("m", Value::Number(-3.0)),
            ("n", Value::str("9007199254740993")),
        ];
        assert_eq!(values, want.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn each_function_checks_its_arguments() {
        // In PHP an empty object is an empty array.
        assert_eq!(order("set_context", json!([[]])), Ok(ConnCommand::SetContext(vec![])));
        assert_eq!(order("set_context", json!([{}])), Ok(ConnCommand::SetContext(vec![])));
        assert_eq!(order("close", json!([])), Ok(ConnCommand::Close { code: 1000, reason: "".into() }));
        assert_eq!(order("close", json!([4001, "bye"])), Ok(ConnCommand::Close { code: 4001, reason: "bye".into() }));
        let deep = (0..66).fold(json!(1), |inner, _| json!([inner]));
        for (f, a) in [
            ("set_context_value", json!(["k"])),
            ("set_context_value", json!([1, 2])),
            ("set_context_value", json!(["k", deep])),
            ("set_context", json!([])),
            ("set_context", json!(["k"])),
            ("set_context", json!([[1]])),
            ("subscribe", json!([])),
            ("subscribe", json!(["ok", 7])),
            ("unsubscribe", json!(["a b"])),
            ("close", json!([1005])),
            ("close", json!([99999])),
            ("close", json!(["1000"])),
            ("close", json!([1000, "x".repeat(124)])),
            ("close", json!([1000, "x", 1])),
            ("destroy", json!([])),
            ("close", json!({})),
        ] {
            assert!(matches!(order(f, a.clone()), Err(ApiError::InvalidArgument(_))), "{f} {a}");
        }
        for params in ["[]", "{}", r#"{"c":1}"#, r#"{"c":1,"f":2}"#, r#"{"f":"close"}"#, r#"{"c":"x","f":"close"}"#] {
            assert!(parse(params.as_bytes(), "field \"p\"").0.is_err(), "{params}");
        }
    }
}
