//! A network as a list of steps over values that share a few buffers.

use crate::ops::{ConvShape, Operand, ValueShape};
use std::fmt;

/// Index of a value of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueId(usize);

/// Why an architecture cannot run on a patch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Upsampling does not lead back to the grid of the skip connection.
    #[error(
        "patch {patch:?} is not divisible by the network's strides: {layer} upsamples to {upsampled:?}, its skip connection has {skip:?}"
    )]
    Indivisible {
        /// Patch (z, y, x).
        patch: [usize; 3],
        /// Parameter prefix of the transposed convolution.
        layer: String,
        /// Grid it produces.
        upsampled: [usize; 3],
        /// Grid it should produce.
        skip: [usize; 3],
    },
    /// An activation, or all of them together, would be larger than memory can be.
    #[error("patch {patch:?}: {layer} needs more bytes than can be addressed")]
    TooLarge {
        /// Patch (z, y, x).
        patch: [usize; 3],
        /// Parameter prefix of the layer, or what else needs them.
        layer: String,
    },
}

/// Most floats that an activation, or all of them, can have.
const MAX_FLOATS: usize = isize::MAX as usize / size_of::<f32>();

/// Floats that a value occupies, if memory could hold them.
fn storage_len(ValueShape { dims, channels }: ValueShape) -> Option<usize> {
    let voxels = dims.into_iter().try_fold(1usize, usize::checked_mul)?;
    let floats = voxels.checked_add(2)?.checked_mul(channels)?;
    (floats <= MAX_FLOATS).then_some(floats)
}

/// What a step computes.
#[derive(Debug, Clone, PartialEq)]
pub enum StepKind {
    /// Convolution over one input or two concatenated ones; with `norm`, followed by an instance norm.
    Conv {
        /// Kernel, stride, output channels.
        shape: ConvShape,
        /// Whether an instance norm follows (and the parameters are `conv.*` and `norm.*` under the prefix).
        norm: bool,
    },
    /// Transposed convolution with kernel = stride.
    Upsample {
        /// Stride (z, y, x).
        stride: [usize; 3],
    },
}

/// One step: reads `sources`, writes `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Prefix of the step's parameters in the state dict.
    pub parameters: String,
    /// What is computed.
    pub kind: StepKind,
    /// Values read.
    pub sources: Vec<ValueId>,
    /// Value written.
    pub output: ValueId,
}

/// The segmentation head: a 1×1×1 convolution from the last features to classes. Its logits are no value of the plan,
/// they go straight into the sums over tiles ([`crate::ops::SegmentationHead`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Prefix of the head's parameters in the state dict.
    pub parameters: String,
    /// Value read.
    pub features: ValueId,
    /// Classes, or regions.
    pub classes: usize,
}

/// A network planned for one patch size: steps, values and the buffers that the values share.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    operands: Vec<Operand>,
    buffer_of: Vec<usize>,
    buffer_lens: Vec<usize>,
    input: ValueId,
    head: Head,
}

impl Plan {
    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Shape of a value and how it is read.
    pub fn operand(&self, id: ValueId) -> Operand {
        self.operands[id.0]
    }

    /// Number of the buffer that holds a value.
    pub fn buffer_of(&self, id: ValueId) -> usize {
        self.buffer_of[id.0]
    }

    /// Floats per buffer.
    pub fn buffer_lens(&self) -> &[usize] {
        &self.buffer_lens
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        self.input
    }

    /// The segmentation head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Grid of the network's output (the patch) and number of classes.
    pub fn logits(&self) -> ValueShape {
        ValueShape { channels: self.head.classes, ..self.operand(self.head.features).shape }
    }

    /// Floating-point operations of a step (a multiply-add counts as two).
    pub fn flop(&self, step: &Step) -> u64 {
        let input: usize = step.sources.iter().map(|&s| self.operand(s).shape.channels).sum();
        let output = self.operand(step.output).shape;
        let taps = match &step.kind {
            StepKind::Conv { shape, .. } => shape.kernel.iter().product(),
            StepKind::Upsample { .. } => 1,
        };
        (output.data_len() as u64).saturating_mul(2 * (input * taps) as u64)
    }

    /// Floating-point operations of the head.
    pub fn head_flop(&self) -> u64 {
        let channels = self.operand(self.head.features).shape.channels;
        (self.logits().data_len() as u64).saturating_mul(2 * channels as u64)
    }

    /// Bytes of activations that a step reads and writes.
    pub fn bytes(&self, step: &Step) -> u64 {
        let values = step.sources.iter().chain([&step.output]);
        values.map(|&v| 4 * self.operand(v).shape.data_len() as u64).sum()
    }
}

impl fmt::Display for Plan {
    /// One line a step: shapes, GFLOP, MB moved, buffer written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let what = match &step.kind {
                StepKind::Conv { shape, norm } => {
                    let [z, y, x] = shape.kernel;
                    let norm = if *norm { " + norm" } else { "" };
                    format!("conv {z}×{y}×{x}{norm}")
                }
                StepKind::Upsample { stride: [z, y, x] } => format!("upsample {z}×{y}×{x}"),
            };
            let sources: Vec<_> = step.sources.iter().map(|&s| show(self.operand(s).shape)).collect();
            writeln!(
                f,
                "{:<32} {what:<18} {:<34} -> {:<18} {:>9.3} GFLOP {:>8.2} MB  buffer {}",
                step.parameters,
                sources.join(" ++ "),
                show(self.operand(step.output).shape),
                self.flop(step) as f64 / 1e9,
                self.bytes(step) as f64 / 1e6,
                self.buffer_of(step.output),
            )?;
        }
        let features = self.operand(self.head.features).shape;
        writeln!(
            f,
            "{:<32} {:<18} {:<34} -> {:<18} {:>9.3} GFLOP {:>8.2} MB  summed up at once",
            self.head.parameters,
            "conv 1×1×1",
            show(features),
            show(self.logits()),
            self.head_flop() as f64 / 1e9,
            4.0 * features.data_len() as f64 / 1e6,
        )?;
        let flop = self.steps.iter().map(|s| self.flop(s)).sum::<u64>() + self.head_flop();
        let floats: usize = self.buffer_lens.iter().sum();
        let (gflop, megabytes) = (flop as f64 / 1e9, 4.0 * floats as f64 / 1e6);
        write!(f, "total {gflop:.3} GFLOP, {} buffers of {megabytes:.1} MB together", self.buffer_lens.len())
    }
}

fn show(ValueShape { dims: [d, h, w], channels }: ValueShape) -> String {
    format!("{d}×{h}×{w}×{channels}")
}

/// Collects steps and values, then assigns buffers.
pub(super) struct PlanBuilder {
    steps: Vec<Step>,
    operands: Vec<Operand>,
    input: ValueId,
    /// The first layer whose output memory could not hold.
    too_large: Option<String>,
}

impl PlanBuilder {
    /// Starts with the network's input.
    pub fn new(input: ValueShape) -> Self {
        let operand = Operand { shape: input, negative_slope: 1.0 };
        let too_large = storage_len(input).is_none().then(|| "the input".to_owned());
        Self { steps: Vec::new(), operands: vec![operand], input: ValueId(0), too_large }
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        self.input
    }

    /// Grid of a value.
    pub fn dims(&self, id: ValueId) -> [usize; 3] {
        self.operands[id.0].shape.dims
    }

    fn push(&mut self, parameters: String, kind: StepKind, sources: &[ValueId], operand: Operand) -> ValueId {
        let output = ValueId(self.operands.len());
        if self.too_large.is_none() && storage_len(operand.shape).is_none() {
            self.too_large = Some(parameters.clone());
        }
        self.operands.push(operand);
        self.steps.push(Step { parameters, kind, sources: sources.to_vec(), output });
        output
    }

    /// A convolution, normalised and activated with `negative_slope` if given.
    pub fn conv(
        &mut self,
        parameters: String,
        sources: &[ValueId],
        shape: ConvShape,
        slope: Option<f32>,
    ) -> ValueId {
        let value = ValueShape { dims: shape.out_dims(self.dims(sources[0])), channels: shape.out_channels };
        let operand = Operand { shape: value, negative_slope: slope.unwrap_or(1.0) };
        self.push(parameters, StepKind::Conv { shape, norm: slope.is_some() }, sources, operand)
    }

    /// A transposed convolution with kernel = stride.
    pub fn upsample(
        &mut self,
        parameters: String,
        source: ValueId,
        channels: usize,
        stride: [usize; 3],
    ) -> ValueId {
        let dims = std::array::from_fn(|a| self.dims(source)[a].saturating_mul(stride[a]));
        let operand = Operand { shape: ValueShape { dims, channels }, negative_slope: 1.0 };
        self.push(parameters, StepKind::Upsample { stride }, &[source], operand)
    }

    /// Assigns buffers: a value takes the smallest free buffer that fits, else the largest free one, grown.
    ///
    /// # Errors
    /// If memory could not hold a value, the logits, or all buffers together.
    pub fn finish(mut self, head: Head) -> Result<Plan, PlanError> {
        let features = self.operands[head.features.0].shape;
        let logits = storage_len(ValueShape { channels: head.classes, ..features });
        if self.too_large.is_none() && logits.is_none() {
            self.too_large = Some(head.parameters.clone());
        }
        let patch = self.operands[self.input.0].shape.dims;
        if let Some(layer) = self.too_large.take() {
            return Err(PlanError::TooLarge { patch, layer });
        }
        let mut last_use = vec![0; self.operands.len()];
        for (i, step) in self.steps.iter().enumerate() {
            for s in &step.sources {
                last_use[s.0] = i;
            }
        }
        last_use[head.features.0] = self.steps.len();
        let mut buffer_lens: Vec<usize> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        let mut buffer_of = vec![0; self.operands.len()];
        let mut assign = |value: usize, free: &mut Vec<usize>| {
            let need = self.operands[value].shape.storage_len();
            free.sort_by_key(|&b| buffer_lens[b]);
            let position = free.iter().position(|&b| buffer_lens[b] >= need).or(free.len().checked_sub(1));
            let buffer = match position {
                Some(p) => free.remove(p),
                None => {
                    buffer_lens.push(0);
                    buffer_lens.len() - 1
                }
            };
            buffer_lens[buffer] = buffer_lens[buffer].max(need);
            buffer_of[value] = buffer;
            buffer
        };
        let mut holder = vec![usize::MAX; self.operands.len()];
        holder[self.input.0] = assign(self.input.0, &mut free);
        for (i, step) in self.steps.iter().enumerate() {
            holder[step.output.0] = assign(step.output.0, &mut free);
            for s in &step.sources {
                if last_use[s.0] == i && !free.contains(&holder[s.0]) {
                    free.push(holder[s.0]);
                }
            }
        }
        let together = buffer_lens.iter().try_fold(0usize, |sum, &len| sum.checked_add(len));
        if together.is_none_or(|floats| floats > MAX_FLOATS) {
            return Err(PlanError::TooLarge { patch, layer: "the network".to_owned() });
        }
        let Self { steps, operands, input, .. } = self;
        Ok(Plan { steps, operands, buffer_of, buffer_lens, input, head })
    }
}
