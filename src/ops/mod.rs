//! The arithmetic of 3-D U-Nets as candle custom operators.
//!
//! candle has no 3-D convolution; [`Conv3d`] and [`TransposedConv3d`] are operators over values in one preallocated
//! buffer ([`Within`]), so that a planned network allocates no activation while it runs. Activations are channels-last
//! `(D, H, W, C)`. Every activation is stored *before* its normalisation, together with the per-channel scale
//! and shift that the normalisation amounts to (see [`ValueShape`]); whoever reads it applies
//! `leaky_relu(scale · x + shift)` on the fly. The arithmetic is that of conv → instance norm → leaky ReLU, one
//! pass over memory instead of three.

mod average_pool;
mod backend;
mod buffer;
mod conv3d;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
pub(crate) mod cuda;
mod gpu;
mod head;
mod residual_add;
mod tile;
mod transposed_conv3d;
mod value;
mod within;

pub use average_pool::AveragePool;
pub use backend::Backend;
pub use buffer::zeros;
pub use conv3d::{Conv3d, ConvShape, InstanceNorm};
pub use cpu::{Arithmetic, Isa, Precision, UnavailableIsa, peak_flops};
#[cfg(feature = "cuda")]
pub use cuda::DeviceValue;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cuda_error;
pub use cuda::{Cuda, CudaError, CudaUnavailable};
pub use gpu::{CudaOptions, CudaPrecision, Description, KernelCode};
pub use head::{AccumulateLogits, AddLogits, SegmentationHead};
pub use residual_add::ResidualAdd;
pub use tile::{AccumulateTile, CountTile, DiscardFront, DivideByWeights, GatherTile, Mirroring};
pub use transposed_conv3d::TransposedConv3d;
pub use value::{Operand, ValueShape};
pub use within::{Operator, Within};
