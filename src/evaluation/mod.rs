//! The challenges' metrics, computed as their evaluation scripts compute them.

mod error;
mod mask;
mod pairs;
pub mod panther;
mod rounding;
pub mod surface;
mod surfel_table;

pub use error::EvaluationError;
pub use pairs::{Pair, Pairs};
