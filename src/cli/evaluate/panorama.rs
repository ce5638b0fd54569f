//! `evaluate panorama`: detection maps scored.

use super::write_json;
use crate::cli::args::json_path;
use crate::cli::{case, run};
use clap::Args;
use pdac_cascade::challenge::{DETECTION_MAP, LIKELIHOOD, OutputError, REPORT};
use pdac_cascade::evaluation::detection_cases::read_names;
use pdac_cascade::evaluation::panorama::{self, Evaluation, FALSE_POSITIVES_PER_CASE, Options, Summary};
use pdac_cascade::evaluation::{Bootstrap, DetectionCases, EvaluationError, RunFolder};
use pdac_cascade::imaging::file::folder_of;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct PanoramaArgs {
    /// Folder with the truths: label volumes.
    #[arg(long, value_name = "DIR")]
    truth: PathBuf,
    /// Folder with the detection maps to be scored.
    #[arg(long, value_name = "DIR")]
    prediction: PathBuf,
    /// Intersection over union, 0 to 1, from which a candidate finds a lesion; PANORAMA's report has 0.15.
    #[arg(long, value_name = "IOU", default_value_t = 0.1, value_parser = overlap)]
    min_overlap: f64,
    /// Label of the lesions in the truth; all others are background.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    lesion_label: u32,
    /// Score exactly the cases that this file names, one a line.
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Samples of patients for the 95 % confidence intervals; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = samples)]
    bootstrap: usize,
    /// What decides the samples: the same number gives the same intervals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Also write the numbers into this file, under picai_eval's names.
    #[arg(long, value_name = "FILE.json", value_parser = json_path)]
    output: Option<PathBuf>,
}

pub(super) fn overlap(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// Most samples of a bootstrap.
const MOST_SAMPLES: usize = 1_000_000;

/// A number of samples of which the results fit into memory.
pub(super) fn samples(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number <= MOST_SAMPLES);
    number.ok_or_else(|| format!("expected a number from 0 to {MOST_SAMPLES}"))
}

/// Refuses to write scores into a folder of cases, where a name can be that of a case's likelihood.
fn check_apart(file: &Path, folders: [&Path; 2]) -> Result<(), OutputError> {
    let parent = folder_of(file).canonicalize().ok();
    if parent.is_some() && folders.iter().any(|folder| folder.canonicalize().ok() == parent) {
        let source = io::Error::other("the folder holds what is scored, expected another one");
        return Err(OutputError::Io { path: file.to_owned(), source });
    }
    Ok(())
}

/// Scores the detection maps of a folder.
pub fn evaluate(args: &PanoramaArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.output {
        run::check_writable(file)?;
        check_apart(file, [&args.truth, &args.prediction])?;
    }
    let names = args.cases.as_deref().map(read_names).transpose()?;
    let left_by_run = RunFolder { map: DETECTION_MAP, likelihood: LIKELIHOOD, report: REPORT };
    let found = DetectionCases::find(&args.truth, &args.prediction, left_by_run, names.as_ref());
    let DetectionCases { cases, without_truth } = found.inspect_err(name_each)?;
    for prediction in without_truth {
        tracing::warn!("{}: not counted, there is no truth of this name", prediction.display());
    }
    let options = Options {
        min_overlap: args.min_overlap,
        lesion_label: args.lesion_label,
        bootstrap: Bootstrap { samples: args.bootstrap, seed: args.seed },
    };
    let evaluation = panorama::evaluate(&cases, &options, case::memory())?;
    write!(io::stdout().lock(), "{}", Table(&evaluation))?;
    if let Some(file) = &args.output {
        write_json(file, &evaluation)?;
    }
    Ok(())
}

/// Logs a line for every missing file, since one message for all of them would be cut short.
fn name_each(error: &EvaluationError) {
    if let EvaluationError::Missing { missing, .. } = error {
        missing.iter().for_each(|file| tracing::error!("{file}"));
    }
}

/// The numbers for people: a line for each way to score.
pub(super) struct Table<'a>(pub &'a Evaluation);

/// Characters of a metric with its interval.
const METRIC: usize = 22;
/// The line of the likelihoods and maps as they are.
const AS_SUBMITTED: &str = "as submitted";

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluation { num_cases, num_lesions, min_overlap, variants, .. } = self.0;
        writeln!(f, "{num_cases} cases, {num_lesions} lesions, found from an overlap of {min_overlap}")?;
        let width = AS_SUBMITTED.len();
        let [auroc, precision] = ["AUROC (95 % CI)", "AP (95 % CI)"];
        write!(f, "{:width$}  {auroc:METRIC$}  {precision:METRIC$}  sensitivity at", "")?;
        for rate in FALSE_POSITIVES_PER_CASE {
            write!(f, "  {rate:>6}")?;
        }
        writeln!(f, "  false positives per case")?;
        write_summary(f, AS_SUBMITTED, &self.0.summary)?;
        variants.iter().try_for_each(|variant| write_summary(f, variant.name, &variant.summary))
    }
}

fn write_summary(f: &mut fmt::Formatter<'_>, name: &str, summary: &Summary) -> fmt::Result {
    let width = AS_SUBMITTED.len();
    let intervals = summary.confidence_intervals;
    let auroc = with_interval(summary.auroc, intervals.map(|both| both.auroc));
    let precision = with_interval(summary.average_precision, intervals.map(|both| both.average_precision));
    write!(f, "{name:width$}  {auroc:METRIC$}  {precision:METRIC$}  {:14}", "")?;
    for point in &summary.froc {
        write!(f, "  {:>6}", number(point.sensitivity))?;
    }
    writeln!(f)
}

fn with_interval(value: Option<f64>, interval: Option<[f64; 2]>) -> String {
    match interval {
        Some([low, high]) => format!("{} ({low:.4}–{high:.4})", number(value)),
        None => number(value),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}
