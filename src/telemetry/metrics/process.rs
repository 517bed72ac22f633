//! What the system knows of this process: its processor time, memory, files and threads.

use std::fs;

/// The process at this moment. What the system does not tell is None.
#[derive(Default)]
pub(super) struct Process {
    /// User and system time, in seconds.
    pub cpu: Option<f64>,
    /// Memory that is in use now, in bytes.
    pub resident: Option<f64>,
    /// Address space, in bytes.
    pub virtual_memory: Option<f64>,
    /// Open files, sockets among them.
    pub open_files: Option<f64>,
    /// As many as may be open.
    pub max_files: Option<f64>,
    /// Threads.
    pub threads: Option<f64>,
    /// When it began, as Unix time in seconds.
    pub started: Option<f64>,
}

impl Process {
    /// Asks the system.
    pub fn now() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = fields(&stat);
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = positive(libc::_SC_CLK_TCK);
        Process {
            cpu: cpu(),
            resident: resident(&fields),
            virtual_memory: field(23),
            open_files: open_files(),
            max_files: max_files(),
            threads: field(20),
            started: boot_time().zip(field(22)).zip(ticks).map(|((boot, since), ticks)| boot + since / ticks),
        }
    }

    /// The memory in use, and the processor time: what costs little to ask, on any thread.
    pub fn usage() -> (Option<f64>, Option<f64>) {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        (resident(&fields(&stat)), cpu())
    }
}

/// The fields of `/proc/self/stat` behind the name, which may hold anything (proc_pid_stat(5)): the first is the third.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect())
}

/// The memory in use, of these fields.
fn resident(fields: &[&str]) -> Option<f64> {
    let pages = fields.get(24 - 3)?.parse::<f64>().ok();
    pages.zip(positive(libc::_SC_PAGESIZE)).map(|(pages, size)| pages * size)
}

fn positive(name: libc::c_int) -> Option<f64> {
    // SAFETY: it takes a number and returns one.
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

fn cpu() -> Option<f64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all zeroes are a valid rusage, and the call fills it in.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// Kernels from 6.2 on tell the number as the folder's size; before, its entries have to be counted.
fn open_files() -> Option<f64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as f64),
        n => Some(n as f64),
    }
}

fn max_files() -> Option<f64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills in what it is given.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    known.then_some(limit.rlim_cur as f64)
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn the_figures_are_this_process() {
        let before = Process::now();
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        let filled = vec![1u8; 64 << 20];
        let after = Process::now();
        // Other tests run in this process too.
        assert!(after.open_files.unwrap() > before.open_files.unwrap() + 50.0);
        assert!(after.resident.unwrap() > before.resident.unwrap() + 30e6, "{:?}", after.resident);
        assert!(after.virtual_memory.unwrap() > after.resident.unwrap());
        assert!(after.max_files.unwrap() >= after.open_files.unwrap());
        assert!(after.cpu.unwrap() >= before.cpu.unwrap());
        assert!(after.threads.unwrap() >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - after.started.unwrap();
        assert!((-2.0..3600.0).contains(&age), "it began {age} s ago");
        drop((files, filled));
    }
}
