//! Reading a stored activation (scale, shift, leaky ReLU) and the statistics from which scale and shift come.

#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::ops::value::Activation;
use std::ops::Range;

/// Floats that are computed together.
const LANES: usize = 16;
/// Floats between what is computed and what is asked for ahead of time: processors read ahead by themselves too, but not
/// from one page of memory to the next.
const AHEAD: usize = 2048;
/// Shortest run of floats worth a loop over vectors; shorter channel vectors are repeated beyond it.
const RUN: usize = 64;

/// Asks for the cache line [`AHEAD`] of a vector, wherever that is.
#[inline(always)]
fn read_ahead(vector: &[f32; LANES]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 processor has the instruction, which never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(vector.as_ptr().wrapping_add(AHEAD).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (vector, AHEAD);
}

/// Scale, shift and slope of a value, repeated to whole vectors.
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
        for (to, from) in [(&mut self.scale, value.scale), (&mut self.shift, value.shift)] {
            to.clear();
            while to.len() < RUN || !to.len().is_multiple_of(LANES) {
                to.extend_from_slice(from);
            }
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
        let (scales, shifts) = (self.scale.as_chunks::<LANES>().0, self.shift.as_chunks::<LANES>().0);
        for (raw, out) in raw.chunks(period).zip(out.chunks_mut(period)) {
            let (vectors, rest) = raw.as_chunks::<LANES>();
            let (out, out_rest) = out.as_chunks_mut::<LANES>();
            for (((raw, out), scale), shift) in vectors.iter().zip(out).zip(scales).zip(shifts) {
                read_ahead(raw);
                *out = self.activated(raw, scale, shift);
            }
            let first = raw.len() - rest.len();
            for (((&raw, out), &scale), &shift) in
                rest.iter().zip(out_rest).zip(&self.scale[first..]).zip(&self.shift[first..])
            {
                [*out] = self.activated(&[raw], &[scale], &[shift]);
            }
        }
    }

    #[inline(always)]
    fn activated<const N: usize>(&self, raw: &[f32; N], scale: &[f32; N], shift: &[f32; N]) -> [f32; N] {
        let mut out = [0.0; N];
        for i in 0..N {
            let y = raw[i] * scale[i] + shift[i];
            out[i] = if y >= 0.0 { y } else { y * self.slope };
        }
        out
    }

    /// [`Self::apply`] to the part `there` of `out`, and zeros around it.
    #[inline(always)]
    pub fn apply_padded(&self, raw: &[f32], there: Range<usize>, out: &mut [f32]) {
        out[..there.start].fill(0.0);
        out[there.end..].fill(0.0);
        self.apply(raw, &mut out[there]);
    }

    /// As [`Self::apply_padded`], in bfloat16: rounded if there is one `part`, else the upper numbers in the first and
    /// the lower ones in the second.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn apply_halves<const PARTS: usize>(
        &self,
        raw: &[f32],
        there: Range<usize>,
        mut parts: [&mut [u16]; PARTS],
    ) {
        for part in &mut parts {
            part[..there.start].fill(0);
            part[there.end..].fill(0);
        }
        let period = self.scale.len();
        let (scales, shifts) = (self.scale.as_chunks::<LANES>().0, self.shift.as_chunks::<LANES>().0);
        for (i, raw) in raw.chunks(period).enumerate() {
            let at = there.start + i * period;
            let (vectors, rest) = raw.as_chunks::<LANES>();
            for (i, ((raw, scale), shift)) in vectors.iter().zip(scales).zip(shifts).enumerate() {
                read_ahead(raw);
                let at = at + i * LANES;
                let halves = amx::halves::<PARTS, LANES>(self.activated(raw, scale, shift));
                for p in 0..PARTS {
                    parts[p][at..at + LANES].copy_from_slice(&halves[p]);
                }
            }
            let first = raw.len() - rest.len();
            for (i, &raw) in (first..).zip(rest) {
                let halves =
                    amx::halves::<PARTS, 1>(self.activated(&[raw], &[self.scale[i]], &[self.shift[i]]));
                for p in 0..PARTS {
                    parts[p][at + i] = halves[p][0];
                }
            }
        }
    }
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
