//! CPU kernels, chosen at run time from what the processor offers.

#![expect(unsafe_code, reason = "vector instructions and the pointers they read and write")]

pub(super) mod activation;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod arithmetic;
pub(super) mod average_pool;
mod blocking;
pub(super) mod conv3d;
mod conv_task;
mod epilogue;
pub(super) mod head;
mod huge_pages;
mod input_rows;
mod kernel;
mod lanes;
mod peak;
pub(super) mod residual_add;
#[cfg(target_arch = "x86_64")]
mod tiled_conv3d;
mod winograd;
mod winograd_conv3d;

pub use arithmetic::{Arithmetic, Isa, Precision, UnavailableIsa};
pub(super) use huge_pages::advise as advise_huge_pages;
pub(super) use kernel::PackedWeights;
pub use peak::peak_flops;
