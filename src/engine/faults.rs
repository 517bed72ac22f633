//! For tests: faults of a handover, which a file asks for whose path the variable `CONNMIX_CRASH_AT` holds. Only in builds with
//! debug assertions.

use std::path::PathBuf;

/// What the file says, if there is one.
fn wanted() -> Option<(PathBuf, String)> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let file = PathBuf::from(std::env::var_os("CONNMIX_CRASH_AT")?);
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    Some((file, text.trim().to_owned()))
}

/// The process ends here, as if it had crashed, if the file holds the point's name. While it holds `wait ` and the name, the
/// process stops here, and says so in a second file.
pub(super) fn crash_point(point: &str) {
    while let Some((file, text)) = wanted() {
        if text == point {
            std::process::abort();
        }
        if text.strip_prefix("wait ") != Some(point) {
            return;
        }
        let _ = std::fs::write(file.with_extension("waits"), point);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a process that hands over waits for its successor only for a moment.
pub(super) fn hurries() -> bool {
    wanted().is_some_and(|(_, text)| text == "hurry")
}
