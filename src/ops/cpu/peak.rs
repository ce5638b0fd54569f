//! How fast this machine multiplies at most: loops of nothing but multiply-adds in registers.

use super::{Arithmetic, Isa, Precision, UnavailableIsa};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A batch is long enough for a clock to measure and short enough to fall between two interruptions.
const BATCH: Duration = Duration::from_millis(10);
const BATCHES: usize = 20;

/// Floating-point operations a second (a multiply-add counts as two) of `threads` threads that do nothing else.
///
/// Each thread's fastest batch counts, with all threads at work. Tiles of AMX multiply bfloat16, all others float32.
///
/// # Errors
/// If the processor lacks the instruction set.
pub fn peak_flops(isa: Isa, threads: usize) -> Result<f64, UnavailableIsa> {
    Arithmetic::new(Some(isa), Precision::F32)?;
    let batch: fn(usize) -> f64 = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => |rounds| {
            // SAFETY: the processor was just asked.
            unsafe { x86::amx(rounds) }
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => |rounds| {
            // SAFETY: the processor was just asked.
            unsafe { x86::avx512(rounds) }
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => |rounds| {
            // SAFETY: the processor was just asked.
            unsafe { x86::avx2(rounds) }
        },
        _ => portable,
    };
    let barrier = Barrier::new(threads);
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| fastest(batch, &barrier))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
    }))
}

/// FLOP a second of the fastest batch; `batch` runs so many rounds and returns their FLOP.
fn fastest(batch: fn(usize) -> f64, barrier: &Barrier) -> f64 {
    let timed = |rounds: usize| {
        let started = Instant::now();
        let flop = batch(rounds);
        (started.elapsed(), flop)
    };
    let mut rounds = 64;
    while timed(rounds).0 < BATCH {
        rounds *= 2;
    }
    barrier.wait();
    (0..BATCHES).map(|_| timed(rounds)).map(|(time, flop)| flop / time.as_secs_f64()).fold(0.0, f64::max)
}

/// Plain Rust: sixteen independent sums a round, in whatever vectors the compiler makes of them.
fn portable(rounds: usize) -> f64 {
    const SUMS: usize = 16;
    let factor = std::hint::black_box([0.5f32; SUMS]);
    let mut sums = [1.0f32; SUMS];
    for _ in 0..rounds {
        for (sum, factor) in sums.iter_mut().zip(&factor) {
            *sum = *sum * factor + factor;
        }
    }
    std::hint::black_box(sums);
    2.0 * (rounds * SUMS) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    /// Factors small enough for sums to stay finite, and not zero, which takes less current than products usually do.
    static FACTOR: f32 = 1e-3;

    /// Defines a batch of twelve independent fused multiply-adds a round, enough for two units of latency four to six.
    macro_rules! fused_multiply_adds {
        ($name:ident, $features:literal, $lanes:literal, $r:literal) => {
            #[target_feature(enable = $features)]
            pub fn $name(rounds: usize) -> f64 {
                // SAFETY: reads one float; all registers it changes are declared.
                unsafe {
                    asm!(
                        concat!("vbroadcastss ", $r, "12, [{factor}]"),
                        "vpxor xmm0, xmm0, xmm0",
                        "vpxor xmm1, xmm1, xmm1",
                        "vpxor xmm2, xmm2, xmm2",
                        "vpxor xmm3, xmm3, xmm3",
                        "vpxor xmm4, xmm4, xmm4",
                        "vpxor xmm5, xmm5, xmm5",
                        "vpxor xmm6, xmm6, xmm6",
                        "vpxor xmm7, xmm7, xmm7",
                        "vpxor xmm8, xmm8, xmm8",
                        "vpxor xmm9, xmm9, xmm9",
                        "vpxor xmm10, xmm10, xmm10",
                        "vpxor xmm11, xmm11, xmm11",
                        "2:",
                        concat!("vfmadd231ps ", $r, "0, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "1, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "2, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "3, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "4, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "5, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "6, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "7, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "8, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "9, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "10, ", $r, "12, ", $r, "12"),
                        concat!("vfmadd231ps ", $r, "11, ", $r, "12, ", $r, "12"),
                        "dec {rounds}",
                        "jnz 2b",
                        factor = in(reg) &raw const FACTOR,
                        rounds = inout(reg) rounds.max(1) => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                        out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                        out("xmm10") _, out("xmm11") _, out("xmm12") _,
                        options(nostack, readonly),
                    );
                }
                (rounds * 2 * 12 * $lanes) as f64
            }
        };
    }

    fused_multiply_adds!(avx512, "avx512f", 16, "zmm");
    fused_multiply_adds!(avx2, "avx2,fma", 8, "ymm");

    /// A batch of four independent products of full bfloat16 tiles a round.
    ///
    /// # Safety
    /// The processor must have AMX-BF16 and the process be permitted to use it.
    pub unsafe fn amx(rounds: usize) -> f64 {
        /// 16 × 16 sums of 32 products each.
        const FLOP: usize = 2 * 16 * 16 * 32;
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            (config[16 + 2 * tile], config[48 + tile]) = (64, 16);
        }
        let factors = [[FACTOR; 16]; 16];
        // SAFETY: reads the configuration and a tile of 16 rows of 64 bytes; all registers it changes are declared.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm4, [{factors} + {row}]",
                "tileloadd tmm5, [{factors} + {row}]",
                "tileloadd tmm6, [{factors} + {row}]",
                "tileloadd tmm7, [{factors} + {row}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &config,
                factors = in(reg) &factors,
                row = in(reg) 64usize,
                rounds = inout(reg) rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        (rounds * 4 * FLOP) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_here_has_a_peak_and_no_other() {
        let peaks: Vec<f64> = Isa::available().map(|isa| peak_flops(isa, 1).unwrap()).collect();
        assert!(peaks.iter().all(|peak| (1e8..1e14).contains(peak)), "{peaks:?}");
        let Some(missing) = Isa::FASTEST_FIRST.into_iter().find(|isa| !isa.is_available()) else { return };
        assert!(peak_flops(missing, 1).is_err());
    }
}
