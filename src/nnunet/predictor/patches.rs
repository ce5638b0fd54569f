//! What a network's classification head says of each patch of a scan.

use crate::network::{CLASSES, lesion_probability};
use crate::nnunet::sliding_window::Tiling;

/// One patch of a scan as the classification head sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patch {
    /// Probability that there is a lesion, 0 to 1: the softmax of the logits averaged over mirrored copies and folds.
    pub probability: f64,
    /// Distance of the patch's centre from that of the network's image, mm.
    pub from_centre_mm: f64,
}

/// Sums of class logits over the runs of each tile.
pub(super) struct ClassSums {
    sums: Vec<[f64; CLASSES]>,
    /// Runs of each tile: folds times mirrored copies.
    runs: usize,
}

impl ClassSums {
    /// Nothing yet of so many tiles, each to be run so often.
    pub fn new(tiles: usize, runs: usize) -> Self {
        Self { sums: vec![[0.0; CLASSES]; tiles], runs }
    }

    /// Adds the logits that `runs` runs of a tile have in common.
    pub fn add(&mut self, tile: usize, logits: [f64; CLASSES], runs: usize) {
        for (sum, logit) in self.sums[tile].iter_mut().zip(logits) {
            *sum += logit * runs as f64;
        }
    }

    /// The patches in the order of the tiles, whose grid has this spacing (z, y, x) in mm.
    pub fn patches(&self, tiling: &Tiling, patch: [usize; 3], spacing: [f64; 3]) -> Vec<Patch> {
        let of = |(sum, start): (&[f64; CLASSES], &[isize; 3])| Patch {
            probability: lesion_probability(sum.map(|sum| sum / self.runs as f64)),
            from_centre_mm: distance_of_centres(*start, patch, tiling.image, spacing),
        };
        self.sums.iter().zip(&tiling.starts).map(of).collect()
    }
}

/// Distance in mm between the centre of the patch that begins at `start` and that of the image.
fn distance_of_centres(start: [isize; 3], patch: [usize; 3], image: [usize; 3], spacing: [f64; 3]) -> f64 {
    let along = |a: usize| (start[a] as f64 + (patch[a] as f64 - image[a] as f64) / 2.0) * spacing[a];
    (0..3).map(|a| along(a).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_averaged_over_runs_before_the_softmax() {
        let tiling = Tiling::new([4, 4, 12], [4, 4, 8], 0.5);
        assert_eq!(tiling.starts, [[0, 0, 0], [0, 0, 4]]);
        let mut sums = ClassSums::new(2, 4);
        sums.add(0, [1.0, 2.0], 3);
        sums.add(0, [-3.0, 2.0], 1);
        let patches = sums.patches(&tiling, [4, 4, 8], [1.0, 1.0, 1.5]);
        assert_eq!(patches[0].probability, lesion_probability([0.0, 2.0]));
        assert_eq!(patches[1].probability, 0.5);
        assert_eq!([patches[0].from_centre_mm, patches[1].from_centre_mm], [3.0, 3.0]);
    }

    #[test]
    fn a_patch_larger_than_the_image_lies_at_its_centre() {
        let tiling = Tiling::new([2, 4, 8], [4, 4, 8], 0.5);
        let patches = ClassSums::new(1, 1).patches(&tiling, [4, 4, 8], [3.0; 3]);
        assert_eq!(patches, [Patch { probability: 0.5, from_centre_mm: 0.0 }]);
    }
}
