//! The process's peak memory, as Linux counts it.

use std::fs;

/// Peak resident memory in bytes since the start or the last [`reset_peak`]; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Starts a new peak. Where the system refuses, peaks stay those since the start of the process.
pub fn reset_peak() {
    let _refused = fs::write("/proc/self/clear_refs", "5");
}
