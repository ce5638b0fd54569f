//! One file per published system, and the recipe that configures it.

pub mod budget;
mod ensemble;
pub mod execution;
pub mod locate;
pub mod nifti_passage;
pub mod panorama;
pub mod panther;
pub mod recipe;
pub mod roi;
mod scan_check;
pub mod system;

pub use budget::{BudgetReport, TimeBudget};
pub use execution::{ExecutionOptions, KeptFolds, half_of_memory};
pub use panorama::{Detection, Panorama, PanoramaRun};
pub use panther::{Panther, PantherRun, TumourSegmentation};
pub use recipe::Recipe;
pub use system::{Answer, System, SystemRun};

use crate::detection::CandidateError;
use crate::nnunet::ModelError;
use crate::nnunet::predictor::{PredictError, TileProgress};
use std::path::PathBuf;

/// Why a pipeline could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The recipe is missing, malformed or contradicts its models.
    #[error("{path}: {what}", path = path.display())]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What, expected, got.
        what: String,
    },
    /// The scan cannot be what it is said to be.
    #[error("{0}")]
    Scan(String),
    /// A model folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A network.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// The lesion probabilities: weights that are not finite numbers.
    #[error("lesion.model predicts no usable probability: {0}")]
    Candidates(#[from] CandidateError),
    /// What the classification head says: weights that are not finite numbers.
    #[error("lesion.model's classification head: expected a probability from 0 to 1, got {0}")]
    Head(f64),
}

/// Told how a pipeline gets on.
pub trait Observer {
    /// A stage begins, and with it the previous one ends.
    fn stage(&self, name: &'static str);
    /// A network has done another tile; `false` stops the run with [`PredictError::Interrupted`].
    fn tile(&self, progress: TileProgress) -> bool;
    /// How much time there is; `None`: as much as it takes.
    fn time(&self) -> Option<TimeBudget> {
        None
    }
}

/// An observer that does not look.
pub struct Unobserved;

impl Observer for Unobserved {
    fn stage(&self, _name: &'static str) {}

    fn tile(&self, _progress: TileProgress) -> bool {
        true
    }
}
