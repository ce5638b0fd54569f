//! Mean probabilities of models whose logits lie on different grids, on the scan's grid.
//!
//! Source: nnU-Net v2, `ensembling/ensemble.py: average_probabilities` and `merge_files`.

use super::for_each_slab;
use crate::imaging::memory::bytes;
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::{Logits, ScanGrid};
use ndarray::parallel::prelude::*;
use ndarray::{Array3, Array4, ArrayViewMut1, Axis, s};

/// A weighted sum of softmax probabilities on a scan's grid.
#[derive(Debug, Clone)]
pub struct MeanProbabilities {
    /// (z, y, x, class) in the scan's axis order.
    sum: Array4<f32>,
}

impl MeanProbabilities {
    /// Nothing is added yet to the voxels of a scan of this shape (z, y, x).
    pub fn new([z, y, x]: [usize; 3], classes: usize) -> Self {
        Self { sum: Array4::zeros((z, y, x, classes)) }
    }

    /// Bytes of such a sum.
    pub fn bytes(shape: [usize; 3], classes: usize) -> u128 {
        bytes(&shape, classes * size_of::<f32>())
    }

    /// The class of the largest mean per voxel, (z, y, x), the first one of equals; the weights' sum does not matter for it.
    pub fn labels(&self) -> Array3<u16> {
        let (z, y, x, _) = self.sum.dim();
        let mut labels = Array3::zeros((z, y, x));
        let slices = labels.axis_iter_mut(Axis(0)).into_par_iter().zip(self.sum.axis_iter(Axis(0)));
        slices.for_each(|(mut labels, sum)| {
            for (label, sum) in labels.iter_mut().zip(sum.lanes(Axis(2))) {
                let mut best = 0;
                for (class, value) in sum.iter().enumerate() {
                    if *value > sum[best] {
                        best = class;
                    }
                }
                *label = best as u16;
            }
        });
        labels
    }
}

/// Adds `weight` times the softmax of logits to `mean`: outside the non-zero crop the background's probability is 1.
///
/// # Panics
/// If the logits are not those of `scan` under `model`, or have other classes than `mean`, which is a programming error.
pub fn add_probabilities(
    mean: &mut MeanProbabilities,
    model: &ModelFolder,
    scan: ScanGrid,
    logits: &Logits,
    weight: f32,
) {
    let [a, b, c] = model.transpose_forward;
    // In the network's axis order.
    let mut sum = mean.sum.view_mut().permuted_axes([a, b, c, 3]);
    let ([z0, y0, x0], [z1, y1, x1]) = (scan.crop.start, scan.crop.stop);
    let inside = |z: usize, y: usize, x: usize| {
        (z0..z1).contains(&z) && (y0..y1).contains(&y) && (x0..x1).contains(&x)
    };
    let mut background = sum.index_axis_mut(Axis(3), 0);
    background.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(z, mut slice)| {
        slice.indexed_iter_mut().filter(|((y, x), _)| !inside(z, *y, *x)).for_each(|(_, v)| *v += weight);
    });
    let mut cropped = sum.slice_mut(s![z0..z1, y0..y1, x0..x1, ..]);
    for_each_slab(model, scan, logits, |slices, slab| {
        let mut to = cropped.slice_mut(s![slices, .., .., ..]);
        let slices = to.axis_iter_mut(Axis(0)).into_par_iter().zip(slab.axis_iter(Axis(0)));
        slices.for_each(|(mut to, logits)| {
            for (to, logits) in to.lanes_mut(Axis(2)).into_iter().zip(logits.lanes(Axis(2))) {
                add_softmax(to, logits.as_slice().unwrap_or_default(), weight);
            }
        });
    });
}

fn add_softmax(to: ArrayViewMut1<'_, f32>, logits: &[f32], weight: f32) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
    for (to, v) in to.into_iter().zip(logits) {
        *to += weight * ((v - largest).exp() / sum);
    }
}
