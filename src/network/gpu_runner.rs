//! Running a plan on a GPU, for several samples at once.

use super::classification::CLASSES;
use super::plan::{Plan, StepKind, ValueId};
use super::runner::Weights;
use crate::ops::cuda::{CudaBuffer, DeviceValue, Held, MOST_ELEMENTS, Recording, padded_channels};
use crate::ops::{Cuda, CudaError, ValueShape, Within};
use candle_core::{Result, Storage, Tensor, bail};
use std::ops::Range;

/// Elements of one sample of a value on the GPU.
fn elements(shape: ValueShape) -> usize {
    shape.voxels() * padded_channels(shape.channels)
}

/// Bytes of activations and of the layers' working memory that one sample takes, and most samples whose largest value cuDNN
/// can address.
///
/// # Errors
/// If memory could not hold them.
pub(crate) fn sample_needs(plan: &Plan, cuda: Cuda) -> std::result::Result<(usize, usize), CudaError> {
    let Some((_, len)) = plan.places(elements) else {
        return Err(CudaError::Unsupported {
            what: "the network's activations cannot be addressed".to_owned(),
        });
    };
    let largest = plan.operands().iter().map(|o| elements(o.shape)).max().unwrap_or(1);
    // An upsampling has as many products as results.
    let upsampled = plan.steps().iter().filter(|step| matches!(step.kind, StepKind::Upsample { .. }));
    let products = upsampled.map(|step| elements(plan.operand(step.output).shape)).max().unwrap_or(0);
    Ok(((len + products) * cuda.precision().bytes(), MOST_ELEMENTS / largest.max(1)))
}

/// The steps of one set of weights, recorded.
struct Recorded {
    /// [`Cuda::scratch_moves`] when they were recorded.
    scratch: usize,
    steps: Recording,
}

/// The buffer of a plan on a GPU, for a fixed number of samples. While it runs nothing is allocated: the first run of each set
/// of weights is launched step by step, which chooses algorithms; the second is recorded, and replayed from then on.
pub(crate) struct GpuRunner {
    plan: Plan,
    cuda: Cuda,
    samples: usize,
    places: Vec<Range<usize>>,
    buffer: Tensor,
    _held: Held,
    /// Whether the current weights have run.
    ran: bool,
    recorded: Option<Recorded>,
    records: bool,
}

impl GpuRunner {
    /// Allocates the buffer for so many samples.
    ///
    /// # Errors
    /// If the GPU refuses the memory.
    pub fn new(plan: Plan, cuda: Cuda, samples: usize) -> std::result::Result<Self, CudaError> {
        let Some((places, len)) = plan.places(|shape| elements(shape) * samples) else {
            let what = format!("activations of {samples} samples cannot be addressed");
            return Err(CudaError::Unsupported { what });
        };
        let (buffer, held) = cuda.activations(len)?;
        let (ran, recorded) = (false, None);
        Ok(Self { plan, cuda, samples, places, buffer, _held: held, ran, recorded, records: true })
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Samples that it runs at once.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The network's input, to be filled before [`GpuRunner::run`].
    ///
    /// # Errors
    /// Never, unless the plan is broken.
    pub fn input(&self) -> Result<DeviceValue> {
        self.value(self.plan.input())
    }

    /// The features that the segmentation head reads, valid until the input is filled again.
    ///
    /// # Errors
    /// Never, unless the plan is broken.
    pub fn features(&self) -> Result<DeviceValue> {
        self.value(self.plan.head().features)
    }

    /// Class logits (no lesion, lesion) of each sample that was run last, once they are computed; `None` if the network has no
    /// classification head.
    ///
    /// # Errors
    /// If the GPU fails.
    pub fn class_logits(&self, weights: &Weights) -> Result<Option<Vec<[f64; CLASSES]>>> {
        let (Some(inputs), Some(head)) = (self.plan.classifier(), weights.classifier()) else {
            return Ok(None);
        };
        let (storage, _) = self.buffer.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("class logits: not on the GPU") };
        let read = |mean| CudaBuffer::read(storage, &self.places[self.plan.index(mean)], "class logits");
        let [deepest, middle, shallow] = inputs.means.map(read);
        let stages = [deepest?, middle?, shallow?];
        let of_sample = |sample: usize| {
            let mut means = stages.iter().zip(inputs.means).map(|(values, mean)| {
                let channels = self.plan.operand(mean).shape.channels;
                let first = sample * padded_channels(channels);
                values[first..first + channels].iter().copied().map(f64::from).collect()
            });
            head.logits(&std::array::from_fn(|_| means.next().unwrap_or_default()))
        };
        Ok(Some((0..self.samples).map(of_sample).collect()))
    }

    fn value(&self, id: ValueId) -> Result<DeviceValue> {
        let (storage, layout) = self.buffer.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => CudaBuffer::new(storage, layout, "a value")?
                .value(&self.places[self.plan.index(id)], "a value"),
            _ => bail!("a value: not on the GPU"),
        }
    }

    /// Forgets what was recorded: other weights come.
    pub fn begin_weights(&mut self) {
        self.ran = false;
        self.recorded = None;
    }

    /// Runs all steps, up to the segmentation head, on the samples in the input, with the weights that have run since
    /// [`GpuRunner::begin_weights`].
    ///
    /// # Errors
    /// If the GPU fails, or the weights were packed for another plan.
    pub fn run(&mut self, weights: &Weights) -> Result<()> {
        let scratch = self.cuda.scratch_moves();
        if let Some(recorded) = self.recorded.as_ref().filter(|r| r.scratch == scratch) {
            return Ok(recorded.steps.launch()?);
        }
        if self.records && self.ran {
            if let Some(steps) = self.cuda.record(|| self.launch(weights)) {
                let launched = steps.launch();
                self.recorded = Some(Recorded { scratch, steps });
                return Ok(launched?);
            }
            self.records = false;
        }
        self.ran = true;
        self.launch(weights)
    }

    fn launch(&self, weights: &Weights) -> Result<()> {
        let samples = self.samples;
        for (step, operator) in self.plan.steps().iter().zip(weights.operators()) {
            let place = |id| self.places[self.plan.index(id)].clone();
            let sources = step.sources.iter().map(|&s| place(s)).collect();
            let output = place(step.output);
            self.buffer.inplace_op1(&Within { operator, sources, output, samples })?;
        }
        Ok(())
    }
}
