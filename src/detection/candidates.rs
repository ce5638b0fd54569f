//! Lesion candidates: the connected regions of a probability volume, each with one confidence.
//!
//! A port of `report_guided_annotation` 0.3.4 (`extract_lesion_candidates.py`) for `float32` volumes, bit for
//! bit under numpy 2: thresholds are computed and compared in `f32`, confidences are aggregated and rounded in
//! `f64`, the detection map holds them as `f32`. Deliberate deviations: values that are not finite are an
//! error, and zero and negative voxels never belong to a candidate, whatever the threshold.

use super::candidate_options::{CandidateOptions, Confidence, DynamicVersion, Threshold};
use crate::imaging::components::{Components, Connectivity, Run};
use ndarray::{Array3, ArrayRef3, s};

/// Dynamic extraction ends when nothing as probable as this is left.
const STOPPING_PROBABILITY: f32 = 0.01;

/// The candidates found in a probability volume, on its grid.
#[derive(Debug, Clone, PartialEq)]
pub struct LesionCandidates {
    /// Confidence of the candidate that each voxel (z, y, x) belongs to, 0 elsewhere.
    pub detection_map: Array3<f32>,
    /// Index of the candidate that each voxel (z, y, x) belongs to, 0 elsewhere.
    pub index_map: Array3<u32>,
    /// Index and confidence of each candidate, in the original's order: by first voxel for a single threshold
    /// (where dropped components leave gaps in the numbers), by extraction for a dynamic one.
    pub confidences: Vec<(u32, f64)>,
}

/// Why a volume has no candidates to speak of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CandidateError {
    /// A probability is infinite or not a number.
    #[error("probability of voxel (z, y, x) = {voxel:?}: expected a finite value, got {value}")]
    NotFinite {
        /// Where, (z, y, x).
        voxel: (usize, usize, usize),
        /// The value there.
        value: f32,
    },
}

impl LesionCandidates {
    /// The patient's likelihood: the largest value of the detection map, 0 if it is empty.
    pub fn likelihood(&self) -> f32 {
        self.confidences.iter().fold(0.0, |largest, &(_, confidence)| largest.max(confidence as f32))
    }

    fn none(shape: (usize, usize, usize)) -> Self {
        Self { detection_map: Array3::zeros(shape), index_map: Array3::zeros(shape), confidences: Vec::new() }
    }

    fn store(&mut self, runs: &[Run], index: u32, confidence: f64) {
        for run in runs {
            let voxels = s![run.z, run.y, run.start..run.stop];
            self.detection_map.slice_mut(voxels).fill(confidence as f32);
            self.index_map.slice_mut(voxels).fill(index);
        }
        self.confidences.push((index, confidence));
    }

    /// Whether a voxel of these runs is, or is a neighbour (of 26) of, a voxel of a stored candidate.
    fn touches(&self, runs: &[Run]) -> bool {
        let (nz, ny, nx) = self.detection_map.dim();
        let around =
            |start: usize, stop: usize, length: usize| start.saturating_sub(1)..(stop + 1).min(length);
        runs.iter().any(|run| {
            let neighbours = s![
                around(run.z, run.z + 1, nz),
                around(run.y, run.y + 1, ny),
                around(run.start, run.stop, nx)
            ];
            self.detection_map.slice(neighbours).iter().any(|&confidence| confidence > 0.0)
        })
    }
}

/// Checks the probabilities (z, y, x) of a volume.
///
/// # Errors
/// [`CandidateError::NotFinite`] for the first that is infinite or not a number.
pub fn check_finite(probabilities: &ArrayRef3<f32>) -> Result<(), CandidateError> {
    match probabilities.indexed_iter().find(|(_, value)| !value.is_finite()) {
        Some((voxel, &value)) => Err(CandidateError::NotFinite { voxel, value }),
        None => Ok(()),
    }
}

/// The lesion candidates of a volume (z, y, x) of probabilities; none if it is zero everywhere.
///
/// # Errors
/// [`CandidateError::NotFinite`] for the first probability that is infinite or not a number.
pub fn extract_lesion_candidates(
    probabilities: &ArrayRef3<f32>,
    options: &CandidateOptions,
) -> Result<LesionCandidates, CandidateError> {
    check_finite(probabilities)?;
    Ok(match options.threshold {
        Threshold::Static(threshold) => {
            extract_above(probabilities, threshold as f32, Confidence::Maximum, options)
        }
        Threshold::DynamicFast(confidence) => {
            let threshold = maximum(probabilities) / options.dynamic_threshold_factor.as_f32();
            extract_above(probabilities, threshold, confidence, options)
        }
        Threshold::Dynamic { version, confidence } => {
            extract_one_by_one(probabilities, version, confidence, options)
        }
    })
}

/// Every large enough component of the voxels at or above one threshold
/// (`extract_lesion_candidates_static`).
fn extract_above(
    probabilities: &ArrayRef3<f32>,
    threshold: f32,
    confidence: Confidence,
    options: &CandidateOptions,
) -> LesionCandidates {
    let mut found = LesionCandidates::none(probabilities.dim());
    for blob in find_blobs(probabilities, threshold, confidence, options) {
        found.store(&blob.runs, blob.label, blob.confidence);
    }
    found
}

/// The most confident component at a fraction of what is left's maximum, again and again
/// (`extract_lesion_candidates_dynamic`).
fn extract_one_by_one(
    probabilities: &ArrayRef3<f32>,
    version: DynamicVersion,
    confidence: Confidence,
    options: &CandidateOptions,
) -> LesionCandidates {
    let mut left = probabilities.to_owned();
    let mut found = LesionCandidates::none(left.dim());
    while found.confidences.len() < options.num_lesions_to_extract {
        let peak = maximum(&left);
        if peak < STOPPING_PROBABILITY {
            break;
        }
        let index = found.confidences.len() as u32 + 1;
        let threshold = peak / options.dynamic_threshold_factor.as_f32();
        let blobs = find_blobs(&left, threshold, confidence, options);
        match (most_confident(blobs), version) {
            (Some(blob), _) => {
                if !(options.remove_adjacent_lesion_candidates && found.touches(&blob.runs)) {
                    // The original reads the confidence back from its float32 map.
                    found.store(&blob.runs, index, f64::from(blob.confidence as f32));
                }
                for run in &blob.runs {
                    left.slice_mut(s![run.z, run.y, run.start..run.stop]).fill(0.0);
                }
            }
            (None, DynamicVersion::Two) => left.mapv_inplace(|p| if p > threshold { 0.0 } else { p }),
            (None, DynamicVersion::One) => {
                // It takes the whole volume for a candidate of confidence 0, adds its index to those there,
                // and has nothing left.
                if !(options.remove_adjacent_lesion_candidates && index > 1) {
                    found.index_map += index;
                    found.confidences.push((index, 0.0));
                }
                break;
            }
        }
    }
    found
}

/// A component that is large enough.
struct Blob {
    runs: Vec<Run>,
    label: u32,
    confidence: f64,
}

/// The 26-connected components of the positive voxels at or above `threshold`, without the small ones, in
/// raster order of their first voxels.
fn find_blobs(
    probabilities: &ArrayRef3<f32>,
    threshold: f32,
    confidence: Confidence,
    options: &CandidateOptions,
) -> Vec<Blob> {
    let components = Components::find(probabilities, Connectivity::Corners, |&p| p >= threshold && p > 0.0);
    let mut runs_of = vec![Vec::new(); components.count()];
    for run in components.runs {
        if components.sizes[run.label as usize - 1] > options.min_voxels_detection {
            runs_of[run.label as usize - 1].push(run);
        }
    }
    let blob = |(label, runs): (u32, Vec<Run>)| {
        let values = runs.iter().flat_map(|run| probabilities.slice(s![run.z, run.y, run.start..run.stop]));
        let confidence = round(aggregate(values.copied(), confidence), options.max_prob_round_decimals);
        Blob { runs, label, confidence }
    };
    (1..).zip(runs_of).filter(|(_, runs)| !runs.is_empty()).map(blob).collect()
}

/// The first of the blobs with the largest `f32` confidence; `None` if there is none above 0.
fn most_confident(blobs: impl IntoIterator<Item = Blob>) -> Option<Blob> {
    let mut best: Option<Blob> = None;
    for blob in blobs {
        if blob.confidence as f32 > best.as_ref().map_or(0.0, |b| b.confidence as f32) {
            best = Some(blob);
        }
    }
    best
}

/// Maximum or mean of at least one positive value.
///
/// The mean is summed in order, numpy's in pairs; the `f64` sums of `f32` values agree, being exact as long as
/// their largest ratio times their number stays below 2^29.
fn aggregate(values: impl Iterator<Item = f32>, confidence: Confidence) -> f64 {
    match confidence {
        Confidence::Maximum => f64::from(values.fold(0.0, f32::max)),
        Confidence::Mean => {
            let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + f64::from(v), count + 1.0));
            sum / count
        }
    }
}

/// `numpy.round`: scaled, rounded half to even, scaled back.
fn round(confidence: f64, decimals: Option<u8>) -> f64 {
    decimals.map_or(confidence, |decimals| {
        let scale = 10_f64.powi(decimals.into());
        (confidence * scale).round_ties_even() / scale
    })
}

/// The largest value, negative infinity if there is none.
fn maximum(values: &ArrayRef3<f32>) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_found_in_nothing() {
        for (name, threshold) in Threshold::NAMED {
            let options = CandidateOptions { threshold, ..CandidateOptions::default() };
            for shape in [(3, 4, 5), (0, 4, 5)] {
                let found = extract_lesion_candidates(&Array3::zeros(shape), &options).unwrap();
                assert_eq!(found, LesionCandidates::none(shape), "{name}");
                assert_eq!(found.likelihood(), 0.0);
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        let mut probabilities = Array3::zeros((3, 4, 5));
        probabilities[(1, 2, 3)] = f32::NAN;
        let error = extract_lesion_candidates(&probabilities, &CandidateOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "probability of voxel (z, y, x) = (1, 2, 3): expected a finite value, got NaN"
        );
    }

    #[test]
    fn the_likelihood_is_the_best_candidate_not_the_highest_probability() {
        let mut probabilities = Array3::zeros((1, 5, 20));
        probabilities.slice_mut(s![0, 0, 0..12]).fill(0.5);
        probabilities[(0, 3, 3)] = 0.9;
        let found = extract_lesion_candidates(&probabilities, &CandidateOptions::default()).unwrap();
        assert_eq!(found.confidences, [(1, 0.5)]);
        assert_eq!(found.likelihood(), 0.5);
        assert_eq!(found.index_map.iter().filter(|&&i| i == 1).count(), 12);
    }
}
