//! `PlainConvUNet` of dynamic-network-architectures, as nnU-Net v2 uses it at inference.

use super::plan::{Head, Plan, PlanBuilder, PlanError};
use crate::ops::{ConvShape, ValueShape};

/// Shape of a `PlainConvUNet`: everything that decides its layers. One entry per stage, highest resolution first.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainConvUNetConfig {
    /// Channels of the input image.
    pub input_channels: usize,
    /// Segmentation heads (labels without `ignore`, or regions).
    pub classes: usize,
    /// Features per stage.
    pub features: Vec<usize>,
    /// Odd convolution kernel (z, y, x) per stage.
    pub kernels: Vec<[usize; 3]>,
    /// Stride (z, y, x) of the first convolution per stage.
    pub strides: Vec<[usize; 3]>,
    /// Convolutions per encoder stage.
    pub convs_encoder: Vec<usize>,
    /// Convolutions per decoder stage, highest resolution LAST, as in `n_conv_per_stage_decoder`.
    pub convs_decoder: Vec<usize>,
    /// Whether convolutions carry a bias.
    pub conv_bias: bool,
    /// Epsilon of the instance norm.
    pub norm_eps: f64,
    /// Whether the instance norm has a weight and a bias.
    pub norm_affine: bool,
    /// Negative slope of the leaky ReLU.
    pub negative_slope: f64,
}

impl PlainConvUNetConfig {
    /// Name and shape (PyTorch order) of every parameter that inference reads, in network order.
    ///
    /// Names as in an nnU-Net state dict: `encoder.stages.{s}.0.convs.{i}.conv.weight` (out, in, z, y, x),
    /// `….norm.weight`, `decoder.transpconvs.{s}.weight` (in, out, z, y, x), `decoder.stages.{s}.convs.{i}.…`,
    /// and the last `decoder.seg_layers.{s}`.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = Vec::new();
        let mut block = |prefix: String, out: usize, input: usize, k: [usize; 3]| {
            list.push((format!("{prefix}.conv.weight"), vec![out, input, k[0], k[1], k[2]]));
            if self.conv_bias {
                list.push((format!("{prefix}.conv.bias"), vec![out]));
            }
            if self.norm_affine {
                list.push((format!("{prefix}.norm.weight"), vec![out]));
                list.push((format!("{prefix}.norm.bias"), vec![out]));
            }
        };
        let stages = self.features.len();
        let mut input = self.input_channels;
        for s in 0..stages {
            for i in 0..self.convs_encoder[s] {
                block(format!("encoder.stages.{s}.0.convs.{i}"), self.features[s], input, self.kernels[s]);
                input = self.features[s];
            }
        }
        for d in 0..stages - 1 {
            let skip = stages - 2 - d;
            let features = self.features[skip];
            let mut input = 2 * features;
            for i in 0..self.convs_decoder[d] {
                block(format!("decoder.stages.{d}.convs.{i}"), features, input, self.kernels[skip]);
                input = features;
            }
        }
        for d in 0..stages - 1 {
            let skip = stages - 2 - d;
            let [z, y, x] = self.strides[skip + 1];
            let prefix = format!("decoder.transpconvs.{d}");
            list.push((
                format!("{prefix}.weight"),
                vec![self.features[skip + 1], self.features[skip], z, y, x],
            ));
            if self.conv_bias {
                list.push((format!("{prefix}.bias"), vec![self.features[skip]]));
            }
        }
        let head = format!("decoder.seg_layers.{}", stages - 2);
        list.push((format!("{head}.weight"), vec![self.classes, self.features[0], 1, 1, 1]));
        list.push((format!("{head}.bias"), vec![self.classes]));
        list
    }
}

impl PlainConvUNetConfig {
    /// The network as steps for one patch (z, y, x).
    ///
    /// # Errors
    /// If the patch is not divisible by the network's strides, or an activation would be larger than memory can be.
    pub fn plan(&self, patch: [usize; 3]) -> Result<Plan, PlanError> {
        let slope = Some(self.negative_slope as f32);
        let mut builder = PlanBuilder::new(ValueShape { dims: patch, channels: self.input_channels });
        let mut x = builder.input();
        let mut skips = Vec::new();
        for (s, &out_channels) in self.features.iter().enumerate() {
            for i in 0..self.convs_encoder[s] {
                let stride = if i == 0 { self.strides[s] } else { [1; 3] };
                let shape = ConvShape { out_channels, kernel: self.kernels[s], stride };
                x = builder.conv(format!("encoder.stages.{s}.0.convs.{i}"), &[x], shape, slope);
            }
            skips.push(x);
        }
        let deepest = self.features.len() - 1;
        for (d, s) in (0..deepest).rev().enumerate() {
            let layer = format!("decoder.transpconvs.{d}");
            let up = builder.upsample(layer.clone(), x, self.features[s], self.strides[s + 1]);
            let (upsampled, skip) = (builder.dims(up), builder.dims(skips[s]));
            if upsampled != skip {
                return Err(PlanError::Indivisible { patch, layer, upsampled, skip });
            }
            let shape = ConvShape { out_channels: self.features[s], kernel: self.kernels[s], stride: [1; 3] };
            x = builder.conv(format!("decoder.stages.{d}.convs.0"), &[up, skips[s]], shape, slope);
            for i in 1..self.convs_decoder[d] {
                x = builder.conv(format!("decoder.stages.{d}.convs.{i}"), &[x], shape, slope);
            }
        }
        let parameters = format!("decoder.seg_layers.{}", deepest - 1);
        builder.finish(Head { parameters, features: x, classes: self.classes })
    }
}
