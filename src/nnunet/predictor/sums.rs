//! Sums of weighted logits, over the planes that tiles still add to.

use super::PredictError;
use super::fold_mean::HalfMean;
use super::tiles::with_values;
use crate::imaging::memory::bytes;
use crate::nnunet::sliding_window::{Accumulate, Tiling};
use crate::ops::{AccumulateTile, DiscardFront, DivideByWeights, ValueShape};
use candle_core::{DType, Device, Result, Tensor};
use ndarray::ArrayView4;
use std::ops::Range;

/// Takes logits as they become final, which they do plane by plane (along z).
pub(in crate::nnunet) trait LogitReader {
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

/// Sums of logits and of weights over some planes of an image: those that tiles add to, and those before them that a
/// reader still needs.
pub(super) struct Sums {
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
    /// (z, y, x) flattened.
    weights: Tensor,
    /// Of float16 sums.
    halves: HalfMean,
    /// Means of the final planes, from the first on, if sums are float16.
    means: Vec<f32>,
}

impl Sums {
    /// Planes that have to be in memory at once.
    pub fn planes(bands: &[Band], reader: &dyn LogitReader) -> usize {
        let before = [0].into_iter().chain(bands.iter().map(|b| b.end));
        bands.iter().zip(before).map(|(band, end)| band.stop - reader.needed_from(end)).max().unwrap_or(0)
    }

    /// Bytes of sums of this many heads over a grid (z, y, x).
    pub fn bytes(dims: [usize; 3], heads: usize, accumulate: Accumulate) -> u128 {
        let per_voxel = match accumulate {
            Accumulate::Float32 => size_of::<f32>() * (heads + 1),
            // Sums and weights, the sum over folds, and its mean as float32.
            Accumulate::Float16 => 2 * (heads + 1) + 2 * heads + size_of::<f32>() * heads,
        };
        bytes(&dims, per_voxel)
    }

    /// Nothing is summed yet; `dims` is the grid (z, y, x) of the planes at once in memory.
    pub fn new(dims: [usize; 3], heads: usize, folds: usize, accumulate: Accumulate) -> Result<Self> {
        let dtype = match accumulate {
            Accumulate::Float32 => DType::F32,
            Accumulate::Float16 => DType::F16,
        };
        let voxels: usize = dims.iter().product();
        let zeros = |len| Tensor::zeros(len, dtype, &Device::Cpu);
        let (logits, weights) = (zeros(voxels * heads)?, zeros(voxels)?);
        let (halves, means) = (HalfMean::new(folds), Vec::new());
        Ok(Self { accumulate, folds, dims, heads, first: 0, done: 0, logits, weights, halves, means })
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

    /// Counts the weights of a tile, (z, y, x) flattened, that starts at a voxel of the image.
    pub fn count(&self, start: [isize; 3], tile: [usize; 3], ones: &Tensor, weights: &Tensor) -> Result<()> {
        let (tile, start) = (ValueShape { dims: tile, channels: 1 }, self.place(start));
        let count = AccumulateTile { image_dims: self.dims, start, tile, predictions: 1 };
        self.weights.inplace_op3(ones, weights, &count)
    }

    /// Ends a fold, after whose tiles all planes before `end` are final.
    pub fn end_fold(&mut self, end: usize) -> std::result::Result<(), PredictError> {
        if self.accumulate == Accumulate::Float16 {
            let [logits, weights] = self.planes_of_both(self.done..end)?;
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
                let [logits, weights] = self.planes_of_both(self.done..end)?;
                logits.inplace_op2(&weights, &DivideByWeights { predictions: self.folds })?;
                let [means, _] = self.planes_of_both(self.first..end)?;
                with_values(&means, |means| self.show(end, means, reader))??;
            }
            Accumulate::Float16 => {
                self.halves.mean_into(&mut self.means);
                self.show(end, &self.means, reader)?;
            }
        }
        self.done = end;
        self.forget(reader.needed_from(end))
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
        self.weights.inplace_op1(&DiscardFront { elements: voxels })?;
        self.means.drain(..(voxels * self.heads).min(self.means.len()));
        self.first = plane;
        Ok(())
    }

    /// The sums of logits and of weights of some planes of the image.
    fn planes_of_both(&self, planes: Range<usize>) -> Result<[Tensor; 2]> {
        let [_, height, width] = self.dims;
        let plane = height * width;
        let of = |sums: &Tensor, channels| {
            sums.narrow(0, (planes.start - self.first) * plane * channels, planes.len() * plane * channels)
        };
        Ok([of(&self.logits, self.heads)?, of(&self.weights, 1)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs so many planes before the ones that are to come.
    struct Behind(usize);

    impl LogitReader for Behind {
        fn needed_from(&self, end: usize) -> usize {
            end.saturating_sub(self.0)
        }

        fn take(&mut self, _: usize, _: ArrayView4<'_, f32>) {}
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
