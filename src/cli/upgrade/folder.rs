//! Successors that this process has not started: one in another container, with the same configuration, finds the process that
//! serves by a socket in a folder that both have, and asks it to hand over, over that connection.
//!
//! Whose processes they are is told by the system, to both; their numbers mean nothing, since each container may have its own.

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::peer::{callers, is_ours, line};
use crate::engine::Before;
use crate::handover::link::listen_at;
use crate::handover::{Kind, Link};
use crate::telemetry::language::{spoken, system};

/// What a successor asks.
const SUCCEED: &str = "succeed";
/// What one asks that only wants to know whether it could be one.
const COULD: &str = "could";

/// Where processes of one part of a cluster find each other.
pub(in crate::cli) struct Meeting {
    folder: PathBuf,
    socket: PathBuf,
}

impl Meeting {
    /// In that folder; `part` tells a center from an engine.
    pub(in crate::cli) fn new(folder: &Path, part: &str) -> Meeting {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Meeting { socket: folder.join(format!("{part}.sock")), folder }
    }

    /// The socket's path.
    pub(in crate::cli) fn socket(&self) -> std::path::Display<'_> {
        self.socket.display()
    }

    /// The process that serves, if there is one, which has been asked to hand over, or, if `dry`, whether it could.
    pub(in crate::cli) fn find(&self, dry: bool) -> Result<Option<Before>, String> {
        let at = self.socket();
        let mut socket = match UnixStream::connect(&self.socket) {
            Ok(socket) => socket,
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.folder.is_dir() => return Ok(None),
            // The one whose socket it was has ended.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(e) => {
                let why = system(&e);
                return Err(spoken!(
                    "upgradeFolder: no process can be looked for at {at}: {0}",
                    "upgradeFolder：无法在 {at} 寻找进程：{0}",
                    why.spoken()
                ));
            }
        };
        if !is_ours(&socket) {
            return Err(spoken!(
                "upgradeFolder: another user's process listens at {at}",
                "upgradeFolder：在 {at} 监听的是另一个用户的进程"
            ));
        }
        // Where it can't be asked, it can't be heard either.
        let _ = writeln!(socket, "{}", if dry { COULD } else { SUCCEED });
        let mut before = Before::hear(Link::over(socket)).map_err(|why| self.refused(&why))?;
        if !before.is_in_this_network() {
            let why = "it is in another network: both containers need the same one";
            before.refuse(why);
            return Err(self.refused(why));
        }
        Ok(Some(before))
    }

    /// What is said where the process that serves was not replaced.
    pub(in crate::cli) fn refused(&self, why: &str) -> String {
        let at = self.socket();
        spoken!(
            "{why}\nThe process that listens at {at} could not be replaced, and goes on. \
             An engine beside it needs another upgradeFolder, or none.",
            "{why}\n无法替换在 {at} 监听的进程，它继续运行。要在它旁边另外运行一个引擎，请使用另一个 upgradeFolder，或者不设置。"
        )
    }

    /// Takes the socket's name, also from a process that has it, and tells of those that come.
    pub(in crate::cli) fn listen(&self) -> Successors {
        let (tell, come) = mpsc::channel(1);
        let listener = match self.bind() {
            Ok(listener) => listener,
            Err(e) => {
                tracing::error!("upgradeFolder: no process can take over by {}: {e}", self.socket());
                return Successors(None);
            }
        };
        let serve = move || {
            for caller in callers(&listener) {
                let dry = match line(&caller).as_deref() {
                    Some(SUCCEED) => false,
                    Some(COULD) => true,
                    _ => continue,
                };
                match tell.try_send((dry, Link::over(caller))) {
                    Ok(()) => {}
                    Err(TrySendError::Full((_, link))) => refuse(link, ANOTHER),
                    Err(TrySendError::Closed((_, link))) => refuse(link, "it stops, or has been replaced just now"),
                }
            }
        };
        // Without it this process is not replaced.
        let _ = std::thread::Builder::new().name("successors".into()).spawn(serve);
        Successors(Some(come))
    }

    fn bind(&self) -> io::Result<UnixListener> {
        let new = self.socket.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = listen_at(&new)?;
        // In one step: at each moment one of the two is found.
        std::fs::rename(&new, &self.socket)?;
        Ok(listener)
    }
}

/// Why one is refused while another one takes over.
pub(in crate::cli) const ANOTHER: &str = "another process is replacing it at this moment";

/// Tells a process that it is given nothing.
pub(in crate::cli) fn refuse(mut link: Link, why: &str) {
    let _ = link.send(Kind::Refused as u8, why.as_bytes(), &[]);
}

/// The processes that come to take over, or only want to know whether they could.
pub(in crate::cli) struct Successors(Option<mpsc::Receiver<(bool, Link)>>);

impl Successors {
    /// Of a process that is not found.
    pub(in crate::cli) fn none() -> Successors {
        Successors(None)
    }

    /// The next one; true: it only wants to know.
    pub(in crate::cli) async fn next(&mut self) -> (bool, Link) {
        let come = match &mut self.0 {
            Some(come) => come.recv().await,
            None => None,
        };
        match come {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn meeting(folder: &Path) -> Meeting {
        Meeting::new(folder, "single")
    }

    #[test]
    fn nobody_is_found_where_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let meeting = meeting(dir.path());
        assert!(meeting.find(false).unwrap().is_none(), "there is no file");
        drop(meeting.bind().unwrap());
        assert!(meeting.socket.exists() && meeting.find(false).unwrap().is_none(), "the file of one that has ended");
        let missing = Meeting::new(&dir.path().join("missing"), "single").find(false).err().unwrap();
        assert!(missing.contains("upgradeFolder") && missing.contains("missing/single.sock"), "{missing}");
    }

    #[test]
    fn the_name_passes_on_and_only_its_user_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let meeting = meeting(dir.path());
        let first = meeting.bind().unwrap();
        let second = meeting.bind().unwrap();
        let mode = std::fs::metadata(&meeting.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _caller = UnixStream::connect(&meeting.socket).unwrap();
        first.set_nonblocking(true).unwrap();
        assert!(first.accept().is_err());
        second.accept().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn who_comes_while_another_one_waits_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let meeting = meeting(dir.path());
        let Successors(Some(mut come)) = meeting.listen() else { panic!("it does not listen") };
        let (tell, said) = std::sync::mpsc::channel();
        let ask = || {
            let (mut caller, tell) = (UnixStream::connect(&meeting.socket).unwrap(), tell.clone());
            writeln!(caller, "{SUCCEED}").unwrap();
            std::thread::spawn(move || tell.send(Before::hear(Link::over(caller)).err().unwrap()));
        };
        ask();
        ask();
        // The first waits until it is heard, so the other one is answered first.
        assert_eq!(said.recv().unwrap(), ANOTHER);
        refuse(come.blocking_recv().unwrap().1, "not now");
        assert_eq!(said.recv().unwrap(), "not now");
        drop(come);
        ask();
        assert!(said.recv().unwrap().contains("it stops"));
    }
}
