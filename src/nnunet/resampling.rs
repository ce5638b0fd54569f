//! To come.

/// How nnU-Net resizes an array to another shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Resampling {
    /// `resample_data_or_seg_to_shape`: skimage's `resize`, by splines.
    Default {
        /// Spline order in the volume, or in each slice where one axis is treated apart: 0, 1 or 3.
        order: u8,
        /// Spline order along the axis that is treated apart.
        order_z: u8,
        /// Whether the coarsest axis is treated apart; `None` leaves it to the spacings.
        force_separate_z: Option<bool>,
    },
    /// `resample_torch_fornnunet`: `torch.nn.functional.interpolate`, linear.
    Torch {
        /// Whether the coarsest axis is treated apart; `None` leaves it to the spacings.
        force_separate_z: Option<bool>,
    },
}
