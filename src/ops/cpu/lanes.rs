//! One vector register's worth of `f32`, for kernels written once and compiled per instruction set.
//!
//! The methods are `#[inline(always)]` so that, inlined into a function with the right `#[target_feature]`, each
//! becomes one instruction.

use super::epilogue::{FinishedRow, finish};
use super::kernel::{Run, tile};

/// A vector of [`Lanes::WIDTH`] floats.
///
/// # Safety
/// The methods of an implementation may only run on a processor with that implementation's instruction set, and
/// pointers must be valid for the floats they read or write; `tile` and `finish` demand what [`tile`] and [`finish`] do.
pub(super) unsafe trait Lanes: Copy {
    const WIDTH: usize;
    /// Accumulators that a kernel can hold in registers beside two vectors of weights and one of inputs.
    const ACCUMULATORS: usize;
    /// [`tile`] as a function of its own, compiled for the instruction set.
    unsafe fn tile<const P: usize, const V: usize>(run: &Run<'_>, first: usize);
    /// [`finish`] as a function of its own, compiled for the instruction set.
    unsafe fn finish<const V: usize>(row: &mut FinishedRow<'_>);
    /// Returns the pointers, and keeps the compiler from moving loads across: it likes to load what several steps
    /// read from one base together, which needs more registers than there are.
    fn fence(pointers: [*const f32; 4]) -> [*const f32; 4];
    /// Returns the number without the compiler knowing, so that it stays in a register instead of being derived.
    fn hide(number: usize) -> usize;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn splat(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Writes without keeping a copy in the caches, where the processor can; the address must be a multiple of the
    /// vector's size, and a fence must follow before others read.
    unsafe fn store_past_caches(self, to: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    /// `self + a * b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// Eight floats in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain8([f32; 8]);

// SAFETY: no instruction set is needed; reads and writes stay within eight floats.
unsafe impl Lanes for Plain8 {
    const WIDTH: usize = 8;
    // Two 128-bit registers each; x86-64 has sixteen of them without AVX, others have thirty-two.
    const ACCUMULATORS: usize = if cfg!(target_arch = "x86_64") { 6 } else { 12 };

    #[inline(always)]
    fn fence(pointers: [*const f32; 4]) -> [*const f32; 4] {
        pointers
    }

    #[inline(always)]
    fn hide(number: usize) -> usize {
        number
    }

    #[inline(never)]
    unsafe fn tile<const P: usize, const V: usize>(run: &Run<'_>, first: usize) {
        // SAFETY: as the trait demands of the caller.
        unsafe { tile::<Self, P, V>(run, first) }
    }

    #[inline(never)]
    unsafe fn finish<const V: usize>(row: &mut FinishedRow<'_>) {
        // SAFETY: as the trait demands of the caller.
        unsafe { finish::<Self, V>(row) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight readable floats.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller vouches for one readable float.
        Self([unsafe { *from }; 8])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight writable floats.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_past_caches(self, to: *mut f32) {
        // SAFETY: as the caller vouches.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn plus(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
        self
    }

    #[inline(always)]
    unsafe fn minus(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a -= b;
        }
        self
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for ((acc, a), b) in self.0.iter_mut().zip(a.0).zip(b.0) {
            *acc += a * b;
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{FinishedRow, Lanes, Run, finish, tile};
    use std::arch::asm;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_storeu_ps, _mm256_stream_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps, _mm512_storeu_ps, _mm512_stream_ps, _mm512_sub_ps,
    };

    macro_rules! lanes {
        ($name:ident, $features:literal, $register:ty, $width:literal, $accumulators:literal, $load:ident, $splat:ident, $store:ident, $stream:ident, $add:ident, $sub:ident, $fma:ident) => {
            #[derive(Clone, Copy)]
            pub struct $name($register);

            // SAFETY: the instructions are those of the named set; reads and writes stay within the width.
            unsafe impl Lanes for $name {
                const WIDTH: usize = $width;
                const ACCUMULATORS: usize = $accumulators;

                #[inline(always)]
                fn fence([mut a, mut b, mut c, mut d]: [*const f32; 4]) -> [*const f32; 4] {
                    // SAFETY: no instruction at all.
                    unsafe {
                        asm!(
                            "/* {0} {1} {2} {3} */",
                            inout(reg) a, inout(reg) b, inout(reg) c, inout(reg) d,
                            options(nostack, preserves_flags),
                        );
                    }
                    [a, b, c, d]
                }

                #[inline(always)]
                fn hide(mut number: usize) -> usize {
                    // SAFETY: no instruction at all.
                    unsafe { asm!("/* {0} */", inout(reg) number, options(nostack, nomem, preserves_flags)) };
                    number
                }

                unsafe fn tile<const P: usize, const V: usize>(run: &Run<'_>, first: usize) {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    unsafe fn compiled<const P: usize, const V: usize>(run: &Run<'_>, first: usize) {
                        // SAFETY: as the trait demands of the caller; the target feature is this function's.
                        unsafe { tile::<$name, P, V>(run, first) }
                    }
                    // SAFETY: the instruction set is the caller's promise.
                    unsafe { compiled::<P, V>(run, first) }
                }

                unsafe fn finish<const V: usize>(row: &mut FinishedRow<'_>) {
                    #[target_feature(enable = $features)]
                    #[inline(never)]
                    unsafe fn compiled<const V: usize>(row: &mut FinishedRow<'_>) {
                        // SAFETY: as the trait demands of the caller; the target feature is this function's.
                        unsafe { finish::<$name, V>(row) }
                    }
                    // SAFETY: the instruction set is the caller's promise.
                    unsafe { compiled::<V>(row) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as the trait demands of the caller.
                    Self(unsafe { $load(from) })
                }

                #[inline(always)]
                unsafe fn splat(from: *const f32) -> Self {
                    // SAFETY: as the trait demands of the caller.
                    Self(unsafe { $splat!(from) })
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as the trait demands of the caller.
                    unsafe { $store(to, self.0) }
                }

                #[inline(always)]
                unsafe fn store_past_caches(self, to: *mut f32) {
                    // SAFETY: as the trait demands of the caller.
                    unsafe { $stream(to, self.0) }
                }

                #[inline(always)]
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: as the trait demands of the caller.
                    Self(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                unsafe fn minus(self, other: Self) -> Self {
                    // SAFETY: as the trait demands of the caller.
                    Self(unsafe { $sub(self.0, other.0) })
                }

                #[inline(always)]
                unsafe fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: as the trait demands of the caller.
                    Self(unsafe { $fma(a.0, b.0, self.0) })
                }
            }
        };
    }

    macro_rules! splat256 {
        ($from:expr) => {
            _mm256_broadcast_ss(&*$from)
        };
    }
    macro_rules! splat512 {
        ($from:expr) => {
            _mm512_set1_ps(*$from)
        };
    }

    lanes!(
        Avx2,
        "avx2,fma",
        __m256,
        8,
        12,
        _mm256_loadu_ps,
        splat256,
        _mm256_storeu_ps,
        _mm256_stream_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps
    );
    lanes!(
        Avx512,
        "avx512f",
        __m512,
        16,
        24,
        _mm512_loadu_ps,
        splat512,
        _mm512_storeu_ps,
        _mm512_stream_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps
    );
}
