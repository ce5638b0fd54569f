//! Large pages for large buffers: activations are read row after row, and four kilobytes of them are only a few voxels.

/// Smallest buffer, in bytes, for which it is asked.
const LARGE: usize = 4 << 20;

/// Asks the system to back `buffer` with huge pages where it has no pages yet. Refusals are ignored.
pub(in crate::ops) fn advise(buffer: &[f32]) {
    #[cfg(target_os = "linux")]
    if size_of_val(buffer) >= LARGE {
        // SAFETY: takes and returns a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page) = usize::try_from(page) else { return };
        let start = buffer.as_ptr().cast::<u8>();
        let first = start.align_offset(page);
        let len = size_of_val(buffer).saturating_sub(first) / page * page;
        // SAFETY: whole pages of the buffer; the advice changes no contents.
        unsafe { libc::madvise(start.add(first).cast_mut().cast(), len, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (buffer, LARGE);
}
