//! The result of a hook: what it returned, or how it failed. Read from its stack, without converting a value in place.

use mlua::ffi;
use std::ffi::c_int;
use std::rc::Rc;
use std::time::Duration;

use super::hook::Hook;
use super::slots::Slots;
use super::trace;

/// A script's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error's text, with file and line where Lua knows them.
    pub message: String,
    /// The functions on the stack, innermost first; may be empty.
    pub traceback: Vec<String>,
    /// It was stopped for exceeding its time budget.
    pub over_budget: bool,
    /// The new time budget of the hook, if it was cut for repeated overruns.
    pub budget_cut: Option<Duration>,
    /// It failed in `protocol_decode`, before the hook itself began.
    pub in_decode: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.traceback.iter().try_for_each(|line| write!(f, "\n\t{line}"))
    }
}

impl Failure {
    /// A failure of that text.
    pub fn new(message: impl Into<String>) -> Failure {
        let (traceback, message) = (Vec::new(), message.into());
        Failure { message, traceback, over_budget: false, budget_cut: None, in_decode: false }
    }

    /// Where it was raised, as the message begins: `entry.lua:12`; empty where it does not.
    pub fn place(&self) -> &str {
        let text = self.message.as_str();
        let end = text.match_indices(':').find_map(|(at, _)| {
            let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            let end = at + 1 + digits;
            (digits > 0 && text[end..].starts_with(':')).then_some(end)
        });
        &text[..end.unwrap_or(0)]
    }

    /// The hook that failed, of a call of that one.
    pub fn hook(&self, called: Hook) -> Hook {
        if self.in_decode { Hook::Decode } else { called }
    }
}

/// What a hook returned, as far as the engine uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// Results that are ignored.
    Nothing,
    /// `on_handshake` refuses.
    Refused {
        /// With that HTTP status, if the script gave one that refuses.
        status: Option<u16>,
        /// And that text.
        text: Option<String>,
    },
    /// `protocol_input`: the length of the next packet in bytes; negative: close.
    Length(i64),
    /// `protocol_encode`: what is sent.
    Bytes(Rc<[u8]>),
}

/// The error at the top of a failed coroutine's stack, and where it stood. Allocates nothing in Lua.
pub(super) fn failure(co: Slots<'_>, status: c_int) -> Failure {
    let error = co.top();
    let mut message = match co.bytes(error) {
        Some(text) => String::from_utf8_lossy(&text).into_owned(),
        None => format!("error object is a {} value", co.type_name(error)),
    };
    // These errors arise where nothing can be allocated.
    if status != ffi::LUA_ERRRUN
        && let Some(place) = trace::place(co)
    {
        message = format!("{place}: {message}");
    }
    Failure { traceback: trace::traceback(co), ..Failure::new(message) }
}

/// A hook's results. A result of a wrong type is a failure.
pub(super) fn returned(co: Slots<'_>, hook: Hook) -> Result<Returned, Failure> {
    match hook {
        Hook::Handshake if co.kind(1) == ffi::LUA_TBOOLEAN && !co.boolean(1) => Ok(Returned::Refused {
            status: co.exact_number(2).filter(|n| (400.0..600.0).contains(n)).map(|n| n as u16),
            text: co.bytes(3).map(|t| String::from_utf8_lossy(&t).into_owned()),
        }),
        Hook::Input => {
            let n = co.exact_number(1).unwrap_or(f64::NAN);
            if n.fract() == 0.0 {
                return Ok(Returned::Length(n as i64));
            }
            Err(Failure::new(format!(
                "protocol_input must return how many bytes make the next package (0: not known yet, -1: close), not {}",
                shown(co)
            )))
        }
        Hook::Encode => match co.bytes(1) {
            Some(bytes) if !bytes.is_empty() => Ok(Returned::Bytes(bytes.as_ref().into())),
            _ => Err(Failure::new(format!(
                "protocol_encode must return the bytes to send, a string that is not empty, not {}",
                shown(co)
            ))),
        },
        _ => Ok(Returned::Nothing),
    }
}

/// The first result, for an error's text.
fn shown(co: Slots<'_>) -> String {
    match co.kind(1) {
        ffi::LUA_TNUMBER => co.exact_number(1).unwrap_or_default().to_string(),
        ffi::LUA_TSTRING if co.length(1) == 0 => "\"\"".into(),
        ffi::LUA_TNONE => "nothing".into(),
        ffi::LUA_TNIL => "nil".into(),
        _ => format!("a {}", co.type_name(1)),
    }
}
