//! Making a plan: steps and values are collected, then the values are placed.

use super::{ConvPart, Head, Plan, PlanError, Step, StepKind, ValueId, lives, results, storage_len};
use crate::network::classification::ClassifierInputs;
use crate::network::placement::place;
use crate::ops::{AveragePool, ConvShape, Operand, ValueShape};
use std::ops::Range;

/// Collects steps and values, then places the values.
pub(in crate::network) struct PlanBuilder {
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

    /// A convolution, normalised and activated with `slope` if given; a slope of 1 is no activation.
    pub fn conv(
        &mut self,
        parameters: String,
        sources: &[ValueId],
        shape: ConvShape,
        slope: Option<f32>,
    ) -> ValueId {
        let value = ValueShape { dims: shape.out_dims(self.dims(sources[0])), channels: shape.out_channels };
        let operand = Operand { shape: value, negative_slope: slope.unwrap_or(1.0) };
        self.push(parameters, StepKind::Conv { shape, norm: slope.is_some(), part: None }, sources, operand)
    }

    /// The first part of a normalised convolution: `source` is that of `all` input channels from `first` on.
    pub fn begin_conv(
        &mut self,
        parameters: String,
        source: ValueId,
        shape: ConvShape,
        slope: Option<f32>,
        [first, all]: [usize; 2],
    ) -> ValueId {
        let output = self.conv(parameters, &[source], shape, slope);
        if let Some(Step { kind: StepKind::Conv { part, .. }, .. }) = self.steps.last_mut() {
            *part = Some(ConvPart { first, all, continues: false, continued: true });
        }
        output
    }

    /// Another part of the convolution that wrote `output`, the last one if not `continued`.
    pub fn continue_conv(
        &mut self,
        parameters: String,
        source: ValueId,
        output: ValueId,
        shape: ConvShape,
        [first, all]: [usize; 2],
        continued: bool,
    ) {
        let part = Some(ConvPart { first, all, continues: true, continued });
        let kind = StepKind::Conv { shape, norm: true, part };
        self.steps.push(Step { parameters, kind, sources: vec![source], output });
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
        self.push(parameters, StepKind::Upsample { stride, part: None }, &[source], operand)
    }

    /// Some of the `all` output channels of a transposed convolution with kernel = stride.
    pub fn upsample_part(
        &mut self,
        parameters: String,
        source: ValueId,
        channels: Range<usize>,
        all: usize,
        stride: [usize; 3],
    ) -> ValueId {
        let output = self.upsample(parameters, source, channels.len(), stride);
        if let Some(Step { kind: StepKind::Upsample { part, .. }, .. }) = self.steps.last_mut() {
            *part = Some([channels.start, all]);
        }
        output
    }

    /// Means over windows of `stride` voxels.
    pub fn pool(&mut self, name: String, source: ValueId, stride: [usize; 3]) -> ValueId {
        let shape = self.operands[source.0].shape;
        let shape = ValueShape { dims: AveragePool::out_dims(shape.dims, stride), ..shape };
        self.push(name, StepKind::Pool { stride }, &[source], Operand { shape, negative_slope: 1.0 })
    }

    /// The activated sum of two values of one shape. It is stored activated.
    pub fn add(&mut self, name: String, sources: [ValueId; 2], negative_slope: f32) -> ValueId {
        let operand = Operand { negative_slope: 1.0, ..self.operands[sources[0].0] };
        self.push(name, StepKind::Add { negative_slope }, &sources, operand)
    }

    /// Adds `other` to `sum`, which is read with slope 1, in its place, and activates it.
    pub fn add_in_place(&mut self, name: String, sum: ValueId, other: ValueId, negative_slope: f32) {
        let kind = StepKind::Add { negative_slope };
        self.steps.push(Step { parameters: name, kind, sources: vec![other], output: sum });
    }

    /// Places the values in the buffer.
    ///
    /// # Errors
    /// If memory could not hold a value, the logits, or all that is needed at once.
    pub fn finish(mut self, head: Head, classifier: Option<ClassifierInputs>) -> Result<Plan, PlanError> {
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
        let lives = lives(&self.steps, &self.operands, &results(&head, classifier.as_ref()), storage);
        let Some(places) = place(&lives) else {
            return Err(PlanError::TooLarge { patch, layer: "the network".to_owned() });
        };
        let Self { steps, operands, input, .. } = self;
        Ok(Plan { steps, operands, places, input, head, classifier })
    }
}
