//! Reading a stored activation (scale, shift, leaky ReLU) and the statistics from which scale and shift come.

use crate::ops::value::Activation;

/// Shortest run of floats worth a vector loop; shorter channel vectors are repeated up to it.
const RUN: usize = 64;

/// Scale, shift and slope of a value, repeated to a length that vector loops like.
pub(in crate::ops) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
    slope: f32,
    identity: bool,
}

impl Affine {
    /// What has to be done to the raw values of `value` when they are read.
    pub fn of(value: &Activation<'_>) -> Self {
        let slope = value.operand.negative_slope;
        let repeat = RUN.div_ceil(value.scale.len());
        let identity =
            slope == 1.0 && value.scale.iter().all(|&s| s == 1.0) && value.shift.iter().all(|&s| s == 0.0);
        Self { scale: value.scale.repeat(repeat), shift: value.shift.repeat(repeat), slope, identity }
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
}

/// Per-channel count, mean and sum of squared deviations, mergeable (Chan, Golub, LeVeque 1983).
#[derive(Clone)]
pub(in crate::ops) struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// No sample yet, for `channels` channels.
    pub fn empty(channels: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Moments of the voxels in `values`, (voxels, channels).
    ///
    /// Deviations are taken from the first voxel, so that nothing cancels where the mean is large.
    #[inline(always)]
    pub fn of(values: &[f32], channels: usize) -> Self {
        let period = channels * RUN.div_ceil(channels);
        let pivot = values[..channels].repeat(period / channels);
        let mut sum = vec![0f32; period];
        let mut square = vec![0f32; period];
        let mut moments = Self { count: (values.len() / channels) as f64, ..Self::empty(channels) };
        // A few hundred additions in f32, then on in f64.
        for stretch in values.chunks(period * 64) {
            sum.fill(0.0);
            square.fill(0.0);
            for chunk in stretch.chunks(period) {
                for (((&x, &p), s), q) in chunk.iter().zip(&pivot).zip(&mut sum).zip(&mut square) {
                    let d = x - p;
                    *s += d;
                    *q += d * d;
                }
            }
            for (i, (&s, &q)) in sum.iter().zip(&square).enumerate() {
                moments.mean[i % channels] += f64::from(s);
                moments.squares[i % channels] += f64::from(q);
            }
        }
        for ((mean, squares), &pivot) in moments.mean.iter_mut().zip(&mut moments.squares).zip(&pivot) {
            let sum = *mean;
            *mean = sum / moments.count;
            *squares -= *mean * sum;
            *mean += f64::from(pivot);
        }
        moments
    }

    /// Moments of both samples together.
    pub fn merge(mut self, other: &Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        for c in 0..self.mean.len() {
            let delta = other.mean[c] - self.mean[c];
            self.mean[c] += delta * other.count / count;
            self.squares[c] += other.squares[c] + delta * delta * self.count * other.count / count;
        }
        self.count = count;
        self
    }

    /// Mean and biased variance of a channel.
    pub fn mean_and_variance(&self, channel: usize) -> (f64, f64) {
        (self.mean[channel], (self.squares[channel] / self.count).max(0.0))
    }
}
