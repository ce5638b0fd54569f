//! Running a plan: one buffer, any number of weights and tiles.

use super::classification::{CLASSES, ClassificationHead};
use super::plan::{Head, Plan, Step, StepKind, ValueId};
use crate::ops::{
    self, AveragePool, Backend, Conv3d, InstanceNorm, Operand, Operator, ResidualAdd, SegmentationHead,
    TransposedConv3d, Within,
};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::HashMap;

/// A step with its parameters packed.
enum Layer {
    Conv(Box<Conv3d>),
    Upsample(Box<TransposedConv3d>),
    Pool(AveragePool),
    Add(ResidualAdd),
}

impl Layer {
    fn operator(&self) -> &dyn Operator {
        match self {
            Self::Conv(conv) => conv.as_ref(),
            Self::Upsample(up) => up.as_ref(),
            Self::Pool(pool) => pool,
            Self::Add(add) => add,
        }
    }
}

/// One set of parameters (one fold), packed for a plan.
pub struct Weights {
    layers: Vec<Layer>,
    head: SegmentationHead,
    classifier: Option<ClassificationHead>,
}

impl Weights {
    /// Packs the tensors of a state dict (float32, PyTorch layout) for `plan` and what computes.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than the plan needs.
    pub fn pack(
        plan: &Plan,
        tensors: HashMap<String, Tensor>,
        norm_eps: f64,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let backend = backend.into();
        let mut parameters = Parameters::new(plan, tensors);
        let layers = plan
            .steps()
            .iter()
            .map(|step| {
                let operands: Vec<Operand> = step.sources.iter().map(|&s| plan.operand(s)).collect();
                parameters.begin(step);
                pack_layer(step, &operands, plan.operand(step.output), &mut parameters, norm_eps, backend)
            })
            .collect::<Result<_>>()?;
        let head = pack_head(plan, &mut parameters, backend)?;
        let classifier = pack_classifier(plan, &mut parameters)?;
        Ok(Self { layers, head, classifier })
    }

    /// The segmentation head.
    pub fn head(&self) -> &SegmentationHead {
        &self.head
    }

    /// The classification head, if the network has one.
    pub fn classifier(&self) -> Option<&ClassificationHead> {
        self.classifier.as_ref()
    }

    /// The operator of each step.
    pub(super) fn operators(&self) -> impl Iterator<Item = &dyn Operator> {
        self.layers.iter().map(Layer::operator)
    }
}

/// The tensors of a state dict; each is given out as often as steps read it, so that its memory is free as soon as it is packed.
struct Parameters {
    tensors: HashMap<String, Tensor>,
    /// Steps to come by the prefix of their parameters.
    readers: HashMap<String, usize>,
    /// Whether the step that packs now is its parameters' last reader.
    last: bool,
}

impl Parameters {
    fn new(plan: &Plan, tensors: HashMap<String, Tensor>) -> Self {
        let mut readers = HashMap::new();
        for step in plan.steps() {
            *readers.entry(step.parameters.clone()).or_insert(0) += 1;
        }
        Self { tensors, readers, last: true }
    }

    /// A step packs from now on.
    fn begin(&mut self, step: &Step) {
        if let Some(readers) = self.readers.get_mut(&step.parameters) {
            *readers -= 1;
            self.last = *readers == 0;
        }
    }

    fn find(&mut self, name: &str) -> Option<Tensor> {
        if self.last { self.tensors.remove(name) } else { self.tensors.get(name).cloned() }
    }

    /// The tensor `name` of this shape, float32; `None` if there is none.
    fn take_if_any(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some(tensor) = self.find(name) else { return Ok(None) };
        if tensor.dims() != shape {
            bail!("{name} has shape {:?}, expected {shape:?}", tensor.dims());
        }
        tensor.to_dtype(DType::F32).map(Some)
    }

    /// The tensor `name` of this shape, float32.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match self.take_if_any(name, shape)? {
            Some(tensor) => Ok(tensor),
            None => bail!("{name} is missing"),
        }
    }
}

fn pack_head(plan: &Plan, parameters: &mut Parameters, backend: Backend) -> Result<SegmentationHead> {
    let Head { parameters: here, features, classes } = plan.head();
    let features = plan.operand(*features);
    let weight = parameters.take(&format!("{here}.weight"), &[*classes, features.shape.channels, 1, 1, 1])?;
    let bias = parameters.take_if_any(&format!("{here}.bias"), &[*classes])?;
    SegmentationHead::new(features, &weight, bias.as_ref(), backend)
}

fn pack_classifier(plan: &Plan, parameters: &mut Parameters) -> Result<Option<ClassificationHead>> {
    let Some(classifier) = plan.classifier() else { return Ok(None) };
    ClassificationHead::pack(&classifier.parameters, |name, shape| parameters.take(name, shape)).map(Some)
}

fn pack_layer(
    step: &Step,
    operands: &[Operand],
    output: Operand,
    parameters: &mut Parameters,
    eps: f64,
    backend: Backend,
) -> Result<Layer> {
    let out_channels = output.shape.channels;
    let here = &step.parameters;
    let in_channels: usize = operands.iter().map(|o| o.shape.channels).sum();
    match &step.kind {
        StepKind::Conv { shape, norm, part } => {
            let conv = if *norm { format!("{here}.conv") } else { here.clone() };
            let [z, y, x] = shape.kernel;
            let (first, all) = part.map_or((0, in_channels), |part| (part.first, part.all));
            let weight = parameters.take(&format!("{conv}.weight"), &[out_channels, all, z, y, x])?;
            let weight = weight.narrow(1, first, in_channels)?;
            let bias = parameters.take_if_any(&format!("{conv}.bias"), &[out_channels])?;
            // The first part has the bias, the last one the norm.
            let bias = bias.filter(|_| part.is_none_or(|part| !part.continues));
            let norm = *norm && part.is_none_or(|part| !part.continued);
            let norm = norm.then(|| instance_norm(parameters, here, output, eps)).transpose()?;
            let conv = Conv3d::new(*shape, operands, &weight, bias.as_ref(), norm, backend)?;
            let continues = part.is_some_and(|part| part.continues);
            Ok(Layer::Conv(Box::new(if continues { conv.added_to_output()? } else { conv })))
        }
        StepKind::Upsample { stride, part } => {
            let [z, y, x] = *stride;
            let [first, all] = part.unwrap_or([0, out_channels]);
            let weight = parameters.take(&format!("{here}.weight"), &[in_channels, all, z, y, x])?;
            let weight = weight.narrow(1, first, out_channels)?.contiguous()?;
            let bias = parameters.take_if_any(&format!("{here}.bias"), &[all])?;
            let bias = bias.map(|bias| bias.narrow(0, first, out_channels)).transpose()?;
            let up = TransposedConv3d::new(*stride, operands[0], &weight, bias.as_ref(), backend)?;
            Ok(Layer::Upsample(Box::new(up)))
        }
        StepKind::Pool { stride } => Ok(Layer::Pool(AveragePool::new(operands[0], *stride, backend)?)),
        StepKind::Add { negative_slope } => {
            // In place the output is the first input.
            let inputs = match *operands {
                [other] => [output, other],
                _ => [operands[0], operands[1]],
            };
            Ok(Layer::Add(ResidualAdd::new(inputs, *negative_slope, backend)?))
        }
    }
}

/// The norm's parameters; without affine parameters, weight 1 and bias 0.
fn instance_norm(parameters: &mut Parameters, here: &str, output: Operand, eps: f64) -> Result<InstanceNorm> {
    let (channels, negative_slope) = (output.shape.channels, output.negative_slope);
    let mut or = |name: &str, default: f32| {
        let found = parameters.take_if_any(&format!("{here}.norm.{name}"), &[channels])?;
        found.map_or_else(|| Ok(vec![default; channels]), |tensor| tensor.to_vec1::<f32>())
    };
    Ok(InstanceNorm { weight: or("weight", 1.0)?, bias: or("bias", 0.0)?, eps, negative_slope })
}

/// The buffer of a plan. While tiles run nothing of the size of a value is allocated.
pub struct Runner {
    plan: Plan,
    buffer: Tensor,
}

impl Runner {
    /// Allocates the buffer of a plan.
    ///
    /// # Errors
    /// If the device refuses the memory.
    pub fn new(plan: Plan) -> Result<Self> {
        let buffer = ops::zeros(plan.buffer_len())?;
        Ok(Self { plan, buffer })
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes to all of the buffer, so that the system has given its memory.
    ///
    /// # Errors
    /// Never, unless the buffer is broken.
    pub fn touch(&self) -> Result<()> {
        self.buffer.zero_set()
    }

    /// The network's input, to be filled before [`Runner::run`].
    ///
    /// # Errors
    /// Never, unless the plan is broken.
    pub fn input(&self) -> Result<Tensor> {
        self.value(self.plan.input())
    }

    /// The features that the segmentation head reads, valid until the input is filled again.
    ///
    /// # Errors
    /// Never, unless the plan is broken.
    pub fn features(&self) -> Result<Tensor> {
        self.value(self.plan.head().features)
    }

    /// Class logits (no lesion, lesion) of the patch that was run last; `None` if the network has no classification head.
    ///
    /// # Errors
    /// Never, unless the plan is broken.
    pub fn class_logits(&self, weights: &Weights) -> Result<Option<[f64; CLASSES]>> {
        let (Some(inputs), Some(head)) = (self.plan.classifier(), weights.classifier()) else {
            return Ok(None);
        };
        let [deepest, middle, shallow] =
            inputs.means.map(|mean| self.plan.operand(mean).activated(&self.value(mean)?));
        Ok(Some(head.logits(&[deepest?, middle?, shallow?])))
    }

    fn value(&self, id: ValueId) -> Result<Tensor> {
        let place = self.plan.place(id);
        self.buffer.narrow(0, place.start, place.len())
    }

    /// Runs all steps, up to the segmentation head, on the tile in the input.
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
        for (index, (step, operator)) in self.plan.steps().iter().zip(weights.operators()).enumerate() {
            let sources = step.sources.iter().map(|&s| self.plan.place(s)).collect();
            let output = self.plan.place(step.output);
            self.buffer.inplace_op1(&Within { operator, sources, output, samples: 1 })?;
            observer(index);
        }
        Ok(())
    }
}
