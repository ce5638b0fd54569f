//! The PANORAMA challenge's metrics: detection of pancreatic cancer in CT, per patient (AUROC) and per lesion (AP, FROC).
//!
//! Source: picai_eval 1.4 (`eval.py: evaluate`, `metrics.py: Metrics`), which the challenge's evaluation calls. Deviations:
//! - Voxels of one label of the truth are lesions, not those of all; the challenge's script removes the others beforehand.
//! - Detection maps lie on the truth's grid or are an error; picai_eval pads smaller ones.
//! - Confidences that are not finite are an error.
//! - Samples of the bootstrap that lack either kind of patient are drawn again; picai_eval's intervals are NaN then.

use super::bootstrap::{Bootstrap, interval};
use super::detection::{Candidates, LesionResult, match_candidates};
use super::detection_cases::{DetectionCase, SAME_PROBABILITY};
use super::grid::check_grid;
use super::ranking::{Froc, OperatingPoint, PrecisionRecall, Ranking, Roc, area_under_roc};
use super::{EvaluationError, Pair};
use crate::detection::Likelihood;
use crate::imaging::components::{Components, Connectivity};
use crate::imaging::file::element::{Element, with_array};
use crate::imaging::file::read_image_within;
use crate::imaging::{Geometry, MemoryGauge, NotEnoughMemory};
use serde::Serialize;
use std::collections::BTreeMap;

/// False positives per case at which the sensitivity is reported.
pub const FALSE_POSITIVES_PER_CASE: [f64; 5] = [0.125, 0.25, 0.5, 1.0, 2.0];

/// What counts as found, and as a lesion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Intersection over union, 0 to 1, from which a candidate can find a lesion; picai_eval's default is 0.1.
    pub min_overlap: f64,
    /// The truth's label of lesions.
    pub lesion_label: u32,
    /// For the confidence intervals.
    pub bootstrap: Bootstrap,
}

/// The metrics of all cases together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Area under the patients' ROC curve; `None` unless there are patients with and without lesions.
    pub auroc: Option<f64>,
    /// Average precision of the candidates; `None` where there are neither lesions nor candidates.
    #[serde(rename = "AP")]
    pub average_precision: Option<f64>,
    /// 95 % intervals of both; `None` without samples, or unless there are patients with and without lesions.
    pub confidence_intervals: Option<Intervals>,
    /// Sensitivities at [`FALSE_POSITIVES_PER_CASE`].
    pub froc: Vec<OperatingPoint>,
}

/// Lower and upper bounds by the percentile bootstrap over patients, 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    /// Of the area under the ROC curve.
    pub auroc: [f64; 2],
    /// Of the average precision.
    #[serde(rename = "AP")]
    pub average_precision: [f64; 2],
    /// How the patients were drawn.
    #[serde(flatten)]
    pub bootstrap: Bootstrap,
}

/// The metrics by one of the probabilities that a multi-task run joins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// Which: `head alone`, `map alone` or `joined`.
    pub name: &'static str,
    /// The metrics.
    #[serde(flatten)]
    pub summary: Summary,
}

/// All results, under picai_eval's names where it has one. What is infinite is null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(non_snake_case, reason = "picai_eval's names")]
pub struct Evaluation {
    /// By the likelihoods, or by the maximum of each detection map where there are none.
    #[serde(flatten)]
    pub summary: Summary,
    /// Number of cases.
    pub num_cases: usize,
    /// Number of lesions in the truth.
    pub num_lesions: usize,
    /// The version whose rules these are.
    pub picai_eval_version: &'static str,
    /// [`Options::min_overlap`].
    pub min_overlap: f64,
    /// [`Options::lesion_label`].
    pub lesion_label: u32,
    /// Head, map and both, where every case is of a multi-task run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// Lesions and false candidates of each case.
    pub lesion_results: BTreeMap<String, Vec<LesionResult>>,
    /// 1 for each of them.
    pub lesion_weight: BTreeMap<String, Vec<u8>>,
    /// Ascending by threshold, see [`PrecisionRecall`].
    pub precision: Vec<f64>,
    /// As `precision`.
    pub recall: Vec<f64>,
    /// See [`Froc`].
    pub lesion_TPR: Vec<Option<f64>>,
    /// See [`Froc`].
    pub lesion_FPR: Vec<f64>,
    /// The candidates' different confidences, descending; 0 among them where a lesion is missed.
    pub thresholds: Vec<f64>,
    /// See [`Roc`].
    pub case_TPR: Vec<f64>,
    /// See [`Roc`].
    pub case_FPR: Vec<f64>,
    /// The score of each case.
    pub case_pred: BTreeMap<String, f64>,
    /// Whether each case has a lesion: 1 or 0.
    pub case_target: BTreeMap<String, u8>,
    /// 1 for each case.
    pub case_weight: BTreeMap<String, u8>,
}

/// One case, scored.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredCase {
    name: String,
    score: f64,
    results: Vec<LesionResult>,
    joined: Option<Likelihood>,
}

impl ScoredCase {
    /// A case from the truth's lesions (26 neighbours) and the candidates of a detection map on the same grid. Its score is its
    /// likelihood, or the map's maximum if it has none.
    ///
    /// # Errors
    /// If there is too little memory.
    pub fn new(
        name: String,
        lesions: &Components,
        candidates: &Candidates,
        likelihood: Option<f64>,
        joined: Option<Likelihood>,
        options: &Options,
        memory: MemoryGauge,
    ) -> Result<Self, NotEnoughMemory> {
        let results = match_candidates(lesions, candidates, options.min_overlap, memory)?;
        let score = likelihood.unwrap_or_else(|| f64::from(candidates.maximum()));
        Ok(Self { name, score, results, joined })
    }

    /// Reads truth and map; lets both go.
    fn read(case: &DetectionCase, options: &Options, memory: MemoryGauge) -> Result<Self, EvaluationError> {
        let (lesions, geometry) = read_lesions(&case.pair, options.lesion_label, memory)?;
        let candidates = read_candidates(&case.pair, &geometry, memory)?;
        let maximum = f64::from(candidates.maximum());
        if let Some(joined) = case.joined.filter(|joined| (joined.map - maximum).abs() > SAME_PROBABILITY) {
            let what = format!("the maximum is {maximum}, the report of its run says {}", joined.map);
            return Err(EvaluationError::Values { path: case.pair.prediction.clone(), what });
        }
        let name = case.pair.subject.clone();
        Self::new(name, &lesions, &candidates, case.likelihood, case.joined, options, memory)
            .map_err(|source| EvaluationError::Memory { path: case.pair.truth.clone(), source })
    }

    fn has_lesion(&self) -> bool {
        self.results.iter().any(|result| result.is_lesion)
    }

    /// The case with another score and other confidences of its candidates.
    fn rescored(&self, score: f64, confidence: impl Fn(f64) -> f64) -> Self {
        let rescored = |result: &LesionResult| {
            // Confidences are above 0; what has 0 is a lesion without candidate.
            let confidence = if result.confidence > 0.0 { confidence(result.confidence) } else { 0.0 };
            LesionResult { confidence, ..*result }
        };
        let results = self.results.iter().map(rescored).collect();
        Self { name: self.name.clone(), score, results, joined: self.joined }
    }
}

/// The components (26 neighbours) of the truth's lesions, and where they lie.
fn read_lesions(
    pair: &Pair,
    label: u32,
    memory: MemoryGauge,
) -> Result<(Components, Geometry), EvaluationError> {
    let image = read_image_within(&pair.truth, memory)?;
    let label = f64::from(label);
    let wrong =
        with_array!(&image.voxels, array => array.iter().map(|v| v.to_number()).find(|v| v.fract() != 0.0));
    if let Some(wrong) = wrong {
        let what = format!("expected labels, which are whole numbers, got a voxel of {wrong}");
        return Err(EvaluationError::Values { path: pair.truth.clone(), what });
    }
    let lesions = with_array!(&image.voxels, array =>
        Components::find(array, Connectivity::Corners, |v| v.to_number() == label));
    Ok((lesions, image.geometry))
}

fn read_candidates(
    pair: &Pair,
    truth: &Geometry,
    memory: MemoryGauge,
) -> Result<Candidates, EvaluationError> {
    let map = read_image_within(&pair.prediction, memory)?.into_f32_volume();
    check_grid(pair, truth, &map.geometry)?;
    Candidates::of(&map.data)
        .map_err(|error| EvaluationError::Values { path: pair.prediction.clone(), what: error.to_string() })
}

/// The metrics of cases, read and scored one after the other. Reading takes no more than the memory there is.
///
/// # Errors
/// If an image cannot be read, is no label volume or no detection map, the images of a case do not fit each other, or there is
/// too little memory.
pub fn evaluate(
    cases: &[DetectionCase],
    options: &Options,
    memory: MemoryGauge,
) -> Result<Evaluation, EvaluationError> {
    let cases = cases.iter().map(|case| ScoredCase::read(case, options, memory));
    let cases = cases.collect::<Result<Vec<_>, _>>()?;
    Ok(Evaluation::of(&cases, options))
}

impl Evaluation {
    /// The metrics of scored cases.
    pub fn of(cases: &[ScoredCase], options: &Options) -> Self {
        let lesions = cases.iter().flat_map(|case| &case.results).filter(|result| result.is_lesion);
        let num_lesions = lesions.count();
        if num_lesions == 0 {
            let label = options.lesion_label;
            tracing::warn!("no truth has a voxel of label {label}: there are no lesions to be found");
        }
        let rankings = Rankings::of(cases);
        let once = vec![1; cases.len()];
        let (by_case, by_lesion) = (rankings.cases.steps(&once), rankings.lesions.steps(&once));
        let PrecisionRecall { precision, recall } = PrecisionRecall::of(&by_lesion);
        let froc = Froc::of(&by_lesion, cases.len());
        let roc = Roc::of(&by_case);
        Self {
            summary: rankings.summary(options.bootstrap),
            num_cases: cases.len(),
            num_lesions,
            picai_eval_version: "1.4.x",
            min_overlap: options.min_overlap,
            lesion_label: options.lesion_label,
            variants: variants(cases, options.bootstrap),
            lesion_results: by_name(cases, |case| case.results.clone()),
            lesion_weight: by_name(cases, |case| vec![1; case.results.len()]),
            precision,
            recall,
            lesion_TPR: froc.sensitivity,
            lesion_FPR: froc.false_positives_per_case,
            thresholds: by_lesion.iter().map(|step| step.threshold).collect(),
            case_TPR: roc.true_positive_rate,
            case_FPR: roc.false_positive_rate,
            case_pred: by_name(cases, |case| case.score),
            case_target: by_name(cases, |case| u8::from(case.has_lesion())),
            case_weight: by_name(cases, |_| 1),
        }
    }
}

fn by_name<T>(cases: &[ScoredCase], of: impl Fn(&ScoredCase) -> T) -> BTreeMap<String, T> {
    cases.iter().map(|case| (case.name.clone(), of(case))).collect()
}

/// The metrics by head, map and both; none unless every case has them.
fn variants(cases: &[ScoredCase], bootstrap: Bootstrap) -> Vec<Variant> {
    type Rescored = fn(&ScoredCase, Likelihood) -> ScoredCase;
    let ways: [(&str, Rescored); 3] = [
        ("head alone", |case, of| case.rescored(of.head, |_| of.head)),
        ("map alone", |case, of| case.rescored(of.map, |confidence| confidence)),
        ("joined", |case, of| case.rescored(of.joined, |confidence| of.combine.of(of.head, confidence))),
    ];
    let variant = |(name, rescored): (&'static str, Rescored)| {
        let cases: Option<Vec<_>> = cases.iter().map(|case| Some(rescored(case, case.joined?))).collect();
        Some(Variant { name, summary: Rankings::of(&cases?).summary(bootstrap) })
    };
    ways.into_iter().filter_map(variant).collect()
}

/// Patients by their scores, lesions and false candidates by their confidences.
struct Rankings {
    is_positive: Vec<bool>,
    cases: Ranking,
    lesions: Ranking,
}

impl Rankings {
    fn of(cases: &[ScoredCase]) -> Self {
        let is_positive: Vec<_> = cases.iter().map(ScoredCase::has_lesion).collect();
        let patients = cases.iter().zip(&is_positive).enumerate();
        let lesions = cases.iter().enumerate().flat_map(|(number, case)| {
            case.results.iter().map(move |result| (number, result.confidence, result.is_lesion))
        });
        Self {
            cases: Ranking::new(patients.map(|(number, (case, &positive))| (number, case.score, positive))),
            lesions: Ranking::new(lesions),
            is_positive,
        }
    }

    fn auroc(&self, times: &[u32]) -> Option<f64> {
        area_under_roc(&self.cases.steps(times))
    }

    fn average_precision(&self, times: &[u32]) -> Option<f64> {
        PrecisionRecall::of(&self.lesions.steps(times)).average_precision()
    }

    fn summary(&self, bootstrap: Bootstrap) -> Summary {
        let once = vec![1; self.is_positive.len()];
        let froc = Froc::of(&self.lesions.steps(&once), self.is_positive.len());
        Summary {
            auroc: self.auroc(&once),
            average_precision: self.average_precision(&once),
            confidence_intervals: self.intervals(bootstrap),
            froc: FALSE_POSITIVES_PER_CASE.map(|rate| froc.at(rate)).to_vec(),
        }
    }

    fn intervals(&self, bootstrap: Bootstrap) -> Option<Intervals> {
        let (mut aurocs, mut precisions) = (Vec::new(), Vec::new());
        for times in bootstrap.draw(&self.is_positive) {
            aurocs.extend(self.auroc(&times));
            precisions.extend(self.average_precision(&times));
        }
        Some(Intervals { auroc: interval(aurocs)?, average_precision: interval(precisions)?, bootstrap })
    }
}
