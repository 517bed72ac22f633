//! Signals: what each means to a running engine. None that a person or a program sends ends the process without a
//! drain, but KILL, and those that a defect of the process itself raises (SEGV, ABRT and such).

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Stop, after a drain. Again during it: at once.
    Stop,
    /// Stop as well, but the signal may repeat by itself: the drain goes on.
    StopOnce,
    /// Read the configuration anew.
    Reload,
    /// Open the log file anew.
    Reopen,
    /// Start the program anew, and hand everything over to it.
    Upgrade,
}

/// The signals that are heard.
const HEARD: [(i32, &str, Wish); 8] = [
    (libc::SIGTERM, "SIGTERM", Wish::Stop),
    (libc::SIGINT, "SIGINT", Wish::Stop),
    (libc::SIGQUIT, "SIGQUIT", Wish::Stop),
    // The power fails; LXC halts a container with it.
    (libc::SIGPWR, "SIGPWR", Wish::StopOnce),
    // The soft limit of processor time is used up. It comes each second, until the hard limit kills.
    (libc::SIGXCPU, "SIGXCPU", Wish::StopOnce),
    (libc::SIGHUP, "SIGHUP", Wish::Reload),
    (libc::SIGUSR1, "SIGUSR1", Wish::Reopen),
    (libc::SIGUSR2, "SIGUSR2", Wish::Upgrade),
];

/// Signals that would end or freeze the process and mean nothing to it. They are ignored rather than heard: a process
/// that catches TTOU or XFSZ and then writes a line about it raises the next one.
const IGNORED: [(i32, &str); 9] = [
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
];

/// Unblocks signals that the starter of the process has blocked: a mask is inherited, and with TERM in it no stop would
/// be noticed. Threads that are started later inherit this one.
fn unblock() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the mask is that of the calling thread alone.
    let failed = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        HEARD.iter().for_each(|(number, ..)| {
            libc::sigaddset(&mut set, *number);
        });
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// The signals that have arrived.
pub(super) struct Signals {
    come: mpsc::Receiver<(&'static str, Wish)>,
    tell: mpsc::Sender<(&'static str, Wish)>,
}

impl Signals {
    /// Takes charge of the signals. To be called in the runtime that will wait for them, before anything that takes
    /// time.
    pub(super) fn watch() -> io::Result<Signals> {
        for number in IGNORED.iter().map(|(number, _)| *number).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            // SAFETY: no handler is installed, and nobody else in the process uses these signals.
            if unsafe { libc::signal(number, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        unblock()?;
        let (tell, come) = mpsc::channel(HEARD.len());
        for (number, name, wish) in HEARD {
            let (mut signals, tell) = (signal(SignalKind::from_raw(number))?, tell.clone());
            tokio::spawn(
                async move { while signals.recv().await.is_some() && tell.send((name, wish)).await.is_ok() {} },
            );
        }
        Ok(Signals { come, tell })
    }

    /// From now on the end of standard input asks for a stop, too: it is a pipe from the parent process, which may have
    /// been killed.
    pub(super) fn stop_at_end_of_input(&self) -> io::Result<()> {
        let tell = self.tell.clone();
        let wait = move || {
            // However it ends.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = tell.blocking_send(("the parent process", Wish::Stop));
        };
        std::thread::Builder::new().name("input".into()).spawn(wait).map(drop)
    }

    /// The next one, with its name.
    pub(super) async fn next(&mut self) -> (&'static str, Wish) {
        match self.come.recv().await {
            Some(come) => come,
            // The tasks that hear them last as long as the runtime does.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/configuration.md`: names and the first word of what each does.
    #[test]
    fn the_documentation_names_every_signal() {
        let doc = include_str!("../../docs/configuration.md");
        let table = doc.split("\n## Signals\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows: Vec<(Vec<&str>, &str)> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once(" | "))
            .map(|(names, means)| (names.split(", ").map(|name| name.trim_matches('`')).collect(), means))
            .collect();
        let means = |signal: &str| {
            let of: Vec<&str> = rows.iter().filter(|(names, _)| names.contains(&signal)).map(|(_, m)| *m).collect();
            assert_eq!(of.len(), 1, "{signal} stands in {} rows", of.len());
            of[0]
        };
        for (_, name, wish) in HEARD {
            let begins = match wish {
                Wish::Stop | Wish::StopOnce => "stops",
                Wish::Reload => "reads the configuration",
                Wish::Reopen => "opens the log file",
                Wish::Upgrade => "starts",
            };
            assert!(means(name).starts_with(begins), "{name}: {}", means(name));
        }
        for (_, name) in IGNORED {
            assert!(means(name).starts_with("ignored"), "{name}: {}", means(name));
        }
    }
}
