//! The process's memory as the system reports it: how much it uses, and how much it may use.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of this process that is in use now, in bytes.
pub(super) fn resident() -> Option<usize> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: it takes a number and returns one.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * page)
}

/// As much as the process may use, in bytes: the least of the machine's memory and the limits of its control groups.
pub(super) fn available() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    limits(&groups, Path::new("/sys/fs/cgroup")).into_iter().chain(machine).min()
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
        let (used, all) = (resident().unwrap(), available().unwrap());
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
}
