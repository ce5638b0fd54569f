//! Architectures as planned lists of steps over values in one buffer.
//!
//! A configuration ([`PlainConvUNetConfig`]) is turned into a [`Plan`] for one patch size; [`Weights`] are one set
//! of parameters packed for that plan; a [`Runner`] owns the buffer and runs any number of tiles and weights.

#[cfg(feature = "cuda")]
mod gpu_runner;
mod plain_conv_unet;
mod plan;
mod runner;

#[cfg(feature = "cuda")]
pub(crate) use gpu_runner::{GpuRunner, sample_needs};
pub use plain_conv_unet::PlainConvUNetConfig;
pub use plan::{Head, Plan, PlanError, Step, StepKind, ValueId};
pub use runner::{Runner, Weights};
