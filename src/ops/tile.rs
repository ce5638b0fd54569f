//! Moving tiles between the image, the network and the accumulator.

use super::value::{ValueShape, floats, floats_mut};
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, bail};
use half::f16;
use rayon::prelude::*;
use std::ops::Range;

/// Which axes (z, y, x) of a tile are mirrored.
pub type Mirroring = [bool; 3];

/// Copies a tile of the image, mirrored, into the network's input: `input.inplace_op2(&image, &op)`.
///
/// The image is (channels, D, H, W); where the tile reaches beyond it the input is zero, as nnU-Net pads images
/// smaller than the patch.
pub struct GatherTile {
    /// Grid of the image.
    pub image_dims: [usize; 3],
    /// First voxel of the tile in the image; may be negative.
    pub start: [isize; 3],
    /// Shape of the network's input.
    pub tile: ValueShape,
    /// Axes to mirror.
    pub mirroring: Mirroring,
}

/// The part of a tile along one axis that lies inside the image: tile indices.
fn inside(start: isize, tile: usize, image: usize) -> Range<usize> {
    let from = (-start).clamp(0, tile as isize) as usize;
    let to = (image as isize - start).clamp(from as isize, tile as isize) as usize;
    from..to
}

impl InplaceOp2 for GatherTile {
    fn name(&self) -> &'static str {
        "gather_tile"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        image: &CpuStorage,
        image_layout: &Layout,
    ) -> Result<()> {
        let op = "gather_tile";
        let image = floats(image, image_layout, op)?;
        let [depth, height, width] = self.image_dims;
        let channels = self.tile.channels;
        if image.len() != channels * depth * height * width {
            bail!("{op}: image holds {} floats, expected {channels} × {:?}", image.len(), self.image_dims);
        }
        let out = self.tile.view_mut(floats_mut(dst, layout, op)?, op)?;
        out.scale.fill(1.0);
        out.shift.fill(0.0);
        let [tile_z, tile_y, tile_x] = self.tile.dims;
        let columns = inside(self.start[2], tile_x, width);
        let lines = inside(self.start[1], tile_y, height);
        let planes = inside(self.start[0], tile_z, depth);
        let reflect = |axis: usize, i: usize, n: usize| if self.mirroring[axis] { n - 1 - i } else { i };
        out.raw.par_chunks_mut(tile_y * tile_x * channels).enumerate().for_each(|(tz, slice)| {
            slice.fill(0.0);
            let z = reflect(0, tz, tile_z);
            if !planes.contains(&z) || columns.is_empty() {
                return;
            }
            for y in lines.clone() {
                let row = &mut slice[reflect(1, y, tile_y) * tile_x * channels..][..tile_x * channels];
                for c in 0..channels {
                    let line = (c * depth + (z as isize + self.start[0]) as usize) * height
                        + (y as isize + self.start[1]) as usize;
                    let from = line * width + (columns.start as isize + self.start[2]) as usize;
                    for (x, &v) in columns.clone().zip(&image[from..from + columns.len()]) {
                        row[reflect(2, x, tile_x) * channels + c] = v;
                    }
                }
            }
        });
        Ok(())
    }
}

/// Adds a tile's mean prediction, weighted, to the accumulator of the whole image:
/// `accumulator.inplace_op3(&sum, &weights, &op)`.
///
/// The accumulator is a flat (D, H, W, classes) tensor, float32 or — rounded after every addition, as nnU-Net's
/// own is — float16; the weights are (D, H, W) of the tile.
pub struct AccumulateTile {
    /// Grid of the image.
    pub image_dims: [usize; 3],
    /// First voxel of the tile in the image; may be negative.
    pub start: [isize; 3],
    /// Grid and classes of the tile.
    pub tile: ValueShape,
    /// Number of predictions in the sum.
    pub predictions: usize,
}

/// An element of an accumulator.
pub(super) trait Sum: Send {
    /// Adds in the element's own precision.
    fn add(&mut self, value: f32);
}

impl Sum for f32 {
    fn add(&mut self, value: f32) {
        *self += value;
    }
}

impl Sum for f16 {
    fn add(&mut self, value: f32) {
        *self = Self::from_f32(self.to_f32() + value);
    }
}

/// A tile's place in an image.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    pub image_dims: [usize; 3],
    pub start: [isize; 3],
    /// Grid and channels of the tile.
    pub tile: ValueShape,
}

impl Placement {
    /// Calls `add` for every row of the tile inside the image: z and y in the tile, the columns inside (tile indices),
    /// and the accumulator's elements at those columns. Rows are shared among the threads.
    pub fn for_each_row<T: Send>(
        &self,
        total: &mut [T],
        add: impl Fn(usize, usize, Range<usize>, &mut [T]) + Sync,
    ) {
        let [planes, lines, columns] =
            std::array::from_fn(|a| inside(self.start[a], self.tile.dims[a], self.image_dims[a]));
        if planes.is_empty() || lines.is_empty() || columns.is_empty() {
            return;
        }
        let at = |axis: usize, i: usize| (i as isize + self.start[axis]) as usize;
        let [_, height, width] = self.image_dims;
        let row_len = width * self.tile.channels;
        let first_row = at(0, planes.start) * height;
        let covered = &mut total[first_row * row_len..][..planes.len() * height * row_len];
        covered.par_chunks_mut(row_len).enumerate().with_min_len(4).for_each(|(i, row)| {
            let y = (i % height) as isize - self.start[1];
            if y >= lines.start as isize && y < lines.end as isize {
                let from = at(2, columns.start) * self.tile.channels;
                let covered = &mut row[from..from + columns.len() * self.tile.channels];
                add(planes.start + i / height, y as usize, columns.clone(), covered);
            }
        });
    }
}

/// Adds a row of sums over `predictions` predictions, as weighted means, to the accumulator's elements `row` at `columns`
/// of it. `sums` are (x, channel) and `weights` (x) of the whole row of the tile.
pub(super) fn add_weighted<T: Sum>(
    row: &mut [T],
    sums: &[f32],
    weights: &[f32],
    columns: Range<usize>,
    predictions: usize,
) {
    let channels = row.len() / columns.len();
    let n = predictions as f32;
    let sums = sums[columns.start * channels..].chunks_exact(channels);
    for ((to, from), &w) in row.chunks_exact_mut(channels).zip(sums).zip(&weights[columns]) {
        for (t, &s) in to.iter_mut().zip(from) {
            t.add(s / n * w);
        }
    }
}

/// Refuses an accumulator that is not `channels` contiguous elements for every voxel of the image.
pub(super) fn check_accumulator(
    layout: &Layout,
    image_dims: [usize; 3],
    channels: usize,
    op: &str,
) -> Result<()> {
    let expected = image_dims.iter().product::<usize>() * channels;
    if layout.shape().elem_count() != expected || !layout.is_contiguous() || layout.start_offset() != 0 {
        bail!("{op}: accumulator is {:?}, expected {expected} contiguous elements", layout.shape());
    }
    Ok(())
}

impl AccumulateTile {
    fn add<T: Sum>(&self, total: &mut [T], sum: &[f32], weights: &[f32]) {
        let place = Placement { image_dims: self.image_dims, start: self.start, tile: self.tile };
        let ValueShape { dims: [_, height, width], channels } = self.tile;
        place.for_each_row(total, |z, y, columns, row| {
            let voxels = (z * height + y) * width;
            let sums = &sum[voxels * channels..][..width * channels];
            add_weighted(row, sums, &weights[voxels..][..width], columns, self.predictions);
        });
    }
}

impl InplaceOp3 for AccumulateTile {
    fn name(&self) -> &'static str {
        "accumulate_tile"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        sum: &CpuStorage,
        sum_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let op = "accumulate_tile";
        let [sum, weights] = [floats(sum, sum_layout, op)?, floats(weights, weights_layout, op)?];
        check_accumulator(layout, self.image_dims, self.tile.channels, op)?;
        if sum.len() != self.tile.data_len() || weights.len() != self.tile.voxels() {
            bail!(
                "{op}: tile holds {} floats and {} weights, expected {:?}",
                sum.len(),
                weights.len(),
                self.tile
            );
        }
        match dst {
            CpuStorage::F32(total) => self.add(total, sum, weights),
            CpuStorage::F16(total) => self.add(total, sum, weights),
            _ => bail!("{op}: accumulator must be float32 or float16"),
        }
        Ok(())
    }
}

/// Adds a tile's weights to their sum: `total.inplace_op2(&weights, &op)`.
///
/// The sum is a flat (D, H, W) tensor, float32 or float16, rounded as [`AccumulateTile`] rounds; the weights are (D, H, W) of the
/// tile.
pub struct CountTile {
    /// Grid of the image.
    pub image_dims: [usize; 3],
    /// First voxel of the tile in the image; may be negative.
    pub start: [isize; 3],
    /// Grid of the tile.
    pub tile: [usize; 3],
}

impl CountTile {
    fn add<T: Sum>(&self, total: &mut [T], weights: &[f32]) {
        let tile = ValueShape { dims: self.tile, channels: 1 };
        let [_, height, width] = self.tile;
        let place = Placement { image_dims: self.image_dims, start: self.start, tile };
        place.for_each_row(total, |z, y, columns, row| {
            let weights = &weights[(z * height + y) * width..][columns];
            row.iter_mut().zip(weights).for_each(|(sum, &weight)| sum.add(weight));
        });
    }
}

impl InplaceOp2 for CountTile {
    fn name(&self) -> &'static str {
        "count_tile"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let op = "count_tile";
        let weights = floats(weights, weights_layout, op)?;
        check_accumulator(layout, self.image_dims, 1, op)?;
        if weights.len() != self.tile.iter().product::<usize>() {
            bail!("{op}: {} weights, expected those of {:?}", weights.len(), self.tile);
        }
        match dst {
            CpuStorage::F32(total) => self.add(total, weights),
            CpuStorage::F16(total) => self.add(total, weights),
            _ => bail!("{op}: accumulator must be float32 or float16"),
        }
        Ok(())
    }
}

/// Turns weighted sums into means: `sums.inplace_op2(&weights, &op)`.
///
/// The sums are flat (voxels, classes) float32, the weights are the sum of the tiles' weights at each voxel, float32.
pub struct DivideByWeights {
    /// How often every tile was accumulated (the number of folds).
    pub predictions: usize,
}

impl InplaceOp2 for DivideByWeights {
    fn name(&self) -> &'static str {
        "divide_by_weights"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let op = "divide_by_weights";
        let (sums, weights) = (floats_mut(dst, layout, op)?, floats(weights, weights_layout, op)?);
        let channels = sums.len() / weights.len().max(1);
        if sums.len() != channels * weights.len() {
            bail!("{op}: {} sums do not belong to {} weights", sums.len(), weights.len());
        }
        let n = self.predictions as f32;
        sums.par_chunks_mut(channels.max(1)).zip(weights).with_min_len(4096).for_each(|(voxel, &weight)| {
            voxel.iter_mut().for_each(|v| *v /= weight * n);
        });
        Ok(())
    }
}

/// Forgets the first elements of a flat float32 or float16 tensor; those behind move to the front, zeros take their place:
/// `tensor.inplace_op1(&op)`.
pub struct DiscardFront {
    /// How many elements are forgotten.
    pub elements: usize,
}

impl InplaceOp1 for DiscardFront {
    fn name(&self) -> &'static str {
        "discard_front"
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, layout: &Layout) -> Result<()> {
        fn discard<T: Copy + Default>(values: &mut [T], elements: usize) {
            let kept = values.len() - elements;
            values.copy_within(elements.., 0);
            values[kept..].fill(T::default());
        }
        match (dst, layout.contiguous_offsets()) {
            (CpuStorage::F32(all), Some((start, end))) if self.elements <= end - start => {
                discard(&mut all[start..end], self.elements);
            }
            (CpuStorage::F16(all), Some((start, end))) if self.elements <= end - start => {
                discard(&mut all[start..end], self.elements);
            }
            (_, at) => {
                bail!(
                    "discard_front: {} of a contiguous float32 or float16 tensor, got {at:?}",
                    self.elements
                )
            }
        }
        Ok(())
    }
}
