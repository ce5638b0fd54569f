//! Transposed 3-D convolution whose kernel equals its stride, as U-Net decoders upsample.

use super::backend::Backend;
use super::cpu::conv3d::CpuConv;
#[cfg(feature = "cuda")]
use super::cuda::{CudaUpsample, DeviceValue};
use super::value::{Operand, ValueShape};
use super::within::Operator;
use candle_core::{Result, Tensor, bail};

/// `ConvTranspose3d` with kernel = stride and no padding.
///
/// The output carries no normalisation (scale 1, shift 0).
pub struct TransposedConv3d {
    operand: Operand,
    out: ValueShape,
    side: Side,
}

/// What the convolution is packed for.
enum Side {
    Cpu(Box<CpuConv>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaUpsample>),
}

impl TransposedConv3d {
    /// Packs a transposed convolution. `weight` is (in, out, z, y, x) as in PyTorch, `bias` is (out).
    ///
    /// # Errors
    /// If the weight's shape does not fit the operand and the stride.
    pub fn new(
        stride: [usize; 3],
        operand: Operand,
        weight: &Tensor,
        bias: Option<&Tensor>,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let (input, channels, z, y, x) = weight.dims5()?;
        if input != operand.shape.channels || [z, y, x] != stride || stride.contains(&0) {
            bail!(
                "transposed convolution: weight has shape {:?}, expected [{}, channels, {stride:?}]",
                weight.dims(),
                operand.shape.channels
            );
        }
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = match bias {
            Some(bias) => bias.to_vec1::<f32>()?,
            None => vec![0.0; channels],
        };
        let dims = std::array::from_fn(|a| operand.shape.dims[a] * stride[a]);
        let out = ValueShape { dims, channels };
        let side = match backend.into() {
            Backend::Cpu(arithmetic) => {
                let bias = bias.repeat(x);
                let conv = CpuConv::transposed(stride, operand, &bias, arithmetic, |tap, o, i| {
                    values[((i * channels + o % channels) * z * y + tap) * x + o / channels]
                });
                Side::Cpu(Box::new(conv))
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => {
                let weight = |i, o, tap| values[(i * channels + o) * z * y * x + tap];
                Side::Cuda(Box::new(CudaUpsample::new(cuda, stride, operand.shape, out, &bias, weight)?))
            }
            #[cfg(not(feature = "cuda"))]
            Backend::Cuda(none) => match none {},
        };
        Ok(Self { operand, out, side })
    }
}

impl Operator for TransposedConv3d {
    fn name(&self) -> &'static str {
        "transposed_conv3d"
    }

    fn run(&self, output: &mut [f32], sources: &[&[f32]]) -> Result<()> {
        let op = self.name();
        let &[source] = sources else { bail!("{op}: {} sources, expected one", sources.len()) };
        let input = self.operand.view(source, op)?;
        let mut out = self.out.view_mut(output, op)?;
        out.scale.fill(1.0);
        out.shift.fill(0.0);
        match &self.side {
            Side::Cpu(conv) => conv.run(&[input], &mut out, None),
            #[cfg(feature = "cuda")]
            Side::Cuda(_) => bail!("{op}: packed for a GPU"),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn run_on_gpu(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<()> {
        match (&self.side, sources) {
            (Side::Cuda(conv), &[source]) => Ok(conv.run(samples, output, source)?),
            (Side::Cuda(_), _) => bail!("{}: {} sources, expected one", self.name(), sources.len()),
            (Side::Cpu(_), _) => bail!("{}: packed for the CPU", self.name()),
        }
    }
}
