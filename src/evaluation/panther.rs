//! The PANTHER challenge's metrics: segmentations of pancreatic tumours in MR.
//!
//! Source: `Evaluation/evaluate_local.py` of DIAGNijmegen/PANTHER_baseline. Deviations:
//! - Spacing goes along the array's axes in their order; the script hands (x, y, z) to a (z, y, x) array, which
//!   [`AxisOrder::Challenge`] reproduces.
//! - An empty truth with a prediction gets the scores of a complete miss; the script gives NaN and infinity, which spoil all means.
//! - A uniform prediction is scored as one case; the script returns it as its only result and forgets all other cases.
//! - A truth without prediction, or a file that cannot be read, is an error; the script passes over it.
//! - Voxels of the truth are compared with 0 as they are; the script casts them to uint8 first, which loses 256 and 0.5.
//! - NaN is an error.

use super::mask::Masks;
use super::surface::SurfaceDistances;
use super::{EvaluationError, Pair};
use crate::imaging::{MemoryGauge, NotEnoughMemory};
use ndarray::{Array3, Zip};
use serde::Serialize;

/// Distance within which surfaces agree, mm.
const TOLERANCE: f64 = 5.0;
/// Percentage of the area that the Hausdorff distance is of.
const PERCENT: f64 = 95.0;

/// Which spacing belongs to which axis of the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AxisOrder {
    /// Each axis has its own.
    Right,
    /// z and x have each other's, as in the challenge's public script.
    Challenge,
}

impl AxisOrder {
    /// The spacing in mm to reckon with along (z, y, x).
    fn order(self, [z, y, x]: [f64; 3]) -> [f64; 3] {
        match self {
            Self::Right => [z, y, x],
            Self::Challenge => [x, y, z],
        }
    }
}

/// The metrics of one case, under the names of the challenge's script.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Twice the common volume over the sum of both volumes, 0 to 1.
    pub volumetric_dice: f64,
    /// Share of both surfaces within 5 mm of the other one, 0 to 1.
    pub surface_dice: f64,
    /// The larger of the two 95th percentiles of the surfaces' distances, mm.
    pub hausdorff95: f64,
    /// Mean of the two mean surface distances, mm.
    pub masd: f64,
    /// Volume of the truth, mm³.
    pub gt_volume: f64,
    /// Volume of the prediction, mm³; 0 where it is uniform.
    pub pred_volume: f64,
}

/// One case and its metrics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubjectScores {
    /// Name of the case.
    pub subject: String,
    /// Its metrics.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The metrics of all cases together, under the names of the challenge's script.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Aggregates {
    /// Mean over the cases.
    pub mean_volumetric_dice: f64,
    /// Mean over the cases.
    pub mean_surface_dice: f64,
    /// Mean over the cases, mm.
    pub mean_hausdorff95: f64,
    /// Mean over the cases, mm.
    pub mean_masd: f64,
    /// Root of the mean squared difference of both volumes, mm³.
    pub tumor_burden_rmse: f64,
}

/// All results, in the form of the script's JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The cases in their order.
    pub per_subject: Vec<SubjectScores>,
    /// All together.
    pub aggregates: Aggregates,
}

/// The metrics of cases, read and scored one after the other. Reading takes no more than the memory there is.
///
/// # Errors
/// If an image cannot be read or is no mask, the images of a case do not fit each other, or there is too little memory.
pub fn evaluate(
    pairs: &[Pair],
    order: AxisOrder,
    memory: MemoryGauge,
) -> Result<Evaluation, EvaluationError> {
    let scored = pairs.iter().map(|pair| {
        let masks = Masks::read(pair, memory)?;
        let scores = score(&masks.truth, &masks.prediction, order.order(masks.spacing), memory)
            .map_err(|source| EvaluationError::Memory { path: pair.truth.clone(), source })?;
        Ok(SubjectScores { subject: pair.subject.clone(), scores })
    });
    let per_subject = scored.collect::<Result<Vec<_>, EvaluationError>>()?;
    let aggregates = Aggregates::of(&per_subject);
    Ok(Evaluation { per_subject, aggregates })
}

/// The metrics of one case: masks of one shape, (z, y, x), `spacing` in mm.
///
/// A prediction that is the same everywhere, and one where there is no tumour, miss completely: both Dice are 0, both
/// distances the length of the volume's diagonal.
///
/// # Errors
/// If there is too little memory.
pub fn score(
    truth: &Array3<bool>,
    prediction: &Array3<bool>,
    spacing: [f64; 3],
    memory: MemoryGauge,
) -> Result<Scores, NotEnoughMemory> {
    let [in_truth, in_prediction] = [truth, prediction].map(count);
    let voxel = spacing.iter().product::<f64>();
    let volume = |voxels: usize| voxels as f64 * voxel;
    let missed = Scores {
        volumetric_dice: 0.0,
        surface_dice: 0.0,
        hausdorff95: diagonal(truth, spacing),
        masd: diagonal(truth, spacing),
        gt_volume: volume(in_truth),
        pred_volume: volume(in_prediction),
    };
    if in_prediction == 0 || in_prediction == prediction.len() {
        return Ok(Scores { pred_volume: 0.0, ..missed });
    }
    let Some(surfaces) = SurfaceDistances::between(truth, prediction, spacing, memory)? else {
        return Ok(missed);
    };
    let in_both = Zip::from(truth).and(prediction).fold(0, |n, &t, &p| n + usize::from(t && p));
    Ok(Scores {
        volumetric_dice: 2.0 * in_both as f64 / (in_truth + in_prediction) as f64,
        surface_dice: surfaces.dice(TOLERANCE),
        hausdorff95: surfaces.robust_hausdorff(PERCENT),
        masd: surfaces.mean(),
        ..missed
    })
}

impl Aggregates {
    fn of(cases: &[SubjectScores]) -> Self {
        let mean = |of: fn(&Scores) -> f64| {
            cases.iter().map(|case| of(&case.scores)).sum::<f64>() / cases.len() as f64
        };
        Self {
            mean_volumetric_dice: mean(|s| s.volumetric_dice),
            mean_surface_dice: mean(|s| s.surface_dice),
            mean_hausdorff95: mean(|s| s.hausdorff95),
            mean_masd: mean(|s| s.masd),
            tumor_burden_rmse: mean(|s| (s.pred_volume - s.gt_volume).powi(2)).sqrt(),
        }
    }
}

fn count(mask: &Array3<bool>) -> usize {
    mask.iter().filter(|&&inside| inside).count()
}

/// Length of a volume's diagonal, mm.
fn diagonal(mask: &Array3<bool>, spacing: [f64; 3]) -> f64 {
    let edges = mask.shape().iter().zip(spacing).map(|(&n, step)| n as f64 * step);
    edges.map(|edge| edge * edge).sum::<f64>().sqrt()
}
