//! Weights of a model's folds, loaded and packed on another thread before they are needed, or kept from scan to scan.
//!
//! Unless they are kept at most two folds are in memory: the one that computes and the one after it, which may be the next
//! model's first.

use super::{PredictError, plan_of};
use crate::imaging::memory::MemoryGauge;
use crate::network::{Plan, Weights};
use crate::nnunet::model_folder::{Fold, ModelFolder};
use crate::ops::Backend;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

type Loaded = Result<Weights, PredictError>;

/// The folds of a model, whose weights are read when they are needed unless they were loaded ahead or kept.
pub struct Folds<'m> {
    model: &'m ModelFolder,
    backend: Backend,
    /// The first fold, loaded ahead by whichever thread had the time; taken once.
    ahead: Mutex<Option<Result<Arc<Weights>, PredictError>>>,
    /// Weights that stay, by number.
    kept: Mutex<Vec<Option<Arc<Weights>>>>,
}

impl<'m> Folds<'m> {
    /// Nothing is loaded yet.
    pub fn new(model: &'m ModelFolder, backend: impl Into<Backend>) -> Self {
        let kept = Mutex::new(vec![None; model.folds.len()]);
        Self { model, backend: backend.into(), ahead: Mutex::new(None), kept }
    }

    /// The model.
    pub fn model(&self) -> &'m ModelFolder {
        self.model
    }

    /// Loads and packs the first fold, unless that was done; an error is kept for whoever uses the weights next.
    pub fn load_ahead(&self) {
        if lock(&self.kept)[0].is_some() {
            return;
        }
        let mut ahead = lock(&self.ahead);
        if !matches!(*ahead, Some(Ok(_))) {
            *ahead = Some(self.read(0).map(Arc::new));
        }
    }

    /// Takes the first fold's weights back from whoever tried them, for who computes with them.
    pub(super) fn give_back(&self, weights: Arc<Weights>) {
        *lock(&self.ahead) = Some(Ok(weights));
    }

    /// Loads and packs every fold once, and keeps as many as leave `reserve` bytes of memory available where the weights
    /// are, on the host or on the GPU: how many.
    ///
    /// # Errors
    /// If a fold cannot be loaded.
    pub fn keep(&self, memory: MemoryGauge, reserve: u64) -> Result<usize, PredictError> {
        let mut count = 0;
        for number in 0..self.model.folds.len() {
            let weights = match self.read(number) {
                // What cannot be kept is read, and done without, when it is needed.
                Err(PredictError::Gpu(error)) if error.is_out_of_memory() => break,
                read => read?,
            };
            if self.leaves(memory, reserve)? {
                lock(&self.kept)[number] = Some(Arc::new(weights));
                count += 1;
            }
        }
        Ok(count)
    }

    fn leaves(&self, memory: MemoryGauge, reserve: u64) -> Result<bool, PredictError> {
        Ok(match self.backend {
            Backend::Cpu(_) => memory.check("the weights of all folds", reserve.into()).is_ok(),
            Backend::Cuda(gpu) => gpu.free_memory()? >= reserve,
        })
    }

    /// Lets go what was kept or loaded ahead: whether that was anything.
    pub fn release(&self) -> bool {
        let ahead = lock(&self.ahead).take().is_some();
        lock(&self.kept).iter_mut().filter_map(Option::take).count() > 0 || ahead
    }

    /// The weights of fold `number`, loaded now if they were not before.
    fn weights(&self, number: usize) -> Result<Arc<Weights>, PredictError> {
        if let Some(weights) = &lock(&self.kept)[number] {
            return Ok(Arc::clone(weights));
        }
        let ahead = if number == 0 { lock(&self.ahead).take() } else { None };
        let ahead = ahead.filter(|ahead| !is_out_of_gpu_memory(ahead));
        ahead.unwrap_or_else(|| self.read(number).map(Arc::new))
    }

    fn read(&self, number: usize) -> Loaded {
        read_fold(self.model, &plan_of(self.model, self.backend)?, self.model.folds[number], self.backend)
    }
}

/// Whether weights could not be loaded ahead beside what was on the GPU then.
fn is_out_of_gpu_memory<T>(loaded: &Result<T, PredictError>) -> bool {
    matches!(loaded, Err(PredictError::Gpu(error)) if error.is_out_of_memory())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One fold's parameters, packed for the plan.
fn read_fold(model: &ModelFolder, plan: &Plan, fold: Fold, backend: Backend) -> Loaded {
    let tensors = model.load_fold(fold)?;
    Ok(Weights::pack(plan, tensors, model.configuration.network.unet().norm_eps, backend)?)
}

/// The folds of a model one after the other, each loaded while the one before it computes.
pub(super) struct FoldQueue<'s, 'm> {
    pub folds: &'s Folds<'m>,
    /// How many of them, the first ones, are used.
    pub count: usize,
    /// Loaded while the last fold computes.
    pub after: Option<&'s Folds<'m>>,
}

/// A fold on its way.
pub(super) type Loading<'scope> = ScopedJoinHandle<'scope, Result<Arc<Weights>, PredictError>>;

impl<'s, 'm: 's> FoldQueue<'s, 'm> {
    /// The weights of fold `number`, which `loading` brings unless it is the first; the next one's begin to load.
    pub fn next<'scope>(
        &self,
        number: usize,
        loading: &mut Option<Loading<'scope>>,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Arc<Weights>, PredictError>
    where
        's: 'scope,
    {
        let &Self { folds, count, after } = self;
        let weights = match loading.take() {
            Some(loading) => loading.join().unwrap_or_else(|panic| resume_unwind(panic))?,
            None => folds.weights(number)?,
        };
        // Where no thread can be started the weights are loaded when they are needed.
        let thread = Builder::new();
        if number + 1 < count {
            *loading = thread.spawn_scoped(scope, move || folds.weights(number + 1)).ok();
        } else if let Some(after) = after {
            let _started = thread.spawn_scoped(scope, || after.load_ahead());
        }
        Ok(weights)
    }

    /// The first fold's weights.
    pub fn first(&self) -> Result<Arc<Weights>, PredictError> {
        self.folds.weights(0)
    }
}
