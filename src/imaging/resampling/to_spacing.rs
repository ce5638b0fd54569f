//! Resampling a volume to another voxel size, as ITK does it.

use super::{AxisOperator, apply};
use crate::imaging::{Geometry, Volume};
use ndarray::{Array3, Axis};

/// Most voxels that a resampled grid may have: eight times 512 × 512 × 512.
pub const MAX_VOXELS: u128 = 1 << 30;

/// A grid that nobody means: usually a spacing in the wrong unit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "from spacing {old:?} to {new:?} mm (z, y, x) the scan becomes {shape:?} voxels, {} as float32, more than the limit of {}: \
     is its spacing right?",
    gibibytes(bytes_of(shape)),
    gibibytes(MAX_VOXELS * 4)
)]
pub struct GridTooLarge {
    /// Voxels (z, y, x).
    pub shape: [usize; 3],
    /// Spacing before, mm (z, y, x).
    pub old: [f64; 3],
    /// Spacing after, mm (z, y, x).
    pub new: [f64; 3],
}

/// Bytes of a float32 volume of this shape; at most what 128 bits hold.
fn bytes_of(shape: &[usize; 3]) -> u128 {
    shape.iter().fold(4, |all, &n| all.saturating_mul(n as u128))
}

/// A number of bytes for people.
fn gibibytes(bytes: u128) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Refuses a grid of more than [`MAX_VOXELS`].
///
/// # Errors
/// If it has more.
pub fn check_size(shape: [usize; 3], old: [f64; 3], new: [f64; 3]) -> Result<(), GridTooLarge> {
    if bytes_of(&shape) > 4 * MAX_VOXELS { Err(GridTooLarge { shape, old, new }) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_that_nobody_means_is_refused_with_the_memory_it_asks_for() {
        assert!(check_size([1024, 1024, 1024], [1.0; 3], [1.0; 3]).is_ok());
        let error = check_size([1025, 1024, 2048], [1.0; 3], [0.5; 3]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "from spacing [1.0, 1.0, 1.0] to [0.5, 0.5, 0.5] mm (z, y, x) the scan becomes [1025, 1024, 2048] voxels, \
             8.0 GiB as float32, more than the limit of 4.0 GiB: is its spacing right?"
        );
        let whole = check_size([usize::MAX; 3], [1.0; 3], [1e-300; 3]).unwrap_err();
        assert!(whole.to_string().contains("GiB as float32"), "{whole}");
    }

    #[test]
    fn a_spacing_in_the_wrong_unit_is_refused_before_memory_is_asked_for() {
        let scan = Volume::new(Array3::zeros((10, 10, 10)), Geometry::axis_aligned([10; 3], [1.0; 3]));
        for spacing in [1e-3, 1e-30, 1e-300, 0.0] {
            let refused = itk_resample_to_spacing(&scan, [spacing; 3], 0.0).unwrap_err();
            assert!(refused.shape.iter().all(|&n| n >= 10_000), "{refused}");
        }
    }
}
