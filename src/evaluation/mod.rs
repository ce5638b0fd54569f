//! The challenges' metrics, computed as their evaluation scripts compute them.

pub mod bootstrap;
pub mod detection;
pub mod detection_cases;
mod error;
mod grid;
pub mod intensity;
mod mask;
mod pairs;
pub mod panorama;
pub mod panther;
pub mod ranking;
mod rounding;
pub mod surface;
mod surfel_table;

pub use bootstrap::Bootstrap;
pub use detection_cases::{DetectionCase, DetectionCases, RunFolder};
pub use error::EvaluationError;
pub use pairs::{Pair, Pairs};
