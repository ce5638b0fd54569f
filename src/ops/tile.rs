//! Moving tiles between the image, the network and the accumulator.

use super::value::{Operand, ValueShape, floats, floats_mut};
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

/// Adds a network output, mirrored back, to the sum over mirrorings: `sum.inplace_op2(&logits, &op)`.
///
/// The sum is a flat (D, H, W, classes) tensor.
pub struct AddMirrored {
    /// The network's output.
    pub logits: Operand,
    /// Axes that were mirrored.
    pub mirroring: Mirroring,
    /// Overwrite the sum instead of adding to it.
    pub first: bool,
}

impl InplaceOp2 for AddMirrored {
    fn name(&self) -> &'static str {
        "add_mirrored"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        src: &CpuStorage,
        src_layout: &Layout,
    ) -> Result<()> {
        let op = "add_mirrored";
        let logits = self.logits.view(floats(src, src_layout, op)?, op)?;
        let sum = floats_mut(dst, layout, op)?;
        let ValueShape { dims: [depth, height, width], channels } = self.logits.shape;
        if sum.len() != logits.raw.len() {
            bail!("{op}: sum holds {} floats, expected {}", sum.len(), logits.raw.len());
        }
        let reflect = |axis: usize, i: usize, n: usize| if self.mirroring[axis] { n - 1 - i } else { i };
        let row_len = width * channels;
        sum.par_chunks_mut(height * row_len).enumerate().for_each(|(z, slice)| {
            for (y, row) in slice.chunks_mut(row_len).enumerate() {
                let line = reflect(0, z, depth) * height + reflect(1, y, height);
                let from = &logits.raw[line * row_len..][..row_len];
                match (self.mirroring[2], self.first) {
                    (false, true) => row.copy_from_slice(from),
                    (false, false) => row.iter_mut().zip(from).for_each(|(s, v)| *s += v),
                    (true, first) => {
                        for (to, from) in row.chunks_mut(channels).zip(from.rchunks(channels)) {
                            for (s, v) in to.iter_mut().zip(from) {
                                *s = if first { *v } else { *s + v };
                            }
                        }
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

impl AccumulateTile {
    /// Calls `add(accumulator, summand)` for every class of every voxel of the tile inside the image.
    fn for_each<T: Send>(
        &self,
        total: &mut [T],
        sum: &[f32],
        weights: &[f32],
        add: impl Fn(&mut T, f32) + Sync,
    ) {
        let [_, height, width] = self.image_dims;
        let ValueShape { dims: [tile_z, tile_y, tile_x], channels } = self.tile;
        let columns = inside(self.start[2], tile_x, width);
        let lines = inside(self.start[1], tile_y, height);
        let planes = inside(self.start[0], tile_z, self.image_dims[0]);
        let at = |axis: usize, i: usize| (i as isize + self.start[axis]) as usize;
        let n = self.predictions as f32;
        total.par_chunks_mut(height * width * channels).enumerate().for_each(|(z, slice)| {
            let Some(tz) = planes.clone().find(|&tz| at(0, tz) == z) else { return };
            if columns.is_empty() {
                return;
            }
            for y in lines.clone() {
                let tile_row = (tz * tile_y + y) * tile_x;
                let row = &mut slice[(at(1, y) * width + at(2, columns.start)) * channels..]
                    [..columns.len() * channels];
                let sums = &sum[(tile_row + columns.start) * channels..][..row.len()];
                let weights = &weights[tile_row + columns.start..][..columns.len()];
                for ((to, from), &w) in row.chunks_mut(channels).zip(sums.chunks(channels)).zip(weights) {
                    for (t, &s) in to.iter_mut().zip(from) {
                        add(t, s / n * w);
                    }
                }
            }
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
        let expected = self.image_dims.iter().product::<usize>() * self.tile.channels;
        if layout.shape().elem_count() != expected || !layout.is_contiguous() || layout.start_offset() != 0 {
            bail!("{op}: accumulator is {:?}, expected {expected} contiguous elements", layout.shape());
        }
        if sum.len() != self.tile.data_len() || weights.len() != self.tile.voxels() {
            bail!(
                "{op}: tile holds {} floats and {} weights, expected {:?}",
                sum.len(),
                weights.len(),
                self.tile
            );
        }
        match dst {
            CpuStorage::F32(total) => self.for_each(total, sum, weights, |t, v| *t += v),
            CpuStorage::F16(total) => {
                self.for_each(total, sum, weights, |t, v| *t = f16::from_f32(t.to_f32() + v));
            }
            _ => bail!("{op}: accumulator must be float32 or float16"),
        }
        Ok(())
    }
}

/// Turns weighted sums into means: `accumulator.inplace_op1(&op)`.
///
/// The accumulator is a flat (D, H, W, classes) float32 tensor.
pub struct DivideByWeights {
    /// Sum of the tiles' weights per voxel.
    pub weights: Vec<f32>,
    /// How often every tile was accumulated (the number of folds).
    pub predictions: usize,
}

impl InplaceOp1 for DivideByWeights {
    fn name(&self) -> &'static str {
        "divide_by_weights"
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let sums = floats_mut(dst, layout, "divide_by_weights")?;
        let channels = sums.len() / self.weights.len().max(1);
        if channels == 0 || sums.len() != channels * self.weights.len() {
            bail!("divide_by_weights: {} sums do not belong to {} weights", sums.len(), self.weights.len());
        }
        let n = self.predictions as f32;
        sums.par_chunks_mut(channels).zip(&self.weights).with_min_len(4096).for_each(|(voxel, &weight)| {
            voxel.iter_mut().for_each(|v| *v /= weight * n);
        });
        Ok(())
    }
}
