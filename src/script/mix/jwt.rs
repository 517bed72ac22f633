//! `mix.jwt_verify`: whether a JSON Web Token may be trusted, and what it says.

use serde_json::{Map, Value as Json};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::jwt::{self, Algorithm, Demands, Keys, MAX_KEYS, TokenError};
use crate::script::current;
use crate::script::push::Table;
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{self, Outcome};
use crate::shard::context::Value;

/// The longest URL of keys, in bytes.
const MAX_URL: usize = 2048;
/// The largest whole number up to which a double holds every one: 2^53.
const MAX_EXACT: u64 = 1 << 53;
/// The longest time by which clocks may be said to differ, in seconds.
const MAX_LEEWAY: f64 = 3600.0;

/// Adds `jwt_verify` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.waiting(c"jwt_verify", jwt_verify);
}

/// A token, what it is checked with, and what is demanded of it.
pub(crate) struct Check {
    token: Vec<u8>,
    pub keys: Source,
    demands: Demands,
}

/// Where keys are.
pub(crate) enum Source {
    Here(Keys),
    At(String),
}

impl Check {
    /// The claims, if the token is signed by one of the keys and valid at that Unix time.
    fn with(&self, keys: &Keys, now: f64) -> Result<Value, TokenError> {
        jwt::verify(&self.token, keys, &self.demands, now).map(|claims| table(&claims))
    }

    /// The same with keys that were read already, or with those of a set that a server has sent.
    pub fn result(&self, set: Option<&[u8]>, now: f64) -> Result<Value, String> {
        let read;
        let keys = match (&self.keys, set) {
            (Source::Here(keys), _) => keys,
            (Source::At(_), set) => {
                read = Keys::read_set(set.unwrap_or_default(), false).map_err(|e| told(&e))?;
                &read
            }
        };
        self.with(keys, now).map_err(|e| told(&e))
    }
}

fn told(error: &dyn std::fmt::Display) -> String {
    format!("jwt_verify: {error}")
}

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |passed| passed.as_secs_f64())
}

/// `mix.jwt_verify(token, keys[, options])` -> `claims, err`. Waits only where keys have to be fetched.
fn jwt_verify(args: &Args) -> Result<Outcome<Result<Value, String>>, Raise> {
    let check = match check_args(args)? {
        Ok(check) => check,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let Source::At(url) = &check.keys else { return Ok(Outcome::Now(check.result(None, now()))) };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    if let Some(keys) = host.outbound.kept_keys(url) {
        match check.with(&keys, now()) {
            // The server may have a new key by now.
            Err(TokenError::NoKey(_)) => {}
            result => return Ok(Outcome::Now(result.map_err(|e| told(&e)))),
        }
    }
    let url = url.clone();
    Ok(Outcome::later(async move {
        let keys = host.outbound.keys(url).await.map_err(|e| told(&e))?;
        check.with(&keys, now()).map_err(|e| told(&e))
    }))
}

/// Reads the arguments. The err says what is wrong with the keys.
pub(crate) fn check_args(args: &Args) -> Fallible<Check> {
    let token = args.bytes(1)?.into_owned();
    let keys = match args.value(2)? {
        Value::Str(text) if text.starts_with(b"https://") || text.starts_with(b"http://") => {
            match String::from_utf8(text.into()) {
                Ok(url) if url.len() <= MAX_URL => Source::At(url),
                _ => {
                    return Ok(Err(told(&format!(
                        "the URL of the keys has more than {MAX_URL} bytes, or is not UTF-8"
                    ))));
                }
            }
        }
        Value::Str(text) => match Keys::read(&text) {
            Ok(keys) => Source::Here(keys),
            Err(e) => return Ok(Err(told(&e))),
        },
        Value::Table(pairs) | Value::Array(pairs) => {
            let mut all = Keys::default();
            for (_, text) in pairs {
                let Value::Str(text) = text else {
                    return Err(Raise::Argument { index: 2, problem: "an array of keys holds strings".into() });
                };
                match Keys::read(&text) {
                    Ok(keys) => all.add(keys),
                    Err(e) => return Ok(Err(told(&e))),
                }
            }
            if all.is_empty() || all.len() > MAX_KEYS {
                return Ok(Err(told(&format!("1 to {MAX_KEYS} keys are wanted, not {}", all.len()))));
            }
            Source::Here(all)
        }
        _ => return Err(args.wrong(2, "string or table")),
    };
    let options = if args.is_nil(3) { Box::default() } else { args.table(3)? };
    let demands = demands(options).map_err(|problem| Raise::Argument { index: 3, problem })?;
    Ok(Ok(Check { token, keys, demands }))
}

/// What the options demand. Unlike elsewhere, an unknown one is an error: it would be a check that is not made.
fn demands(options: Box<[(Value, Value)]>) -> Result<Demands, String> {
    let mut demands = Demands::default();
    for (name, value) in options {
        let Value::Str(name) = name else { return Err("options have names".into()) };
        match &*name {
            b"aud" => demands.audience = words("aud", value)?,
            b"iss" => demands.issuer = words("iss", value)?,
            b"require" => demands.required = words("require", value)?,
            b"alg" => {
                let named =
                    |name: String| Algorithm::named(&name).ok_or_else(|| format!("alg: no {}", name.escape_debug()));
                demands.algorithms = words("alg", value)?.into_iter().map(named).collect::<Result<_, _>>()?;
            }
            b"leeway" => match value {
                Value::Number(seconds) if (0.0..=MAX_LEEWAY).contains(&seconds) => demands.leeway = seconds,
                _ => return Err(format!("leeway: 0 to {MAX_LEEWAY} seconds expected")),
            },
            other => {
                let name = String::from_utf8_lossy(&other[..other.len().min(40)]).escape_debug().to_string();
                return Err(format!("no option is called \"{name}\"; aud, iss, alg, require and leeway are"));
            }
        }
    }
    Ok(demands)
}

/// A string, or an array of some.
fn words(option: &str, value: Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{option}: string or array of strings expected");
    let word = |value: Value| match value {
        Value::Str(text) => String::from_utf8(text.into()).map_err(|_| format!("{option}: not UTF-8")),
        _ => Err(wrong()),
    };
    match value {
        Value::Table(pairs) | Value::Array(pairs) if !pairs.is_empty() => {
            pairs.into_iter().map(|(_, value)| word(value)).collect()
        }
        Value::Table(_) | Value::Array(_) => Err(wrong()),
        one => Ok(vec![word(one)?]),
    }
}

/// The claims as `mix.json_decode` would give them.
fn table(claims: &Map<String, Json>) -> Value {
    let pairs = claims.iter().filter(|(_, value)| !value.is_null());
    Value::Table(pairs.map(|(name, value)| (Value::str(name), plain(value))).collect())
}

/// JSON as `mix.json_decode` would give it.
pub(super) fn plain(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(*b),
        // Other whole numbers would change as doubles.
        Json::Number(n) if n.as_u64().is_some_and(|n| n > MAX_EXACT) => Value::str(n.to_string()),
        Json::Number(n) if n.as_i64().is_some_and(|n| n.unsigned_abs() > MAX_EXACT) => Value::str(n.to_string()),
        Json::Number(n) => Value::Number(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::str(text),
        Json::Array(values) => {
            let some = values.iter().enumerate().filter(|(_, value)| !value.is_null());
            Value::Array(some.map(|(i, value)| (Value::Number(i as f64 + 1.0), plain(value))).collect())
        }
        Json::Object(object) => table(object),
    }
}
