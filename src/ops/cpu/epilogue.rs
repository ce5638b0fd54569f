//! What becomes of finished sums: row by row they go to the output while their moments are taken.
//!
//! An output that outgrows the caches is written past them, which spares the processor reading every line before it
//! changes it.

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Plain8};

/// Widest block of output channels.
pub(super) const WIDEST: usize = 32;
/// Bytes of an output from which on it is written past the caches.
const LARGE: usize = 4 << 20;

/// Sums over the rows so far of a block's channels, as deviations from the first voxel, so that nothing cancels where
/// the mean is large; a row is summed in `f32`, the rows in `f64`.
struct BlockMoments {
    pivot: [f32; WIDEST],
    sum: [f64; WIDEST],
    squares: [f64; WIDEST],
    count: usize,
}

/// Where the rows of one block of output channels go.
pub(super) struct Epilogue {
    isa: Isa,
    /// Floats of a position in a finished row.
    width: usize,
    /// Channels of the block, the first of them.
    valid: usize,
    /// Floats from voxel to voxel of the output.
    stride: usize,
    past_caches: bool,
    moments: BlockMoments,
}

impl Epilogue {
    /// For finished rows of `width` floats a position, of which `valid` exist, and an output of `len` floats from `to`
    /// on with `stride` floats a voxel.
    pub fn new(isa: Isa, [width, valid]: [usize; 2], stride: usize, (to, len): (*mut f32, usize)) -> Self {
        let widest = if matches!(isa, Isa::Amx | Isa::Avx512) { WIDEST } else { 16 };
        assert!(
            valid <= width && width <= widest && [8, 16, 32].contains(&width),
            "block of {valid}, {width} wide, for {isa}"
        );
        // Whole cache lines, at addresses that vectors may be written to past the caches.
        let vector = width.min(16) * 4;
        let aligned = (to as usize).is_multiple_of(vector) && (stride * 4).is_multiple_of(vector);
        let whole_lines = width.is_multiple_of(16) || stride == width;
        let past_caches = aligned && whole_lines && valid == width && 4 * len >= LARGE;
        let moments =
            BlockMoments { pivot: [0.0; WIDEST], sum: [0.0; WIDEST], squares: [0.0; WIDEST], count: 0 };
        Self { isa, width, valid, stride, past_caches, moments }
    }

    /// Writes a finished row, (position, width), to the voxels from `to` on.
    ///
    /// # Safety
    /// The block's channels of as many voxels as there are positions must be writable, by nobody else. `to` must lie a
    /// multiple of this block's width behind a voxel's first channel, as it does where no block is wider than the one
    /// before. The instruction set must be the processor's.
    #[inline(always)]
    pub unsafe fn row(&mut self, row: &[f32], to: *mut f32) {
        if row.is_empty() {
            return;
        }
        if self.moments.count == 0 {
            self.moments.pivot[..self.width].copy_from_slice(&row[..self.width]);
        }
        let mut finished = FinishedRow {
            row,
            to,
            stride: self.stride,
            valid: self.valid,
            past_caches: self.past_caches,
            pivot: &self.moments.pivot,
            sum: [0.0; WIDEST],
            squares: [0.0; WIDEST],
        };
        // SAFETY: as the caller vouches.
        unsafe {
            match (self.isa, self.width) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Amx | Isa::Avx512, 32) => Avx512::finish::<2>(&mut finished),
                #[cfg(target_arch = "x86_64")]
                (Isa::Amx | Isa::Avx512, 16) => Avx512::finish::<1>(&mut finished),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 16) => Avx2::finish::<2>(&mut finished),
                #[cfg(target_arch = "x86_64")]
                (Isa::Amx | Isa::Avx512 | Isa::Avx2, _) => Avx2::finish::<1>(&mut finished),
                (_, 16) => Plain8::finish::<2>(&mut finished),
                _ => Plain8::finish::<1>(&mut finished),
            }
        }
        self.moments.count += row.len() / self.width;
        for c in 0..self.width {
            self.moments.sum[c] += f64::from(finished.sum[c]);
            self.moments.squares[c] += f64::from(finished.squares[c]);
        }
    }

    /// Ends the block; `moments` become mean and sum of squared deviations of its channels.
    #[inline(always)]
    pub fn end(self, moments: Option<&mut [[f64; 2]]>) {
        #[cfg(target_arch = "x86_64")]
        if self.past_caches {
            // SAFETY: every x86-64 processor has the instruction.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
        let Some(moments) = moments else { return };
        let BlockMoments { pivot, sum, squares, count } = self.moments;
        for (c, moments) in moments[..self.valid].iter_mut().enumerate() {
            let mean = sum[c] / count as f64;
            *moments = [mean + f64::from(pivot[c]), squares[c] - mean * sum[c]];
        }
    }
}

/// One finished row, and the sums over its positions.
pub(super) struct FinishedRow<'a> {
    row: &'a [f32],
    to: *mut f32,
    stride: usize,
    valid: usize,
    past_caches: bool,
    pivot: &'a [f32; WIDEST],
    sum: [f32; WIDEST],
    squares: [f32; WIDEST],
}

/// Writes a row of `V` vectors a position and sums deviations and their squares, two positions at a time, because one
/// addition waits for the one before.
///
/// # Safety
/// As [`Epilogue::row`] and [`Lanes`] demand.
#[inline(always)]
pub(super) unsafe fn finish<L: Lanes, const V: usize>(finished: &mut FinishedRow<'_>) {
    let width = V * L::WIDTH;
    let (from, positions) = (finished.row.as_ptr(), finished.row.len() / width);
    // No closures or iterators over vectors here: they would be functions without the target feature.
    // SAFETY: positions are counted from the row, sums and pivots hold the widest block; the output is the caller's
    // promise.
    unsafe {
        let zero = L::load([0f32; 16].as_ptr());
        let mut pivot = [zero; V];
        let mut sums = [[[zero; V]; 2]; 2];
        let mut v = 0;
        while v < V {
            pivot[v] = L::load(finished.pivot.as_ptr().add(v * L::WIDTH));
            v += 1;
        }
        macro_rules! take {
            ($position:expr, $half:literal) => {{
                let to = finished.to.add($position * finished.stride);
                let from = from.add($position * width);
                let mut v = 0;
                while v < V {
                    let value = L::load(from.add(v * L::WIDTH));
                    if finished.past_caches {
                        value.store_past_caches(to.add(v * L::WIDTH));
                    } else if finished.valid == width {
                        value.store(to.add(v * L::WIDTH));
                    }
                    let deviation = value.minus(pivot[v]);
                    sums[$half][0][v] = sums[$half][0][v].plus(deviation);
                    sums[$half][1][v] = sums[$half][1][v].add_product(deviation, deviation);
                    v += 1;
                }
            }};
        }
        let mut position = 0;
        while position + 1 < positions {
            take!(position, 0);
            take!(position + 1, 1);
            position += 2;
        }
        if position < positions {
            take!(position, 0);
        }
        if finished.valid < width {
            let mut position = 0;
            while position < positions {
                let (from, to) = (from.add(position * width), finished.to.add(position * finished.stride));
                std::ptr::copy_nonoverlapping(from, to, finished.valid);
                position += 1;
            }
        }
        let mut v = 0;
        while v < V {
            let at = v * L::WIDTH;
            sums[0][0][v].plus(sums[1][0][v]).store(finished.sum.as_mut_ptr().add(at));
            sums[0][1][v].plus(sums[1][1][v]).store(finished.squares.as_mut_ptr().add(at));
            v += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::aligned::AlignedFloats;
    use super::*;

    #[test]
    fn rows_are_written_and_counted_the_same_past_the_caches() {
        const VOXELS: usize = 39;
        for isa in Isa::available() {
            let widths = if matches!(isa, Isa::Amx | Isa::Avx512) { &[32, 16, 8][..] } else { &[16, 8] };
            for &width in widths {
                for (valid, stride, first) in
                    [(width, 2 * width, width), (width, width, 0), (width - 3, width, 0)]
                {
                    let row: Vec<f32> =
                        (0..VOXELS * width).map(|i| 100.0 + (i as f32 * 0.37).sin()).collect();
                    let mut outputs = Vec::new();
                    for past_caches in [false, true] {
                        let mut out = AlignedFloats::zeros(VOXELS * stride);
                        let (to, len) = (out.as_mut_slice().as_mut_ptr(), VOXELS * stride);
                        let mut epilogue = Epilogue::new(isa, [width, valid], stride, (to, len));
                        assert!(!epilogue.past_caches, "the output is small");
                        epilogue.past_caches = past_caches && valid == width;
                        let mut moments = vec![[0.0; 2]; valid];
                        let (start, end) = row.split_at(17 * width);
                        // SAFETY: the output holds all voxels, the instruction set was just found.
                        unsafe {
                            epilogue.row(start, to.add(first));
                            epilogue.row(end, to.add(first + 17 * stride));
                        }
                        epilogue.end(Some(&mut moments));
                        outputs.push((out.as_slice().to_vec(), moments));
                    }
                    assert!(outputs[0] == outputs[1], "{isa}, {valid} of {width}");
                    let (out, moments) = &outputs[0];
                    for (i, &value) in out[..VOXELS * stride].iter().enumerate() {
                        let (voxel, channel) = (i / stride, i % stride);
                        let inside = (first..first + valid).contains(&channel);
                        assert_eq!(value, if inside { row[voxel * width + channel - first] } else { 0.0 });
                    }
                    for (c, [mean, squares]) in moments.iter().enumerate() {
                        let values = || row.iter().skip(c).step_by(width).map(|&v| f64::from(v));
                        let expected = values().sum::<f64>() / VOXELS as f64;
                        let expected_squares = values().map(|v| (v - expected).powi(2)).sum::<f64>();
                        assert!((mean - expected).abs() < 1e-5, "{isa}: {mean}, expected {expected}");
                        assert!(
                            (squares / expected_squares - 1.0).abs() < 1e-4,
                            "{isa}: {squares}, expected {expected_squares}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn only_large_outputs_of_whole_cache_lines_are_written_past_the_caches() {
        let mut out = AlignedFloats::zeros(64);
        let to = out.as_mut_slice().as_mut_ptr();
        let past = |to, [width, valid]: [usize; 2], stride, len| {
            Epilogue::new(Isa::Portable, [width, valid], stride, (to, len)).past_caches
        };
        assert!(past(to, [16, 16], 16, LARGE) && past(to, [16, 16], 48, LARGE) && past(to, [8, 8], 8, LARGE));
        assert!(!past(to, [16, 16], 16, LARGE / 4 - 1));
        assert!(!past(to.wrapping_add(4), [16, 16], 16, LARGE));
        assert!(
            !past(to, [16, 15], 16, LARGE) && !past(to, [16, 16], 40, LARGE) && !past(to, [8, 8], 40, LARGE)
        );
    }
}
