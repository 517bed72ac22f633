//! What commands print for people. Unlike the standard library's macros these do not panic when nobody reads it any
//! more: `connmix dev | head -1` goes on serving, and a problem still ends with its exit code.

/// Prints a line to standard output; what can't be printed is left out.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

/// The same to standard error.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use complain;
