//! The segmentation head on the GPU.

use super::memory::DeviceMemory;
use super::value::padded_channels;
use super::{Cuda, CudaError};
use crate::ops::ValueShape;

/// The 1×1×1 convolution from features to classes, in float32.
pub(crate) struct CudaHead {
    pub(super) cuda: Cuda,
    /// (class, padded channel)
    pub(super) weight: DeviceMemory<f32>,
    /// (class)
    pub(super) bias: DeviceMemory<f32>,
    /// Of the features.
    pub(super) shape: ValueShape,
}

impl CudaHead {
    /// `weight` is (class, channel) flattened.
    pub fn new(cuda: Cuda, shape: ValueShape, weight: &[f32], bias: &[f32]) -> Result<Self, CudaError> {
        let channels = padded_channels(shape.channels);
        let mut padded = vec![0.0; bias.len() * channels];
        for (to, from) in padded.chunks_exact_mut(channels).zip(weight.chunks_exact(shape.channels)) {
            to[..from.len()].copy_from_slice(from);
        }
        let (weight, bias) = (cuda.upload_parameters(&padded)?, cuda.upload_parameters(bias)?);
        Ok(Self { cuda, weight, bias, shape })
    }

    pub fn classes(&self) -> usize {
        self.bias.len()
    }
}
