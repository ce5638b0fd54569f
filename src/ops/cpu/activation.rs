//! Reading a stored activation (scale, shift, leaky ReLU) and the statistics from which scale and shift come.

use crate::ops::value::Activation;
use std::ops::Range;

/// Shortest run of floats worth a vector loop; shorter channel vectors are repeated up to it.
const RUN: usize = 64;
/// Channels whose moments are summed together.
const LANES: usize = 16;

/// Scale, shift and slope of a value, repeated to a length that vector loops like.
#[derive(Default)]
pub(in crate::ops) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
    slope: f32,
    identity: bool,
}

impl Affine {
    /// What has to be done to the raw values of `value` when they are read.
    pub fn of(value: &Activation<'_>) -> Self {
        let mut affine = Self::default();
        affine.set(value);
        affine
    }

    /// The same in place; allocates only the first time.
    pub fn set(&mut self, value: &Activation<'_>) {
        let repeat = RUN.div_ceil(value.scale.len());
        for (to, from) in [(&mut self.scale, value.scale), (&mut self.shift, value.shift)] {
            to.clear();
            (0..repeat).for_each(|_| to.extend_from_slice(from));
        }
        self.slope = value.operand.negative_slope;
        self.identity = self.slope == 1.0
            && value.scale.iter().all(|&s| s == 1.0)
            && value.shift.iter().all(|&s| s == 0.0);
    }

    /// Writes `leaky_relu(scale · raw + shift)`; both slices start at channel 0 and hold whole voxels.
    #[inline(always)]
    pub fn apply(&self, raw: &[f32], out: &mut [f32]) {
        if self.identity {
            out.copy_from_slice(raw);
            return;
        }
        let period = self.scale.len();
        for (raw, out) in raw.chunks(period).zip(out.chunks_mut(period)) {
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(raw).zip(&self.scale).zip(&self.shift) {
                let y = x * scale + shift;
                *out = if y >= 0.0 { y } else { y * self.slope };
            }
        }
    }

    /// [`Self::apply`] to the part `there` of `out`, and zeros around it.
    #[inline(always)]
    pub fn apply_padded(&self, raw: &[f32], there: Range<usize>, out: &mut [f32]) {
        out[..there.start].fill(0.0);
        out[there.end..].fill(0.0);
        self.apply(raw, &mut out[there]);
    }
}

/// Rows of voxels of which some channels are read.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Rows {
    /// Voxels of a row.
    pub voxels: usize,
    /// Floats from voxel to voxel.
    pub stride: usize,
}

/// Per-channel count, mean and sum of squared deviations, mergeable (Chan, Golub, LeVeque 1983).
#[derive(Clone)]
pub(in crate::ops) struct Moments {
    count: Vec<f64>,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// No sample yet, for `channels` channels.
    pub fn empty(channels: usize) -> Self {
        Self { count: vec![0.0; channels], mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        self.count.fill(0.0);
        self.mean.fill(0.0);
        self.squares.fill(0.0);
    }

    /// Mean and sum of squared deviations of the first `parts.len()` channels of `rows`.
    ///
    /// Deviations are taken from the first voxel, so that nothing cancels where the mean is large; a row is summed
    /// in `f32`, the rows in `f64`.
    ///
    /// # Safety
    /// Every row must be readable at the channels of each of its voxels.
    #[inline(always)]
    pub unsafe fn of_rows(
        rows: &(impl Iterator<Item = *const f32> + Clone),
        Rows { voxels, stride }: Rows,
        parts: &mut [[f64; 2]],
    ) {
        let Some(first_row) = rows.clone().next() else { return };
        for (chunk, parts) in parts.chunks_mut(LANES).enumerate() {
            let first_channel = chunk * LANES;
            let mut pivot = [0f32; LANES];
            // SAFETY: the channels of the first voxel are readable.
            unsafe {
                std::ptr::copy_nonoverlapping(first_row.add(first_channel), pivot.as_mut_ptr(), parts.len());
            }
            let (mut sum, mut squares) = ([0f64; LANES], [0f64; LANES]);
            let mut count = 0;
            for row in rows.clone() {
                // SAFETY: as the caller vouches, for these channels.
                let (s, q) = unsafe {
                    let row = row.add(first_channel);
                    match parts.len() {
                        LANES => sums_of_row::<LANES>(row, voxels, stride, &pivot),
                        8 => sums_of_row::<8>(row, voxels, stride, &pivot),
                        _ => {
                            let mut sums = ([0f32; LANES], [0f32; LANES]);
                            for c in 0..parts.len() {
                                let (s, q) = sums_of_row::<1>(row.add(c), voxels, stride, &pivot[c..]);
                                (sums.0[c], sums.1[c]) = (s[0], q[0]);
                            }
                            sums
                        }
                    }
                };
                for c in 0..LANES {
                    sum[c] += f64::from(s[c]);
                    squares[c] += f64::from(q[c]);
                }
                count += voxels;
            }
            for (c, part) in parts.iter_mut().enumerate() {
                let mean = sum[c] / count as f64;
                *part = [mean + f64::from(pivot[c]), squares[c] - mean * sum[c]];
            }
        }
    }

    /// Adds a sample of `count` voxels with (mean, squares) of each channel in `channels`.
    pub fn merge(&mut self, channels: Range<usize>, count: f64, parts: &[[f64; 2]]) {
        for (c, &[mean, squares]) in channels.zip(parts) {
            let total = self.count[c] + count;
            let delta = mean - self.mean[c];
            self.mean[c] += delta * count / total;
            self.squares[c] += squares + delta * delta * self.count[c] * count / total;
            self.count[c] = total;
        }
    }

    /// Mean and biased variance of a channel.
    pub fn mean_and_variance(&self, channel: usize) -> (f64, f64) {
        (self.mean[channel], (self.squares[channel] / self.count[channel]).max(0.0))
    }
}

/// Sums of deviations from the pivot and of their squares, for `N` channels of a row; two voxels at a time, because
/// one addition waits for the one before.
///
/// # Safety
/// The row must be readable at `N` channels of each voxel.
#[inline(always)]
unsafe fn sums_of_row<const N: usize>(
    row: *const f32,
    voxels: usize,
    stride: usize,
    pivot: &[f32],
) -> ([f32; LANES], [f32; LANES]) {
    let mut pivots = [0f32; N];
    pivots.copy_from_slice(&pivot[..N]);
    let (mut sum, mut squares) = ([[0f32; N]; 2], [[0f32; N]; 2]);
    for pair in 0..voxels / 2 {
        for half in 0..2 {
            // SAFETY: the voxel exists; the caller vouches for its channels.
            let values = unsafe { row.add((2 * pair + half) * stride).cast::<[f32; N]>().read_unaligned() };
            for c in 0..N {
                let d = values[c] - pivots[c];
                sum[half][c] += d;
                squares[half][c] += d * d;
            }
        }
    }
    if voxels % 2 == 1 {
        // SAFETY: the last voxel exists; the caller vouches for its channels.
        let values = unsafe { row.add((voxels - 1) * stride).cast::<[f32; N]>().read_unaligned() };
        for c in 0..N {
            let d = values[c] - pivots[c];
            sum[0][c] += d;
            squares[0][c] += d * d;
        }
    }
    let (mut s, mut q) = ([0f32; LANES], [0f32; LANES]);
    for c in 0..N {
        s[c] = sum[0][c] + sum[1][c];
        q[c] = squares[0][c] + squares[1][c];
    }
    (s, q)
}
