//! Resampling a volume to another voxel size, as ITK does it.

use super::{AxisOperator, apply};
use crate::imaging::{Geometry, Volume};
use ndarray::{Array3, Axis};

/// Most voxels that a resampled grid may have: eight times 512 × 512 × 512.
pub const MAX_VOXELS: u128 = 1 << 30;

/// A grid that nobody means: usually a spacing in the wrong unit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "from spacing {old:?} to {new:?} mm (z, y, x) the scan becomes {shape:?} voxels, more than {MAX_VOXELS}: is its spacing right?"
)]
pub struct GridTooLarge {
    /// Voxels (z, y, x).
    pub shape: [usize; 3],
    /// Spacing before, mm (z, y, x).
    pub old: [f64; 3],
    /// Spacing after, mm (z, y, x).
    pub new: [f64; 3],
}

/// Refuses a grid of more than [`MAX_VOXELS`].
///
/// # Errors
/// If it has more.
pub fn check_size(shape: [usize; 3], old: [f64; 3], new: [f64; 3]) -> Result<(), GridTooLarge> {
    let voxels = shape.iter().fold(1u128, |all, &n| all.saturating_mul(n as u128));
    if voxels > MAX_VOXELS { Err(GridTooLarge { shape, old, new }) } else { Ok(()) }
}

/// The volume on a grid of the given spacing (z, y, x; mm) with the same origin and direction, by cubic B-splines.
///
/// Along each axis the new length is `round_half_even(n · (old / new))`, at least 1. Voxels whose centre lies outside the
/// input's buffer, which begins and ends half a voxel beyond its outer voxel centres, get `outside`.
///
/// SimpleITK's `ResampleImageFilter` with `sitkBSpline` as the PANORAMA baseline calls it for its low-resolution stage
/// (there `outside` is 8, the identifier of the pixel type). Deviation: positions are exact multiples of new / old
/// spacing, where ITK's pass through physical points and may differ in the last bit; only a slice that falls exactly on the
/// buffer's end, which needs voxels larger than the new ones, may be interpolated where ITK fills it, or the reverse.
///
/// # Errors
/// If the result would have more than [`MAX_VOXELS`].
pub fn itk_resample_to_spacing(
    volume: &Volume<f32>,
    spacing: [f64; 3],
    outside: f32,
) -> Result<Volume<f32>, GridTooLarge> {
    let old = &volume.geometry;
    let shape: [usize; 3] = std::array::from_fn(|a| {
        ((old.shape[a] as f64 * (old.spacing[a] / spacing[a])).round_ties_even() as usize).max(1)
    });
    check_size(shape, old.spacing, spacing)?;
    let scale: [f64; 3] = std::array::from_fn(|a| spacing[a] / old.spacing[a]);
    let operators = std::array::from_fn(|a| AxisOperator::itk_bspline(old.shape[a], shape[a], scale[a]));
    let mut data: Array3<f32> = apply(volume.data.view(), &operators);
    for axis in 0..3 {
        let is_outside = |&i: &usize| AxisOperator::itk_is_outside(old.shape[axis], i, scale[axis]);
        for i in (0..shape[axis]).filter(is_outside) {
            data.index_axis_mut(Axis(axis), i).fill(outside);
        }
    }
    Ok(Volume::new(data, Geometry { shape, spacing, ..*old }))
}
