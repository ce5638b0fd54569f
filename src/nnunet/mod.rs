//! A trained nnU-Net v2 model folder as values, and its inference.

pub mod checkpoint;
pub mod dataset;
pub mod error;
pub mod export;
mod json;
pub mod model_folder;
pub mod plans;
pub mod predictor;
pub mod preprocessing;
pub mod resampling;
pub mod sliding_window;

pub use error::ModelError;
