//! The inner kernel of every convolution: a few output positions times a few vectors of output channels, held in
//! registers while the taps stream by.
//!
//! With channels-last activations the taps along x and all input channels of one (kz, ky) are contiguous in
//! memory: one *segment*. A kernel call walks its segments; for each input float it loads the matching vectors of
//! weights once and multiplies them with that float broadcast, for `P` output positions at a time.

use super::lanes::{Lanes, Plain8};
use super::{Arithmetic, Isa};

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
    /// How `channels` output channels are split for an instruction set.
    fn split(channels: usize, isa: Isa) -> Vec<Self> {
        let widths: &[usize] = match isa {
            Isa::Amx | Isa::Avx512 => &[32, 16, 8],
            Isa::Avx2 | Isa::Portable => &[16, 8],
        };
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < channels {
            let left = channels - first;
            // The narrowest width that takes all of the rest unless half of it would be padding, else the widest.
            let covering = widths.iter().rev().find(|&&w| w >= left && (w < 2 * left || w == 8));
            let width = covering.copied().unwrap_or(widths[0].min(left.next_power_of_two()));
            let valid = left.min(width);
            blocks.push(Self { first, valid, width });
            first += valid;
        }
        blocks
    }
}

/// Weights in the order in which the kernels read them: block, segment, float of the segment, output channel.
pub(in crate::ops) struct PackedWeights {
    pub isa: Isa,
    blocks: Vec<Block>,
    /// Where the weights of (block, segment) begin.
    starts: Vec<Vec<usize>>,
    weights: Vec<f32>,
    /// Bias per block, padded to its width.
    biases: Vec<Vec<f32>>,
    segment_lens: Vec<usize>,
    pub out_channels: usize,
}

impl PackedWeights {
    /// Packs a weight function of (segment, float of the segment, output channel).
    pub fn pack(
        arithmetic: Arithmetic,
        out_channels: usize,
        segment_lens: &[usize],
        bias: &[f32],
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let isa = arithmetic.isa();
        let blocks = Block::split(out_channels, isa);
        let (mut starts, mut weights, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for block in &blocks {
            let mut of_block = Vec::new();
            for (segment, &len) in segment_lens.iter().enumerate() {
                of_block.push(weights.len());
                for k in 0..len {
                    weights.extend((0..block.valid).map(|o| weight(segment, k, block.first + o)));
                    weights.extend(std::iter::repeat_n(0.0, block.width - block.valid));
                }
            }
            starts.push(of_block);
            let mut padded = bias[block.first..block.first + block.valid].to_vec();
            padded.resize(block.width, 0.0);
            biases.push(padded);
        }
        Self { isa, blocks, starts, weights, biases, segment_lens: segment_lens.to_vec(), out_channels }
    }
}

/// One run of input floats and which of the packed segments weighs it.
#[derive(Clone, Copy)]
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
const MAX_POSITIONS: usize = 14;
/// Most segments of a convolution: two sources of up to 7 × 7 rows.
pub(super) const MAX_SEGMENTS: usize = 98;

/// Computes one row of output voxels, (positions, out_channels), from `scratch`.
///
/// `#[inline(always)]`: the caller carries the target feature that `W` and `N` need.
///
/// # Safety
/// The processor must have the instruction sets of `W` and `N`.
#[inline(always)]
pub(super) unsafe fn row<W: Lanes, N: Lanes>(
    packed: &PackedWeights,
    segments: &[Segment],
    scratch: &[f32],
    positions: usize,
    out: &mut [f32],
) {
    assert_eq!(out.len(), positions * packed.out_channels, "output row has the wrong length");
    assert!(positions > 0 && segments.len() <= MAX_SEGMENTS, "empty row or too many segments");
    for s in segments {
        let end = s.input + (positions - 1) * s.step + packed.segment_lens[s.weights];
        assert!(end <= scratch.len(), "segment reaches beyond the scratch buffer");
    }
    let calls = positions.div_ceil(MAX_POSITIONS);
    for (b, block) in packed.blocks.iter().enumerate() {
        let mut raw = [RawSegment { input: scratch.as_ptr(), step: 0, weights: scratch.as_ptr(), len: 0 };
            MAX_SEGMENTS];
        let mut start = 0;
        for call in 0..calls {
            let end = positions * (call + 1) / calls;
            for (r, s) in raw.iter_mut().zip(segments) {
                let (at, len) = (packed.starts[b][s.weights], packed.segment_lens[s.weights]);
                *r = RawSegment {
                    input: scratch[s.input + start * s.step..].as_ptr(),
                    step: s.step,
                    weights: packed.weights[at..at + len * block.width].as_ptr(),
                    len,
                };
            }
            let out = &mut out[start * packed.out_channels + block.first..];
            assert!(
                out.len() >= (end - start - 1) * packed.out_channels + block.valid,
                "output row too short"
            );
            let to = Output { to: out.as_mut_ptr(), stride: packed.out_channels, valid: block.valid };
            let bias = &packed.biases[b];
            let raw = &raw[..segments.len()];
            // SAFETY: every segment was checked to lie within scratch for all positions, its weights were sliced
            // to their full length, the output was checked to hold every position, the bias is padded to the
            // width; the instruction set is the caller's promise.
            unsafe {
                if block.width == 2 * W::WIDTH {
                    positions_of::<W, 2>(end - start, raw, bias, to);
                } else if block.width == W::WIDTH {
                    positions_of::<W, 1>(end - start, raw, bias, to);
                } else {
                    positions_of::<N, 1>(end - start, raw, bias, to);
                }
            }
            start = end;
        }
    }
}

#[derive(Clone, Copy)]
struct Output {
    to: *mut f32,
    stride: usize,
    valid: usize,
}

/// Chooses the kernel for a number of positions.
#[inline(always)]
unsafe fn positions_of<L: Lanes, const V: usize>(
    n: usize,
    segments: &[RawSegment],
    bias: &[f32],
    out: Output,
) {
    macro_rules! choose {
        ($($p:literal)*) => {
            match n {
                // SAFETY: passed on from the caller.
                $($p => unsafe { tile::<L, $p, V>(segments, bias, out) },)*
                _ => unreachable!("rows are cut into pieces of at most {MAX_POSITIONS} positions"),
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// `P` output positions of `V` vectors of output channels.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize, const V: usize>(segments: &[RawSegment], bias: &[f32], out: Output) {
    // No closures or iterators over vectors here: they would be functions without the target feature.
    // SAFETY: the bias holds V vectors; the segments and the output were checked by `row`.
    unsafe {
        let start = load::<L, V>(bias.as_ptr());
        let mut acc = [start; P];
        for s in segments {
            let mut weights = s.weights;
            let step = s.step;
            // Four bases and small multiples of the step address all positions with few registers.
            let (mut base0, mut base1) = (s.input, s.input.wrapping_add(4 * step));
            let (mut base2, mut base3) = (s.input.wrapping_add(8 * step), s.input.wrapping_add(12 * step));
            for _ in 0..s.len {
                let w = load::<L, V>(weights);
                let bases = [base0, base1, base2, base3];
                let mut p = 0;
                while p < P {
                    let x = L::splat(bases[p / 4].wrapping_add((p % 4) * step));
                    let mut v = 0;
                    while v < V {
                        acc[p][v] = acc[p][v].add_product(x, w[v]);
                        v += 1;
                    }
                    p += 1;
                }
                weights = weights.add(V * L::WIDTH);
                base0 = base0.wrapping_add(1);
                base1 = base1.wrapping_add(1);
                base2 = base2.wrapping_add(1);
                base3 = base3.wrapping_add(1);
            }
        }
        let mut p = 0;
        while p < P {
            let to = out.to.add(p * out.stride);
            if out.valid == V * L::WIDTH {
                store::<L, V>(&acc[p], to);
            } else {
                let mut all = [0f32; 32];
                store::<L, V>(&acc[p], all.as_mut_ptr());
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, out.valid);
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

/// A piece of work written once over vectors and run under the chosen instruction set.
pub(super) trait Vectorised {
    type Output;
    /// Does the work with wide vectors `W` and narrow vectors `N`. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instruction sets of `W` and `N`.
    unsafe fn run<W: Lanes, N: Lanes>(self) -> Self::Output;
}

/// Runs `work` compiled for `isa`.
pub(super) fn dispatch<T: Vectorised>(isa: Isa, work: T) -> T::Output {
    assert!(isa.is_available(), "{isa:?} was chosen on a processor without it");
    #[cfg(target_arch = "x86_64")]
    {
        use super::lanes::{Avx2, Avx512};

        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        unsafe fn avx512<T: Vectorised>(work: T) -> T::Output {
            // SAFETY: the target features of this function are those of the vectors.
            unsafe { work.run::<Avx512, Avx2>() }
        }

        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<T: Vectorised>(work: T) -> T::Output {
            // SAFETY: the target features of this function are those of the vectors.
            unsafe { work.run::<Avx2, Avx2>() }
        }

        match isa {
            // SAFETY: the processor was just asked.
            Isa::Amx | Isa::Avx512 => return unsafe { avx512(work) },
            // SAFETY: the processor was just asked.
            Isa::Avx2 => return unsafe { avx2(work) },
            Isa::Portable => {}
        }
    }
    // SAFETY: plain Rust runs anywhere.
    unsafe { work.run::<Plain8, Plain8>() }
}
