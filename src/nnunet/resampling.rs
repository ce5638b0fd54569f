//! nnU-Net's resampling of images and logits: which axis is treated on its own, which interpolation each axis gets, what
//! the result is clipped to.
//!
//! Source: `nnunetv2/preprocessing/resampling/{default_resampling,resample_torch}.py` (2.5.1 and 2.8.1 agree).

mod clip;
mod slab;

pub use slab::{LogitGrids, SlabResampler};
pub(super) use slab::{STRIP, Strip};

use crate::imaging::resampling::{AxisOperator, apply_owned, apply_then};
use clip::Clip;
use ndarray::{Array3, Axis};

/// Ratio of the largest to the smallest spacing above which an axis is treated on its own (`ANISO_THRESHOLD`).
const ANISOTROPY_THRESHOLD: f64 = 3.0;

/// Order of the spline along the axes that are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplineOrder {
    /// Order 0: nearest voxel.
    Nearest,
    /// Order 1: linear.
    Linear,
    /// Order 3: cubic B-spline, clipped to the input's range.
    Cubic,
}

/// How a plans file wants images or logits resampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// `resample_data_or_seg_to_shape`, with `order_z` = 0.
    Default {
        /// Order within the volume, or within each slice where an axis is treated on its own.
        order: SplineOrder,
        /// Whether an axis is treated on its own; `None`: decided by the spacings.
        force_separate_z: Option<bool>,
    },
    /// `resample_torch_fornnunet`: linear, positions in `f32`.
    Torch {
        /// Whether an axis is treated on its own; `None`: decided by the spacings.
        force_separate_z: Option<bool>,
    },
}

/// A resampling that this program does not implement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedResampling {
    /// `order` is none of 0, 1, 3.
    #[error("resampling order is {0}, supported are 0, 1 and 3")]
    Order(u8),
    /// `order_z` is not 0.
    #[error("resampling order_z is {0}, supported is 0")]
    OrderZ(u8),
}

impl Resampling {
    /// `resample_data_or_seg_to_shape` with the arguments as a plans file spells them.
    ///
    /// # Errors
    /// If `order` is none of 0, 1, 3 or `order_z` is not 0.
    pub fn from_orders(
        order: u8,
        order_z: u8,
        force_separate_z: Option<bool>,
    ) -> Result<Self, UnsupportedResampling> {
        let order = match order {
            0 => SplineOrder::Nearest,
            1 => SplineOrder::Linear,
            3 => SplineOrder::Cubic,
            other => return Err(UnsupportedResampling::Order(other)),
        };
        if order_z != 0 {
            return Err(UnsupportedResampling::OrderZ(order_z));
        }
        Ok(Self::Default { order, force_separate_z })
    }

    /// Whether axes are to be treated on their own; `None`: decided by the spacings.
    fn force_separate_z(&self) -> Option<bool> {
        match *self {
            Self::Default { force_separate_z, .. } | Self::Torch { force_separate_z } => force_separate_z,
        }
    }

    /// Whether the interpolation can leave the range of its input and is clipped to it.
    ///
    /// Only the cubic one: the others' weights are not negative and add up to one, so clipping them changes nothing.
    fn clips(&self) -> bool {
        matches!(self, Self::Default { order: SplineOrder::Cubic, .. })
    }

    /// The operator of each axis.
    fn operators(&self, old: [usize; 3], new: [usize; 3], separate: Option<usize>) -> [AxisOperator; 3] {
        std::array::from_fn(|axis| {
            let make = match (self, separate == Some(axis)) {
                (Self::Default { order: SplineOrder::Cubic, .. }, false) => AxisOperator::cubic,
                (Self::Default { order: SplineOrder::Linear, .. }, false) => AxisOperator::linear,
                (Self::Default { .. }, _) => AxisOperator::nearest,
                (Self::Torch { .. }, false) => AxisOperator::torch_linear,
                (Self::Torch { .. }, true) => AxisOperator::torch_nearest,
            };
            make(old[axis], new[axis])
        })
    }
}

/// The integer nearest to `value`, ties going to the even neighbour, as Python and numpy round; 0 for what is negative.
pub fn round_half_even(value: f64) -> usize {
    value.round_ties_even() as usize
}

/// The shape that an array takes on at another spacing: `round_half_even(old / new · n)` per axis, evaluated in this order
/// (`compute_new_shape`).
pub fn new_shape(shape: [usize; 3], old_spacing: [f64; 3], new_spacing: [f64; 3]) -> [usize; 3] {
    std::array::from_fn(|a| round_half_even(old_spacing[a] / new_spacing[a] * shape[a] as f64))
}

/// The axis that is treated on its own, if any (`determine_do_sep_z_and_axis`).
///
/// If not forced, the current spacing decides where its largest value is more than three times its smallest, otherwise
/// the new one where that holds for it. The axis is the one with the largest spacing; where two or three share it, none.
pub fn separate_axis(force: Option<bool>, current: [f64; 3], new: [f64; 3]) -> Option<usize> {
    let spacing = match force {
        Some(false) => return None,
        Some(true) => current,
        None => [current, new].into_iter().find(|s| largest(s) / smallest(s) > ANISOTROPY_THRESHOLD)?,
    };
    let mut coarsest = (0..3).filter(|&a| largest(&spacing) / spacing[a] == 1.0);
    let axis = coarsest.next();
    if coarsest.next().is_some() { None } else { axis }
}

fn largest(spacing: &[f64; 3]) -> f64 {
    spacing.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn smallest(spacing: &[f64; 3]) -> f64 {
    spacing.iter().copied().fold(f64::INFINITY, f64::min)
}

/// How values come from one grid to another: an operator an axis, and the axis whose slices are clipped by themselves.
#[derive(Debug, Clone)]
pub(super) struct GridChange {
    /// Along z, y and x.
    pub operators: [AxisOperator; 3],
    /// The axis that is treated on its own.
    pub separate: Option<usize>,
    /// Whether results are clipped to the range of what they were made from.
    pub clips: bool,
}

impl GridChange {
    /// From `shape` to `new_shape`, both (z, y, x); the spacings (mm) only decide whether an axis is treated on its own.
    pub fn new(
        shape: [usize; 3],
        new_shape: [usize; 3],
        current_spacing: [f64; 3],
        new_spacing: [f64; 3],
        resampling: &Resampling,
    ) -> Self {
        let separate = separate_axis(resampling.force_separate_z(), current_spacing, new_spacing);
        let operators = resampling.operators(shape, new_shape, separate);
        Self { operators, separate, clips: shape != new_shape && resampling.clips() }
    }
}

/// One channel, (z, y, x), resampled to `new_shape`; returned as it is where that is its shape already.
///
/// The spacings (mm, in the array's axis order) only decide whether an axis is treated on its own: then each slice across
/// it is interpolated, and clipped, by itself, and slices are repeated or dropped along it.
///
/// `resample_data_or_seg_to_shape` or `resample_torch_fornnunet` on a `float32` array, which the former computes in
/// `float64`: the results agree to about 1e-6 of the values' magnitude.
pub fn resample_image(
    data: Array3<f32>,
    new_shape: [usize; 3],
    current_spacing: [f64; 3],
    new_spacing: [f64; 3],
    resampling: &Resampling,
) -> Array3<f32> {
    let (z, y, x) = data.dim();
    if [z, y, x] == new_shape {
        return data;
    }
    let data = if data.is_standard_layout() { data } else { data.as_standard_layout().into_owned() };
    let GridChange { operators, separate, clips } =
        GridChange::new([z, y, x], new_shape, current_spacing, new_spacing, resampling);
    if !clips {
        return apply_owned(data, &operators);
    }
    let clip = Clip::to_range_of(&data.view().insert_axis(Axis(3)), separate, &operators);
    apply_then(data, &operators, &|row, at| clip.row(row, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_round_to_the_even_neighbour() {
        assert_eq!([0.5, 1.5, 2.5, 3.5, 2.4999].map(round_half_even), [0, 2, 2, 4, 2]);
    }

    #[test]
    fn the_shape_is_evaluated_in_the_order_of_the_original() {
        assert_eq!(new_shape([3, 5, 7], [1.0; 3], [2.0; 3]), [2, 2, 4]);
        // 0.7 / 1.4 * 5 = 2.5 rounds to 2; any other order of operations must not change that.
        assert_eq!(new_shape([5, 1, 1], [0.7, 1.0, 1.0], [1.4, 1.0, 1.0])[0], 2);
    }

    #[test]
    fn the_current_spacing_is_asked_before_the_new_one() {
        let flat = [1.0, 1.0, 1.0];
        assert_eq!(separate_axis(None, [3.1, 1.0, 1.0], [1.0, 1.0, 9.0]), Some(0));
        assert_eq!(separate_axis(None, [3.0, 1.0, 1.0], [1.0, 1.0, 9.0]), Some(2));
        assert_eq!(separate_axis(None, [3.0, 1.0, 1.0], flat), None);
        // Two coarse axes in the current spacing: the new spacing is not asked any more.
        assert_eq!(separate_axis(None, [4.0, 4.0, 1.0], [1.0, 1.0, 9.0]), None);
        assert_eq!(separate_axis(Some(true), [1.1, 1.0, 1.0], [1.0, 9.0, 1.0]), Some(0));
        assert_eq!(separate_axis(Some(true), flat, [1.0, 9.0, 1.0]), None);
        assert_eq!(separate_axis(Some(false), [9.0, 1.0, 1.0], flat), None);
    }

    #[test]
    fn unsupported_orders_are_named() {
        assert_eq!(
            Resampling::from_orders(2, 0, None).unwrap_err().to_string(),
            "resampling order is 2, supported are 0, 1 and 3"
        );
        assert_eq!(Resampling::from_orders(3, 1, None).unwrap_err(), UnsupportedResampling::OrderZ(1));
        assert!(Resampling::from_orders(1, 0, Some(true)).is_ok());
    }

    #[test]
    fn an_unchanged_shape_is_not_copied() {
        let data = Array3::<f32>::zeros((3, 4, 5));
        let address = data.as_ptr();
        let cubic = Resampling::from_orders(3, 0, None).unwrap();
        let same = resample_image(data, [3, 4, 5], [1.0; 3], [2.0; 3], &cubic);
        assert_eq!(same.as_ptr(), address);
    }
}
