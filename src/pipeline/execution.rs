//! Running a recipe's models: what a user may change about it, and weights that are loaded before they are needed.

use super::PipelineError;
use super::budget::Share;
use super::recipe::ModelRun;
use crate::imaging::MemoryGauge;
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::{Folds, PredictError, PredictOptions, Predictor};
use crate::nnunet::sliding_window::Accumulate;
use crate::ops::{Arithmetic, Backend, Cuda};
use std::path::Path;

/// What a user may change about the arithmetic without touching the recipe.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionOptions {
    /// Arithmetic of the sums over tiles and folds.
    pub accumulate: Accumulate,
    /// Instruction set and precision of the CPU kernels.
    pub arithmetic: Arithmetic,
    /// Tells how much memory there is.
    pub memory: MemoryGauge,
    /// The GPU that the networks run on; `None`: the CPU.
    pub gpu: Option<Cuda>,
}

impl Default for ExecutionOptions {
    fn default() -> Self {
        let (accumulate, memory) = (Accumulate::default(), MemoryGauge::UNLIMITED);
        Self { accumulate, arithmetic: Arithmetic::detect(), memory, gpu: None }
    }
}

/// How many folds' weights stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptFolds {
    /// Folds whose weights stay in memory.
    pub kept: usize,
    /// All folds.
    pub all: usize,
}

/// A model, how its recipe runs it, and its weights.
pub(super) struct Stage<'c> {
    run: &'c ModelRun,
    folds: Folds<'c>,
    options: ExecutionOptions,
}

impl<'c> Stage<'c> {
    /// Nothing is loaded yet.
    pub fn new(model: &'c ModelFolder, run: &'c ModelRun, options: ExecutionOptions) -> Self {
        let backend = options.gpu.map_or(Backend::Cpu(options.arithmetic), Backend::Cuda);
        Self { run, folds: Folds::new(model, backend), options }
    }

    /// The model's folder as the recipe names it.
    pub fn folder(&self) -> &Path {
        &self.run.folder
    }

    pub fn model(&self) -> &'c ModelFolder {
        self.folds.model()
    }

    /// Everything that the recipe asks for.
    pub fn whole_share(&self) -> Share {
        let ModelRun { mirroring, step, .. } = *self.run;
        Share { folds: self.model().folds.len(), mirroring, step }
    }

    /// Loads the first fold's weights; an error is kept for who needs them.
    pub fn load_ahead(&self) {
        self.folds.load_ahead();
    }

    /// Lets go what was loaded or kept: whether there was anything.
    pub fn release(&self) -> bool {
        self.folds.release()
    }

    /// Predicts with a share of what the recipe asks for, and loads the first weights of `after` at the end.
    pub fn predictor<'a>(
        &'a self,
        share: Share,
        after: Option<&'a Stage<'c>>,
    ) -> Result<Predictor<'a>, PredictError> {
        let ExecutionOptions { accumulate, arithmetic, memory, gpu } = self.options;
        let Share { folds, mirroring, step } = share;
        let options = PredictOptions { step, mirroring, folds: Some(folds), accumulate, arithmetic, gpu };
        let predictor = Predictor::within(self.model(), options, memory)?;
        Ok(predictor.with_folds(&self.folds, after.map(|stage| &stage.folds)))
    }

    fn warm_up(&self) -> Result<(), PredictError> {
        match self.predictor(self.whole_share(), None)?.warm_up() {
            // A case goes on with less: on the host in the end.
            Err(PredictError::Gpu(error)) if error.is_out_of_memory() => tracing::warn!("{error}"),
            done => done?,
        }
        Ok(())
    }
}

/// Half of the memory that is available now where the weights are kept, in bytes.
///
/// # Errors
/// If the GPU does not tell.
pub fn half_of_memory(options: ExecutionOptions) -> Result<u64, PipelineError> {
    Ok(match options.gpu {
        Some(gpu) => gpu.free_memory().map_err(PredictError::from)? / 2,
        None => options.memory.available().map_or(0, |available| available / 2),
    })
}

/// Reads the weights of all folds of some models, and keeps as many of them as leave `reserve` bytes of memory available.
pub(super) fn keep_weights(stages: &[&Stage<'_>], reserve: u64) -> Result<KeptFolds, PipelineError> {
    let mut folds = KeptFolds::default();
    for stage in stages {
        folds.kept += stage.folds.keep(stage.options.memory, reserve)?;
        folds.all += stage.model().folds.len();
    }
    Ok(folds)
}

/// Runs the network of each model once.
pub(super) fn warm_up(stages: &[&Stage<'_>]) -> Result<(), PipelineError> {
    Ok(stages.iter().try_for_each(|stage| stage.warm_up())?)
}

/// Lets go the weights that [`keep_weights`] kept: whether there were any.
pub(super) fn release(stages: &[&Stage<'_>]) -> bool {
    stages.iter().filter(|stage| stage.release()).count() > 0
}
