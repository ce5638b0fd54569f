//! Average pooling on the GPU.

use super::launch::{grid_over, launch};
use super::layers::elements;
use super::value::{DeviceValue, padded_channels};
use super::{Cuda, CudaError};
use crate::ops::ValueShape;

/// Means over windows of `stride` voxels.
pub(in crate::ops) struct CudaAveragePool {
    pub cuda: Cuda,
    pub input: ValueShape,
    /// On a grid of as many whole windows as the input's has.
    pub out: ValueShape,
    pub stride: [usize; 3],
}

impl CudaAveragePool {
    pub fn run(&self, samples: usize, output: DeviceValue, source: DeviceValue) -> Result<(), CudaError> {
        let out = output.with(elements(self.out, samples), "average_pool")?;
        let x = source.with(elements(self.input, samples), "average_pool")?;
        let [depth, height, width] = self.input.dims.map(|n| n as u32);
        let [out_depth, out_height, out_width] = self.out.dims.map(|n| n as u32);
        let [sz, sy, sx] = self.stride.map(|n| n as u32);
        let channels = padded_channels(self.out.channels);
        let eights = (self.out.voxels() * channels / 8) as u64;
        let name = self.cuda.kernel("average_pool_f16", "average_pool_f32");
        let blocks = grid_over(eights, samples);
        launch!(
            self.cuda,
            name,
            blocks,
            x,
            out,
            depth,
            height,
            width,
            out_depth,
            out_height,
            out_width,
            sz,
            sy,
            sx,
            channels as u32
        )
    }
}
