//! One case of a detection: which candidates of the detection map find which lesions of the truth.
//!
//! Source: picai_eval 1.4, `eval.py: evaluate_case` and `analysis_utils.py: parse_detection_map`, `calculate_iou`, with its default
//! arguments.

use crate::imaging::components::{Components, Connectivity, Run};
use crate::imaging::memory::bytes;
use crate::imaging::{MemoryGauge, NotEnoughMemory};
use ndarray::{Array2, ArrayRef3};
use serde::{Serialize, Serializer};
use std::collections::HashSet;

/// What keeps the overlap of two empty things defined.
const EPSILON: f64 = 1e-8;

/// A lesion, found or not, or a candidate that is none.
///
/// Serialised as picai_eval's triple (1 or 0, confidence, overlap).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LesionResult {
    /// Whether it is a lesion of the truth.
    pub is_lesion: bool,
    /// The candidate's confidence; 0 for a lesion that no candidate finds.
    pub confidence: f64,
    /// Intersection over union of lesion and candidate, 0 to 1; 0 where either is missing.
    pub overlap: f64,
}

impl Serialize for LesionResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (u8::from(self.is_lesion), self.confidence, self.overlap).serialize(serializer)
    }
}

/// Why a volume is no detection map.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MapError {
    /// A voxel is negative, infinite or NaN.
    #[error("expected confidences of 0 or more, got a voxel of {0}")]
    Confidence(f32),
    /// There are more confidences than candidates could have.
    #[error(
        "expected a detection map with one value for each candidate, got at least {} different values other than 0 in {components} \
         connected components (a map of probabilities?)",
        components + 1
    )]
    TooManyValues {
        /// Connected components of the voxels other than 0.
        components: usize,
    },
}

/// The lesion candidates of a detection map.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// The components (26 neighbours) of the voxels other than 0.
    pub components: Components,
    /// The largest voxel of each component; the one with label `l` is at `l - 1`.
    pub confidences: Vec<f32>,
}

impl Candidates {
    /// The candidates of a detection map (z, y, x).
    ///
    /// # Errors
    /// If a voxel is negative or not finite, or there are more different values than components. As many different values in
    /// components that touch are not noticed, as in picai_eval.
    pub fn of(map: &ArrayRef3<f32>) -> Result<Self, MapError> {
        if let Some(&wrong) = map.iter().find(|v| !v.is_finite() || **v < 0.0) {
            return Err(MapError::Confidence(wrong));
        }
        let components = Components::find(map, Connectivity::Corners, |&value| value != 0.0);
        let mut values = HashSet::new();
        let mut confidences = vec![0.0_f32; components.count()];
        for run in &components.runs {
            let best = &mut confidences[run.label as usize - 1];
            for &value in map.slice(ndarray::s![run.z, run.y, run.start..run.stop]) {
                *best = best.max(value);
                if values.insert(value.to_bits()) && values.len() > components.count() {
                    return Err(MapError::TooManyValues { components: components.count() });
                }
            }
        }
        Ok(Self { components, confidences })
    }

    /// The largest confidence; 0 where there is no candidate.
    pub fn maximum(&self) -> f32 {
        self.confidences.iter().copied().fold(0.0, f32::max)
    }

    fn confidence(&self, candidate: usize) -> f64 {
        f64::from(self.confidences[candidate])
    }
}

/// The lesions of a case and the candidates that are none: found lesions first, in the truth's raster order, then those that are
/// missed, then false candidates.
///
/// A candidate can find a lesion if their intersection over union, (I + 1e-8) / (U + 1e-8), is at least `min_overlap`. As many
/// lesions as possible are found, and among such assignments the sum of overlaps is the largest. A candidate that finds none
/// but could have is left out. `lesions` are components of the truth on the candidates' grid.
///
/// # Errors
/// If there is too little memory for the overlaps.
pub fn match_candidates(
    lesions: &Components,
    candidates: &Candidates,
    min_overlap: f64,
    memory: MemoryGauge,
) -> Result<Vec<LesionResult>, NotEnoughMemory> {
    let shape = [lesions.count(), candidates.components.count()];
    // Intersections, weights, and the assignment's own copy.
    memory.check("the overlaps of lesions and candidates", bytes(&shape, 3 * size_of::<f64>()))?;
    let weights = weights(lesions, &candidates.components, min_overlap);
    let mut is_missed = vec![true; lesions.count()];
    let mut results = Vec::new();
    for (lesion, candidate) in best_assignment(&weights) {
        let weight = weights[[lesion, candidate]];
        if weight > 0.0 {
            is_missed[lesion] = false;
            let confidence = candidates.confidence(candidate);
            results.push(LesionResult { is_lesion: true, confidence, overlap: weight - 1.0 });
        }
    }
    let missed = is_missed.iter().filter(|&&missed| missed);
    results.extend(missed.map(|_| LesionResult { is_lesion: true, confidence: 0.0, overlap: 0.0 }));
    for (candidate, overlaps) in weights.columns().into_iter().enumerate() {
        if overlaps.iter().all(|&weight| weight == 0.0) {
            let confidence = candidates.confidence(candidate);
            results.push(LesionResult { is_lesion: false, confidence, overlap: 0.0 });
        }
    }
    Ok(results)
}

/// What an assignment of a lesion (row) to a candidate (column) is worth: 1 + overlap, so that one more lesion found is worth more
/// than any overlap, or 0 where the overlap is too small.
fn weights(lesions: &Components, candidates: &Components, min_overlap: f64) -> Array2<f64> {
    let common = intersections(lesions, candidates);
    Array2::from_shape_fn(common.dim(), |(lesion, candidate)| {
        let common = common[[lesion, candidate]];
        let union = lesions.sizes[lesion] + candidates.sizes[candidate] - common;
        let overlap = (common as f64 + EPSILON) / (union as f64 + EPSILON);
        if overlap >= min_overlap { 1.0 + overlap } else { 0.0 }
    })
}

/// Voxels that each component of `a` (rows) has in common with each component of `b` (columns).
fn intersections(a: &Components, b: &Components) -> Array2<usize> {
    let mut common = Array2::zeros((a.count(), b.count()));
    let (mut i, mut j) = (0, 0);
    while let (Some(p), Some(q)) = (a.runs.get(i), b.runs.get(j)) {
        if (p.z, p.y) == (q.z, q.y) {
            let voxels = p.stop.min(q.stop).saturating_sub(p.start.max(q.start));
            common[[p.label as usize - 1, q.label as usize - 1]] += voxels;
        }
        let end = |run: &Run| (run.z, run.y, run.stop);
        if end(p) < end(q) {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

/// Rows and columns whose weights have the largest sum, each row and each column at most once, by row. Among equal sums it is
/// the one that `scipy.optimize.linear_sum_assignment` finds, whose algorithm the crate follows step by step: which of two
/// candidates of equal overlap finds the lesion decides the lesion's confidence.
fn best_assignment(weights: &Array2<f64>) -> Vec<(usize, usize)> {
    let (rows, columns) = weights.dim();
    let weights = weights.iter().copied().collect();
    #[expect(clippy::expect_used, reason = "only weights that are not finite have no assignment")]
    let (rows, columns) = lsap::solve(rows, columns, &weights, true).expect("finite weights");
    rows.into_iter().zip(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, arr2};
    use proptest::prelude::*;

    /// The largest sum over all ways to give each row another column.
    fn best_total(weights: &Array2<f64>, row: usize, used: &mut Vec<bool>) -> f64 {
        if row == weights.nrows() {
            return 0.0;
        }
        let mut best = best_total(weights, row + 1, used);
        for column in 0..weights.ncols() {
            if !used[column] {
                used[column] = true;
                best = best.max(weights[[row, column]] + best_total(weights, row + 1, used));
                used[column] = false;
            }
        }
        best
    }

    /// Few different weights, so that there are ties.
    fn any_weights() -> impl Strategy<Value = Array2<f64>> {
        (1_usize..6, 1_usize..6).prop_flat_map(|(rows, columns)| {
            let weight = prop_oneof![Just(0.0), Just(1.1), Just(1.25), Just(1.5), 1.1..2.0];
            proptest::collection::vec(weight, rows * columns)
                .prop_map(move |weights| Array2::from_shape_vec((rows, columns), weights).unwrap())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_assignment_is_worth_more(weights in any_weights()) {
            let assignment = best_assignment(&weights);
            let total: f64 = assignment.iter().map(|&at| weights[at]).sum();
            let expected = best_total(&weights, 0, &mut vec![false; weights.ncols()]);
            prop_assert!((total - expected).abs() < 1e-12, "{} instead of {}", total, expected);
            prop_assert!(assignment.is_sorted_by_key(|&(row, _)| row));
            let columns: HashSet<_> = assignment.iter().map(|&(_, column)| column).collect();
            prop_assert_eq!(columns.len(), weights.nrows().min(weights.ncols()));
        }

        #[test]
        fn intersections_are_counted_voxel_by_voxel(voxels in proptest::collection::vec(0_u8..4, 3 * 4 * 7)) {
            let voxels = Array3::from_shape_vec((3, 4, 7), voxels).unwrap();
            let [a, b] = [1, 2].map(|bit| Components::find(&voxels, Connectivity::Faces, |v| v & bit != 0));
            let (in_a, in_b) = (a.to_labels().labels, b.to_labels().labels);
            let mut expected = Array2::<usize>::zeros((a.count(), b.count()));
            for (&la, &lb) in in_a.iter().zip(&in_b).filter(|&(&la, &lb)| la != 0 && lb != 0) {
                expected[[la as usize - 1, lb as usize - 1]] += 1;
            }
            prop_assert_eq!(intersections(&a, &b), expected);
        }
    }

    /// scipy 1.17.1: `linear_sum_assignment(np.array(weights), maximize=True)`
    #[test]
    fn ties_are_settled_as_scipy_settles_them() {
        let tied = [
            (arr2(&[[1.5, 1.5, 1.5]]), vec![(0, 0)]),
            (arr2(&[[1.5], [1.5], [1.5]]), vec![(0, 0)]),
            (arr2(&[[1.5, 1.5], [1.5, 1.5]]), vec![(0, 0), (1, 1)]),
            (arr2(&[[0.0, 1.5, 1.5], [1.5, 1.5, 0.0]]), vec![(0, 1), (1, 0)]),
            (arr2(&[[1.25, 1.25, 1.25], [0.0, 1.25, 1.25], [1.25, 0.0, 1.25]]), vec![(0, 0), (1, 1), (2, 2)]),
            (arr2(&[[0.0, 0.0], [1.25, 1.25], [1.25, 1.25]]), vec![(1, 0), (2, 1)]),
        ];
        for (weights, expected) in tied {
            assert_eq!(best_assignment(&weights), expected, "{weights}");
        }
    }

    #[test]
    fn a_map_without_voxels_above_zero_has_no_candidates() {
        let candidates = Candidates::of(&Array3::zeros((2, 3, 4))).unwrap();
        assert_eq!((candidates.components.count(), candidates.maximum()), (0, 0.0));
    }

    #[test]
    fn what_is_no_detection_map_is_refused() {
        let map =
            |values: [f32; 4]| Candidates::of(&Array3::from_shape_vec((1, 1, 4), values.to_vec()).unwrap());
        assert_eq!(map([0.5, 0.0, -0.25, 0.0]), Err(MapError::Confidence(-0.25)));
        assert_eq!(map([0.5, 0.0, f32::INFINITY, 0.0]), Err(MapError::Confidence(f32::INFINITY)));
        assert!(matches!(map([0.5, f32::NAN, 0.0, 0.0]), Err(MapError::Confidence(v)) if v.is_nan()));
        assert_eq!(
            map([0.5, 0.25, 0.0, 0.5]).unwrap().confidences,
            [0.5, 0.5],
            "as many values as components"
        );
        assert_eq!(map([0.5, 0.25, 0.0, 0.0]), Err(MapError::TooManyValues { components: 1 }));
    }

    #[test]
    fn overlaps_that_do_not_fit_into_memory_are_not_begun() {
        let map = Array3::from_elem((1, 1, 2), 0.5);
        let candidates = Candidates::of(&map).unwrap();
        let little = MemoryGauge::new(|| Some(23));
        let error = match_candidates(&candidates.components, &candidates, 0.1, little).unwrap_err();
        assert_eq!(error.asked, 24);
    }
}
