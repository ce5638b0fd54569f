//! The scanner's noise: Gaussian, correlated in plane, a function of seed and voxel alone.

/// Width (one deviation) in mm of the smoothing that gives the noise its grain.
const GRAIN: f64 = 0.55;
/// Values to the farther sides that smoothing reads at most.
const REACH: usize = 3;

/// Makes the noise of a slice.
pub struct Noise {
    seed: u64,
    /// Weights along x and along y, from the middle outwards; squares sum to 1.
    weights: [[f32; REACH + 1]; 2],
}

/// Space for the noise of one slice.
#[derive(Default)]
pub struct NoiseSlice {
    white: Vec<f32>,
    rows: Vec<f32>,
}

impl Noise {
    /// The noise of a seed for a spacing (x, y) in mm.
    pub fn new(seed: u64, spacing: [f64; 2]) -> Self {
        Self { seed, weights: spacing.map(weights) }
    }

    /// Fills `slice` with noise of deviation 1 and returns it; `size` is (x, y), `z` the slice's number.
    pub fn fill<'a>(&self, slice: &'a mut NoiseSlice, size: [usize; 2], z: usize) -> &'a [f32] {
        let [width, height] = size.map(|n| n + 2 * REACH);
        slice.white.resize(width * height, 0.0);
        slice.rows.resize(size[0] * height, 0.0);
        let stream = mixed(self.seed ^ mixed(z as u64));
        for (index, value) in slice.white.iter_mut().enumerate() {
            *value = gaussian(mixed(stream.wrapping_add(index as u64)));
        }
        let [along_x, along_y] = &self.weights;
        for (row, white) in slice.rows.chunks_mut(size[0]).zip(slice.white.chunks(width)) {
            for (x, value) in row.iter_mut().enumerate() {
                *value = smoothed(along_x, |step| white[x + step]);
            }
        }
        slice.white.resize(size[0] * size[1], 0.0);
        for (y, row) in slice.white.chunks_mut(size[0]).enumerate() {
            let lines: [&[f32]; 2 * REACH + 1] =
                std::array::from_fn(|step| &slice.rows[(y + step) * size[0]..][..size[0]]);
            for (x, value) in row.iter_mut().enumerate() {
                *value = smoothed(along_y, |step| lines[step][x]);
            }
        }
        &slice.white
    }
}

fn smoothed(weights: &[f32; REACH + 1], value: impl Fn(usize) -> f32) -> f32 {
    (1..=REACH)
        .fold(weights[0] * value(REACH), |sum, d| sum + weights[d] * (value(REACH - d) + value(REACH + d)))
}

fn weights(spacing: f64) -> [f32; REACH + 1] {
    let raw: [f64; REACH + 1] = std::array::from_fn(|d| (-0.5 * (d as f64 * spacing / GRAIN).powi(2)).exp());
    let square = 2.0 * raw.iter().map(|w| w * w).sum::<f64>() - raw[0] * raw[0];
    raw.map(|w| (w / square.sqrt()) as f32)
}

/// Well mixed bits (the finaliser of SplitMix64).
fn mixed(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A nearly Gaussian number of deviation 1 from 64 random bits: the sum of four uniform ones.
fn gaussian(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|k| (bits >> (16 * k)) as u32 & 0xffff).sum();
    (sum as f32 - 131_070.0) * (3.0_f32.sqrt() / 65_536.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn the_deviation_is_1_at_any_spacing() {
        for spacing in [[0.6, 0.6], [0.9, 0.7], [4.0, 4.0]] {
            let mut slice = NoiseSlice::default();
            let (mean, deviation) = moments(Noise::new(1, spacing).fill(&mut slice, [200, 300], 5));
            assert!(mean.abs() < 0.03 && (deviation - 1.0).abs() < 0.02, "{spacing:?}: {mean} {deviation}");
        }
    }

    #[test]
    fn neighbours_are_correlated_in_plane_only() {
        let noise = Noise::new(3, [0.7, 0.7]);
        let [mut one, mut two] = [NoiseSlice::default(), NoiseSlice::default()];
        let (a, b) = (noise.fill(&mut one, [256, 256], 0), noise.fill(&mut two, [256, 256], 1));
        let product =
            |a: &[f32], b: &[f32]| moments(&a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>()).0;
        assert!(product(&a[1..], a) > 0.4);
        assert!(product(&a[256..], a) > 0.4);
        assert!(product(a, b).abs() < 0.02);
    }
}
