//! The stack as scripts see it: `debug.traceback`, and which frame a level of `debug.getinfo` is. The engine's own Lua,
//! with the native functions that it calls, counts as the one native function that a script called; and below a message
//! handler of `xpcall` stands what it handles (see [`super::handler`]).

use mlua::ffi;
use std::ffi::c_int;

use super::push::{One, Pushed, Stack};
use super::stack::{Args, Push, Raise, Slots, State};
use super::trace::{Frame, Kind, depth, frame, frame_kind};
use super::{handler, watchdog};

/// A traceback's first and last lines; those between are left out.
const FIRST: usize = 12;
const LAST: c_int = 10;

/// How many frames are visited between two checks of the handler's time.
const FRAMES_PER_LOOK: c_int = 64;

/// A frame: the Lua thread that it is in, and its level there. The thread is the caller's own, one that the caller was given, or
/// one whose error is being handled.
#[derive(Clone, Copy)]
struct At<'call> {
    co: Slots<'call>,
    level: c_int,
}

impl<'call> At<'call> {
    fn kind(self) -> Option<Kind> {
        frame_kind(self.co, self.level)
    }

    fn above(self) -> At<'call> {
        At { level: self.level + 1, ..self }
    }
}

/// Goes through a stack from its innermost frame on.
struct Walk<'call>(At<'call>);

impl<'call> Walk<'call> {
    /// The frame to visit next. When a message handler's own thread is exhausted, the walk goes on in the thread whose
    /// error it handles.
    fn here(&mut self) -> Option<(At<'call>, Kind)> {
        loop {
            if let Some(kind) = self.0.kind() {
                return Some((self.0, kind));
            }
            // Level 0 there is the native function that runs the handler.
            self.0 = At { co: handler::handled_by(self.0.co)?, level: 1 };
        }
    }
}

impl<'call> Iterator for Walk<'call> {
    type Item = At<'call>;

    fn next(&mut self) -> Option<At<'call>> {
        let (mut at, mut kind) = self.here()?;
        loop {
            if at.level % FRAMES_PER_LOOK == 0 && watchdog::expired() {
                return None;
            }
            self.0 = at.above();
            let outer = self.0.kind();
            if kind == Kind::Script || outer != Some(Kind::Engine) {
                return Some(at);
            }
            (at, kind) = (self.0, Kind::Engine);
        }
    }
}

/// The thread named by an optional first argument, else the caller's, and how many arguments that took.
fn thread(args: &Args) -> (Slots<'_>, i32) {
    match args.slots().thread(args.slot(1)) {
        Some(co) => (co, 1),
        None => (args.slots(), 0),
    }
}

/// What `debug.traceback` returns.
pub(super) enum Traced {
    Text(Vec<u8>),
    /// The argument at that stack index, as it is.
    Given(c_int),
}

impl Push for Traced {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        match self {
            Traced::Text(text) => stack.push_bytes(&text),
            Traced::Given(slot) => stack.push_copy(slot),
        }
    }
}

/// `debug.traceback([thread,] [message [, level]])`
pub(super) fn traceback(args: &Args) -> Result<Traced, Raise> {
    let (co, before) = thread(args);
    let message = before + 1;
    let text = args.slots().bytes(args.slot(message));
    if text.is_none() && !args.is_nil(message) {
        return Ok(Traced::Given(args.slot(message)));
    }
    let level = match args.is_nil(message + 1) {
        true => f64::from(u8::from(co.state() == args.state())),
        false => args.number(message + 1)?,
    };
    let mut out = text.map_or_else(Vec::new, |text| [&text[..], b"\n"].concat());
    out.extend_from_slice(b"stack traceback:");
    let mut walk = Walk(At { co, level: 0 });
    if level >= 1.0 && walk.nth(level.min(1e6) as usize - 1).is_none() {
        return Ok(Traced::Text(out));
    }
    for at in walk.by_ref().take(FIRST) {
        line(&mut out, at);
    }
    if let Some((at, _)) = walk.here() {
        let mut outermost = at;
        while let Some(co) = handler::handled_by(outermost.co) {
            outermost = At { co, level: 1 };
        }
        let last = depth(outermost.co) - LAST;
        if last > outermost.level {
            out.extend_from_slice(b"\n\t...");
            walk = Walk(At { level: last, ..outermost });
        }
        walk.for_each(|at| line(&mut out, at));
    }
    Ok(Traced::Text(out))
}

/// A line of a traceback: `file:line: in function 'name'`.
fn line(out: &mut Vec<u8>, at: At<'_>) {
    let Some(Frame { mut place, mut function, begins, .. }) = frame(at.co, at.level) else { return };
    // A module. It is named as `require` was called for it.
    if begins == 0 && at.above().kind() == Some(Kind::Engine) {
        function = "main chunk".into();
    }
    if at.kind() == Some(Kind::Engine) {
        place = "[C]".into();
        if !function.ends_with('\'') {
            function = "?".into();
        }
    }
    out.extend_from_slice(format!("\n\t{place}: in {function}").as_bytes());
}

/// A thread and a level in it, or two nils.
pub(super) struct Level(Option<(State, c_int)>);

impl Push for Level {
    type Pushed = (One, One);
    fn push_to(self, stack: Stack<'_>) -> (One, One) {
        let Level(Some((co, level))) = self else { return Pushed::nils(stack) };
        let given = stack.thread(1).is_some_and(|given| given.state() == co);
        let thread = if co != stack.state() && given {
            stack.push_copy(1)
        } else {
            // SAFETY: `level` has found it: it is the caller's own, or one in which the native function that runs a handler stands.
            // Both are alive during this call, and have room for one value, which ends up on this stack.
            unsafe {
                stack.by_hand(|state| {
                    ffi::lua_pushthread(co);
                    if co != state {
                        ffi::lua_xmove(co, state, 1);
                    }
                })
            }
        };
        (thread, f64::from(level).push_to(stack))
    }
}

/// `level(thread or nil, n)` -> the thread, and the level in it that corresponds to level `n` of a script; nothing if
/// there is none. The calling function counts as level 0.
pub(super) fn level(args: &Args) -> Result<Level, Raise> {
    let co = thread(args).0;
    let n = args.number(2)?;
    if !(0.0..1e6).contains(&n) {
        return Ok(Level(None));
    }
    Ok(Level(Walk(At { co, level: 0 }).nth(n as usize).map(|at| (at.co.state(), at.level))))
}
