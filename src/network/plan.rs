//! A network as a list of steps over values that share one buffer.

mod builder;

use super::classification::{CLASSES, ClassifierInputs};
use super::placement::{Life, MAX_FLOATS, place};
use crate::ops::{ConvShape, Operand, ValueShape};
pub(super) use builder::PlanBuilder;
use std::fmt;
use std::ops::Range;

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
    /// Average pooling and the convolutions beside it lead to different grids.
    #[error(
        "patch {patch:?} is not divisible by the network's strides: {layer} pools to {pooled:?}, the convolutions beside it give {convolved:?}"
    )]
    UnevenPool {
        /// Patch (z, y, x).
        patch: [usize; 3],
        /// Name of the pooling in the network.
        layer: String,
        /// Grid it produces.
        pooled: [usize; 3],
        /// Grid it should produce.
        convolved: [usize; 3],
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

/// Floats that a value occupies, if memory could hold them.
fn storage_len(ValueShape { dims, channels }: ValueShape) -> Option<usize> {
    let voxels = dims.into_iter().try_fold(1usize, usize::checked_mul)?;
    let floats = voxels.checked_add(2)?.checked_mul(channels)?;
    (floats <= MAX_FLOATS).then_some(floats)
}

/// What a step computes.
#[derive(Debug, Clone, PartialEq)]
pub enum StepKind {
    /// Convolution over one input or two concatenated ones, or over a part of their channels; after the last part an instance
    /// norm may follow.
    Conv {
        /// Kernel, stride, output channels.
        shape: ConvShape,
        /// Whether an instance norm follows the whole convolution (and the parameters are `conv.*` and `norm.*` under the
        /// prefix).
        norm: bool,
        /// Which part this is; `None`: it is all of it.
        part: Option<ConvPart>,
    },
    /// Transposed convolution with kernel = stride.
    Upsample {
        /// Stride (z, y, x).
        stride: [usize; 3],
        /// First output channel, and all of them, where this is a part; `None`: it is all of it.
        part: Option<[usize; 2]>,
    },
    /// Means over windows of so many voxels.
    Pool {
        /// Size (z, y, x) of a window, and its distance from the next.
        stride: [usize; 3],
    },
    /// Sum of two inputs, or of the output and one input in place, then a leaky ReLU.
    Add {
        /// Negative slope of the leaky ReLU.
        negative_slope: f32,
    },
}

/// A part of a convolution's input channels, whose sums are added to those of the parts before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvPart {
    /// First input channel of the whole convolution.
    pub first: usize,
    /// Input channels of the whole convolution.
    pub all: usize,
    /// Whether parts came before: the output holds their sums.
    pub continues: bool,
    /// Whether parts come after: there is no norm yet.
    pub continued: bool,
}

/// One step: reads `sources`, writes `output`.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Prefix of the step's parameters in the state dict; of what has none, its name in the network.
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

/// A network planned for one patch size: steps, values and where in a buffer the values lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    operands: Vec<Operand>,
    places: Vec<Range<usize>>,
    input: ValueId,
    head: Head,
    classifier: Option<ClassifierInputs>,
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

    /// Where in the buffer a value lies, in floats. Values that are needed at the same time lie apart.
    pub fn place(&self, id: ValueId) -> Range<usize> {
        self.places[id.0].clone()
    }

    /// Where values lie that have other lengths than on the CPU, and the length of all: `len_of` tells them, in elements.
    ///
    /// `None` if memory could not hold them.
    pub fn places(&self, len_of: impl Fn(ValueShape) -> usize) -> Option<(Vec<Range<usize>>, usize)> {
        let places = place(&lives(&self.steps, &self.operands, &self.results(), len_of))?;
        let len = places.iter().map(|p| p.end).max().unwrap_or(0);
        Some((places, len))
    }

    /// Values that are read after the last step.
    fn results(&self) -> Vec<ValueId> {
        results(&self.head, self.classifier.as_ref())
    }

    /// Index of a value among [`Plan::places`].
    pub fn index(&self, id: ValueId) -> usize {
        id.0
    }

    /// All values.
    pub fn operands(&self) -> &[Operand] {
        &self.operands
    }

    /// Floats of the buffer.
    pub fn buffer_len(&self) -> usize {
        self.places.iter().map(|p| p.end).max().unwrap_or(0)
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        self.input
    }

    /// The segmentation head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// What the classification head reads, if the network has one.
    pub fn classifier(&self) -> Option<&ClassifierInputs> {
        self.classifier.as_ref()
    }

    /// Grid of the network's output (the patch) and number of classes.
    pub fn logits(&self) -> ValueShape {
        ValueShape { channels: self.head.classes, ..self.operand(self.head.features).shape }
    }

    /// Floating-point operations of a step (a multiply-add counts as two; norms and activations are not counted).
    pub fn flop(&self, step: &Step) -> u64 {
        let input: usize = step.sources.iter().map(|&s| self.operand(s).shape.channels).sum();
        let output = self.operand(step.output).shape;
        let of_element = match &step.kind {
            StepKind::Conv { shape, .. } => 2 * input * shape.kernel.iter().product::<usize>(),
            StepKind::Upsample { .. } => 2 * input,
            StepKind::Pool { stride } => stride.iter().product(),
            StepKind::Add { .. } => 1,
        };
        (output.data_len() as u64).saturating_mul(of_element as u64)
    }

    /// Floating-point operations of the head.
    pub fn head_flop(&self) -> u64 {
        let channels = self.operand(self.head.features).shape.channels;
        (self.logits().data_len() as u64).saturating_mul(2 * channels as u64)
    }

    /// Floating-point operations of all steps and the head.
    pub fn flop_of_all(&self) -> u64 {
        self.steps.iter().map(|step| self.flop(step)).sum::<u64>().saturating_add(self.head_flop())
    }

    /// Bytes of activations that a step reads and writes.
    pub fn bytes(&self, step: &Step) -> u64 {
        let values = step.sources.iter().chain([&step.output]);
        values.map(|&v| 4 * self.operand(v).shape.data_len() as u64).sum()
    }
}

impl fmt::Display for Plan {
    /// One line a step: shapes, GFLOP, MB moved, place in the buffer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let sources: Vec<_> = step.sources.iter().map(|&s| show(self.operand(s).shape)).collect();
            let between = if matches!(step.kind, StepKind::Add { .. }) { " + " } else { " ++ " };
            writeln!(
                f,
                "{:<32} {:<18} {:<34} -> {:<18} {:>9.3} GFLOP {:>8.2} MB  at {:.2} MB",
                step.parameters,
                step.kind.to_string(),
                sources.join(between),
                show(self.operand(step.output).shape),
                self.flop(step) as f64 / 1e9,
                self.bytes(step) as f64 / 1e6,
                4.0 * self.place(step.output).start as f64 / 1e6,
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
        if let Some(ClassifierInputs { means, config, .. }) = &self.classifier {
            let means = means.map(|mean| show(self.operand(mean).shape)).join(", ");
            writeln!(
                f,
                "{:<32} width {}, hidden {}: {means} -> {CLASSES} classes",
                "classifier", config.width, config.hidden
            )?;
        }
        let (gflop, megabytes) = (self.flop_of_all() as f64 / 1e9, 4.0 * self.buffer_len() as f64 / 1e6);
        write!(f, "total {gflop:.3} GFLOP, a buffer of {megabytes:.1} MB")
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv { shape, norm, part } => {
                let before = if part.is_some_and(|p| p.continues) { "+ " } else { "" };
                let norm = if *norm && part.is_none_or(|p| !p.continued) { " + norm" } else { "" };
                write!(f, "{before}conv {}{norm}", show_window(shape.kernel))
            }
            Self::Upsample { stride, .. } => write!(f, "upsample {}", show_window(*stride)),
            Self::Pool { stride } => write!(f, "average {}", show_window(*stride)),
            Self::Add { .. } => f.write_str("add"),
        }
    }
}

fn show_window([z, y, x]: [usize; 3]) -> String {
    format!("{z}×{y}×{x}")
}

fn show(ValueShape { dims: [d, h, w], channels }: ValueShape) -> String {
    format!("{d}×{h}×{w}×{channels}")
}

/// Values that heads read after the last step.
fn results(head: &Head, classifier: Option<&ClassifierInputs>) -> Vec<ValueId> {
    let means = classifier.iter().flat_map(|classifier| classifier.means);
    [head.features].into_iter().chain(means).collect()
}

/// How long each value is needed: the input is written before the first step, the results are read after the last.
fn lives(
    steps: &[Step],
    operands: &[Operand],
    results: &[ValueId],
    len_of: impl Fn(ValueShape) -> usize,
) -> Vec<Life> {
    let mut lives: Vec<Life> = operands.iter().map(|o| Life { len: len_of(o.shape), steps: 0..=0 }).collect();
    let mut written = vec![false; operands.len()];
    for (step, i) in steps.iter().zip(1..) {
        let output = step.output.0;
        // What is written again, in place, lives on.
        let start = if written[output] { *lives[output].steps.start() } else { i };
        written[output] = true;
        lives[output].steps = start..=i;
        for s in &step.sources {
            lives[s.0].steps = *lives[s.0].steps.start()..=i;
        }
    }
    for result in results {
        let life = &mut lives[result.0].steps;
        *life = *life.start()..=steps.len() + 1;
    }
    lives
}
