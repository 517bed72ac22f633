//! What holds of any configuration file.

use std::path::Path;

use super::{load, print, reload};

/// A file that is refused says where it is wrong. One that is taken can be printed, and is the same when that is read again.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    // Not read: where scripts are looked for.
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/connmix.yaml"));
    let (written, in_force) = match load::both(file, text) {
        Ok(both) => both,
        Err(problems) => {
            assert!(!problems.list.is_empty());
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
            for problem in &problems.list {
                assert!(problem.line <= lines && !problem.message.is_empty(), "{problem:?} of {lines} lines");
            }
            return;
        }
    };
    let defaults = load::defaults();
    let _ = (reload::compare(&defaults, &in_force), reload::merge(&defaults, &in_force));
    let rows = print::rows(&written);
    // A secret is not printed, and is missing then.
    if rows.iter().any(|row| row.hidden) {
        return;
    }
    let printed = print::file(&written);
    match load::both(file, &printed) {
        Ok((again, _)) => assert_eq!(print::json(&again), print::json(&written), "{printed}"),
        Err(problems) => panic!("{problems}\n{printed}"),
    }
}
