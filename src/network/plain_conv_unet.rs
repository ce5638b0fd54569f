//! `PlainConvUNet` of dynamic-network-architectures, as nnU-Net v2 uses it at inference.

use super::Steps;
use super::plan::{Plan, PlanError};
use super::unet::{ParameterList, UNetConfig};
use crate::ops::ConvShape;

/// Shape of a `PlainConvUNet`: everything that decides its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainConvUNetConfig {
    /// Stages, decoder and operators.
    pub unet: UNetConfig,
    /// Convolutions per encoder stage; the first has the stage's stride.
    pub convs_encoder: Vec<usize>,
}

impl PlainConvUNetConfig {
    /// Name and shape (PyTorch order) of every parameter that inference reads, in network order.
    ///
    /// Names as in an nnU-Net state dict: `encoder.stages.{s}.0.convs.{i}.conv.weight` (out, in, z, y, x),
    /// `….norm.weight`, and those of the decoder.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = ParameterList::new(&self.unet);
        let mut input = self.unet.input_channels;
        for (s, &features) in self.unet.features.iter().enumerate() {
            for i in 0..self.convs_encoder[s] {
                let prefix = format!("encoder.stages.{s}.0.convs.{i}");
                list.conv_block(&prefix, features, input, self.unet.kernels[s]);
                input = features;
            }
        }
        list.finish()
    }

    /// The network as steps for one patch (z, y, x).
    pub(super) fn plan(&self, patch: [usize; 3], steps: Steps) -> Result<Plan, PlanError> {
        let unet = &self.unet;
        let mut builder = unet.builder(patch);
        let mut x = builder.input();
        let mut skips = Vec::new();
        for (s, &out_channels) in unet.features.iter().enumerate() {
            for i in 0..self.convs_encoder[s] {
                let stride = if i == 0 { unet.strides[s] } else { [1; 3] };
                let shape = ConvShape { out_channels, kernel: unet.kernels[s], stride };
                x = builder.conv(format!("encoder.stages.{s}.0.convs.{i}"), &[x], shape, unet.slope());
            }
            skips.push(x);
        }
        unet.plan_decoder(builder, &skips, steps)
    }
}
