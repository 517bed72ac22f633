//! Reading a file that a configuration or a script names: a regular one, whole, and never one that keeps its reader
//! waiting.

use std::fs::{self, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often a file is read again that was written meanwhile, and how long after.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// Reads a regular file, at most `most` bytes of it. Whatever else has that name (a FIFO, a device, a socket, a folder)
/// is an error that says what it is, and is not even opened: that alone can block, or do something. A file that is
/// being written is read again, so that what is returned is no mixture of two saves.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for _ in 0..TRIES {
        regular(&fs::metadata(path)?)?;
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        // Another may have taken the name meanwhile.
        let before = file.metadata()?;
        regular(&before)?;
        text.clear();
        (&file).take(most).read_to_end(&mut text)?;
        if look(&file.metadata()?) == look(&before) {
            return Ok(text);
        }
        std::thread::sleep(PAUSE);
    }
    Err(io::Error::other("it was written all the while it was read"))
}

/// An error for what is no regular file.
fn regular(meta: &Metadata) -> io::Result<()> {
    match other_kind(meta.file_type()) {
        None => Ok(()),
        Some(kind) => Err(io::Error::other(format!("it is {kind}, not a regular file"))),
    }
}

/// What a file is that is not a regular one, with an article.
pub fn other_kind(kind: FileType) -> Option<&'static str> {
    Some(match () {
        () if kind.is_file() => return None,
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    })
}

fn look(meta: &Metadata) -> (SystemTime, u64) {
    (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(read(&path("link"), 3).unwrap(), b"tex");
        let made = std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap();
        assert!(made.success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (name, kind) in [
            (path("fifo"), "a FIFO"),
            (path("socket"), "a socket"),
            (dir.path().to_owned(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            assert_eq!(read(&name, 3).unwrap_err().to_string(), format!("it is {kind}, not a regular file"));
        }
        assert_eq!(read(&path("nothing"), 3).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Two texts of one length that differ in each byte are written over one another without a pause: a reader gets one
    /// of them whole, a part of one that was just begun, or an error, but never a mixture.
    #[test]
    fn what_is_written_meanwhile_is_not_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![b'a'; 200_000]).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for text in [b'b', b'a'].iter().cycle() {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    fs::write(&path, vec![*text; 200_000]).unwrap();
                }
            });
            for _ in 0..50 {
                if let Ok(text) = read(&path, 1 << 20) {
                    let first = text.first().copied();
                    assert!(text.iter().all(|b| Some(*b) == first), "two saves in one");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
