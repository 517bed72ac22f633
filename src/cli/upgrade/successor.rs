//! The process that may become the successor, as the process before sees it.
//!
//! It is no child of this one, but is adopted at once by init or by what stands for it (credentials: prctl(2),
//! PR_SET_CHILD_SUBREAPER). systemd waits only for processes whose parent it is: one that it had to take for somebody else's
//! when it was told of it (`MAINPID`), it kills as soon as it has asked it to stop.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::handover::Link;
use crate::handover::link::inherit;

/// How long one that is not needed may take to end before it is killed, and one that is killed to be gone.
const END: Duration = Duration::from_secs(2);

pub(super) struct Successor {
    process: u32,
    /// pidfd_open(2), since Linux 5.3: it means this process alone, even when its number belongs to another one.
    handle: Option<OwnedFd>,
}

impl Successor {
    /// Starts it with that end of a link, whose number follows the option.
    pub(super) fn start(mut command: Command, option: &str, link: Link) -> Result<Successor, String> {
        let end: RawFd = link.as_raw_fd();
        command.args([option, &end.to_string()]);
        let program = command.get_program().display().to_string();
        let failed = |e: io::Error| format!("{program} can't be started: {e}");
        let (mut told, tell) = io::pipe().map_err(failed)?;
        let number = tell.as_raw_fd();
        // SAFETY: between fork and exec it makes system calls, and allocates nothing.
        unsafe { command.pre_exec(move || inherit(end).and_then(|()| part(number))) };
        let started = command.spawn();
        // These ends are the successor's alone from now on.
        drop((link, tell));
        // What was started first has ended; the successor runs by now.
        started.and_then(|mut between| between.wait()).map_err(failed)?;
        let mut number = [0; 4];
        told.read_exact(&mut number).map_err(failed)?;
        let process = u32::from_ne_bytes(number);
        Ok(Successor { process, handle: open(process) })
    }

    /// The number of its process.
    pub(super) fn id(&self) -> u32 {
        self.process
    }

    /// It has nothing more to do, and ends.
    pub(super) fn wait(&self) {
        if !self.ends() {
            self.stop();
        }
    }

    /// It must not go on.
    pub(super) fn stop(&self) {
        // SAFETY: they take numbers, and a descriptor that is open.
        unsafe {
            match &self.handle {
                Some(handle) => {
                    let none = std::ptr::null::<libc::siginfo_t>();
                    libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), libc::SIGKILL, none, 0);
                }
                None => drop(libc::kill(self.process as i32, libc::SIGKILL)),
            }
        }
        self.ends();
    }

    /// Whether it has ended, or does within [`END`].
    fn ends(&self) -> bool {
        if let Some(handle) = &self.handle {
            let mut wait = libc::pollfd { fd: handle.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `wait` is one entry, and is there for as long as the call lasts.
            return unsafe { libc::poll(&raw mut wait, 1, END.as_millis() as i32) } == 1;
        }
        let began = Instant::now();
        // SAFETY: it takes two numbers; signal 0 only asks.
        while unsafe { libc::kill(self.process as i32, 0) } == 0 {
            if began.elapsed() > END {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Forks once more, ends the process in between, and tells the number of the other one.
fn part(tell: RawFd) -> io::Result<()> {
    // SAFETY: this process has one thread, and both sides only make system calls until they exec or end.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let number = std::process::id().to_ne_bytes();
            // SAFETY: the bytes are there for as long as the call lasts.
            match unsafe { libc::write(tell, number.as_ptr().cast(), number.len()) } {
                4 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
        // SAFETY: it takes a number and does not return.
        _ => unsafe { libc::_exit(0) },
    }
}

/// A handle of a process.
fn open(process: u32) -> Option<OwnedFd> {
    // SAFETY: it takes two numbers, and returns a descriptor that nothing else has, or an error.
    unsafe {
        let handle = libc::syscall(libc::SYS_pidfd_open, process as libc::pid_t, 0);
        (handle >= 0).then(|| OwnedFd::from_raw_fd(handle as RawFd))
    }
}
