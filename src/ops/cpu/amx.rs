//! Advanced Matrix Extensions: whether they may be used.

use std::sync::OnceLock;

/// Linux: ask for an extended processor state (`arch_prctl(2)`), of which the tile registers are number 18.
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_TILE_DATA: libc::c_long = 18;

/// Whether the processor multiplies bfloat16 tiles and the kernel lets this process do so; it is asked once.
pub(super) fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| processor_has_bf16_tiles() && request_permission())
}

fn processor_has_bf16_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    if __cpuid(0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    features & AMX_BF16 != 0 && features & AMX_TILE != 0
}

/// Tile registers are so large that Linux saves them only for processes that asked.
fn request_permission() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call takes two integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        false
    }
}
