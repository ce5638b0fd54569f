//! Architectures as planned lists of steps over values in one buffer.
//!
//! A configuration ([`PlainConvUNetConfig`]) is turned into a [`Plan`] for one patch size; [`Weights`] are one set
//! of parameters packed for that plan; a [`Runner`] owns the buffer and runs any number of tiles and weights.

mod plain_conv_unet;
mod plan;
mod runner;

pub use plain_conv_unet::PlainConvUNetConfig;
pub use plan::{Head, Plan, PlanError, Step, StepKind, ValueId};
pub use runner::{Runner, Weights};
