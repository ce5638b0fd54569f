//! The inner kernel of every convolution: a few output positions times a few vectors of output channels, held in
//! registers while the taps stream by.
//!
//! With channels-last activations the taps along x and all input channels of one (kz, ky) are contiguous in
//! memory: one *segment*. A kernel call walks its segments; for each input float it loads the matching vectors of
//! weights once and multiplies them with that float broadcast, for `P` output positions at a time.

use super::aligned::AlignedFloats;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain8};
use super::{Arithmetic, Isa};
use rayon::prelude::*;
use std::ops::Range;

/// Output channels that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    /// First output channel.
    first: usize,
    /// Output channels of the block that exist; the rest of `width` is padding.
    valid: usize,
    /// Floats per input float in the packed weights.
    width: usize,
}

impl Block {
    /// How `groups` times `channels` output channels are split for an instruction set; no block is part of two groups.
    fn split(groups: usize, channels: usize, isa: Isa) -> Vec<Self> {
        let widths: &[usize] = match isa {
            Isa::Amx | Isa::Avx512 => &[32, 16, 8],
            Isa::Avx2 | Isa::Portable => &[16, 8],
        };
        let mut blocks = Vec::new();
        for group in 0..groups {
            let mut first = 0;
            while first < channels {
                let left = channels - first;
                // The narrowest width that takes all of the rest unless half of it would be padding, else the widest.
                let covering = widths.iter().rev().find(|&&w| w >= left && (w < 2 * left || w == 8));
                let width = covering.copied().unwrap_or(widths[0].min(left.next_power_of_two()));
                let valid = left.min(width);
                blocks.push(Self { first: group * channels + first, valid, width });
                first += valid;
            }
        }
        blocks
    }
}

/// Weights in the order in which the kernels read them: block, point, segment, float of the segment, output channel.
pub(in crate::ops) struct PackedWeights {
    pub arithmetic: Arithmetic,
    pub out_channels: usize,
    blocks: Vec<Block>,
    /// Where the weights of each block begin.
    starts: Vec<usize>,
    weights: AlignedFloats,
    /// Bias per block, padded to its width.
    biases: Vec<AlignedFloats>,
    segment_lens: Vec<usize>,
    /// Where a segment begins, counted in input floats, and after the last one their number.
    segment_starts: Vec<usize>,
    points: usize,
}

impl PackedWeights {
    /// Packs a weight function of (point, segment, float of the segment, output channel); the output channels are
    /// `groups` groups of one size, of which no block takes two.
    pub fn pack(
        arithmetic: Arithmetic,
        groups: usize,
        bias: &[f32],
        points: usize,
        segment_lens: &[usize],
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let out_channels = bias.len();
        let blocks = Block::split(groups, out_channels / groups, arithmetic.isa());
        let mut segment_starts = vec![0];
        for len in segment_lens {
            segment_starts.push(segment_starts[segment_starts.len() - 1] + len);
        }
        let inputs = segment_starts[segment_lens.len()] * points;
        let starts: Vec<usize> = blocks
            .iter()
            .scan(0, |end, block| {
                let start = *end;
                *end += inputs * block.width;
                Some(start)
            })
            .collect();
        let mut weights = AlignedFloats::zeros(inputs * blocks.iter().map(|b| b.width).sum::<usize>());
        let mut rest = weights.as_mut_slice();
        let mut parts = Vec::new();
        for block in &blocks {
            let (part, behind) = rest.split_at_mut(inputs * block.width);
            parts.push((block, part));
            rest = behind;
        }
        parts.into_par_iter().for_each(|(block, part)| {
            let mut rows = part.chunks_exact_mut(block.width);
            for point in 0..points {
                for (segment, &len) in segment_lens.iter().enumerate() {
                    for (k, row) in (0..len).zip(&mut rows) {
                        for (o, w) in row[..block.valid].iter_mut().enumerate() {
                            *w = weight(point, segment, k, block.first + o);
                        }
                    }
                }
            }
        });
        let padded = |block: &Block| {
            let mut padded = AlignedFloats::zeros(block.width);
            padded.first(block.valid).copy_from_slice(&bias[block.first..block.first + block.valid]);
            padded
        };
        let biases = blocks.iter().map(padded).collect();
        let segment_lens = segment_lens.to_vec();
        Self {
            arithmetic,
            out_channels,
            blocks,
            starts,
            weights,
            biases,
            segment_lens,
            segment_starts,
            points,
        }
    }

    /// Number of blocks of output channels.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Output channels of a block, and its width with padding.
    pub fn block(&self, block: usize) -> (Range<usize>, usize) {
        let b = self.blocks[block];
        (b.first..b.first + b.valid, b.width)
    }

    /// Bias of a block, padded to its width.
    pub fn bias(&self, block: usize) -> &[f32] {
        &self.biases[block].as_slice()[..self.blocks[block].width]
    }

    /// Bytes of a block's weights at all points.
    pub fn block_bytes(&self) -> usize {
        4 * self.points * self.segment_starts[self.segment_lens.len()] * self.blocks[0].width
    }

    fn of_segment(&self, block: usize, point: usize, segment: usize) -> &[f32] {
        let inputs = self.segment_starts[self.segment_lens.len()];
        let width = self.blocks[block].width;
        let from = self.starts[block] + (point * inputs + self.segment_starts[segment]) * width;
        &self.weights.as_slice()[from..from + self.segment_lens[segment] * width]
    }
}

/// One run of input floats and which of the packed segments weighs it.
#[derive(Clone, Copy, Default)]
pub(super) struct Segment {
    /// Index of the first float in the scratch buffer, for output position 0.
    pub input: usize,
    /// Floats between consecutive output positions.
    pub step: usize,
    /// Segment number in the packed weights.
    pub weights: usize,
}

/// The same as [`Segment`], resolved to pointers.
#[derive(Clone, Copy)]
struct RawSegment {
    input: *const f32,
    step: usize,
    weights: *const f32,
    len: usize,
}

/// Most output positions that a kernel call covers.
const MAX_POSITIONS: usize = 12;
/// Most segments of a convolution: two sources of up to 7 × 7 rows.
pub(super) const MAX_SEGMENTS: usize = 98;

/// A block of output channels at one point.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub block: usize,
    pub point: usize,
    /// Whether the sums begin with the bias or with zero.
    pub biased: bool,
}

/// Where a kernel writes: output position `p` goes to `to[p · stride..]`, `valid` floats.
pub(super) struct Destination {
    pub to: *mut f32,
    pub stride: usize,
    /// The block's padded width, or its output channels without the padding.
    pub valid: usize,
}

/// Computes one block of output channels for a run of `positions`.
///
/// # Safety
/// `out` must be writable at every position, by nobody else.
pub(super) unsafe fn run(
    packed: &PackedWeights,
    columns: Columns,
    segments: &[Segment],
    scratch: &[f32],
    positions: usize,
    out: Destination,
) {
    assert!(positions > 0 && segments.len() <= MAX_SEGMENTS, "empty run or too many segments");
    let width = packed.blocks[columns.block].width;
    assert!(out.valid <= width && width <= ZERO.len(), "output wider than its block");
    let none = RawSegment { input: scratch.as_ptr(), step: 0, weights: scratch.as_ptr(), len: 0 };
    let mut raw = [none; MAX_SEGMENTS];
    for (r, s) in raw.iter_mut().zip(segments) {
        let len = packed.segment_lens[s.weights];
        let end = s.input + (positions - 1) * s.step + len;
        assert!(end <= scratch.len(), "segment reaches beyond the scratch buffer");
        let weights = packed.of_segment(columns.block, columns.point, s.weights).as_ptr();
        *r = RawSegment { input: scratch[s.input..].as_ptr(), step: s.step, weights, len };
    }
    let segments = &raw[..segments.len()];
    let start = if columns.biased { packed.bias(columns.block) } else { &ZERO[..width] };
    let run = Run { positions, segments, start, out };
    // SAFETY: the segments were checked, the output is the caller's promise, the instruction set that of the processor.
    unsafe {
        match packed.arithmetic.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => match width {
                32 => in_pieces::<Avx512, 2>(&run),
                16 => in_pieces::<Avx512, 1>(&run),
                _ => in_pieces::<Avx2, 1>(&run),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => match width {
                16 => in_pieces::<Avx2, 2>(&run),
                _ => in_pieces::<Avx2, 1>(&run),
            },
            _ => match width {
                16 => in_pieces::<Plain8, 2>(&run),
                _ => in_pieces::<Plain8, 1>(&run),
            },
        }
    }
}

/// Floats that [`row`] needs behind its output.
pub(super) const BEHIND_ROW: usize = 32;

/// Computes all output channels, with bias, for a row of `positions`: `out` becomes (positions, out_channels), and behind
/// it [`BEHIND_ROW`] floats whatever they become.
pub(super) fn row(
    packed: &PackedWeights,
    segments: &[Segment],
    scratch: &[f32],
    positions: usize,
    out: &mut [f32],
) {
    let expected = positions * packed.out_channels + BEHIND_ROW;
    assert_eq!(out.len(), expected, "output row has the wrong length");
    for block in 0..packed.blocks.len() {
        let (channels, width) = packed.block(block);
        // Where there is one block, the padding of each position is overwritten by the next one.
        let valid = if packed.blocks.len() == 1 { width } else { channels.len() };
        let to = Destination { to: out[channels.start..].as_mut_ptr(), stride: packed.out_channels, valid };
        // SAFETY: the row was checked to hold every position, and the padding behind the last.
        unsafe { run(packed, Columns { block, point: 0, biased: true }, segments, scratch, positions, to) };
    }
}

/// A run whose segments lie within their buffers for all positions, with start values as long as the block is wide.
pub(super) struct Run<'a> {
    positions: usize,
    segments: &'a [RawSegment],
    start: &'a [f32],
    out: Destination,
}

static ZERO: [f32; 32] = [0.0; 32];

/// Cuts a run into pieces that fit the registers, of nearly equal length.
///
/// # Safety
/// As [`tile`].
unsafe fn in_pieces<L: Lanes, const V: usize>(run: &Run<'_>) {
    let pieces = run.positions.div_ceil((L::ACCUMULATORS / V).min(MAX_POSITIONS));
    let mut first = 0;
    for piece in 0..pieces {
        let end = run.positions * (piece + 1) / pieces;
        macro_rules! choose {
            ($($p:literal)*) => {
                match end - first {
                    // SAFETY: passed on from the caller.
                    $($p => unsafe { L::tile::<$p, V>(run, first) },)*
                    _ => unreachable!("runs are cut into pieces of at most {MAX_POSITIONS} positions"),
                }
            };
        }
        choose!(1 2 3 4 5 6 7 8 9 10 11 12);
        first = end;
    }
}

/// `P` output positions from `first` on, of `V` vectors of output channels.
///
/// Inlined into one function per instruction set, `P` and `V`: compilers lose track of two dozen accumulators in a
/// function with anything else in it.
///
/// # Safety
/// The processor must have the instruction set, the run's segments must lie within their buffers and its output
/// must be writable, both at every position from `first` to `first + P`.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, const P: usize, const V: usize>(run: &Run<'_>, first: usize) {
    if P * V > L::ACCUMULATORS {
        unreachable!("more sums than registers");
    }
    // No closures or iterators over vectors here: they would be functions without the target feature.
    // SAFETY: the start values hold V vectors; the segments and the output are the caller's promise.
    unsafe {
        let mut acc = [load::<L, V>(run.start.as_ptr()); P];
        for s in run.segments {
            // Three bases and small multiples of the step address all positions with few registers.
            let (step, base) = (s.step, s.input.add(first * s.step));
            let mut at = [base, base.wrapping_add(4 * step), base.wrapping_add(8 * step), s.weights];
            let three_steps = L::hide(3 * step);
            macro_rules! add_products {
                ($k:literal) => {{
                    let w = load::<L, V>(at[3].add($k * V * L::WIDTH));
                    let offsets = [0, step, 2 * step, three_steps];
                    let mut p = 0;
                    while p < P {
                        let x = L::splat(at[p / 4].wrapping_add(offsets[p % 4] + $k));
                        let mut v = 0;
                        while v < V {
                            acc[p][v] = acc[p][v].add_product(x, w[v]);
                            v += 1;
                        }
                        p += 1;
                    }
                    at = L::fence(at);
                }};
            }
            macro_rules! advance {
                ($k:literal) => {{
                    at = [
                        at[0].wrapping_add($k),
                        at[1].wrapping_add($k),
                        at[2].wrapping_add($k),
                        at[3].add($k * V * L::WIDTH),
                    ];
                }};
            }
            // Four at a time: address arithmetic would otherwise compete with the products for issue slots.
            let mut left = s.len;
            while left >= 4 {
                add_products!(0);
                add_products!(1);
                add_products!(2);
                add_products!(3);
                advance!(4);
                left -= 4;
            }
            while left > 0 {
                add_products!(0);
                advance!(1);
                left -= 1;
            }
        }
        let mut p = 0;
        while p < P {
            let to = run.out.to.add((first + p) * run.out.stride);
            if run.out.valid == V * L::WIDTH {
                store::<L, V>(&acc[p], to);
            } else {
                let mut all = [0f32; 32];
                store::<L, V>(&acc[p], all.as_mut_ptr());
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, run.out.valid);
            }
            p += 1;
        }
    }
}

/// `V` consecutive vectors.
///
/// # Safety
/// As [`Lanes`] demands.
#[inline(always)]
unsafe fn load<L: Lanes, const V: usize>(from: *const f32) -> [L; V] {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut vectors = [L::load(from); V];
        let mut v = 1;
        while v < V {
            vectors[v] = L::load(from.add(v * L::WIDTH));
            v += 1;
        }
        vectors
    }
}

/// Writes `V` consecutive vectors.
///
/// # Safety
/// As [`Lanes`] demands.
#[inline(always)]
unsafe fn store<L: Lanes, const V: usize>(vectors: &[L; V], to: *mut f32) {
    let mut v = 0;
    while v < V {
        // SAFETY: passed on from the caller.
        unsafe { vectors[v].store(to.add(v * L::WIDTH)) };
        v += 1;
    }
}

/// A piece of work in plain Rust, compiled once per instruction set.
pub(super) trait Vectorised {
    /// Does the work. Implementations are `#[inline(always)]`, and so is everything that they call in a hot loop.
    fn run(self);
}

/// Runs `work` compiled for `isa`.
pub(super) fn dispatch<T: Vectorised>(isa: Isa, work: T) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        fn avx512<T: Vectorised>(work: T) {
            work.run();
        }

        #[target_feature(enable = "avx2,fma")]
        fn avx2<T: Vectorised>(work: T) {
            work.run();
        }

        assert!(isa.is_available(), "{isa} was chosen on a processor without it");
        match isa {
            // SAFETY: the processor was just asked.
            Isa::Amx | Isa::Avx512 => return unsafe { avx512(work) },
            // SAFETY: the processor was just asked.
            Isa::Avx2 => return unsafe { avx2(work) },
            Isa::Portable => {}
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    work.run();
}
