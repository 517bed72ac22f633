//! What a hook came to: what it returned, or how it failed. Read off its stack, without converting anything in place.

use mlua::ffi;
use std::ffi::c_int;
use std::rc::Rc;
use std::time::Duration;

use super::hook::Hook;
use super::stack::{State, bytes_at, type_name};
use super::trace;

/// A script's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error's text, with file and line where Lua knows them.
    pub message: String,
    /// The functions that it was in, innermost first; may be empty.
    pub traceback: Vec<String>,
    /// It was stopped for exceeding its time budget.
    pub over_budget: bool,
    /// It has overrun again and again, and its hook has so much less from now on.
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

/// What a hook returned, as far as anybody looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// Of no interest.
    Nothing,
    /// `on_handshake` refuses.
    Refused {
        /// With that HTTP status, if it gave one that refuses.
        status: Option<u16>,
        /// And that text.
        text: Option<String>,
    },
    /// `protocol_input`: how many bytes make the next package; negative: close.
    Length(i64),
    /// `protocol_encode`: what is sent.
    Bytes(Rc<[u8]>),
}

/// The error at the top of a failed coroutine's stack, and where it stood. Allocates nothing in Lua.
pub(super) unsafe fn failure(co: State, status: c_int) -> Failure {
    let mut message = match unsafe { bytes_at(co, -1) } {
        Some(text) => String::from_utf8_lossy(&text).into_owned(),
        None => format!("error object is a {} value", unsafe { type_name(co, -1) }),
    };
    // These errors are made where nothing can be allocated.
    if status != ffi::LUA_ERRRUN
        && let Some(place) = trace::place(co)
    {
        message = format!("{place}: {message}");
    }
    Failure { traceback: trace::traceback(co), ..Failure::new(message) }
}

/// A hook's results; what it must not return is a failure.
pub(super) unsafe fn returned(co: State, hook: Hook) -> Result<Returned, Failure> {
    unsafe {
        match hook {
            Hook::Handshake if ffi::lua_type(co, 1) == ffi::LUA_TBOOLEAN && ffi::lua_toboolean(co, 1) == 0 => {
                let number = (ffi::lua_type(co, 2) == ffi::LUA_TNUMBER).then(|| ffi::lua_tonumber(co, 2));
                Ok(Returned::Refused {
                    status: number.filter(|n| (400.0..600.0).contains(n)).map(|n| n as u16),
                    text: bytes_at(co, 3).map(|t| String::from_utf8_lossy(&t).into_owned()),
                })
            }
            Hook::Input => {
                let n = if ffi::lua_type(co, 1) == ffi::LUA_TNUMBER { ffi::lua_tonumber(co, 1) } else { f64::NAN };
                if n.fract() == 0.0 {
                    return Ok(Returned::Length(n as i64));
                }
                Err(Failure::new(format!(
                    "protocol_input must return how many bytes make the next package (0: not known yet, -1: close), \
                     not {}",
                    shown(co)
                )))
            }
            Hook::Encode => match bytes_at(co, 1) {
                Some(bytes) if !bytes.is_empty() => Ok(Returned::Bytes(bytes.as_ref().into())),
                _ => Err(Failure::new(format!(
                    "protocol_encode must return the bytes to send, a string that is not empty, not {}",
                    shown(co)
                ))),
            },
            _ => Ok(Returned::Nothing),
        }
    }
}

/// The first result, for an error's text.
unsafe fn shown(co: State) -> String {
    unsafe {
        match ffi::lua_type(co, 1) {
            ffi::LUA_TNUMBER => ffi::lua_tonumber(co, 1).to_string(),
            ffi::LUA_TSTRING if ffi::lua_objlen(co, 1) == 0 => "\"\"".into(),
            ffi::LUA_TNONE => "nothing".into(),
            ffi::LUA_TNIL => "nil".into(),
            _ => format!("a {}", type_name(co, 1)),
        }
    }
}
