//! Means over the windows of a stored value on the CPU.

use super::Isa;
use super::activation::Affine;
use super::kernel::{Vectorised, dispatch};
use crate::ops::value::Activation;
use rayon::prelude::*;
use std::cell::RefCell;

thread_local! {
    static INPUT_ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Writes the means over windows of `stride` voxels to `out`, (D, H, W, C) on the grid `out_dims`.
pub(in crate::ops) fn pool(
    isa: Isa,
    input: Activation<'_>,
    stride: [usize; 3],
    out_dims: [usize; 3],
    out: &mut [f32],
) {
    let affine = Affine::of(&input);
    let channels = input.operand.shape.channels;
    let rows = out.par_chunks_exact_mut((out_dims[2] * channels).max(1));
    rows.enumerate().with_min_len(4).for_each(|(row, out)| {
        INPUT_ROW.with_borrow_mut(|read| {
            read.resize(out_dims[2] * stride[2] * channels, 0.0);
            let place = [row / out_dims[1], row % out_dims[1]];
            dispatch(isa, PoolTask { input, affine: &affine, stride, place, read, out });
        });
    });
}

/// One row of the output.
struct PoolTask<'a> {
    input: Activation<'a>,
    affine: &'a Affine,
    stride: [usize; 3],
    /// (z, y) of the row.
    place: [usize; 2],
    /// As many voxels of an input row as windows cover.
    read: &'a mut [f32],
    out: &'a mut [f32],
}

impl Vectorised for PoolTask<'_> {
    #[inline(always)]
    fn run(self) {
        let shape = self.input.operand.shape;
        let ([_, height, width], channels) = (shape.dims, shape.channels);
        let [sz, sy, sx] = self.stride;
        self.out.fill(0.0);
        for window_row in 0..sz * sy {
            let z = self.place[0] * sz + window_row / sy;
            let y = self.place[1] * sy + window_row % sy;
            let raw = &self.input.raw[(z * height + y) * width * channels..][..self.read.len()];
            self.affine.apply(raw, self.read);
            let windows = self.read.chunks_exact(sx * channels);
            for (out, window) in self.out.chunks_exact_mut(channels).zip(windows) {
                for voxel in window.chunks_exact(channels) {
                    for (sum, value) in out.iter_mut().zip(voxel) {
                        *sum += value;
                    }
                }
            }
        }
        let voxels = (sz * sy * sx) as f32;
        for sum in &mut *self.out {
            *sum /= voxels;
        }
    }
}
