//! What ends a match early: the faults of patterns, and time.

use std::ffi::CStr;

/// After how many steps a [`Budget`] asks whether time is up.
pub const STEPS_PER_CHECK: u32 = 4096;

/// Why a match could not be carried out.
// As wide as an offset, which lets a Step travel in two registers.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The pattern's last character is a lone `%`.
    EndsWithPercent,
    /// A set is never closed.
    MissingBracket,
    /// `%f` without its set.
    MissingFrontierSet,
    /// `%b` without its two characters.
    MissingBalance,
    /// A `)` without its `(`.
    UnopenedCapture,
    /// A `(` whose capture is asked for but was never closed.
    UnfinishedCapture,
    /// A reference to a capture that there isn't.
    CaptureIndex,
    /// More than [`MAX_CAPTURES`](super::MAX_CAPTURES) captures.
    TooManyCaptures,
    /// The pattern needs deeper recursion than is allowed.
    TooComplex,
    /// The budget's check said that time is up.
    OutOfTime,
}

impl Error {
    /// LuaJIT's text for the error. (LuaJIT has none for time.)
    pub fn text(self) -> &'static CStr {
        match self {
            Error::EndsWithPercent => c"malformed pattern (ends with '%')",
            Error::MissingBracket => c"malformed pattern (missing ']')",
            Error::MissingFrontierSet => c"missing '[' after '%f' in pattern",
            Error::MissingBalance => c"unbalanced pattern",
            Error::UnopenedCapture => c"invalid pattern capture",
            Error::UnfinishedCapture => c"unfinished capture",
            Error::CaptureIndex => c"invalid capture index",
            Error::TooManyCaptures => c"too many captures",
            Error::TooComplex => c"pattern too complex",
            Error::OutOfTime => c"out of time",
        }
    }
}

/// The steps that may be taken before the next check of the clock.
pub struct Budget<'c> {
    left: u32,
    time_is_up: &'c dyn Fn() -> bool,
}

impl<'c> Budget<'c> {
    /// A budget that asks `time_is_up` after `left` steps (at most [`STEPS_PER_CHECK`]), and then regularly.
    pub fn new(left: u32, time_is_up: &'c dyn Fn() -> bool) -> Budget<'c> {
        Budget { left: left.min(STEPS_PER_CHECK), time_is_up }
    }

    /// How many steps are left until the next check: lets one check serve many short matches.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Pays for `steps`, and checks whether the time is up if the budget ends with them.
    #[inline(always)]
    pub fn spend(&mut self, steps: usize) -> Result<(), Error> {
        if steps < self.left as usize {
            self.left -= steps as u32;
            return Ok(());
        }
        self.check()
    }

    #[cold]
    fn check(&mut self) -> Result<(), Error> {
        self.left = STEPS_PER_CHECK;
        if (self.time_is_up)() { Err(Error::OutOfTime) } else { Ok(()) }
    }
}
