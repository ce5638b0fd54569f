//! Rows of a segmentation head's logits on the CPU.

use super::activation::Affine;
use super::kernel::{BEHIND_ROW, PackedWeights, Segment, Vectorised, dispatch, row};
use crate::ops::Mirroring;
use crate::ops::value::Activation;
use std::cell::RefCell;

thread_local! {
    /// A row of features and a row of logits.
    static ROW_BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The logits of one mirrored tile, computed row by row.
pub(in crate::ops) struct LogitRows<'a> {
    weights: &'a PackedWeights,
    features: Activation<'a>,
    affine: Affine,
    mirroring: Mirroring,
}

impl<'a> LogitRows<'a> {
    /// Logits of `features`, of which one segment is packed per class.
    pub fn new(weights: &'a PackedWeights, features: Activation<'a>, mirroring: Mirroring) -> Self {
        let affine = Affine::of(&features);
        Self { weights, features, affine, mirroring }
    }

    /// Calls `read` with the logits (x, class) of row (z, y) of the tile as it was before it was mirrored.
    pub fn with_row(&self, z: usize, y: usize, read: impl FnOnce(&mut [f32])) {
        let [depth, height, width] = self.features.operand.shape.dims;
        let channels = self.features.operand.shape.channels;
        let reflect = |axis: usize, i: usize, n: usize| if self.mirroring[axis] { n - 1 - i } else { i };
        let line = reflect(0, z, depth) * height + reflect(1, y, height);
        let raw = &self.features.raw[line * width * channels..][..width * channels];
        ROW_BUFFERS.with_borrow_mut(|[features, logits]| {
            features.resize(raw.len(), 0.0);
            let len = width * self.weights.out_channels;
            logits.resize(len + BEHIND_ROW, 0.0);
            let task = RowTask { rows: self, raw, width, features, logits };
            dispatch(self.weights.arithmetic.isa(), task);
            let logits = &mut logits[..len];
            if self.mirroring[2] {
                reverse_voxels(logits, self.weights.out_channels);
            }
            read(logits);
        });
    }
}

/// Turns a row (x, class) round along x.
fn reverse_voxels(row: &mut [f32], classes: usize) {
    let voxels = row.len() / classes;
    let (first, second) = row.split_at_mut(voxels / 2 * classes);
    for (a, b) in first.chunks_exact_mut(classes).zip(second.rchunks_exact_mut(classes)) {
        a.swap_with_slice(b);
    }
}

/// One row: activate, then multiply.
struct RowTask<'a> {
    rows: &'a LogitRows<'a>,
    raw: &'a [f32],
    width: usize,
    features: &'a mut [f32],
    logits: &'a mut [f32],
}

impl Vectorised for RowTask<'_> {
    #[inline(always)]
    fn run(self) {
        self.rows.affine.apply(self.raw, self.features);
        let step = self.raw.len() / self.width;
        let segment = [Segment { input: 0, step, weights: 0 }];
        row(self.rows.weights, &segment, self.features, self.width, self.logits);
    }
}

#[cfg(test)]
mod tests {
    use super::reverse_voxels;

    #[test]
    fn voxels_turn_round_and_their_classes_do_not() {
        for (mut row, expected) in [
            (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![5.0, 6.0, 3.0, 4.0, 1.0, 2.0]),
            (vec![1.0, 2.0, 3.0, 4.0], vec![3.0, 4.0, 1.0, 2.0]),
            (vec![1.0, 2.0], vec![1.0, 2.0]),
        ] {
            reverse_voxels(&mut row, 2);
            assert_eq!(row, expected);
        }
    }
}
