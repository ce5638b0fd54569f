//! The mean over folds as nnU-Net rounds it.

use super::PredictError;
use half::f16;

/// The mean over folds with every result rounded to float16.
pub(super) struct HalfMean {
    folds: usize,
    sum: Vec<f16>,
}

impl HalfMean {
    /// No fold yet, of `folds`.
    pub fn new(folds: usize) -> Self {
        Self { folds, sum: Vec::new() }
    }

    /// Adds one fold's weighted sums, (voxels, heads) flattened, divided by the voxels' weights.
    pub fn add(&mut self, fold: &[f16], weights: &[f16]) -> Result<(), PredictError> {
        let heads = fold.len() / weights.len().max(1);
        let first = self.sum.is_empty();
        self.sum.resize(fold.len(), f16::ZERO);
        for (i, (&v, sum)) in fold.iter().zip(&mut self.sum).enumerate() {
            let logit = f16::from_f32(v.to_f32() / weights[i / heads].to_f32());
            *sum = if first { logit } else { f16::from_f32(sum.to_f32() + logit.to_f32()) };
            if sum.is_infinite() {
                return Err(PredictError::HalfOverflow);
            }
        }
        Ok(())
    }

    /// Appends the mean as float32 numbers, of float16 values, and begins anew.
    pub fn mean_into(&mut self, means: &mut Vec<f32>) {
        let folds = self.folds as f32;
        let divide =
            |v: &f16| if self.folds > 1 { f16::from_f32(v.to_f32() / folds).to_f32() } else { v.to_f32() };
        means.extend(self.sum.iter().map(divide));
        self.sum.clear();
    }
}
