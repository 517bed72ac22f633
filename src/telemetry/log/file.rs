//! The log's file: a new one each day (UTC), of which the newest are kept. It can be opened again under its name, after
//! another program has moved it away. Only files whose name is exactly one of ours are ever removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3600;
/// When a new day's file cannot be opened, the old one serves on, and this many seconds later it is tried again.
const RETRY: u64 = 60;

/// `logs/connmix.log` is written as `logs/connmix.2026-11-23.log`, and so on.
pub(super) struct DailyFile {
    folder: PathBuf,
    /// `connmix.`
    before: String,
    /// `.log`
    after: String,
    keep: usize,
    file: File,
    /// The Unix time from which on the next file is due.
    until: u64,
    /// Unix time in seconds.
    clock: fn() -> u64,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl DailyFile {
    /// Opens today's file, with its folder, and removes the oldest beyond `keep`.
    pub(super) fn open(path: &Path, keep: usize) -> io::Result<DailyFile> {
        DailyFile::open_at(path, keep, now)
    }

    fn open_at(path: &Path, keep: usize, clock: fn() -> u64) -> io::Result<DailyFile> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let before = format!("{}.", path.file_stem().unwrap_or_default().to_string_lossy());
        let after = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let today = clock() / DAY;
        let (file, until) = (append(folder, &name(&before, today, &after))?, (today + 1) * DAY);
        let opened = DailyFile { folder: folder.to_owned(), before, after, keep, file, until, clock };
        opened.prune();
        Ok(opened)
    }

    /// Opens the file of today's name anew. After an error the one before serves on.
    pub(super) fn reopen(&mut self) -> io::Result<PathBuf> {
        let today = (self.clock)() / DAY;
        let name = name(&self.before, today, &self.after);
        self.file = append(&self.folder, &name)?;
        self.until = (today + 1) * DAY;
        Ok(self.folder.join(name))
    }

    /// Goes on to the next day's file, if it is time.
    fn roll(&mut self) {
        let now = (self.clock)();
        if now < self.until {
            return;
        }
        match self.reopen() {
            Ok(_) => self.prune(),
            // Whoever writes the log has nowhere else to complain.
            Err(_) => self.until = now + RETRY,
        }
    }

    /// Removes the oldest files until `keep` are left, today's among them.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let mut ours: Vec<String> = entries
            .filter_map(|entry| entry.ok().filter(|e| e.file_type().is_ok_and(|kind| kind.is_file())))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| self.is_ours(name))
            .collect();
        // Dates of one length sort as days do.
        ours.sort();
        for old in &ours[..ours.len().saturating_sub(self.keep)] {
            let _ = std::fs::remove_file(self.folder.join(old));
        }
    }

    /// Whether a name is that of one of these files: `connmix.2026-11-23.log`.
    fn is_ours(&self, name: &str) -> bool {
        let date = name.strip_prefix(&self.before).and_then(|rest| rest.strip_suffix(&self.after));
        date.is_some_and(|date| {
            date.len() == 10
                && date.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
        })
    }
}

impl io::Write for DailyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.roll();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(folder: &Path, name: &str) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    OpenOptions::new().append(true).create(true).open(folder.join(name))
}

fn name(before: &str, day: u64, after: &str) -> String {
    let (year, month, day) = date(day);
    format!("{before}{year:04}-{month:02}-{day:02}{after}")
}

/// The date of a day since 1970, in the Gregorian calendar. Years are taken to begin in March, so that the leap day is the
/// last of one; 400 of them have 146,097 days.
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
        let others = ["app-audit.log", "app.2026-02-28.log.1", "app.2026-02-2x.log", "app.log", "application.log"];
        others.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
        let path = dir.path().join("app.log");
        let mut file = DailyFile::open_at(&path, 2, || CLOCK.load(Ordering::Relaxed)).unwrap();
        for day in 1..=4 {
            writeln!(file, "on day {day}").unwrap();
            // Opened on the same day again, as by a restart, it loses nothing.
            drop(std::mem::replace(&mut file, DailyFile::open_at(&path, 2, || CLOCK.load(Ordering::Relaxed)).unwrap()));
            CLOCK.fetch_add(DAY, Ordering::Relaxed);
        }
        CLOCK.fetch_sub(DAY, Ordering::Relaxed);
        let mut want = [&others[..], &["app.2026-03-03.log", "app.2026-03-04.log"]].concat();
        want.sort();
        assert_eq!(names(dir.path()), want);
        assert_eq!(std::fs::read_to_string(dir.path().join("app.2026-03-04.log")).unwrap(), "on day 4\n");
    }

    #[test]
    fn opened_again_it_leaves_a_file_that_was_moved_away() {
        static CLOCK: AtomicU64 = AtomicU64::new(20_513 * DAY);
        let dir = tempfile::tempdir().unwrap();
        let mut file = DailyFile::open_at(&dir.path().join("logs/app"), 1, || CLOCK.load(Ordering::Relaxed)).unwrap();
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
}
