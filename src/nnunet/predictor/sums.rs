//! Sums of weighted logits, over the planes that tiles still add to.

use super::PredictError;
use super::fold_mean::HalfMean;
use super::tiles::with_values;
use crate::imaging::memory::bytes;
use crate::nnunet::sliding_window::{Accumulate, Tiling};
use crate::ops::{CountTile, DiscardFront, DivideByWeights};
use candle_core::{DType, Device, Result, Tensor};
use ndarray::ArrayView4;
use std::ops::Range;

/// Takes logits as they become final, which they do plane by plane (along z).
pub(in crate::nnunet) trait LogitReader {
    /// Bytes that it takes with the first planes.
    fn bytes(&self) -> u128;

    /// The first plane that is still wanted once all planes before `end` have been taken.
    fn needed_from(&self, end: usize) -> usize;

    /// Takes planes (z, y, x, heads) from plane `first` on, of which those that were still wanted have been here before.
    fn take(&mut self, first: usize, planes: ArrayView4<'_, f32>);
}

/// Tiles after which more planes are final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Band {
    /// Which tiles.
    pub tiles: Range<usize>,
    /// First plane that a tile starts at.
    start: usize,
    /// One past the last plane that a tile reaches.
    stop: usize,
    /// Planes before this one are final after these tiles.
    pub end: usize,
}

/// The tiles of each distance along z, if there is one fold. Several folds are one band: each goes over all tiles, so that
/// its weights are loaded once.
pub(super) fn bands(tiling: &Tiling, patch_depth: usize, folds: usize) -> Vec<Band> {
    let depth = tiling.image[0];
    let mut bands: Vec<Band> = Vec::new();
    let mut first = 0;
    for tiles in tiling.starts.chunk_by(|a, b| folds > 1 || a[0] == b[0]) {
        let reach = |start: &[isize; 3]| (start[0] + patch_depth as isize).clamp(0, depth as isize) as usize;
        let start = tiles[0][0].max(0) as usize;
        if let Some(before) = bands.last_mut() {
            before.end = start;
        }
        let stop = reach(&tiles[tiles.len() - 1]);
        bands.push(Band { tiles: first..first + tiles.len(), start, stop, end: depth });
        first += tiles.len();
    }
    bands
}

/// Planes whose weights are summed up at a time, where they are not kept.
const COUNTED_PLANES: usize = 8;

/// The tiles that are summed up, and the weight of each of their voxels.
pub(super) struct Weighting<'a> {
    pub tiling: &'a Tiling,
    pub patch: [usize; 3],
    /// (z, y, x) flattened.
    pub weights: Tensor,
}

impl Weighting<'_> {
    /// Sums of the weights over some planes of the image, (z, y, x) flattened; each addition is rounded to `dtype`.
    fn sums(&self, planes: &Range<usize>, dtype: DType) -> Result<Tensor> {
        let [_, height, width] = self.tiling.image;
        let image_dims = [planes.len(), height, width];
        let sums = Tensor::zeros(image_dims.iter().product::<usize>(), dtype, &Device::Cpu)?;
        for &[z, y, x] in &self.tiling.starts {
            let start = [z - planes.start as isize, y, x];
            sums.inplace_op2(&self.weights, &CountTile { image_dims, start, tile: self.patch })?;
        }
        Ok(sums)
    }
}

/// Sums of logits over some planes of an image: those that tiles add to, and those before them that a reader still needs. The
/// sums of their weights are made when planes are final.
pub(super) struct Sums<'a> {
    weighting: Weighting<'a>,
    accumulate: Accumulate,
    folds: usize,
    /// Grid of the planes here (z, y, x).
    dims: [usize; 3],
    heads: usize,
    /// Plane of the image that is the first here.
    first: usize,
    /// Planes of the image before this one are final.
    done: usize,
    /// (z, y, x, heads) flattened; final planes are means already, if sums are float32.
    logits: Tensor,
    /// Of float16 sums.
    halves: HalfMean,
    /// Means of the final planes, from the first on, if sums are float16.
    means: Vec<f32>,
}

impl<'a> Sums<'a> {
    /// Planes that have to be in memory at once.
    pub fn planes(bands: &[Band], reader: &dyn LogitReader) -> usize {
        let before = [0].into_iter().chain(bands.iter().map(|b| b.end));
        bands.iter().zip(before).map(|(band, end)| band.stop - reader.needed_from(end)).max().unwrap_or(0)
    }

    /// Bytes of sums of this many heads over a grid (z, y, x).
    pub fn bytes(dims: [usize; 3], heads: usize, accumulate: Accumulate) -> u128 {
        let per_voxel = match accumulate {
            Accumulate::Float32 => size_of::<f32>() * heads,
            // Sums and weights, the sum over folds, and its mean as float32.
            Accumulate::Float16 => 2 * (heads + 1) + 2 * heads + size_of::<f32>() * heads,
        };
        bytes(&dims, per_voxel)
    }

    /// Nothing is summed yet; `dims` is the grid (z, y, x) of the planes at once in memory.
    pub fn new(
        weighting: Weighting<'a>,
        dims: [usize; 3],
        heads: usize,
        folds: usize,
        accumulate: Accumulate,
    ) -> Result<Self> {
        let dtype = match accumulate {
            Accumulate::Float32 => DType::F32,
            Accumulate::Float16 => DType::F16,
        };
        let logits = Tensor::zeros(dims.iter().product::<usize>() * heads, dtype, &Device::Cpu)?;
        let (halves, means) = (HalfMean::new(folds), Vec::new());
        Ok(Self { weighting, accumulate, folds, dims, heads, first: 0, done: 0, logits, halves, means })
    }

    /// Grid (z, y, x) of the sums.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// The sums of logits, (z, y, x, heads) flattened.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Where a tile that starts at a voxel of the image starts in the sums.
    pub fn place(&self, [z, y, x]: [isize; 3]) -> [isize; 3] {
        [z - self.first as isize, y, x]
    }

    /// Weight of every voxel of a tile, (z, y, x) flattened.
    pub fn weights(&self) -> &Tensor {
        &self.weighting.weights
    }

    /// Ends a fold, after whose tiles all planes before `end` are final.
    pub fn end_fold(&mut self, end: usize) -> std::result::Result<(), PredictError> {
        if self.accumulate == Accumulate::Float16 {
            let planes = self.done..end;
            let (logits, weights) = (self.sums_of(&planes)?, self.weighting.sums(&planes, DType::F16)?);
            with_values(&logits, |logits| {
                with_values(&weights, |weights| self.halves.add(logits, weights))
            })???;
            if self.folds > 1 {
                self.logits.zero_set()?;
            }
        }
        Ok(())
    }

    /// Hands all planes before `end`, which are final, to `reader`, and forgets those that it does not need any more.
    pub fn hand_over(&mut self, end: usize, reader: &mut dyn LogitReader) -> Result<()> {
        match self.accumulate {
            Accumulate::Float32 => {
                for start in (self.done..end).step_by(COUNTED_PLANES) {
                    let planes = start..(start + COUNTED_PLANES).min(end);
                    let weights = self.weighting.sums(&planes, DType::F32)?;
                    let divide = DivideByWeights { predictions: self.folds };
                    self.sums_of(&planes)?.inplace_op2(&weights, &divide)?;
                }
                let means = self.sums_of(&(self.first..end))?;
                with_values(&means, |means| self.show(end, means, reader))??;
            }
            Accumulate::Float16 => {
                self.halves.mean_into(&mut self.means);
                self.show(end, &self.means, reader)?;
            }
        }
        self.done = end;
        if end < self.weighting.tiling.image[0] { self.forget(reader.needed_from(end)) } else { Ok(()) }
    }

    fn show(&self, end: usize, values: &[f32], reader: &mut dyn LogitReader) -> Result<()> {
        let [_, height, width] = self.dims;
        let shape = (end - self.first, height, width, self.heads);
        reader.take(self.first, ArrayView4::from_shape(shape, values).map_err(candle_core::Error::wrap)?);
        Ok(())
    }

    /// Makes `plane` of the image the first.
    fn forget(&mut self, plane: usize) -> Result<()> {
        let planes = plane - self.first;
        let [_, height, width] = self.dims;
        let voxels = planes * height * width;
        self.logits.inplace_op1(&DiscardFront { elements: voxels * self.heads })?;
        self.means.drain(..(voxels * self.heads).min(self.means.len()));
        self.first = plane;
        Ok(())
    }

    /// The sums of logits of some planes of the image.
    fn sums_of(&self, planes: &Range<usize>) -> Result<Tensor> {
        let [_, height, width] = self.dims;
        let plane = height * width * self.heads;
        self.logits.narrow(0, (planes.start - self.first) * plane, planes.len() * plane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nnunet::sliding_window::importance_map;
    use crate::ops::{AccumulateTile, ValueShape};
    use half::f16;
    use proptest::prelude::*;

    /// Needs so many planes before the ones that are to come.
    struct Behind(usize);

    impl LogitReader for Behind {
        fn bytes(&self) -> u128 {
            0
        }

        fn needed_from(&self, end: usize) -> usize {
            end.saturating_sub(self.0)
        }

        fn take(&mut self, _: usize, _: ArrayView4<'_, f32>) {}
    }

    /// Keeps all planes, and is content with those from some planes before the next.
    struct Keeping {
        behind: usize,
        next: usize,
        planes: Vec<f32>,
    }

    impl LogitReader for Keeping {
        fn bytes(&self) -> u128 {
            0
        }

        fn needed_from(&self, end: usize) -> usize {
            end.saturating_sub(self.behind)
        }

        fn take(&mut self, first: usize, planes: ArrayView4<'_, f32>) {
            assert_eq!(first, self.needed_from(self.next), "first plane that is still wanted");
            let again = self.next - first;
            let seen = planes.iter().copied().take(again * planes.len() / planes.dim().0);
            let kept = &self.planes[first * planes.len() / planes.dim().0..];
            assert!(seen.eq(kept.iter().copied()), "planes changed after they were final");
            self.planes.extend(planes.iter().skip(kept.len()));
            self.next = first + planes.dim().0;
        }
    }

    /// What a tile predicts: numbers that no two tiles, voxels, heads or folds share.
    fn prediction(fold: usize, tile: usize, i: usize) -> f32 {
        ((fold * 7919 + tile * 104_729 + i * 31) as f32 * 0.618).sin() * 8.0
    }

    /// Means of all tiles and folds from sums over the whole image.
    fn naive(
        tiling: &Tiling,
        patch: [usize; 3],
        heads: usize,
        folds: usize,
        accumulate: Accumulate,
    ) -> Vec<f32> {
        let map = importance_map(patch, accumulate);
        let round = |v: f32| if accumulate == Accumulate::Float16 { f16::from_f32(v).to_f32() } else { v };
        let voxels: usize = tiling.image.iter().product();
        let mut mean = vec![0f32; voxels * heads];
        let mut sums = vec![0f32; voxels * heads];
        let mut weights = vec![0f32; voxels];
        for fold in 0..folds {
            if accumulate == Accumulate::Float16 {
                sums.fill(0.0);
            }
            for (tile, start) in tiling.starts.iter().enumerate() {
                for (voxel, &weight) in map.iter().enumerate() {
                    let at = [voxel / patch[2] / patch[1], voxel / patch[2] % patch[1], voxel % patch[2]];
                    let at: [isize; 3] = std::array::from_fn(|a| at[a] as isize + start[a]);
                    if (0..3).any(|a| at[a] < 0 || at[a] >= tiling.image[a] as isize) {
                        continue;
                    }
                    let [z, y, x] = at.map(|i| i as usize);
                    let to = (z * tiling.image[1] + y) * tiling.image[2] + x;
                    for head in 0..heads {
                        let sum = &mut sums[to * heads + head];
                        *sum = round(*sum + prediction(fold, tile, voxel * heads + head) * weight);
                    }
                    weights[to] = if fold == 0 { round(weights[to] + weight) } else { weights[to] };
                }
            }
            for (i, (mean, &sum)) in mean.iter_mut().zip(&sums).enumerate() {
                *mean = match (accumulate, fold) {
                    (Accumulate::Float32, _) => sum / (weights[i / heads] * folds as f32),
                    (Accumulate::Float16, 0) => round(sum / weights[i / heads]),
                    (Accumulate::Float16, _) => round(*mean + round(sum / weights[i / heads])),
                };
            }
        }
        if accumulate == Accumulate::Float16 && folds > 1 {
            mean.iter_mut().for_each(|v| *v = round(*v / folds as f32));
        }
        mean
    }

    proptest! {
        #[test]
        fn planes_are_handed_over_once_they_are_final(
            image in (1..24_usize, 1..6_usize, 1..6_usize),
            patch in (1..9_usize, 1..5_usize, 1..5_usize),
            step in prop_oneof![Just(0.1), Just(0.5), Just(0.75), Just(1.0)],
            heads in 1..3_usize,
            folds in 1..4_usize,
            behind in prop_oneof![0..3_usize, Just(99)],
            half: bool,
        ) {
            let accumulate = if half { Accumulate::Float16 } else { Accumulate::Float32 };
            let (image, patch): ([usize; 3], [usize; 3]) = (image.into(), patch.into());
            let tiling = Tiling::new(image, patch, step);
            let bands = bands(&tiling, patch[0], folds);
            let mut reader = Keeping { behind, next: 0, planes: Vec::new() };
            let kept = [Sums::planes(&bands, &reader), image[1], image[2]];
            let tile = ValueShape { dims: patch, channels: heads };
            let weights = Tensor::new(importance_map(patch, accumulate), &Device::Cpu).unwrap();
            let weighting = Weighting { tiling: &tiling, patch, weights };
            let mut sums = Sums::new(weighting, kept, heads, folds, accumulate).unwrap();
            for fold in 0..folds {
                for band in &bands {
                    for number in band.tiles.clone() {
                        let start = tiling.starts[number];
                        let values: Vec<f32> = (0..tile.data_len()).map(|i| prediction(fold, number, i)).collect();
                        let values = Tensor::new(values, &Device::Cpu).unwrap();
                        let (image_dims, start_here) = (sums.dims(), sums.place(start));
                        let add = AccumulateTile { image_dims, start: start_here, tile, predictions: 1 };
                        sums.logits().inplace_op3(&values, sums.weights(), &add).unwrap();
                    }
                    sums.end_fold(band.end).unwrap();
                    if fold + 1 == folds {
                        sums.hand_over(band.end, &mut reader).unwrap();
                    }
                }
            }
            let expected = naive(&tiling, patch, heads, folds, accumulate);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&reader.planes), bits(&expected));
        }
    }

    #[test]
    fn bands_end_where_the_next_begins() {
        let tiling = Tiling::new([20, 9, 9], [8, 8, 8], 0.5);
        let starts: Vec<usize> = bands(&tiling, 8, 1).iter().map(|b| b.start).collect();
        assert_eq!(starts, [0, 4, 8, 12]);
        let ends: Vec<usize> = bands(&tiling, 8, 1).iter().map(|b| b.end).collect();
        assert_eq!(ends, [4, 8, 12, 20]);
        let all = Band { tiles: 0..16, start: 0, stop: 20, end: 20 };
        assert_eq!(bands(&tiling, 8, 2), [all]);
    }

    #[test]
    fn an_image_smaller_than_the_patch_is_one_band() {
        let tiling = Tiling::new([5, 9, 9], [8, 8, 8], 0.5);
        assert_eq!(bands(&tiling, 8, 1), [Band { tiles: 0..4, start: 0, stop: 5, end: 5 }]);
    }

    #[test]
    fn as_many_planes_are_kept_as_a_patch_has_and_a_reader_needs() {
        let tiling = Tiling::new([20, 9, 9], [8, 8, 8], 0.5);
        assert_eq!(Sums::planes(&bands(&tiling, 8, 1), &Behind(0)), 8);
        assert_eq!(Sums::planes(&bands(&tiling, 8, 1), &Behind(1)), 9);
        assert_eq!(Sums::planes(&bands(&tiling, 8, 1), &Behind(99)), 20);
        assert_eq!(Sums::planes(&bands(&tiling, 8, 2), &Behind(0)), 20);
    }
}
