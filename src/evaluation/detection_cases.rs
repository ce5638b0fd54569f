//! The cases of a detection: truths, detection maps, and likelihoods where there are any.

use super::pairs::images;
use super::{EvaluationError, Pair};
use crate::detection::Likelihood;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What picai_eval lets the names of truths end in.
const TRUTH_SUFFIX: &str = "_label";
/// What picai_eval lets the names of detection maps end in.
const MAP_SUFFIX: &str = "_detection_map";

/// Probabilities that are written twice differ by less: one may have been rounded to float32.
pub(super) const SAME_PROBABILITY: f64 = 1e-6;

/// Where a run leaves its outputs, relative to its output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunFolder {
    /// Folder of the detection map.
    pub map: &'static str,
    /// File of the likelihood.
    pub likelihood: &'static str,
    /// File of the report.
    pub report: &'static str,
}

/// A case to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionCase {
    /// The truth and the detection map.
    pub pair: Pair,
    /// The patient's likelihood, 0 to 1.
    pub likelihood: Option<f64>,
    /// What the likelihood was made of.
    pub joined: Option<Likelihood>,
}

/// The cases of two folders.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionCases {
    /// By name; at least one. All of them have a likelihood or none of them.
    pub cases: Vec<DetectionCase>,
    /// Predictions without truth, by name; none where the cases were named.
    pub without_truth: Vec<PathBuf>,
}

/// A file that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The case.
    pub case: String,
    /// Whether it is the truth, not the detection map.
    pub is_truth: bool,
    /// The folder where it should be.
    pub folder: PathBuf,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_truth { "truth" } else { "detection map" };
        write!(f, "{}: no {what} of case {}", self.folder.display(), self.case)
    }
}

/// A detection map and the files that may lie beside it.
struct Prediction {
    map: PathBuf,
    likelihood: PathBuf,
    report: Option<PathBuf>,
}

impl DetectionCases {
    /// Finds the cases of two folders, or those of `names`, and reads their likelihoods.
    ///
    /// A truth is an image `<case>` or `<case>_label`. A prediction is an image `<case>` or `<case>_detection_map`, with a
    /// likelihood in `<case>.json` or without, or a folder `<case>` as a run leaves it.
    ///
    /// # Errors
    /// If a folder cannot be listed, a case has two truths or predictions, there is no truth, the truth or the prediction of a
    /// case is missing (all of them are named), or a likelihood is none, or missing while other cases have one.
    pub fn find(
        truth: &Path,
        prediction: &Path,
        run: RunFolder,
        names: Option<&BTreeSet<String>>,
    ) -> Result<Self, EvaluationError> {
        let mut truths = images(truth, truth_subject)?;
        if truths.is_empty() {
            return Err(EvaluationError::NoTruth { folder: truth.to_owned() });
        }
        let mut predictions = find_predictions(prediction, run)?;
        let scored: Vec<_> = match names {
            Some(names) => names.iter().cloned().collect(),
            None => truths.keys().cloned().collect(),
        };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for case in &scored {
            let absent = |is_truth| {
                let folder = if is_truth { truth } else { prediction };
                Missing { case: case.clone(), is_truth, folder: folder.to_owned() }
            };
            match (truths.remove(case), predictions.remove(case)) {
                (Some(truth), Some(prediction)) => found.push((case.clone(), truth, prediction)),
                (None, None) => missing.extend([absent(true), absent(false)]),
                (truth, _) => missing.push(absent(truth.is_none())),
            }
        }
        if !missing.is_empty() {
            return Err(EvaluationError::Missing { missing, cases: scored.len() });
        }
        let unnamed = predictions.into_values().filter(|_| names.is_none());
        let without_truth = unnamed.map(|prediction| prediction.map).collect();
        let cases =
            found.into_iter().map(|(subject, truth, prediction)| prediction.into_case(subject, truth));
        let cases = cases.collect::<Result<Vec<_>, _>>()?;
        check_likelihoods(&cases)?;
        Ok(Self { cases: cases.into_iter().map(|(case, _)| case).collect(), without_truth })
    }
}

/// The case that the name of a truth says, without ending; `None` for detection maps that lie beside.
fn truth_subject(stem: String) -> Option<String> {
    let subject = stem.strip_suffix(TRUTH_SUFFIX).map(str::to_owned);
    subject.or_else(|| (!stem.ends_with(MAP_SUFFIX)).then_some(stem))
}

/// The case that the name of a detection map says, without ending; `None` for truths that lie beside.
fn map_subject(stem: String) -> Option<String> {
    let subject = stem.strip_suffix(MAP_SUFFIX).map(str::to_owned);
    subject.or_else(|| (!stem.ends_with(TRUTH_SUFFIX)).then_some(stem))
}

/// The predictions of a folder by case.
fn find_predictions(folder: &Path, run: RunFolder) -> Result<BTreeMap<String, Prediction>, EvaluationError> {
    let maps = images(folder, map_subject)?.into_iter();
    let beside = maps.map(|(case, map)| {
        let likelihood = folder.join(format!("{case}.json"));
        (case, Prediction { map, likelihood, report: None })
    });
    let mut predictions: BTreeMap<_, _> = beside.collect();
    for (case, prediction) in find_runs(folder, run)? {
        let second = prediction.map.clone();
        if let Some(first) = predictions.insert(case, prediction) {
            return Err(EvaluationError::Ambiguous { first: first.map, second });
        }
    }
    Ok(predictions)
}

/// The folders that runs left, by case; folders without a detection map are passed over.
fn find_runs(folder: &Path, run: RunFolder) -> Result<Vec<(String, Prediction)>, EvaluationError> {
    let unreadable = |source| EvaluationError::Folder { folder: folder.to_owned(), source };
    let mut runs = Vec::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let outputs = entry.map_err(unreadable)?.path();
        let name = outputs.file_name().map(|name| name.to_string_lossy().into_owned());
        let maps = outputs.join(run.map);
        let (Some(case), true) = (name, maps.is_dir()) else { continue };
        let mut maps = images(&maps, Some)?.into_values();
        match (maps.next(), maps.next()) {
            (Some(first), Some(second)) => return Err(EvaluationError::Ambiguous { first, second }),
            (Some(map), None) => {
                let [likelihood, report] = [run.likelihood, run.report].map(|file| outputs.join(file));
                runs.push((case, Prediction { map, likelihood, report: Some(report) }));
            }
            _ => {}
        }
    }
    Ok(runs)
}

impl Prediction {
    /// The case, and the file where its likelihood is or should be.
    fn into_case(self, subject: String, truth: PathBuf) -> Result<(DetectionCase, PathBuf), EvaluationError> {
        let likelihood: Option<f64> = read_json(&self.likelihood, "a number from 0 to 1")?;
        if let Some(likelihood) = likelihood {
            check_probability(&self.likelihood, "the likelihood", likelihood)?;
        }
        let joined = self.report.as_deref().map(read_report).transpose()?.flatten();
        if let (Some(report), Some(joined), Some(likelihood)) = (&self.report, joined, likelihood)
            && (joined.joined - likelihood).abs() > SAME_PROBABILITY
        {
            let file = self.likelihood.display();
            let what =
                format!("likelihood.joined is {}, {file} says {likelihood}: not of one run", joined.joined);
            return Err(EvaluationError::Values { path: report.clone(), what });
        }
        let pair = Pair { subject, truth, prediction: self.map };
        Ok((DetectionCase { pair, likelihood, joined }, self.likelihood))
    }
}

/// Checks that every case has a likelihood or none; says so where only some tell what it was made of.
fn check_likelihoods(cases: &[(DetectionCase, PathBuf)]) -> Result<(), EvaluationError> {
    let with = cases.iter().find(|(case, _)| case.likelihood.is_some());
    let without = cases.iter().find(|(case, _)| case.likelihood.is_none());
    if let (Some((_, found)), Some((_, missing))) = (with, without) {
        return Err(EvaluationError::NoLikelihood { missing: missing.clone(), found: found.clone() });
    }
    let is_joined = |(case, _): &&(DetectionCase, PathBuf)| case.joined.is_some();
    if let (Some(_), Some((case, _))) = (cases.iter().find(is_joined), cases.iter().find(|c| !is_joined(c))) {
        tracing::warn!(
            "{}: its run has not reported what its likelihood was made of, head and map are not scored apart",
            case.pair.subject
        );
    }
    Ok(())
}

/// The likelihood's making in the report of a multi-task run; `None` where there is no report or it tells of none.
fn read_report(path: &Path) -> Result<Option<Likelihood>, EvaluationError> {
    #[derive(Deserialize)]
    struct Report {
        likelihood: Option<Likelihood>,
    }
    let report: Option<Report> =
        read_json(path, "a report whose likelihood has combine, head, map and joined")?;
    let joined = report.and_then(|report| report.likelihood);
    if let Some(Likelihood { head, map, joined, .. }) = joined {
        for (name, value) in
            [("likelihood.head", head), ("likelihood.map", map), ("likelihood.joined", joined)]
        {
            check_probability(path, name, value)?;
        }
    }
    Ok(joined)
}

fn check_probability(path: &Path, name: &str, value: f64) -> Result<(), EvaluationError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    let what = format!("{name} is {value}, expected a number from 0 to 1");
    Err(EvaluationError::Values { path: path.to_owned(), what })
}

/// What a JSON file holds; `None` where there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<Option<T>, EvaluationError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EvaluationError::File { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let what = format!("expected {expected}: {error}");
        EvaluationError::Values { path: path.to_owned(), what }
    })
}

/// The names in a file, one a line; blank lines are passed over.
///
/// # Errors
/// If the file cannot be read, or names none, or one twice.
pub fn read_names(path: &Path) -> Result<BTreeSet<String>, EvaluationError> {
    let text =
        fs::read_to_string(path).map_err(|source| EvaluationError::File { path: path.to_owned(), source })?;
    let values = |what| EvaluationError::Values { path: path.to_owned(), what };
    let mut names = BTreeSet::new();
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (number, line) in text.lines().enumerate() {
        let name = line.trim();
        if !name.is_empty() && !names.insert(name.to_owned()) {
            return Err(values(format!("line {}: case {name} again, expected each once", number + 1)));
        }
    }
    if names.is_empty() {
        return Err(values("expected the name of a case in each line, got none".to_owned()));
    }
    Ok(names)
}
