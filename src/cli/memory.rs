//! The process's memory: what is freed goes back to the system, and its peak as Linux counts it.

use super::system::memory_field;
use std::fs;

/// Peak resident memory in bytes since the start or the last [`reset_peak`]; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    memory_field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Starts a new peak. Where the system refuses, peaks stay those since the start of the process.
pub fn reset_peak() {
    let _refused = fs::write("/proc/self/clear_refs", "5");
}

/// Gives memory that was freed in smaller blocks back to the system too.
pub fn return_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the allocator's own function is the only way")]
    // SAFETY: touches memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has memory of a megabyte or more given back to the system as soon as it is freed.
///
/// The C library otherwise keeps blocks of up to 32 MB once it has seen such sizes freed: weights are read tensor by tensor, and
/// what they leave behind would stay beside the networks' activations.
pub fn return_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the allocator's own function is the only way")]
    // SAFETY: sets a number of the allocator's.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}
