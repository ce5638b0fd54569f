//! Running a plan: one set of buffers, any number of weights and tiles.

use super::plan::{Head, Plan, Step, StepKind};
use crate::ops::{Arithmetic, Conv3d, InstanceNorm, Operand, SegmentationHead, TransposedConv3d};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;

/// A step with its parameters packed.
enum Layer {
    Conv(Conv3d),
    Upsample(TransposedConv3d),
}

/// One set of parameters (one fold), packed for a plan.
pub struct Weights {
    layers: Vec<Layer>,
    head: SegmentationHead,
}

impl Weights {
    /// Packs the tensors of a state dict (float32, PyTorch layout) for `plan`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than the plan needs.
    pub fn pack(
        plan: &Plan,
        tensors: HashMap<String, Tensor>,
        norm_eps: f64,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let parameters = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let layers = plan
            .steps()
            .iter()
            .map(|step| {
                let operands: Vec<Operand> = step.sources.iter().map(|&s| plan.operand(s)).collect();
                pack_layer(
                    step,
                    &operands,
                    plan.operand(step.output).shape.channels,
                    &parameters,
                    norm_eps,
                    arithmetic,
                )
            })
            .collect::<Result<_>>()?;
        let head = pack_head(plan, &parameters, arithmetic)?;
        Ok(Self { layers, head })
    }

    /// The segmentation head.
    pub fn head(&self) -> &SegmentationHead {
        &self.head
    }
}

fn pack_head(plan: &Plan, parameters: &VarBuilder<'_>, arithmetic: Arithmetic) -> Result<SegmentationHead> {
    let Head { parameters: prefix, features, classes } = plan.head();
    let here = parameters.pp(prefix);
    let features = plan.operand(*features);
    let weight = here.get((*classes, features.shape.channels, 1, 1, 1), "weight")?;
    SegmentationHead::new(features, &weight, bias(&here, *classes)?.as_ref(), arithmetic)
}

/// The bias of a convolution, if it has one.
fn bias(parameters: &VarBuilder<'_>, channels: usize) -> Result<Option<Tensor>> {
    parameters.contains_tensor("bias").then(|| parameters.get(channels, "bias")).transpose()
}

fn pack_layer(
    step: &Step,
    operands: &[Operand],
    out_channels: usize,
    parameters: &VarBuilder<'_>,
    eps: f64,
    arithmetic: Arithmetic,
) -> Result<Layer> {
    let here = parameters.pp(&step.parameters);
    let in_channels: usize = operands.iter().map(|o| o.shape.channels).sum();
    let bias = |of: &VarBuilder<'_>| bias(of, out_channels);
    match &step.kind {
        StepKind::Conv { shape, norm } => {
            let conv = if *norm { here.pp("conv") } else { here.clone() };
            let [z, y, x] = shape.kernel;
            let weight = conv.get((out_channels, in_channels, z, y, x), "weight")?;
            let norm = norm.then(|| instance_norm(&here.pp("norm"), out_channels, eps)).transpose()?;
            Ok(Layer::Conv(Conv3d::new(*shape, operands, &weight, bias(&conv)?.as_ref(), norm, arithmetic)?))
        }
        StepKind::Upsample { stride } => {
            let [z, y, x] = *stride;
            let weight = here.get((in_channels, out_channels, z, y, x), "weight")?;
            Ok(Layer::Upsample(TransposedConv3d::new(
                *stride,
                operands[0],
                &weight,
                bias(&here)?.as_ref(),
                arithmetic,
            )?))
        }
    }
}

/// The norm's parameters; without affine parameters, weight 1 and bias 0.
fn instance_norm(parameters: &VarBuilder<'_>, channels: usize, eps: f64) -> Result<InstanceNorm> {
    let or = |name: &str, default: f32| {
        if parameters.contains_tensor(name) {
            parameters.get(channels, name)?.to_vec1::<f32>()
        } else {
            Ok(vec![default; channels])
        }
    };
    Ok(InstanceNorm { weight: or("weight", 1.0)?, bias: or("bias", 0.0)?, eps })
}

/// The buffers of a plan. Nothing is allocated while tiles run.
pub struct Runner {
    plan: Plan,
    buffers: Vec<Tensor>,
}

impl Runner {
    /// Allocates the buffers of a plan.
    ///
    /// # Errors
    /// If the device refuses the memory.
    pub fn new(plan: Plan) -> Result<Self> {
        let buffers = plan
            .buffer_lens()
            .iter()
            .map(|&n| Tensor::zeros(n, DType::F32, &Device::Cpu))
            .collect::<Result<_>>()?;
        Ok(Self { plan, buffers })
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Buffer of the network's input, to be filled before [`Runner::run`].
    pub fn input(&self) -> &Tensor {
        &self.buffers[self.plan.buffer_of(self.plan.input())]
    }

    /// Buffer of the features that the segmentation head reads, valid until the input is filled again.
    pub fn features(&self) -> &Tensor {
        &self.buffers[self.plan.buffer_of(self.plan.head().features)]
    }

    /// Runs all steps, up to the segmentation head, on the tile in the input buffer.
    ///
    /// # Errors
    /// If the weights were packed for another plan.
    pub fn run(&self, weights: &Weights) -> Result<()> {
        self.run_observed(weights, |_| {})
    }

    /// Runs all steps as [`Runner::run`] does and tells `observer` of each that is done, by its index in the plan.
    ///
    /// # Errors
    /// If the weights were packed for another plan.
    pub fn run_observed(&self, weights: &Weights, mut observer: impl FnMut(usize)) -> Result<()> {
        for (index, (step, layer)) in self.plan.steps().iter().zip(&weights.layers).enumerate() {
            let output = &self.buffers[self.plan.buffer_of(step.output)];
            let source = |i: usize| &self.buffers[self.plan.buffer_of(step.sources[i])];
            match layer {
                Layer::Conv(conv) if step.sources.len() == 2 => {
                    output.inplace_op3(source(0), source(1), conv)?;
                }
                Layer::Conv(conv) => output.inplace_op2(source(0), conv)?,
                Layer::Upsample(up) => output.inplace_op2(source(0), up)?,
            }
            observer(index);
        }
        Ok(())
    }
}
