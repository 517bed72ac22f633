//! The log's file: a new one each day (UTC), and when one is full; the newest are kept. Or one that stays, whose rotation is
//! another program's. It can be opened again under its name, after such a program has moved it away. Only files whose name
//! is exactly one of ours are ever removed.
//!
//! The clock may be set, by days and years, forward and back. A line is in the file of the day that it tells itself, and
//! the file that is written is never removed, whatever the dates of the others are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3600;
/// If the next file can't be opened, the one before stays in use, and after this time the next is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// When the next file begins, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// How many files are kept, including the current one.
    pub keep: usize,
    /// The most bytes of a file. A single longer line gets a file of its own.
    pub size: u64,
}

/// `logs/connmix.log` is written as `logs/connmix.2026-11-23.log`, then `logs/connmix.2026-11-23-2.log`, and so on; without
/// rotation under its own name.
pub(super) struct LogFile {
    folder: PathBuf,
    /// `connmix.`
    before: String,
    /// `.log`
    after: String,
    /// None: its name stays, and it grows until it is moved away.
    rotation: Option<Rotation>,
    file: File,
    /// Bytes it has.
    size: u64,
    /// Days since 1970.
    day: u64,
    /// From 1 on.
    part: u32,
    /// When the next file could not be opened.
    failed: Option<Instant>,
    /// Unix time in seconds.
    clock: fn() -> u64,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl LogFile {
    /// Opens today's file, with its folder, and removes the oldest beyond what is kept; without rotation the file itself.
    pub(super) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<LogFile> {
        LogFile::open_at(path, rotation, now)
    }

    fn open_at(path: &Path, rotation: Option<Rotation>, clock: fn() -> u64) -> io::Result<LogFile> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let before = format!("{}.", path.file_stem().unwrap_or_default().to_string_lossy());
        let after = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let day = clock() / DAY;
        let part = newest_part(folder, &before, &after, day);
        let (file, size) = append(folder, &current(rotation.is_some(), &before, day, part, &after))?;
        let folder = folder.to_owned();
        let opened = LogFile { folder, before, after, rotation, file, size, day, part, failed: None, clock };
        opened.prune();
        Ok(opened)
    }

    /// Opens the file of today's name again. After an error the previous one stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<PathBuf> {
        let today = (self.clock)() / DAY;
        let part = if today == self.day { self.part } else { self.newest_part(today) };
        self.go_to(today, part)
    }

    fn go_to(&mut self, day: u64, part: u32) -> io::Result<PathBuf> {
        let name = current(self.rotation.is_some(), &self.before, day, part, &self.after);
        (self.file, self.size) = append(&self.folder, &name)?;
        (self.day, self.part, self.failed) = (day, part, None);
        Ok(self.folder.join(name))
    }

    /// Switches to the next file if it is time, or if a line of that length has no room.
    fn roll(&mut self, line: usize) {
        let Some(Rotation { size: most, .. }) = self.rotation else { return };
        if self.failed.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        let today = (self.clock)() / DAY;
        let is_full = |size: u64| size > 0 && size + line as u64 > most;
        let next = match today != self.day {
            true => (today, self.newest_part(today)),
            false if is_full(self.size) => (self.day, self.part.saturating_add(1)),
            false => return,
        };
        match self.go_to(next.0, next.1) {
            Ok(_) => self.prune(),
            // The log has nowhere else to report its own errors.
            Err(_) => self.failed = Some(Instant::now()),
        }
    }

    fn newest_part(&self, day: u64) -> u32 {
        newest_part(&self.folder, &self.before, &self.after, day)
    }

    /// Removes the oldest files until no more are left than are kept, the one that is written among them.
    fn prune(&self) {
        let Some(Rotation { keep, .. }) = self.rotation else { return };
        let own = (written(self.day), self.part);
        let mut others = parts(&self.folder, &self.before, &self.after);
        others.retain(|other| *other != own);
        // Dates of one length sort as days do.
        others.sort();
        let keep = keep.saturating_sub(1);
        for (date, part) in &others[..others.len().saturating_sub(keep)] {
            let _ = std::fs::remove_file(self.folder.join(name_of(&self.before, date, *part, &self.after)));
        }
    }
}

/// The files of one log in a folder, by date and part. Files with only similar names are never removed.
fn parts(folder: &Path, before: &str, after: &str) -> Vec<(String, u32)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok().filter(|e| e.file_type().is_ok_and(|kind| kind.is_file())))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| parse(name.strip_prefix(before)?.strip_suffix(after)?))
        .collect()
}

/// The date and the part: `2026-11-23`, `2026-11-23-2`.
fn parse(stem: &str) -> Option<(String, u32)> {
    let (date, rest) = stem.split_at_checked(10)?;
    let is_date = date.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    let part = match rest.strip_prefix('-') {
        None if rest.is_empty() => 1,
        // Only in the exact spelling.
        Some(part) => part.parse().ok().filter(|n: &u32| *n > 1 && n.to_string() == part)?,
        None => return None,
    };
    is_date.then(|| (date.to_owned(), part))
}

/// The last part of a day that there is; 1 if there is none.
fn newest_part(folder: &Path, before: &str, after: &str, day: u64) -> u32 {
    let date = written(day);
    parts(folder, before, after).iter().filter(|(d, _)| *d == date).map(|(_, part)| *part).max().unwrap_or(1)
}

impl io::Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.roll(bytes.len());
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The file, and its size in bytes. Only a regular file is accepted: a FIFO that nobody reads would block its opener or
/// writer.
fn append(folder: &Path, name: &str) -> io::Result<(File, u64)> {
    std::fs::create_dir_all(folder)?;
    let file = OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(folder.join(name));
    let not_regular = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    // A FIFO that nobody reads, or a socket.
    let file = file.map_err(|e| if e.raw_os_error() == Some(libc::ENXIO) { not_regular() } else { e })?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(not_regular());
    }
    Ok((file, about.len()))
}

/// What the file that is written is called.
fn current(rotates: bool, before: &str, day: u64, part: u32, after: &str) -> String {
    match rotates {
        true => name_of(before, &written(day), part, after),
        false => format!("{}{after}", before.strip_suffix('.').unwrap_or(before)),
    }
}

fn name_of(before: &str, date: &str, part: u32, after: &str) -> String {
    match part {
        1 => format!("{before}{date}{after}"),
        part => format!("{before}{date}-{part}{after}"),
    }
}

fn written(day: u64) -> String {
    let (year, month, day) = date(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date of a day since 1970, in the Gregorian calendar. Years are taken to begin in March, so that the leap day is
/// the last of one; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    const DAILY: Option<Rotation> = Some(Rotation { keep: 2, size: u64::MAX });

    #[test]
    fn days_have_their_dates() {
        for (days, want) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_513, (2026, 3, 1)),
            (20_818, (2026, 12, 31)),
            (20_819, (2027, 1, 1)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), want, "{days}");
        }
    }

    #[test]
    fn a_new_file_each_day_and_the_newest_are_kept() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY + 5);
        let dir = tempfile::tempdir().unwrap();
        // Names that only look alike are nobody's to remove.
        let others = [
            "app-audit.log",
            "app.2026-02-28.log.1",
            "app.2026-02-2x.log",
            "app.2026-02-28-1.log",
            "app.2026-02-28-02.log",
            "app.log",
            "application.log",
        ];
        others.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
        let path = dir.path().join("app.log");
        let mut file = LogFile::open_at(&path, DAILY, || CLOCK.load(Ordering::Relaxed)).unwrap();
        for day in 1..=4 {
            writeln!(file, "on day {day}").unwrap();
            // Opened on the same day again, as by a restart, it loses nothing.
            drop(std::mem::replace(
                &mut file,
                LogFile::open_at(&path, DAILY, || CLOCK.load(Ordering::Relaxed)).unwrap(),
            ));
            CLOCK.fetch_add(DAY, Ordering::Relaxed);
        }
        CLOCK.fetch_sub(DAY, Ordering::Relaxed);
        let mut want = [&others[..], &["app.2026-03-03.log", "app.2026-03-04.log"]].concat();
        want.sort();
        assert_eq!(names(dir.path()), want);
        assert_eq!(std::fs::read_to_string(dir.path().join("app.2026-03-04.log")).unwrap(), "on day 4\n");
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_all_count() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let clock = || CLOCK.load(Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let (path, rotation) = (dir.path().join("app.log"), Some(Rotation { keep: 3, size: 100 }));
        std::fs::write(dir.path().join("app.2026-02-28-9.log"), "").unwrap();
        let mut file = LogFile::open_at(&path, rotation, clock).unwrap();
        for i in 0..110 {
            // Ten bytes each, written in one piece.
            file.write_all(format!("line {i:04}\n").as_bytes()).unwrap();
            if i == 54 {
                // A restart goes on in the newest.
                file = LogFile::open_at(&path, rotation, clock).unwrap();
            }
        }
        let of_the_day = |parts: [u32; 3]| parts.map(|part| format!("app.2026-03-01-{part}.log"));
        assert_eq!(names(dir.path()), {
            let mut want = of_the_day([9, 10, 11]);
            want.sort();
            want
        });
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("app.2026-03-01-11.log").starts_with("line 0100\n") && read("app.2026-03-01-11.log").len() == 100);
        // A line that is longer than a file has one of its own, and the next day begins anew.
        file.write_all(&[b'x'; 200]).unwrap();
        file.write_all(b"next\n").unwrap();
        CLOCK.fetch_add(DAY, Ordering::Relaxed);
        file.write_all(b"day\n").unwrap();
        let want = ["app.2026-03-01-12.log", "app.2026-03-01-13.log", "app.2026-03-02.log"];
        assert_eq!(names(dir.path()), want);
        assert_eq!(want.map(|name| read(name).len()), [200, 5, 4]);
    }

    #[test]
    fn a_clock_that_is_set_has_each_line_in_the_file_of_its_day() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let mut file = LogFile::open_at(&path, DAILY, || CLOCK.load(Ordering::Relaxed)).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        writeln!(file, "first").unwrap();
        CLOCK.fetch_add(DAY, Ordering::Relaxed);
        writeln!(file, "ahead").unwrap();
        CLOCK.fetch_sub(DAY, Ordering::Relaxed);
        writeln!(file, "back").unwrap();
        assert_eq!([read("app.2026-03-01.log"), read("app.2026-03-02.log")], ["first\nback\n", "ahead\n"]);
        // The file that is written counts, and is never the one that goes, however old its date is.
        CLOCK.fetch_sub(2 * DAY, Ordering::Relaxed);
        writeln!(file, "long ago").unwrap();
        assert_eq!(names(dir.path()), ["app.2026-02-27.log", "app.2026-03-02.log"]);
        assert_eq!(read("app.2026-02-27.log"), "long ago\n");
    }

    #[test]
    fn opened_again_it_leaves_a_file_that_was_moved_away() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::open_at(&dir.path().join("logs/app"), DAILY, || CLOCK.load(Ordering::Relaxed)).unwrap();
        let logs = dir.path().join("logs");
        writeln!(file, "first").unwrap();
        std::fs::rename(logs.join("app.2026-03-01"), logs.join("app.2026-03-01.1")).unwrap();
        writeln!(file, "second").unwrap();
        file.reopen().unwrap();
        writeln!(file, "third").unwrap();
        assert_eq!(std::fs::read_to_string(logs.join("app.2026-03-01.1")).unwrap(), "first\nsecond\n");
        assert_eq!(std::fs::read_to_string(logs.join("app.2026-03-01")).unwrap(), "third\n");
        // What cannot be opened costs no line.
        std::fs::rename(&logs, dir.path().join("moved")).unwrap();
        std::fs::write(&logs, "in the way").unwrap();
        assert!(file.reopen().is_err());
        CLOCK.fetch_add(DAY, Ordering::Relaxed);
        writeln!(file, "fourth").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("moved/app.2026-03-01")).unwrap(), "third\nfourth\n");
    }

    #[test]
    fn without_rotation_it_is_one_file_until_it_is_moved_away() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        std::fs::write(dir.path().join("app.2026-02-28.log"), "").unwrap();
        let mut file = LogFile::open_at(&path, None, || CLOCK.load(Ordering::Relaxed)).unwrap();
        for _ in 0..3 {
            writeln!(file, "a line").unwrap();
            CLOCK.fetch_add(DAY, Ordering::Relaxed);
        }
        std::fs::rename(&path, dir.path().join("app.log.1")).unwrap();
        writeln!(file, "still there").unwrap();
        assert_eq!(file.reopen().unwrap(), path);
        writeln!(file, "a new one").unwrap();
        assert_eq!(names(dir.path()), ["app.2026-02-28.log", "app.log", "app.log.1"]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("app.log.1"), "a line\na line\na line\nstill there\n");
        assert_eq!(read("app.log"), "a new one\n");
    }

    #[test]
    fn a_fifo_in_its_place_holds_nobody_up() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let mut file = LogFile::open_at(&path, DAILY, || CLOCK.load(Ordering::Relaxed)).unwrap();
        let fifo = |name: &str| {
            let name = std::ffi::CString::new(dir.path().join(name).into_os_string().into_encoded_bytes()).unwrap();
            // SAFETY: the name is a C string.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        };
        std::fs::rename(dir.path().join("app.2026-03-01.log"), dir.path().join("moved")).unwrap();
        fifo("app.2026-03-01.log");
        fifo("app.2026-03-02.log");
        assert_eq!(file.reopen().unwrap_err().to_string(), "it is no regular file");
        // A FIFO that somebody reads is refused too: a reader that stops would hold up the log.
        let _reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(dir.path().join("app.2026-03-01.log"))
            .unwrap();
        assert_eq!(file.reopen().unwrap_err().to_string(), "it is no regular file");
        CLOCK.fetch_add(DAY, Ordering::Relaxed);
        writeln!(file, "goes on").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("moved")).unwrap(), "goes on\n");
    }
}
