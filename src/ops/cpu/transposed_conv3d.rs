//! Transposed convolution with kernel = stride on the CPU: one small matrix product per input row and (kz, ky),
//! written where it belongs.

use super::activation::Affine;
use super::conv3d::Scratch;
use super::kernel::{self, PackedWeights, Segment, Vectorised, dispatch};
use crate::ops::value::{Activation, ActivationMut};
use rayon::prelude::*;

/// A transposed convolution as the CPU runs it.
pub(in crate::ops) struct CpuTransposedConv {
    pub stride: [usize; 3],
    /// One set per (kz, ky), with `stride_x · channels` output channels and a single segment.
    pub weights: Vec<PackedWeights>,
}

impl CpuTransposedConv {
    /// Writes the raw output.
    pub fn run(&self, source: &Activation<'_>, out: &mut ActivationMut<'_>) {
        let [depth, height, width] = source.operand.shape.dims;
        let channels = source.operand.shape.channels;
        let [stride_z, stride_y, _] = self.stride;
        let out_row = width * self.weights[0].out_channels;
        let affine = Affine::of(source);
        // One task writes one output plane, of which each input row makes stride_y rows.
        out.raw.par_chunks_mut(height * stride_y * out_row).enumerate().take(depth * stride_z).for_each(
            |(z, out)| {
                let from = z / stride_z * height * width * channels;
                let raw = &source.raw[from..from + height * width * channels];
                let weights = &self.weights[z % stride_z * stride_y..][..stride_y];
                Scratch::with(|scratch| {
                    let task =
                        TransposedTask { weights, affine: &affine, raw, channels, width, out, scratch };
                    dispatch(self.weights[0].arithmetic.isa(), task);
                });
            },
        );
    }
}

/// One output plane of a transposed convolution.
struct TransposedTask<'a> {
    /// Per ky.
    weights: &'a [PackedWeights],
    affine: &'a Affine,
    raw: &'a [f32],
    channels: usize,
    width: usize,
    out: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Vectorised for TransposedTask<'_> {
    #[inline(always)]
    fn run(self) {
        let row_len = self.width * self.channels;
        let line = self.scratch.rows.first(row_len);
        let segment = [Segment { input: 0, step: self.channels, weights: 0 }];
        let mut out_rows = self.out.chunks_exact_mut(self.width * self.weights[0].out_channels);
        for raw in self.raw.chunks_exact(row_len) {
            self.affine.apply(raw, line);
            for (weights, out) in self.weights.iter().zip(&mut out_rows) {
                kernel::row(weights, &segment, line, self.width, out);
            }
        }
    }
}
