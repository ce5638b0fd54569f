//! Where tiles lie, how their predictions are weighted, and in which directions they are mirrored.
//!
//! Source: nnU-Net v2, `sliding_window_prediction.py` (`compute_gaussian`, `compute_steps_for_sliding_window`) and
//! `predict_from_raw_data.py` (`_internal_maybe_mirror_and_predict`, `pad_nd_image`).

use super::resampling::round_half_even;
use crate::ops::Mirroring;
use half::f16;

/// Arithmetic of the weights and of the sums over tiles and folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulate {
    /// float32 throughout.
    #[default]
    Float32,
    /// Rounded to float16 after every addition, as nnU-Net does; near the image's edges, where weights are tiny, its
    /// logits are visibly quantised.
    Float16,
}

/// Weight of every voxel of a tile, (z, y, x) flattened: a separable Gaussian of sigma = patch / 8 centred at
/// patch / 2 with peak 10, cut off at 4 sigma, zeros replaced by the smallest positive weight.
///
/// With [`Accumulate::Float16`] the weights are float16 values.
pub fn importance_map(patch: [usize; 3], accumulate: Accumulate) -> Vec<f32> {
    let lines = patch.map(|n| {
        let sigma = n as f64 / 8.0;
        let radius = (4.0 * sigma + 0.5) as usize;
        let weight = move |i: usize| {
            let distance = i.abs_diff(n / 2);
            let t = distance as f64 / sigma;
            if distance <= radius { (-0.5 * t * t).exp() } else { 0.0 }
        };
        (0..n).map(weight).collect::<Vec<f64>>()
    });
    // torch rounds float64 to float32 first; going to float16 at once gives another last bit here and there.
    let round = |v: f64| match accumulate {
        Accumulate::Float32 => v as f32,
        Accumulate::Float16 => f16::from_f32(v as f32).to_f32(),
    };
    let [z, y, x] = &lines;
    let mut map: Vec<f32> = z
        .iter()
        .flat_map(|a| y.iter().flat_map(move |b| x.iter().map(move |c| round(a * b * c * 10.0))))
        .collect();
    let smallest = map.iter().copied().filter(|&w| w > 0.0).fold(f32::INFINITY, f32::min);
    map.iter_mut().filter(|w| **w == 0.0).for_each(|w| *w = smallest);
    map
}

/// First voxels of the tiles along each axis of an image at least as large as the patch.
pub fn tile_starts(size: [usize; 3], patch: [usize; 3], step: f64) -> [Vec<usize>; 3] {
    std::array::from_fn(|a| {
        let room = (size[a] - patch[a]) as f64;
        let count = (room / (patch[a] as f64 * step)).ceil() as usize + 1;
        let distance = if count > 1 { room / (count - 1) as f64 } else { 0.0 };
        (0..count).map(|i| round_half_even(distance * i as f64)).collect()
    })
}

/// The mirrored copies of a tile whose predictions are averaged: none first, then every combination of `axes`.
pub fn mirrorings(axes: &[usize]) -> Vec<Mirroring> {
    let mut all: Vec<Mirroring> = (0..1usize << axes.len())
        .map(|set| {
            std::array::from_fn(|a| axes.iter().position(|&b| a == b).is_some_and(|i| set >> i & 1 == 1))
        })
        .collect();
    all.sort_by_key(|m| m.iter().filter(|&&flipped| flipped).count());
    all
}

/// Tiles over an image, which may be smaller than the patch along any axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiling {
    /// Grid of the image (z, y, x).
    pub image: [usize; 3],
    /// First voxel of every tile in the image, z outermost; negative where the image is smaller than the patch.
    pub starts: Vec<[isize; 3]>,
}

impl Tiling {
    /// The tiles of nnU-Net: the image is padded with zeros to the patch (the odd voxel at the far end) and covered
    /// with tiles at most `step` patches apart.
    pub fn new(image: [usize; 3], patch: [usize; 3], step: f64) -> Self {
        let padded = std::array::from_fn(|a| image[a].max(patch[a]));
        let below: [usize; 3] = std::array::from_fn(|a| (padded[a] - image[a]) / 2);
        let [z, y, x] = tile_starts(padded, patch, step);
        let mut starts = Vec::with_capacity(z.len() * y.len() * x.len());
        for &z in &z {
            for &y in &y {
                for &x in &x {
                    let start = [z, y, x];
                    starts.push(std::array::from_fn(|a| start[a] as isize - below[a] as isize));
                }
            }
        }
        Self { image, starts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrorings_start_plain_and_cover_every_combination() {
        assert_eq!(mirrorings(&[]), [[false; 3]]);
        let all = mirrorings(&[0, 2]);
        assert_eq!(all[0], [false; 3]);
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|m| !m[1]));
        assert_eq!(all[3], [true, false, true]);
    }

    /// Sums over `compute_gaussian(patch, 1/8, 10, torch.half)` of (index + 1) · bits, nnunetv2 2.8.1, torch 2.15.
    #[test]
    fn half_precision_weights_are_nnunets_to_the_bit() {
        let table = [
            ([24, 48, 48], 11_668_610_495_279_u64),
            ([9, 15, 33], 73_751_064_392),
            ([28, 256, 256], 12_793_435_840_342_433),
        ];
        for (patch, expected) in table {
            let map = importance_map(patch, Accumulate::Float16);
            let sum: u64 = (1..).zip(&map).map(|(i, &w)| i * u64::from(f16::from_f32(w).to_bits())).sum();
            assert_eq!(sum, expected, "patch {patch:?}");
        }
    }

    #[test]
    fn a_small_image_is_centred_in_its_only_tile_with_the_odd_voxel_behind() {
        let tiling = Tiling::new([5, 8, 12], [8, 8, 16], 0.5);
        assert_eq!(tiling.starts, [[-1, 0, -2]]);
    }

    #[test]
    fn tiles_are_spread_evenly_with_ties_to_even() {
        // (110 - 64) / 2 steps = 23; (301 - 128) / 3 = 57.67
        assert_eq!(
            tile_starts([110, 64, 301], [64, 64, 128], 0.5),
            [vec![0, 23, 46], vec![0], vec![0, 58, 115, 173]]
        );
        // 5 / 2 = 2.5 goes to 2
        assert_eq!(tile_starts([9, 4, 4], [4, 4, 4], 0.7)[0], [0, 2, 5]);
    }
}
