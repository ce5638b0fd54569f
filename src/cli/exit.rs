//! What exit code an error becomes; the table is part of `--help`.

use pdac_cascade::challenge::{CaseError, OutputError};
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::ops::UnavailableIsa;
use pdac_cascade::pipeline::PipelineError;

const UNEXPECTED: u8 = 1;
const USAGE: u8 = 2;
const INPUT: u8 = 3;
const OUTPUT: u8 = 4;
const WEIGHTS: u8 = 5;
const INTERRUPTED: u8 = 130;

/// The error and its causes in one line, each cause once.
pub fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |all, cause| {
        if all.contains(&cause) {
            all
        } else if all.is_empty() {
            cause
        } else {
            format!("{all}: {cause}")
        }
    })
}

/// Exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.is::<UnavailableIsa>() {
        return USAGE;
    }
    if error.is::<CaseError>() {
        return INPUT;
    }
    if error.is::<OutputError>() {
        return OUTPUT;
    }
    match error.downcast_ref::<PipelineError>() {
        Some(PipelineError::Recipe { .. } | PipelineError::Model(_) | PipelineError::Candidates(_)) => {
            WEIGHTS
        }
        Some(PipelineError::Predict(PredictError::Interrupted)) => INTERRUPTED,
        Some(PipelineError::Predict(PredictError::Model(_) | PredictError::Plan { .. })) => WEIGHTS,
        Some(PipelineError::Predict(PredictError::Normalization(_) | PredictError::TooLarge(_))) => INPUT,
        _ => UNEXPECTED,
    }
}
