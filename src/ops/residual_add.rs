//! The end of a residual block: norm, sum with the skip connection and activation in one pass.

use super::backend::Backend;
use super::cpu::activation::Affine;
use super::cpu::residual_add::{add, add_in_place};
#[cfg(feature = "cuda")]
use super::cuda::{CudaResidualAdd, DeviceValue};
use super::value::Operand;
use super::within::Operator;
use candle_core::{Result, bail};

/// `leaky_relu(a + b)` of two stored values; with one source, on the CPU, `a` is what the output holds.
///
/// Each input is read with its own scale, shift and slope: a residual block's second convolution with its norm (slope 1),
/// and the skip connection, whatever it is. The output is a stored value with scale 1 and shift 0, its activation already
/// applied: it is to be read with slope 1.
///
/// Source: dynamic-network-architectures, `residual.py: BasicBlockD`.
pub struct ResidualAdd {
    inputs: [Operand; 2],
    negative_slope: f32,
    backend: Backend,
}

impl ResidualAdd {
    /// The sum of two inputs of one shape, activated with `negative_slope`; 1 means no activation.
    ///
    /// # Errors
    /// If the inputs' shapes differ.
    pub fn new(inputs: [Operand; 2], negative_slope: f32, backend: impl Into<Backend>) -> Result<Self> {
        let [a, b] = inputs.map(|i| i.shape);
        if a != b {
            bail!("residual_add: inputs have shapes {a:?} and {b:?}, expected one shape");
        }
        Ok(Self { inputs, negative_slope, backend: backend.into() })
    }
}

impl Operator for ResidualAdd {
    fn name(&self) -> &'static str {
        "residual_add"
    }

    fn run(&self, output: &mut [f32], sources: &[&[f32]]) -> Result<()> {
        let op = self.name();
        let Backend::Cpu(arithmetic) = self.backend else { bail!("{op}: packed for a GPU") };
        let [a, b] = &self.inputs;
        let (isa, slope) = (arithmetic.isa(), self.negative_slope);
        match *sources {
            [first, second] => {
                let (a, b) = (a.view(first, op)?, b.view(second, op)?);
                let out = self.inputs[0].shape.view_mut(output, op)?;
                out.scale.fill(1.0);
                out.shift.fill(0.0);
                add(isa, [a, b], slope, out.raw);
            }
            [second] => {
                let first = Affine::of(&a.view(output, op)?);
                let out = self.inputs[0].shape.view_mut(output, op)?;
                add_in_place(isa, &first, b.view(second, op)?, slope, out.raw);
                out.scale.fill(1.0);
                out.shift.fill(0.0);
            }
            _ => bail!("{op}: {} sources, expected one or two", sources.len()),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn run_on_gpu(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<()> {
        let op = self.name();
        let Backend::Cuda(cuda) = self.backend else { bail!("{op}: packed for the CPU") };
        let &[first, second] = sources else { bail!("{op}: {} sources, expected two", sources.len()) };
        let add = CudaResidualAdd { cuda, shape: self.inputs[0].shape, negative_slope: self.negative_slope };
        Ok(add.run(samples, output, [first, second])?)
    }
}
