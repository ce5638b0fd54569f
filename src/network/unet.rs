//! What U-Nets have in common, whatever their encoder is made of: stages, operators and the decoder.
//!
//! Source: dynamic-network-architectures, `unet_decoder.py: UNetDecoder`, `simple_conv_blocks.py: StackedConvBlocks`.

use super::Steps;
use super::classification::{ClassifierConfig, ClassifierInputs};
use super::plan::{Head, Plan, PlanBuilder, PlanError, ValueId};
use crate::ops::{ConvShape, ValueShape};

/// Numbers of the widest vectors.
const WIDEST_VECTOR: usize = 16;

/// Shape of a U-Net but for its encoder's layers. One entry per stage, highest resolution first.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// Channels of the input image.
    pub input_channels: usize,
    /// Segmentation heads (labels without `ignore`, or regions).
    pub classes: usize,
    /// Features per stage.
    pub features: Vec<usize>,
    /// Odd convolution kernel (z, y, x) per stage.
    pub kernels: Vec<[usize; 3]>,
    /// Stride (z, y, x) by which each stage's grid is coarser than that of the stage before.
    pub strides: Vec<[usize; 3]>,
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
    /// A classification head on the encoder's last stages, if there is one.
    pub classifier: Option<ClassifierConfig>,
}

/// Names and shapes of parameters while they are listed.
pub(super) struct ParameterList<'a> {
    unet: &'a UNetConfig,
    list: Vec<(String, Vec<usize>)>,
}

impl<'a> ParameterList<'a> {
    pub fn new(unet: &'a UNetConfig) -> Self {
        Self { unet, list: Vec::new() }
    }

    /// A convolution with its norm, `….conv.weight` (out, in, z, y, x), `….conv.bias`, `….norm.weight` and `….norm.bias`.
    pub fn conv_block(&mut self, prefix: &str, out: usize, input: usize, kernel: [usize; 3]) {
        self.conv_with_norm(prefix, out, input, kernel, self.unet.conv_bias);
    }

    /// The same 1×1×1 and without a bias, whatever the other convolutions have.
    pub fn projection(&mut self, prefix: &str, out: usize, input: usize) {
        self.conv_with_norm(prefix, out, input, [1; 3], false);
    }

    fn conv_with_norm(&mut self, prefix: &str, out: usize, input: usize, k: [usize; 3], bias: bool) {
        self.list.push((format!("{prefix}.conv.weight"), vec![out, input, k[0], k[1], k[2]]));
        if bias {
            self.list.push((format!("{prefix}.conv.bias"), vec![out]));
        }
        if self.unet.norm_affine {
            self.list.push((format!("{prefix}.norm.weight"), vec![out]));
            self.list.push((format!("{prefix}.norm.bias"), vec![out]));
        }
    }

    /// Ends the list with the decoder: `decoder.stages.{d}.convs.{i}.…`, `decoder.transpconvs.{d}.weight` (in, out, z, y, x), and
    /// the last `decoder.seg_layers.{d}`; then the classification head, if there is one.
    pub fn finish(mut self) -> Vec<(String, Vec<usize>)> {
        let UNetConfig { features, kernels, strides, .. } = self.unet;
        let stages = features.len();
        for d in 0..stages - 1 {
            let skip = stages - 2 - d;
            let mut input = 2 * features[skip];
            for i in 0..self.unet.convs_decoder[d] {
                let prefix = format!("decoder.stages.{d}.convs.{i}");
                self.conv_block(&prefix, features[skip], input, kernels[skip]);
                input = features[skip];
            }
        }
        for d in 0..stages - 1 {
            let skip = stages - 2 - d;
            let [z, y, x] = strides[skip + 1];
            let prefix = format!("decoder.transpconvs.{d}");
            self.list.push((format!("{prefix}.weight"), vec![features[skip + 1], features[skip], z, y, x]));
            if self.unet.conv_bias {
                self.list.push((format!("{prefix}.bias"), vec![features[skip]]));
            }
        }
        let head = format!("decoder.seg_layers.{}", stages - 2);
        self.list.push((format!("{head}.weight"), vec![self.unet.classes, features[0], 1, 1, 1]));
        self.list.push((format!("{head}.bias"), vec![self.unet.classes]));
        let classifier = self.unet.classifier.map(|classifier| classifier.parameters(features, strides));
        self.list.extend(classifier.into_iter().flatten());
        self.list
    }
}

impl UNetConfig {
    /// Slope of the leaky ReLU as operators take it.
    pub(super) fn slope(&self) -> Option<f32> {
        Some(self.negative_slope as f32)
    }

    /// A builder that starts with the input on the grid of a patch.
    pub(super) fn builder(&self, patch: [usize; 3]) -> PlanBuilder {
        PlanBuilder::new(ValueShape { dims: patch, channels: self.input_channels })
    }

    /// Adds the heads and the decoder to the encoder's steps and ends the plan. `skips` are the outputs of the encoder's stages.
    ///
    /// # Errors
    /// If upsampling does not lead back to a skip connection's grid, or memory could not hold the activations.
    pub(super) fn plan_decoder(
        &self,
        mut builder: PlanBuilder,
        skips: &[ValueId],
        steps: Steps,
    ) -> Result<Plan, PlanError> {
        let patch = builder.dims(builder.input());
        let deepest = self.features.len() - 1;
        let classifier = ClassifierInputs::plan(&mut builder, self, skips);
        let mut x = skips[deepest];
        for (d, s) in (0..deepest).rev().enumerate() {
            let layer = format!("decoder.transpconvs.{d}");
            let stride = self.strides[s + 1];
            let upsampled = std::array::from_fn(|a| builder.dims(x)[a].saturating_mul(stride[a]));
            let skip = builder.dims(skips[s]);
            if upsampled != skip {
                return Err(PlanError::Indivisible { patch, layer, upsampled, skip });
            }
            let shape = ConvShape { out_channels: self.features[s], kernel: self.kernels[s], stride: [1; 3] };
            let conv = format!("decoder.stages.{d}.convs.0");
            x = if s == 0 && steps == Steps::InParts {
                self.plan_joint_in_parts(&mut builder, [layer, conv], [x, skips[s]], shape)
            } else {
                let up = builder.upsample(layer, x, self.features[s], stride);
                builder.conv(conv, &[up, skips[s]], shape, self.slope())
            };
            for i in 1..self.convs_decoder[d] {
                x = builder.conv(format!("decoder.stages.{d}.convs.{i}"), &[x], shape, self.slope());
            }
        }
        let parameters = format!("decoder.seg_layers.{}", deepest - 1);
        builder.finish(Head { parameters, features: x, classes: self.classes }, classifier)
    }

    /// Upsampling to full resolution and the convolution over it and the skip connection, which is read, and done with, first;
    /// then the upsampled channels come, half of them at a time where the halves fill the widest vectors.
    fn plan_joint_in_parts(
        &self,
        builder: &mut PlanBuilder,
        [upsampling, conv]: [String; 2],
        [coarse, skip]: [ValueId; 2],
        shape: ConvShape,
    ) -> ValueId {
        let features = self.features[0];
        let groups = if features.is_multiple_of(2 * WIDEST_VECTOR) { 2 } else { 1 };
        let all = 2 * features;
        let output = builder.begin_conv(conv.clone(), skip, shape, self.slope(), [features, all]);
        for group in 0..groups {
            let channels = group * features / groups..(group + 1) * features / groups;
            let first = channels.start;
            let up = builder.upsample_part(upsampling.clone(), coarse, channels, features, self.strides[1]);
            builder.continue_conv(conv.clone(), up, output, shape, [first, all], group + 1 < groups);
        }
        output
    }
}
