//! Convolution kernels for Advanced Matrix Extensions (AMX-BF16).
//!
//! A tile instruction multiplies up to sixteen positions × 32 inputs with 32 inputs × sixteen output channels, in
//! bfloat16, and adds to float32 sums. Two tiles of positions share two tiles of channels, four tiles of sums stay in
//! registers while the taps stream by, or that stretch of them whose weights stay in the second-level cache. In float32
//! precision every operand is the sum of two bfloat16 numbers, the first its upper half, and three of the four products
//! are added (the fourth is below the others' rounding).
//!
//! Source: Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
//! Computations", ARITH 2019.

use super::aligned::AlignedFloats;
use super::blocking::WEIGHTS;
use super::{Precision, kernel::PackedWeights};
use std::arch::asm;
use std::ops::Range;
use std::sync::OnceLock;

/// Inputs that one instruction sums over.
pub(super) const DEPTH: usize = 32;
/// Positions, and output channels, of a tile.
pub(super) const SIDE: usize = 16;
/// bfloat16 numbers of one tile of weights.
const TILE: usize = DEPTH * SIDE;

/// bfloat16 numbers that make up one operand.
pub(super) fn parts(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 2,
        Precision::Bf16 => 1,
    }
}

/// The nearest bfloat16, ties to even.
#[inline(always)]
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if value.is_nan() { 0x7fc0 } else { rounded }
}

/// The upper half of a number and the nearest bfloat16 to the rest.
#[inline(always)]
fn split(value: f32) -> [u16; 2] {
    let upper = value.to_bits() & 0xffff_0000;
    [(upper >> 16) as u16, round(value - f32::from_bits(upper))]
}

/// Numbers as bfloat16: rounded if there is one part, else split in upper and lower.
#[inline(always)]
pub(super) fn halves<const PARTS: usize, const N: usize>(values: [f32; N]) -> [[u16; N]; PARTS] {
    let mut halves = [[0; N]; PARTS];
    for i in 0..N {
        if PARTS == 1 {
            halves[0][i] = round(values[i]);
        } else {
            [halves[0][i], halves[1][i]] = split(values[i]);
        }
    }
    halves
}

/// Weights as tiles: block of 32 output channels, segment, 32 inputs of it, part, half of the block, pair of inputs,
/// output channel, input of the pair.
pub(super) struct TileWeights {
    data: AlignedFloats,
    /// 32 of each block.
    biases: AlignedFloats,
    parts: usize,
    /// Where each segment begins, in runs of 32 inputs, and after the last one their number.
    starts: Vec<usize>,
    /// Segments that are summed for all positions of a group of planes before the next ones are: as many as weights stay in
    /// the second-level cache.
    pub stretches: Vec<Range<usize>>,
}

impl TileWeights {
    /// Packs a weight function of (segment, input of the segment, output channel) for the blocks of `blocks`.
    pub fn pack(
        precision: Precision,
        blocks: &PackedWeights,
        segment_lens: &[usize],
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        use rayon::prelude::*;
        let parts = parts(precision);
        let mut starts = vec![0];
        for len in segment_lens {
            starts.push(starts[starts.len() - 1] + len.div_ceil(DEPTH));
        }
        let run = parts * 2 * TILE;
        let block_len = starts[segment_lens.len()] * run;
        let mut data = AlignedFloats::zeros(blocks.block_count() * block_len / 2);
        data.as_mut_halves().par_chunks_mut(block_len).enumerate().for_each(|(block, data)| {
            let (channels, _) = blocks.block(block);
            for (segment, &len) in segment_lens.iter().enumerate() {
                for k in 0..len {
                    let from = (starts[segment] + k / DEPTH) * run;
                    let k_in_run = k % DEPTH;
                    for o in channels.clone() {
                        let column = o - channels.start;
                        let at = from
                            + column / SIDE * TILE
                            + k_in_run / 2 * 2 * SIDE
                            + column % SIDE * 2
                            + k_in_run % 2;
                        let value = weight(segment, k, o);
                        if parts == 2 {
                            [data[at], data[at + 2 * TILE]] = split(value);
                        } else {
                            data[at] = round(value);
                        }
                    }
                }
            }
        });
        let mut biases = AlignedFloats::zeros(blocks.block_count() * 2 * SIDE);
        for (block, to) in biases.as_mut_slice().chunks_exact_mut(2 * SIDE).enumerate() {
            let bias = blocks.bias(block);
            to[..bias.len()].copy_from_slice(bias);
        }
        let bytes = |segments: &Range<usize>| {
            (starts[segments.end] - starts[segments.start]) * run * size_of::<u16>()
        };
        let mut stretches: Vec<Range<usize>> = Vec::new();
        for segment in 0..segment_lens.len() {
            match stretches.last_mut() {
                Some(last) if bytes(&(last.start..segment + 1)) <= WEIGHTS => last.end = segment + 1,
                _ => stretches.push(segment..segment + 1),
            }
        }
        Self { data, biases, parts, starts, stretches }
    }

    /// Bytes of a block's weights.
    pub fn block_bytes(&self) -> usize {
        self.starts[self.starts.len() - 1] * self.parts * 2 * TILE * 2
    }

    /// A segment's weights, and how many runs of 32 inputs they are.
    fn segment(&self, block: usize, segment: usize) -> (&[u16], usize) {
        let run = self.parts * 2 * TILE;
        let runs = self.starts[self.starts.len() - 1];
        let (from, to) = (self.starts[segment], self.starts[segment + 1]);
        (&self.data.as_halves()[(block * runs + from) * run..(block * runs + to) * run], to - from)
    }
}

/// Inputs of one segment: upper (or only) bfloat16 numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct TileSegment {
    /// Index of the first one, for the box's first position.
    pub input: usize,
    /// From row to row of positions.
    pub row: usize,
    /// From position to position.
    pub step: usize,
    /// From a number to its lower part.
    pub part: usize,
    /// Segment number in the packed weights.
    pub weights: usize,
}

/// One block of up to 32 output channels at the outputs of one plane.
#[derive(Clone, Copy)]
pub(super) struct TileSum<'a> {
    pub weights: &'a TileWeights,
    pub block: usize,
    pub segments: &'a [TileSegment],
    pub inputs: &'a [u16],
}

/// What sums begin with.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// The block's bias.
    Bias,
    /// The sums so far.
    Sums,
}

/// A tile of positions: row and first position, both counted within the box.
pub(super) type TilePosition = [usize; 2];

/// The tile registers, configured for tiles of some number of positions; released when dropped.
pub(super) struct Tiles {
    positions: usize,
}

impl Tiles {
    /// Configures this thread's tile registers: 0 to 3 sums, 4 and 5 positions, 6 and 7 weights.
    ///
    /// # Safety
    /// AMX must be available, and its registers in nobody's use on this thread.
    pub unsafe fn configure(positions: usize) -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes: [u16; 16],
            rows: [u8; 16],
        }
        assert!((1..=SIDE).contains(&positions), "a tile holds 1 to {SIDE} positions, not {positions}");
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            configuration.bytes[tile] = 64;
            configuration.rows[tile] = if tile < 6 { positions as u8 } else { SIDE as u8 };
        }
        // SAFETY: the operand is 64 bytes in the documented form.
        unsafe { asm!("ldtilecfg [{0}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self { positions }
    }

    /// Adds all segments at two tiles of positions for one block of 32 output channels to the block's bias, or to what is
    /// there already; the sums of each tile are in `out`, (position, channel), from where `to` says.
    ///
    /// # Panics
    /// If a segment reaches beyond the inputs (there must be 32 numbers behind its last one), or a tile beyond `out`.
    #[inline(always)]
    pub fn multiply(
        &self,
        TileSum { weights, block, segments, inputs }: TileSum<'_>,
        at: [TilePosition; 2],
        start: Start,
        out: &mut [f32],
        to: [usize; 2],
    ) {
        for to in to {
            assert!(to + self.positions * 2 * SIDE <= out.len(), "tile of sums reaches beyond its buffer");
        }
        let [first, second] = to.map(|to| out[to..].as_mut_ptr());
        let bias = weights.biases.as_slice()[block * 2 * SIDE..][..2 * SIDE].as_ptr();
        let (starts, row) = match start {
            Start::Bias => ([bias; 2], 0),
            Start::Sums => ([first.cast_const(), second.cast_const()], 8 * SIDE),
        };
        // The compiler does not use tile registers by itself, so they keep their values from one block of assembler
        // to the next.
        // SAFETY: AMX is available and configured, as `configure` was promised; reads 32 floats of the bias, with a
        // distance of 0 between rows, or the sums, which were checked to hold all positions.
        unsafe {
            asm!(
                "tileloadd tmm0, [{first} + {row}*1]",
                "tileloadd tmm1, [{first} + {row}*1 + 64]",
                "tileloadd tmm2, [{second} + {row}*1]",
                "tileloadd tmm3, [{second} + {row}*1 + 64]",
                first = in(reg) starts[0], second = in(reg) starts[1], row = in(reg) row,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, readonly),
            );
        }
        for s in segments {
            let (packed, runs) = weights.segment(block, s.weights);
            let first = at.map(|[row, position]| s.input + row * s.row + position * s.step);
            for from in first {
                let end = from + (self.positions - 1) * s.step + runs * DEPTH + (weights.parts - 1) * s.part;
                assert!(end <= inputs.len(), "segment reaches beyond the inputs");
            }
            let [a, b] = first.map(|from| inputs[from..].as_ptr());
            // SAFETY: AMX is available and configured; every row of every tile was checked to lie within the inputs,
            // the weights are `runs` whole runs.
            unsafe {
                if weights.parts == 2 {
                    three_products([a, b], s.part, 2 * s.step, packed.as_ptr(), runs);
                } else {
                    one_product([a, b], 2 * s.step, packed.as_ptr(), runs);
                }
            }
        }
        // SAFETY: AMX is available and configured; both places were checked to hold all positions, 32 floats each.
        unsafe {
            asm!(
                "tilestored [{first} + {row}*1], tmm0",
                "tilestored [{first} + {row}*1 + 64], tmm1",
                "tilestored [{second} + {row}*1], tmm2",
                "tilestored [{second} + {row}*1 + 64], tmm3",
                first = in(reg) first, second = in(reg) second, row = in(reg) 8 * SIDE,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX is available, as `configure` was promised.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Adds upper · lower, upper · upper and lower · upper of two tiles of positions to the sums.
///
/// # Safety
/// As [`Tiles::multiply`] checks.
#[inline(always)]
unsafe fn three_products(
    positions: [*const u16; 2],
    part: usize,
    step: usize,
    weights: *const u16,
    runs: usize,
) {
    let [a, b] = positions;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm6, [{w} + {row}*1 + 2048]",
            "tileloadd tmm7, [{w} + {row}*1 + 3072]",
            "tileloadd tmm4, [{a} + {step}*1]",
            "tileloadd tmm5, [{b} + {step}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{w} + {row}*1]",
            "tileloadd tmm7, [{w} + {row}*1 + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a_lower} + {step}*1]",
            "tileloadd tmm5, [{b_lower} + {step}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {b}, 64",
            "add {a_lower}, 64",
            "add {b_lower}, 64",
            "add {w}, 4096",
            "dec {runs}",
            "jnz 2b",
            a = inout(reg) a => _, b = inout(reg) b => _,
            a_lower = inout(reg) a.wrapping_add(part) => _, b_lower = inout(reg) b.wrapping_add(part) => _,
            w = inout(reg) weights => _, runs = inout(reg) runs => _,
            step = in(reg) step, row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// Adds the products of two tiles of positions to the sums.
///
/// # Safety
/// As [`Tiles::multiply`] checks.
#[inline(always)]
unsafe fn one_product(positions: [*const u16; 2], step: usize, weights: *const u16, runs: usize) {
    let [a, b] = positions;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {step}*1]",
            "tileloadd tmm6, [{w} + {row}*1]",
            "tileloadd tmm7, [{w} + {row}*1 + 1024]",
            "tileloadd tmm5, [{b} + {step}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {b}, 64",
            "add {w}, 2048",
            "dec {runs}",
            "jnz 2b",
            a = inout(reg) a => _, b = inout(reg) b => _,
            w = inout(reg) weights => _, runs = inout(reg) runs => _,
            step = in(reg) step, row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_sum_of_its_halves() {
        for value in [1.0f32, -3.3, 1e-20, 12_345.678, f32::MIN_POSITIVE, 0.0] {
            let [upper, lower] = split(value).map(|half| f32::from_bits(u32::from(half) << 16));
            assert!((value - upper - lower).abs() <= value.abs() * f32::EPSILON * 128.0, "{value}");
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_and_ties_to_even() {
        let bf16 = |v: f32| f32::from_bits(u32::from(round(v)) << 16);
        assert_eq!(bf16(1.0), 1.0);
        assert_eq!(bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(bf16(f32::INFINITY), f32::INFINITY);
        assert!(bf16(f32::NAN).is_nan());
        assert_eq!(bf16(-2.003_906_3), -2.0);
    }
}
