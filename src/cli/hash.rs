//! `hash-password`: makes what `passwordHash` takes.

use std::io::{IsTerminal, Read};
use std::os::fd::AsRawFd;
use zeroize::Zeroizing;

use crate::secret::password;
use crate::telemetry::language::spoken;

/// The longest password, in bytes.
const LONGEST: usize = 1024;

/// Reads a password from standard input and prints its hash.
pub(super) fn run() -> Result<(), String> {
    let line = read().map_err(|e| spoken!("standard input cannot be read: {e}", "无法读取标准输入：{e}"))?;
    // As much as a line of a file: no more than the end of the line is cut off.
    let password = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let password = password.strip_suffix(b"\r").unwrap_or(password);
    if password.is_empty() || password.len() > LONGEST {
        return Err(spoken!(
            "a password of 1 to {LONGEST} bytes is expected on standard input",
            "标准输入里应是 1 到 {LONGEST} 字节的密码"
        ));
    }
    let hash = password::hash(password).ok_or_else(|| spoken!("this password cannot be hashed", "这个密码无法散列"))?;
    println!("{hash}");
    Ok(())
}

/// The input up to the end of its first line, or a bit more than a password may have. A terminal does not show it.
fn read() -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut input = std::io::stdin();
    let quiet = input.is_terminal().then(|| {
        eprint!("{}", spoken!("Password: ", "密码："));
        Quiet::new(input.as_raw_fd())
    });
    // As large as it gets, so that no copy is left behind.
    let mut line = Zeroizing::new(vec![0; LONGEST + 3]);
    let mut length = 0;
    while length < line.len() && !line[..length].contains(&b'\n') {
        match input.read(&mut line[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if quiet.is_some() {
        eprintln!();
    }
    line.truncate(length);
    Ok(line)
}

/// A terminal that does not show what is typed. Dropped, it does again.
struct Quiet {
    terminal: i32,
    before: Option<libc::termios>,
}

impl Quiet {
    fn new(terminal: i32) -> Quiet {
        let mut now = std::mem::MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: the call fills in what it is given, and says so by its result.
        let known = unsafe { libc::tcgetattr(terminal, now.as_mut_ptr()) } == 0;
        // SAFETY: it was zeroed and may have been filled in: any numbers are a termios.
        let before = known.then(|| unsafe { now.assume_init() });
        if let Some(mut quiet) = before {
            quiet.c_lflag &= !libc::ECHO;
            // SAFETY: the call reads what it is given.
            unsafe { libc::tcsetattr(terminal, libc::TCSAFLUSH, &quiet) };
        }
        Quiet { terminal, before }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: the call reads what it is given.
            unsafe { libc::tcsetattr(self.terminal, libc::TCSAFLUSH, &before) };
        }
    }
}
