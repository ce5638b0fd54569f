//! Whether a prediction's voxels are the truth's.

use super::{EvaluationError, Pair};
use crate::imaging::Geometry;

/// How far spacings may be apart, mm.
const SPACING_TOLERANCE: f64 = 1e-4;

/// Checks that a prediction lies on the truth's grid. A difference of origin or direction alone is a warning: voxel is scored
/// against voxel.
///
/// # Errors
/// If shapes or spacings differ.
pub(super) fn check_grid(
    pair: &Pair,
    truth: &Geometry,
    prediction: &Geometry,
) -> Result<(), EvaluationError> {
    let (size, spacing) = (truth.size_xyz(), truth.spacing_xyz());
    let (got_size, got_spacing) = (prediction.size_xyz(), prediction.spacing_xyz());
    let differ =
        |what| EvaluationError::Grid { prediction: pair.prediction.clone(), truth: pair.truth.clone(), what };
    if got_size != size {
        return Err(differ(format!("size is {got_size:?} (x, y, z), expected the {size:?}")));
    }
    if got_spacing.iter().zip(spacing).any(|(g, e)| (g - e).abs() > SPACING_TOLERANCE) {
        return Err(differ(format!("spacing is {got_spacing:?} mm (x, y, z), expected the {spacing:?}")));
    }
    if !lies_as(prediction, truth) {
        tracing::warn!(
            "{}: origin or direction differ from those of {}; they are not compared, voxel is scored against voxel",
            pair.prediction.display(),
            pair.truth.display()
        );
    }
    Ok(())
}

/// Whether a grid has the other's origin, to a thousandth of a mm, and direction.
fn lies_as(a: &Geometry, b: &Geometry) -> bool {
    let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-3);
    near(&a.origin, &b.origin) && near(a.direction.as_flattened(), b.direction.as_flattened())
}
