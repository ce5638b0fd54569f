//! Operators over stored values, and running them on values of one buffer.

#[cfg(feature = "cuda")]
use super::cuda::{CudaBuffer, DeviceValue};
use super::value::floats_mut;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};
use std::ops::Range;

/// Computes a stored value from one or two others.
pub trait Operator {
    /// What it is called in errors.
    fn name(&self) -> &'static str;

    /// Writes the value `output`, read from `sources`, all in the CPU's memory.
    ///
    /// # Errors
    /// If there are more or fewer sources than the operator reads, or a value is too small.
    fn run(&self, output: &mut [f32], sources: &[&[f32]]) -> Result<()>;

    /// Writes the value `output`, read from `sources`, for so many samples, all in the memory of a GPU.
    ///
    /// # Errors
    /// As [`Operator::run`], or if the GPU fails, or the operator was packed for the CPU.
    #[cfg(feature = "cuda")]
    fn run_on_gpu(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<()>;
}

/// An operator whose values lie in one buffer: `buffer.inplace_op1(&op)`.
///
/// The buffer is a flat float32 tensor. A network's values share one, because tensors that share their memory cannot be read
/// and written at the same time.
pub struct Within<'a> {
    /// What is computed.
    pub operator: &'a dyn Operator,
    /// Where the sources lie.
    pub sources: Vec<Range<usize>>,
    /// Where the output lies, apart from the sources.
    pub output: Range<usize>,
    /// Samples that each value holds one after the other; 1 on the CPU.
    pub samples: usize,
}

impl InplaceOp1 for Within<'_> {
    fn name(&self) -> &'static str {
        self.operator.name()
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let op = self.operator.name();
        let buffer = floats_mut(storage, layout, op)?;
        let len = buffer.len();
        let (sources, output) = (&self.sources, self.output.clone());
        let apart = match sources.as_slice() {
            [one] => buffer
                .get_disjoint_mut([output, one.clone()])
                .map(|[output, one]| self.operator.run(output, &[one])),
            [one, two] if one == two => buffer
                .get_disjoint_mut([output, one.clone()])
                .map(|[output, one]| self.operator.run(output, &[one, one])),
            [one, two] => buffer
                .get_disjoint_mut([output, one.clone(), two.clone()])
                .map(|[output, one, two]| self.operator.run(output, &[one, two])),
            _ => bail!("{op}: {} sources within one buffer, expected one or two", sources.len()),
        };
        match apart {
            Ok(done) => done,
            Err(error) => {
                bail!("{op}: {sources:?} and {:?} of a buffer of {len} floats: {error}", self.output)
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let op = self.operator.name();
        let buffer = CudaBuffer::new(storage, layout, op)?;
        let (output, meets) =
            (self.output.clone(), |s: &Range<usize>| s.start < self.output.end && self.output.start < s.end);
        if let Some(source) = self.sources.iter().find(|s| meets(s)) {
            bail!("{op}: the source {source:?} overlaps the output {output:?}");
        }
        let sources: Vec<DeviceValue> =
            self.sources.iter().map(|s| buffer.value(s, op)).collect::<Result<_>>()?;
        self.operator.run_on_gpu(self.samples, buffer.value(&output, op)?, &sources)
    }
}
