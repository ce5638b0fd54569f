//! Resampling of volumes, one axis at a time.
//!
//! Every interpolation here (nearest, linear, cubic B-spline with its prefilter) is linear in the voxels and
//! separable, so along one axis it is a banded matrix: [`AxisOperator`] holds it, computed once in `f64`.
//! [`apply`] resamples a volume with one such operator per axis, threaded and in vectors; every output voxel is the same sum in the
//! same order however many threads there are, so results do not depend on them.

mod apply;
mod bspline;
mod operator;
mod prefilter;
mod rows;
mod to_spacing;
mod transpose;

pub(crate) use apply::apply_then;
pub use apply::{apply, apply_owned};
pub use operator::AxisOperator;
pub(crate) use rows::{LANES, weighted_columns, weighted_rows, with_widest_vectors};
pub use to_spacing::{GridTooLarge, MAX_VOXELS, check_size, itk_resample_to_spacing};
pub(crate) use transpose::{Pitch, transpose};
