//! Resampling a volume to another voxel size, as ITK does it.

use super::{AxisOperator, apply};
use crate::imaging::{Geometry, Volume};
use ndarray::{Array3, Axis};

/// The volume on a grid of the given spacing (z, y, x; mm) with the same origin and direction, by cubic B-splines.
///
/// Along each axis the new length is `round_half_even(n · (old / new))`, at least 1. Voxels whose centre lies outside the
/// input's buffer, which begins and ends half a voxel beyond its outer voxel centres, get `outside`.
///
/// SimpleITK's `ResampleImageFilter` with `sitkBSpline` as the PANORAMA baseline calls it for its low-resolution stage
/// (there `outside` is 8, the identifier of the pixel type). Deviation: positions are exact multiples of new / old
/// spacing, where ITK's pass through physical points and may differ in the last bit.
pub fn itk_resample_to_spacing(volume: &Volume<f32>, spacing: [f64; 3], outside: f32) -> Volume<f32> {
    let old = &volume.geometry;
    let shape: [usize; 3] = std::array::from_fn(|a| {
        ((old.shape[a] as f64 * (old.spacing[a] / spacing[a])).round_ties_even() as usize).max(1)
    });
    let scale: [f64; 3] = std::array::from_fn(|a| spacing[a] / old.spacing[a]);
    let operators = std::array::from_fn(|a| AxisOperator::itk_bspline(old.shape[a], shape[a], scale[a]));
    let mut data: Array3<f32> = apply(volume.data.view(), &operators);
    for axis in 0..3 {
        let is_outside = |&i: &usize| AxisOperator::itk_is_outside(old.shape[axis], i, scale[axis]);
        for i in (0..shape[axis]).filter(is_outside) {
            data.index_axis_mut(Axis(axis), i).fill(outside);
        }
    }
    Volume::new(data, Geometry { shape, spacing, ..*old })
}
