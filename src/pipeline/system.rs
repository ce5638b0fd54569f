//! Any of the published systems, as its recipe chooses it.

use super::execution::{ExecutionOptions, KeptFolds, Stage, keep_weights, release, warm_up};
use super::panorama::{Detection, Panorama, PanoramaRun};
use super::panther::{Panther, PantherRun, TumourSegmentation};
use super::{BudgetReport, Observer, PipelineError, Recipe};
use crate::detection::Likelihood;
use crate::imaging::Volume;
use crate::nnunet::model_folder::ModelFolder;
use std::path::Path;
use std::sync::Arc;

/// A system with its models checked.
#[derive(Debug, Clone)]
pub enum System {
    /// Detection in CT.
    Panorama(Box<Panorama>),
    /// Segmentation in MRI.
    Panther(Box<Panther>),
}

/// What a system says about a scan.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Lesion candidates and likelihood.
    Detection(Detection),
    /// The tumour's voxels.
    Segmentation(TumourSegmentation),
}

impl Answer {
    /// What a time budget changed, if there is one.
    pub fn budget(&self) -> Option<&BudgetReport> {
        match self {
            Self::Detection(detection) => detection.budget.as_ref(),
            Self::Segmentation(segmentation) => segmentation.budget.as_ref(),
        }
    }

    /// Where a likelihood comes from, if a classification head takes part.
    pub fn likelihood(&self) -> Option<&Likelihood> {
        match self {
            Self::Detection(detection) => detection.joined.as_ref(),
            Self::Segmentation(_) => None,
        }
    }
}

impl System {
    /// Reads a recipe and checks the models that it names, without reading their weights.
    ///
    /// # Errors
    /// If the recipe or a model folder is not usable, or they contradict each other.
    pub fn open(recipe_file: &Path) -> Result<Self, PipelineError> {
        Ok(match Recipe::read(recipe_file)? {
            Recipe::Panorama(recipe) => Self::Panorama(Box::new(Panorama::open(recipe, recipe_file)?)),
            Recipe::Panther(recipe) => Self::Panther(Box::new(Panther::open(recipe, recipe_file)?)),
        })
    }

    /// What the recipe calls the system.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Panorama(_) => "panorama",
            Self::Panther(_) => "panther",
        }
    }

    /// The recipe's remark on its weights.
    pub fn note(&self) -> Option<&str> {
        match self {
            Self::Panorama(system) => system.note(),
            Self::Panther(system) => system.note(),
        }
    }

    /// The model folders with what they are for.
    pub fn models(&self) -> Vec<(String, &ModelFolder)> {
        match self {
            Self::Panorama(system) => system.models().map(|(stage, m)| (stage.to_owned(), m)).into(),
            Self::Panther(system) => system.models(),
        }
    }

    /// A run of the system, whose first weights can be loaded before there is a scan.
    pub fn begin(&self, options: ExecutionOptions) -> SystemRun<'_> {
        match self {
            Self::Panorama(system) => SystemRun::Panorama(system.begin(options)),
            Self::Panther(system) => SystemRun::Panther(system.begin(options)),
        }
    }
}

/// Runs of a system.
pub enum SystemRun<'c> {
    /// See [`PanoramaRun`].
    Panorama(PanoramaRun<'c>),
    /// See [`PantherRun`].
    Panther(PantherRun<'c>),
}

impl<'c> SystemRun<'c> {
    fn stages(&self) -> Vec<&Stage<'c>> {
        match self {
            Self::Panorama(run) => run.stages(),
            Self::Panther(run) => run.stages(),
        }
    }

    /// Loads the weights that are needed first; an error is kept for [`SystemRun::run`].
    pub fn load_first_weights(&self) {
        if let Some(first) = self.stages().first() {
            first.load_ahead();
        }
    }

    /// Reads the weights of all folds, and keeps as many of them as leave `reserve` bytes of memory available.
    ///
    /// # Errors
    /// If weights cannot be loaded.
    pub fn keep_weights(&self, reserve: u64) -> Result<KeptFolds, PipelineError> {
        keep_weights(&self.stages(), reserve)
    }

    /// Runs each network once: what happens at its first tile only then has happened.
    ///
    /// # Errors
    /// If a network cannot run.
    pub fn warm_up(&self) -> Result<(), PipelineError> {
        warm_up(&self.stages())
    }

    /// Lets go the weights that [`SystemRun::keep_weights`] kept: whether there were any.
    pub fn release_weights(&self) -> bool {
        release(&self.stages())
    }

    /// Runs the whole system on a scan.
    ///
    /// # Errors
    /// If the scan cannot be what it should be, a network cannot run or the observer stops it.
    pub fn run(&self, scan: Arc<Volume<f32>>, observer: &dyn Observer) -> Result<Answer, PipelineError> {
        Ok(match self {
            Self::Panorama(run) => Answer::Detection(run.run(scan, observer)?),
            Self::Panther(run) => Answer::Segmentation(run.run(scan, observer)?),
        })
    }
}
