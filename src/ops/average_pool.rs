//! Average pooling, which brings the skip connection of a strided residual block to the coarser grid.

use super::backend::Backend;
use super::cpu::average_pool::pool;
#[cfg(feature = "cuda")]
use super::cuda::{CudaAveragePool, DeviceValue};
use super::value::{Operand, ValueShape};
use super::within::Operator;
use candle_core::{Result, bail};

/// Means over the windows of a stored value, as `torch.nn.AvgPool3d(stride, stride)`.
///
/// The input is read with its scale, shift and slope. Voxels at the far ends that do not fill a window are dropped. The output
/// carries no normalisation (scale 1, shift 0): it is to be read with slope 1.
///
/// Source: dynamic-network-architectures, `residual.py: BasicBlockD`, `skip`.
pub struct AveragePool {
    input: Operand,
    stride: [usize; 3],
    backend: Backend,
}

impl AveragePool {
    /// The means of an input over windows of `stride` (z, y, x) voxels.
    ///
    /// # Errors
    /// If the stride has a zero, or a window is larger than the input.
    pub fn new(input: Operand, stride: [usize; 3], backend: impl Into<Backend>) -> Result<Self> {
        let dims = input.shape.dims;
        if stride.iter().zip(dims).any(|(&window, size)| window == 0 || window > size) {
            bail!("average_pool: windows of {stride:?} voxels do not fit into a grid of {dims:?}");
        }
        Ok(Self { input, stride, backend: backend.into() })
    }

    /// Grid of the output for an input grid.
    pub fn out_dims(dims: [usize; 3], stride: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|a| dims[a] / stride[a])
    }

    fn out(&self) -> ValueShape {
        ValueShape { dims: Self::out_dims(self.input.shape.dims, self.stride), ..self.input.shape }
    }
}

impl Operator for AveragePool {
    fn name(&self) -> &'static str {
        "average_pool"
    }

    fn run(&self, output: &mut [f32], sources: &[&[f32]]) -> Result<()> {
        let op = self.name();
        let Backend::Cpu(arithmetic) = self.backend else { bail!("{op}: packed for a GPU") };
        let &[source] = sources else { bail!("{op}: {} sources, expected one", sources.len()) };
        let input = self.input.view(source, op)?;
        let shape = self.out();
        let out = shape.view_mut(output, op)?;
        out.scale.fill(1.0);
        out.shift.fill(0.0);
        pool(arithmetic.isa(), input, self.stride, shape.dims, out.raw);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn run_on_gpu(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<()> {
        let op = self.name();
        let Backend::Cuda(cuda) = self.backend else { bail!("{op}: packed for the CPU") };
        let &[source] = sources else { bail!("{op}: {} sources, expected one", sources.len()) };
        let pool = CudaAveragePool { cuda, input: self.input.shape, out: self.out(), stride: self.stride };
        Ok(pool.run(samples, output, source)?)
    }
}
