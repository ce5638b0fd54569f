//! Resampling of volumes, one axis at a time.
//!
//! Every interpolation here (nearest, linear, cubic B-spline with its prefilter) is linear in the voxels and
//! separable, so along one axis it is a banded matrix: [`AxisOperator`] holds it, computed once in `f64`.
//! [`apply`] multiplies a volume by one such matrix per axis, threaded; every output voxel is the same sum in the
//! same order however many threads there are, so results do not depend on them.

mod apply;
mod bspline;
mod operator;
mod to_spacing;

pub use apply::{apply, apply_owned};
pub(crate) use apply::{weighted_channels, weighted_rows};
pub use operator::AxisOperator;
pub use to_spacing::{GridTooLarge, MAX_VOXELS, check_size, itk_resample_to_spacing};
