//! From a low-resolution pancreas mask to a box of the full-resolution scan, and cutting it out.

use crate::imaging::{Geometry, Volume};
use crate::nnunet::preprocessing::BoundingBox;
use ndarray::{Array3, s};
use std::sync::Arc;

/// Corners (inclusive, x y z) of the bounding box of the voxels other than 0; `None` if there are none.
pub fn corners(mask: &Array3<u16>) -> Option<[[usize; 3]; 2]> {
    let mut found: Option<[[usize; 3]; 2]> = None;
    for ((z, y, x), _) in mask.indexed_iter().filter(|(_, label)| **label != 0) {
        let [low, high] = found.get_or_insert([[x, y, z]; 2]);
        for (a, i) in [x, y, z].into_iter().enumerate() {
            low[a] = low[a].min(i);
            high[a] = high[a].max(i);
        }
    }
    found
}

/// The box of `full` around the low-resolution `corners` (inclusive, x y z), widened by `margin_mm_xyz`.
///
/// As the PANORAMA baseline has it: corner voxels go through physical space to the nearest voxel (halves up), margins
/// are whole voxels rounded down, and the upper end is exclusive *without* being moved one further. Deviation: a box
/// that this would leave empty or outside the scan keeps one voxel inside, where the baseline fails.
pub fn region_of_interest(
    full: &Geometry,
    low: &Geometry,
    corners: [[usize; 3]; 2],
    margin_mm_xyz: [f64; 3],
) -> BoundingBox {
    let [first, last] = corners.map(|corner| nearest_voxel(full, low, corner.map(|i| i as f64)));
    let (spacing, size) = (full.spacing_xyz(), full.size_xyz());
    let mut region = BoundingBox { start: [0; 3], stop: full.shape };
    for a in 0..3 {
        let margin = (margin_mm_xyz[a] / spacing[a]) as i64;
        let size = size[a] as i64;
        let start = first[a].saturating_sub(margin).clamp(0, size - 1);
        let stop = last[a].saturating_add(margin).clamp(start + 1, size);
        region.start[2 - a] = start as usize;
        region.stop[2 - a] = stop as usize;
    }
    region
}

/// The voxel of `full` (x, y, z; halves up, possibly outside) nearest to a voxel `index` (x, y, z) of `low`.
pub(super) fn nearest_voxel(full: &Geometry, low: &Geometry, index: [f64; 3]) -> [i64; 3] {
    let point = low.index_to_physical(index);
    full.physical_to_index(point).unwrap_or_default().map(|v| (v + 0.5).floor() as i64)
}

/// The voxels of a region.
pub(super) fn slice_of(
    region: &BoundingBox,
) -> ndarray::SliceInfo<[ndarray::SliceInfoElem; 3], ndarray::Ix3, ndarray::Ix3> {
    let [z, y, x] = std::array::from_fn(|a| region.start[a]..region.stop[a]);
    s![z, y, x]
}

/// A region's voxels; the scan is let go, or is the region itself, if nobody else holds it.
pub(super) fn cut_out(region: &BoundingBox, scan: Arc<Volume<f32>>) -> Array3<f32> {
    match Arc::try_unwrap(scan) {
        Ok(scan) => region.cut(scan.data),
        Err(scan) => region.copy(&scan.data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::nifti_passage::after_nifti;

    fn grid(shape: [usize; 3], spacing: [f64; 3]) -> Geometry {
        Geometry::axis_aligned(shape, spacing)
    }

    #[test]
    fn half_way_positions_round_up_and_the_stop_is_not_moved() {
        let full = grid([50, 60, 70], [2.0, 1.0, 1.0]);
        let low = grid([11, 13, 16], [9.0, 4.5, 4.5]);
        // z: 9/2 = 4.5 -> 5, 27/2 = 13.5 -> 14; margin 15 mm = 7 slices
        let region = region_of_interest(&full, &low, [[4, 4, 1], [8, 8, 3]], [10.0, 5.0, 15.0]);
        assert_eq!(region.start, [0, 13, 8]);
        assert_eq!(region.stop, [21, 41, 46]);
    }

    /// Computed by SimpleITK 2.5.7; with an inverse by cofactors the positions come out a last bit below the half.
    #[test]
    fn half_way_positions_are_decided_as_itk_decides_them() {
        let cases = [
            ([0.8, 0.75, 0.75], [0.0; 3], 2.0, 23),
            ([1.2, 0.9, 0.9], [-66.234, -96.252, -92.5], 7.0, 53),
            ([0.4, 0.75, 0.75], [0.0; 3], 1.0, 23),
        ];
        for (spacing, origin, z, expected) in cases {
            let full = Geometry { origin, ..grid([200, 10, 10], spacing) };
            let low = after_nifti(&after_nifti(&Geometry { origin, ..grid([9, 2, 2], [9.0, 4.5, 4.5]) }));
            assert_eq!(nearest_voxel(&full, &low, [0.0, 0.0, z]), [0, 0, expected], "{spacing:?}");
        }
    }

    #[test]
    fn a_box_that_would_be_empty_keeps_a_voxel() {
        let full = grid([3, 3, 3], [20.0, 20.0, 20.0]);
        let low = grid([7, 14, 14], [9.0, 4.5, 4.5]);
        let region = region_of_interest(&full, &low, [[0, 0, 0], [0, 0, 0]], [10.0, 5.0, 15.0]);
        assert_eq!((region.start, region.stop), ([0; 3], [1; 3]));
        let region = region_of_interest(&full, &low, [[13, 13, 6], [13, 13, 6]], [0.0; 3]);
        assert!(region.start.iter().zip(region.stop).all(|(a, b)| *a < b && b <= 3), "{region:?}");
    }

    #[test]
    fn corners_are_inclusive() {
        let mut mask = Array3::zeros((4, 5, 6));
        assert_eq!(corners(&mask), None);
        mask[(1, 2, 3)] = 1;
        mask[(2, 4, 0)] = 2;
        assert_eq!(corners(&mask), Some([[0, 2, 1], [3, 4, 2]]));
    }
}
