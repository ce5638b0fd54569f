//! A network as a list of steps over values that share one buffer.

use crate::ops::{ConvShape, Operand, ValueShape};
use std::fmt;
use std::ops::{Range, RangeInclusive};

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

/// A network planned for one patch size: steps, values and where in a buffer the values lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    steps: Vec<Step>,
    operands: Vec<Operand>,
    places: Vec<Range<usize>>,
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

    /// Where in the buffer a value lies, in floats. Values that are needed at the same time lie apart.
    pub fn place(&self, id: ValueId) -> Range<usize> {
        self.places[id.0].clone()
    }

    /// Where values lie that have other lengths than on the CPU, and the length of all: `len_of` tells them, in elements.
    ///
    /// `None` if memory could not hold them.
    pub fn places(&self, len_of: impl Fn(ValueShape) -> usize) -> Option<(Vec<Range<usize>>, usize)> {
        let places = place(&lives(&self.steps, &self.operands, self.head.features, len_of))?;
        let len = places.iter().map(|p| p.end).max().unwrap_or(0);
        Some((places, len))
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
                "{:<32} {what:<18} {:<34} -> {:<18} {:>9.3} GFLOP {:>8.2} MB  at {:.2} MB",
                step.parameters,
                sources.join(" ++ "),
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
        let (gflop, megabytes) = (self.flop_of_all() as f64 / 1e9, 4.0 * self.buffer_len() as f64 / 1e6);
        write!(f, "total {gflop:.3} GFLOP, a buffer of {megabytes:.1} MB")
    }
}

fn show(ValueShape { dims: [d, h, w], channels }: ValueShape) -> String {
    format!("{d}×{h}×{w}×{channels}")
}

/// Collects steps and values, then places the values.
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

    /// Places the values in the buffer.
    ///
    /// # Errors
    /// If memory could not hold a value, the logits, or all that is needed at once.
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
        let storage = |shape: ValueShape| shape.storage_len();
        let lives = lives(&self.steps, &self.operands, head.features, storage);
        let Some(places) = place(&lives) else {
            return Err(PlanError::TooLarge { patch, layer: "the network".to_owned() });
        };
        let Self { steps, operands, input, .. } = self;
        Ok(Plan { steps, operands, places, input, head })
    }
}

/// Floats of a value, and the steps from the one that writes it to the last that reads it.
struct Life {
    len: usize,
    steps: RangeInclusive<usize>,
}

/// How long each value is needed: the input is written before the first step, the features are read after the last.
fn lives(
    steps: &[Step],
    operands: &[Operand],
    features: ValueId,
    len_of: impl Fn(ValueShape) -> usize,
) -> Vec<Life> {
    let mut lives: Vec<Life> = operands.iter().map(|o| Life { len: len_of(o.shape), steps: 0..=0 }).collect();
    for (step, i) in steps.iter().zip(1..) {
        lives[step.output.0].steps = i..=i;
        for s in &step.sources {
            lives[s.0].steps = *lives[s.0].steps.start()..=i;
        }
    }
    let features = &mut lives[features.0].steps;
    *features = *features.start()..=steps.len() + 1;
    lives
}

/// Floats that places are multiples of: a cache line.
const LINE: usize = 16;

/// Places values so that those alive at the same step do not overlap: the largest first, each where it fits lowest.
///
/// `None` if memory could not hold them.
fn place(lives: &[Life]) -> Option<Vec<Range<usize>>> {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&v| usize::MAX - lives[v].len);
    let mut places = vec![0..0; lives.len()];
    for (placed, &value) in order.iter().enumerate() {
        let Life { len, steps } = &lives[value];
        let meets =
            |other: &RangeInclusive<usize>| other.start() <= steps.end() && steps.start() <= other.end();
        let mut taken: Vec<Range<usize>> = order[..placed]
            .iter()
            .filter(|&&other| meets(&lives[other].steps))
            .map(|&other| places[other].clone())
            .collect();
        taken.sort_by_key(|t| t.start);
        let mut start = 0;
        for t in taken {
            if start + len <= t.start {
                break;
            }
            start = start.max(t.end.next_multiple_of(LINE));
        }
        let end = start.checked_add(*len).filter(|&end| end <= MAX_FLOATS - LINE)?;
        places[value] = start..end;
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_that_meet_lie_apart_on_cache_lines(
            lives in proptest::collection::vec((1..1000_usize, 0..12_usize, 0..6_usize), 1..30),
        ) {
            let lives: Vec<Life> =
                lives.into_iter().map(|(len, from, more)| Life { len, steps: from..=from + more }).collect();
            let places = place(&lives).unwrap();
            for (i, (place, life)) in places.iter().zip(&lives).enumerate() {
                prop_assert_eq!(place.len(), life.len);
                prop_assert_eq!(place.start % LINE, 0);
                for (other, with) in places.iter().zip(&lives).skip(i + 1) {
                    let meet = life.steps.clone().any(|step| with.steps.contains(&step));
                    let apart = place.end <= other.start || other.end <= place.start;
                    prop_assert!(!meet || apart, "{place:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_needed_at_the_same_time_takes_the_same_place() {
        let lives = [(64, 0..=1), (32, 1..=2), (32, 1..=3), (64, 4..=5)];
        let lives = lives.map(|(len, steps)| Life { len, steps });
        assert_eq!(place(&lives).unwrap(), [0..64, 64..96, 96..128, 0..64]);
        let huge = [0..=1, 1..=2].map(|steps| Life { len: MAX_FLOATS / 2, steps });
        assert_eq!(place(&huge), None);
    }
}
