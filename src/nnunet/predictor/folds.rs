//! Weights of a model's folds, loaded and packed on another thread before they are needed.
//!
//! At most two folds are in memory: the one that computes and the one after it, which may be the next model's first.

use super::{PredictError, plan_of};
use crate::network::{Plan, Weights};
use crate::nnunet::model_folder::{Fold, ModelFolder};
use crate::ops::Arithmetic;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

type Loaded = Result<Weights, PredictError>;

/// A model whose first fold can be loaded ahead, by whichever thread has the time.
pub struct FirstFold<'m> {
    model: &'m ModelFolder,
    arithmetic: Arithmetic,
    loaded: Mutex<Option<Loaded>>,
}

impl<'m> FirstFold<'m> {
    /// Nothing is loaded yet.
    pub fn new(model: &'m ModelFolder, arithmetic: Arithmetic) -> Self {
        Self { model, arithmetic, loaded: Mutex::new(None) }
    }

    /// The model.
    pub fn model(&self) -> &'m ModelFolder {
        self.model
    }

    /// Loads and packs the fold, unless that was done; an error is kept for whoever uses the weights.
    pub fn load(&self) {
        self.lock().get_or_insert_with(|| self.read());
    }

    /// The weights, loaded now if they were not before.
    pub(super) fn take(&self) -> Loaded {
        let loaded = self.lock().take();
        loaded.unwrap_or_else(|| self.read())
    }

    fn read(&self) -> Loaded {
        read_fold(self.model, &plan_of(self.model)?, self.model.folds[0], self.arithmetic)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One fold's parameters, packed for the plan.
pub(super) fn read_fold(model: &ModelFolder, plan: &Plan, fold: Fold, arithmetic: Arithmetic) -> Loaded {
    let tensors = model.load_fold(fold)?;
    Ok(Weights::pack(plan, tensors, model.configuration.network.norm_eps, arithmetic)?)
}

/// The folds of a model one after the other, each loaded while the one before it computes.
pub(super) struct FoldQueue<'s, 'm> {
    pub model: &'m ModelFolder,
    pub plan: &'s Plan,
    pub arithmetic: Arithmetic,
    /// Taken instead of the first fold.
    pub first: Option<&'s FirstFold<'m>>,
    /// Loaded while the last fold computes.
    pub after: Option<&'s FirstFold<'m>>,
}

/// A fold on its way.
pub(super) type Loading<'scope> = ScopedJoinHandle<'scope, Loaded>;

impl<'s, 'm: 's> FoldQueue<'s, 'm> {
    /// The weights of fold `number`, which `loading` brings unless it is the first; the next one's begin to load.
    pub fn next<'scope>(
        &self,
        number: usize,
        loading: &mut Option<Loading<'scope>>,
        scope: &'scope Scope<'scope, '_>,
    ) -> Loaded
    where
        's: 'scope,
    {
        let &Self { model, plan, arithmetic, first, after } = self;
        let weights = match (loading.take(), first) {
            (Some(loading), _) => loading.join().unwrap_or_else(|panic| resume_unwind(panic))?,
            (None, Some(first)) => first.take()?,
            (None, None) => read_fold(model, plan, model.folds[number], arithmetic)?,
        };
        if let Some(&fold) = model.folds.get(number + 1) {
            *loading = Some(scope.spawn(move || read_fold(model, plan, fold, arithmetic)));
        } else if let Some(after) = after {
            scope.spawn(|| after.load());
        }
        Ok(weights)
    }
}
