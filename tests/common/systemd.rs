//! What systemd hears of a service (sd_notify(3)).

use super::PATIENCE;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// A systemd, as far as a service sees it: the socket that its environment names.
pub struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    /// One whose socket is in that folder.
    pub fn listen(folder: &Path) -> Systemd {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Systemd { socket, path }
    }

    /// The variable that tells a service where it is.
    pub fn variable(&self) -> (&'static str, &Path) {
        ("NOTIFY_SOCKET", &self.path)
    }

    /// The next that it is told.
    pub fn told(&self) -> String {
        let mut buffer = [0; 1000];
        let came = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..came].to_vec()).unwrap()
    }
}
