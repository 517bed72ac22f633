//! The process's memory as the system reports it: how much it uses, and how much it may use; and how memory that is free
//! goes back to the system.

// So that its functions are linked.
use mimalloc as _;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What counts as data and is no memory in use: the stacks of threads, and what the allocator has in reserve.
const UNUSED: usize = 64 << 20;

/// The memory of this process that is in use.
pub(super) struct Usage {
    /// `/proc/self/statm` (proc_pid_statm(5)), kept open: there may be no descriptor left later.
    statm: Option<File>,
}

impl Usage {
    pub(super) fn open() -> Usage {
        Usage { statm: File::open("/proc/self/statm").ok() }
    }

    /// The bytes in use now; None where the system does not tell.
    pub(super) fn resident(&self) -> Option<usize> {
        let mut text = [0; 128];
        let length = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        let pages: usize = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * page()?)
    }
}

/// The size of a page of memory, in bytes.
fn page() -> Option<usize> {
    // SAFETY: it takes a number and returns one.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()
}

/// As much as the process may use, in bytes: the least of the machine's memory, the limits of its control groups and
/// its own (`ulimit -v` and `-d`). None: it is not known now.
pub(super) fn available() -> Option<usize> {
    let groups = match fs::read_to_string("/proc/self/cgroup") {
        Ok(groups) => groups,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(_) => return None,
    };
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    // SAFETY: both calls fill in what they are given.
    let (space, data) =
        unsafe { (limit(|l| libc::getrlimit(libc::RLIMIT_AS, l)), limit(|l| libc::getrlimit(libc::RLIMIT_DATA, l))) };
    let own = own(&statm, page().unwrap_or(4096), space, data);
    limits(&groups, Path::new("/sys/fs/cgroup")).into_iter().chain(machine).chain(own).min()
}

/// What the process's own limits leave for its data. Beyond them an allocation fails, and that is the end of the
/// process. `statm`: `/proc/self/statm` (proc_pid_statm(5)).
fn own(statm: &str, page: usize, space: Option<usize>, data: Option<usize>) -> Option<usize> {
    let field = |n: usize| statm.split_whitespace().nth(n)?.parse::<usize>().ok().map(|pages| pages * page);
    // The limit of address space holds for what is no data, too.
    let other = || Some(field(0)?.saturating_sub(field(5)?));
    let space = space.and_then(|space| Some(space.saturating_sub(other()?)));
    space.into_iter().chain(data).min().map(|most| most.saturating_sub(UNUSED))
}

/// A limit of the process; None: there is none.
fn limit(ask: impl FnOnce(&mut libc::rlimit) -> libc::c_int) -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let known = ask(&mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    known.then(|| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

unsafe extern "C" {
    /// mimalloc's: gives the system back what the calling thread has freed. Does nothing where another allocator is in
    /// use, as in tests.
    safe fn mi_collect(force: bool);
}

/// Gives memory that this thread has freed back to the system. The allocator does so by itself only as a part of
/// further work: after a crowd has left, much would stay.
pub fn give_back() {
    mi_collect(false);
}

/// The first line of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

/// The limits of the groups that `/proc/self/cgroup` names, and of those above them (cgroups(7)). Within a container
/// its own group may be mounted at the root, and be named by a path that is not there: the root is looked at always.
fn limits(groups: &str, root: &Path) -> Vec<usize> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let memory = controllers.split(',').any(|name| name == "memory");
        let (folder, file) = match (controllers, memory) {
            ("", _) => (root.to_owned(), "memory.max"),
            (_, true) => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = PathBuf::from(path.trim_start_matches('/'));
        loop {
            // "max", and on the first version a number near 2^63, are no limits: the machine's memory is less.
            let limit: Option<usize> =
                fs::read_to_string(folder.join(&path).join(file)).ok().and_then(|text| text.trim().parse().ok());
            found.extend(limit);
            if !path.pop() {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_of_what_it_may() {
        let (used, all) = (Usage::open().resident().unwrap(), available().unwrap());
        assert!(used > 1 << 20 && used < all, "{used} of {all}");
    }

    #[test]
    fn the_least_limit_of_both_versions_and_of_all_groups_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("system.slice/connmix.service/memory.max", "max\n");
        write("system.slice/memory.max", "1073741824\n");
        write("memory/docker/memory.limit_in_bytes", "536870912\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let of = |groups: &str| limits(groups, dir.path()).into_iter().min();
        assert_eq!(of("0::/system.slice/connmix.service\n"), Some(1 << 30));
        assert_eq!(of("4:memory:/docker\n0::/system.slice\n"), Some(512 << 20));
        assert_eq!(of("4:cpu,memory:/not/there\n"), Some(9223372036854771712));
        assert_eq!(of("4:cpu:/docker\n0::/\nnonsense"), None);
        assert_eq!(total("MemTotal:       24120000 kB\nMemFree: 1 kB\n"), Some(24120000 << 10));
    }

    #[test]
    fn the_processs_own_limits_leave_room_for_what_is_no_data() {
        let mib = |n: usize| Some(n << 20);
        // Of 300 pages that it has, 100 are data.
        let own = |space, data| own("300 20 10 5 0 100 0\n", 1 << 20, space, data);
        assert_eq!(own(None, None), None);
        assert_eq!(own(mib(1000), None), mib(1000 - 200 - 64));
        assert_eq!(own(mib(1000), mib(500)), mib(500 - 64));
        assert_eq!(own(mib(100), mib(500)), Some(0));
    }
}
