//! 3-D convolution with bias, optional second source and the statistics of a following instance norm.

use super::backend::Backend;
use super::cpu::activation::Moments;
use super::cpu::conv3d::{CpuConv, Geometry};
#[cfg(feature = "cuda")]
use super::cuda::{CudaConv, DeviceValue, Window};
use super::value::{Activation, Operand, ValueShape};
use super::within::Operator;
use candle_core::{Result, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// Shape of a convolution: output channels, kernel and stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Output channels.
    pub out_channels: usize,
    /// Odd kernel (z, y, x); the padding is `(kernel - 1) / 2`.
    pub kernel: [usize; 3],
    /// Stride (z, y, x).
    pub stride: [usize; 3],
}

impl ConvShape {
    /// Grid of the output for an input grid.
    pub fn out_dims(&self, dims: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|a| dims[a].div_ceil(self.stride[a]))
    }
}

/// Parameters of an instance norm (per tile, biased variance).
#[derive(Debug, Clone)]
pub struct InstanceNorm {
    /// Weight per channel.
    pub weight: Vec<f32>,
    /// Bias per channel.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f64,
    /// Negative slope of the leaky ReLU that follows. On the CPU whoever reads the value applies it, see [`Operand`].
    pub negative_slope: f32,
}

/// A convolution over one input, or over the channel-wise concatenation of two that is never built.
///
/// With an instance norm the output's scale and shift become those of the norm, otherwise 1 and 0.
pub struct Conv3d {
    operands: Vec<Operand>,
    out: ValueShape,
    side: Side,
}

/// What the convolution is packed for.
enum Side {
    Cpu {
        conv: Box<CpuConv>,
        norm: Option<(InstanceNorm, Mutex<Moments>)>,
    },
    #[cfg(feature = "cuda")]
    Cuda(CudaConv),
}

impl Conv3d {
    /// Packs a convolution for the given inputs.
    ///
    /// `weight` is (out, in, z, y, x) as in PyTorch, `in` running over the channels of all operands; `bias` is (out).
    ///
    /// # Errors
    /// If the weight's shape is not that of the operands and `shape`, or the operands' grids differ.
    pub fn new(
        shape: ConvShape,
        operands: &[Operand],
        weight: &Tensor,
        bias: Option<&Tensor>,
        norm: Option<InstanceNorm>,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let [kz, ky, kx] = shape.kernel;
        let inputs: Vec<usize> = operands.iter().map(|o| o.shape.channels).collect();
        let dims = operands.first().map(|o| o.shape.dims);
        if !(1..=2).contains(&operands.len()) || operands.iter().any(|o| Some(o.shape.dims) != dims) {
            bail!("convolution: needs one or two inputs on one grid, got {operands:?}");
        }
        if shape.kernel.iter().any(|k| k % 2 == 0 || *k > 7) || shape.stride.contains(&0) {
            bail!(
                "convolution: kernel {:?} must be odd and at most 7, stride {:?} positive",
                shape.kernel,
                shape.stride
            );
        }
        let total: usize = inputs.iter().sum();
        let expected = [shape.out_channels, total, kz, ky, kx];
        if weight.dims() != expected {
            bail!("convolution: weight has shape {:?}, expected {expected:?}", weight.dims());
        }
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = match bias {
            Some(bias) => bias.to_vec1::<f32>()?,
            None => vec![0.0; shape.out_channels],
        };
        let out = ValueShape { dims: shape.out_dims(operands[0].shape.dims), channels: shape.out_channels };
        let geometry = Geometry {
            kernel: shape.kernel,
            stride: shape.stride,
            in_dims: operands[0].shape.dims,
            out_dims: out.dims,
        };
        let side = match backend.into() {
            Backend::Cpu(arithmetic) => {
                let conv = CpuConv::new(geometry, operands, &bias, arithmetic, |o, i, tap, x| {
                    values[((o * total + i) * kz * ky + tap) * kx + x]
                });
                let norm = norm.map(|norm| (norm, Mutex::new(Moments::empty(shape.out_channels))));
                Side::Cpu { conv: Box::new(conv), norm }
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => {
                let window = Window { kernel: shape.kernel, stride: shape.stride };
                let sources: Vec<ValueShape> = operands.iter().map(|o| o.shape).collect();
                let weight = |o, i, tap| values[(o * total + i) * kz * ky * kx + tap];
                Side::Cuda(CudaConv::new(cuda, &window, &sources, out, &bias, norm.as_ref(), weight)?)
            }
            #[cfg(not(feature = "cuda"))]
            Backend::Cuda(none) => match none {},
        };
        Ok(Self { operands: operands.to_vec(), out, side })
    }

    /// The same convolution, whose sums are added to what the output holds: sums of other channels of the same input.
    ///
    /// # Errors
    /// If it is packed for a GPU, where nothing is computed in parts.
    pub fn added_to_output(mut self) -> Result<Self> {
        match &mut self.side {
            Side::Cpu { conv, .. } => conv.adds_to_output = true,
            #[cfg(feature = "cuda")]
            Side::Cuda(_) => bail!("{}: packed for a GPU, cannot add to its output", self.name()),
        }
        Ok(self)
    }
}

impl Operator for Conv3d {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn run(&self, output: &mut [f32], sources: &[&[f32]]) -> Result<()> {
        let op = self.name();
        if sources.len() != self.operands.len() {
            bail!("{op}: {} sources, expected {}", sources.len(), self.operands.len());
        }
        let views = self.operands.iter().zip(sources).map(|(operand, source)| operand.view(source, op));
        let views: Vec<Activation<'_>> = views.collect::<Result<_>>()?;
        let mut out = self.out.view_mut(output, op)?;
        let (conv, norm) = match &self.side {
            Side::Cpu { conv, norm } => (conv, norm),
            #[cfg(feature = "cuda")]
            Side::Cuda(_) => bail!("{op}: packed for a GPU"),
        };
        match norm {
            Some((norm, moments)) => {
                let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
                conv.run(&views, &mut out, Some(&mut moments));
                for c in 0..self.out.channels {
                    let (mean, variance) = moments.mean_and_variance(c);
                    let scale = f64::from(norm.weight[c]) / (variance + norm.eps).sqrt();
                    out.scale[c] = scale as f32;
                    out.shift[c] = (f64::from(norm.bias[c]) - mean * scale) as f32;
                }
            }
            None => {
                conv.run(&views, &mut out, None);
                out.scale.fill(1.0);
                out.shift.fill(0.0);
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn run_on_gpu(&self, samples: usize, output: DeviceValue, sources: &[DeviceValue]) -> Result<()> {
        match &self.side {
            Side::Cuda(conv) if sources.len() == self.operands.len() => {
                Ok(conv.run(samples, output, sources)?)
            }
            Side::Cuda(_) => {
                bail!("{}: {} sources, expected {}", self.name(), sources.len(), self.operands.len())
            }
            Side::Cpu { .. } => bail!("{}: packed for the CPU", self.name()),
        }
    }
}
