//! Public files that are not part of the repository.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder of `../shared/data` (or of what `PDAC_SHARED_DATA` names); `None` where it is absent, with a word on
/// standard error that the test harness does not swallow.
pub fn folder(name: &str) -> Option<PathBuf> {
    let data = std::env::var_os("PDAC_SHARED_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let folder = data.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let _unwritable = writeln!(std::io::stderr(), "skipped: {} is absent", folder.display());
    None
}
