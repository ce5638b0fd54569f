//! Running a plan on a GPU, for several samples at once.

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

/// The steps of one set of weights for a number of samples, recorded.
struct Recorded {
    samples: usize,
    /// [`Cuda::scratch_moves`] when it was recorded.
    scratch: usize,
    steps: Recording,
}

/// The buffer of a plan on a GPU. While batches run nothing is allocated: the first of each size and set of weights is
/// launched step by step, which chooses algorithms; the second is recorded, and replayed from then on.
pub(crate) struct GpuRunner {
    plan: Plan,
    cuda: Cuda,
    capacity: usize,
    places: Vec<Range<usize>>,
    buffer: Tensor,
    _held: Held,
    /// Sizes that have run with the current weights.
    ran: Vec<usize>,
    recorded: Vec<Recorded>,
    records: bool,
}

impl GpuRunner {
    /// Allocates the buffer for at most `capacity` samples.
    ///
    /// # Errors
    /// If the GPU refuses the memory.
    pub fn new(plan: Plan, cuda: Cuda, capacity: usize) -> std::result::Result<Self, CudaError> {
        let Some((places, len)) = plan.places(|shape| elements(shape) * capacity) else {
            let what = format!("activations of {capacity} samples cannot be addressed");
            return Err(CudaError::Unsupported { what });
        };
        let (buffer, held) = cuda.activations(len)?;
        let (ran, recorded) = (vec![], vec![]);
        Ok(Self { plan, cuda, capacity, places, buffer, _held: held, ran, recorded, records: true })
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Samples that it can run at once.
    pub fn capacity(&self) -> usize {
        self.capacity
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
        self.ran.clear();
        self.recorded.clear();
    }

    /// Runs all steps, up to the segmentation head, on the first `samples` of the input, with the weights that have run since
    /// [`GpuRunner::begin_weights`].
    ///
    /// # Errors
    /// If the GPU fails, or the weights were packed for another plan.
    pub fn run(&mut self, weights: &Weights, samples: usize) -> Result<()> {
        if samples > self.capacity {
            bail!("{samples} samples, expected at most {}", self.capacity);
        }
        let moves = self.cuda.scratch_moves();
        self.recorded.retain(|r| r.scratch == moves);
        if let Some(recorded) = self.recorded.iter().find(|r| r.samples == samples) {
            return Ok(recorded.steps.launch()?);
        }
        if self.records && self.ran.contains(&samples) {
            if let Some(steps) = self.cuda.record(|| self.launch(weights, samples)) {
                steps.launch()?;
                self.recorded.push(Recorded { samples, scratch: moves, steps });
                return Ok(());
            }
            self.records = false;
        }
        self.launch(weights, samples)?;
        self.ran.push(samples);
        Ok(())
    }

    fn launch(&self, weights: &Weights, samples: usize) -> Result<()> {
        for (step, operator) in self.plan.steps().iter().zip(weights.operators()) {
            let place = |id| self.places[self.plan.index(id)].clone();
            let sources = step.sources.iter().map(|&s| place(s)).collect();
            let output = place(step.output);
            self.buffer.inplace_op1(&Within { operator, sources, output, samples })?;
        }
        Ok(())
    }
}
