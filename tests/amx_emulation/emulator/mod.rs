//! The AMX-BF16 instructions, done in software on processors without them, so that the kernels written with them are
//! tested wherever there is AVX-512.

#![expect(unsafe_code, reason = "only who installs the handler can promise that it is there")]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod handler;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod instruction;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use pdac_cascade::ops::Isa;
use std::io::Write;
use std::sync::OnceLock;

/// What executes AMX instructions here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amx {
    /// The processor.
    Real,
    /// This module.
    Emulated,
    /// Nothing: there is no AVX-512 either, which every AMX kernel also uses.
    Absent,
}

/// Makes [`Isa::Amx`] available if at all possible and says on standard error, past the test harness, what there is.
/// Call it before choosing an arithmetic.
pub fn provide() -> Amx {
    static PROVIDED: OnceLock<Amx> = OnceLock::new();
    *PROVIDED.get_or_init(|| {
        let (amx, what) = if Isa::Amx.is_available() {
            (Amx::Real, "AMX: the processor's own")
        } else if Isa::Avx512.is_available() && emulate() {
            (Amx::Emulated, "AMX: emulated, this processor has none")
        } else {
            (Amx::Absent, "AMX: skipped, there is neither AMX nor what its emulation needs (AVX-512, Linux)")
        };
        let _unwritable = writeln!(std::io::stderr(), "{what}");
        amx
    })
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn emulate() -> bool {
    handler::install();
    // SAFETY: the handler was just installed, for every thread.
    unsafe { Isa::assume_amx() };
    true
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn emulate() -> bool {
    false
}
