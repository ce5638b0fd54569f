//! Volumes with their geometry, the file formats they come in, and what is done to them outside a network.

pub mod components;
pub mod distance;
pub mod error;
pub mod file;
pub mod geometry;
pub mod memory;
pub mod metaimage;
pub mod morphology;
pub mod nifti;
pub mod resampling;
pub mod volume;

pub use error::ImageError;
pub use geometry::Geometry;
pub use memory::{MemoryGauge, NotEnoughMemory};
pub use volume::{Volume, Voxels};
