//! What exit code an error becomes; the table is part of `--help`.

use pdac_cascade::challenge::{CaseError, Finding, OutputError};
use pdac_cascade::imaging::ImageError;
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::ops::UnavailableIsa;
use pdac_cascade::pipeline::PipelineError;

const UNEXPECTED: u8 = 1;
const USAGE: u8 = 2;
/// The input image cannot be used.
pub const INPUT: u8 = 3;
const OUTPUT: u8 = 4;
const WEIGHTS: u8 = 5;
/// There is not enough memory.
pub const MEMORY: u8 = 6;
const RULES: u8 = 7;
/// A signal came.
pub const INTERRUPTED: u8 = 130;

/// Outputs that break rules, which have been printed.
#[derive(Debug, thiserror::Error)]
#[error("{first}{more}")]
pub struct BrokenRules {
    first: String,
    more: String,
}

impl BrokenRules {
    /// Names the first.
    pub fn new(findings: &[Finding]) -> Self {
        let first = findings.first().map(ToString::to_string).unwrap_or_default();
        let more = findings.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
        Self { first, more }
    }
}

/// The error and its causes in one line, each cause once.
pub fn message(error: &anyhow::Error) -> String {
    let message = error.chain().map(ToString::to_string).fold(String::new(), |all, cause| {
        if all.contains(&cause) {
            all
        } else if all.is_empty() {
            cause
        } else {
            format!("{all}: {cause}")
        }
    });
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.is::<UnavailableIsa>() {
        return USAGE;
    }
    if error.is::<BrokenRules>() {
        return RULES;
    }
    match error.downcast_ref::<CaseError>() {
        Some(CaseError::Image(ImageError::Memory { .. })) => return MEMORY,
        Some(_) => return INPUT,
        None => {}
    }
    if error.is::<OutputError>() {
        return OUTPUT;
    }
    match error.downcast_ref::<PipelineError>() {
        Some(PipelineError::Recipe { .. } | PipelineError::Model(_) | PipelineError::Candidates(_)) => {
            WEIGHTS
        }
        Some(PipelineError::Predict(PredictError::Interrupted)) => INTERRUPTED,
        Some(PipelineError::Predict(PredictError::Memory(_))) => MEMORY,
        Some(PipelineError::Predict(PredictError::Model(_) | PredictError::Plan { .. })) => WEIGHTS,
        Some(PipelineError::Predict(PredictError::Normalization(_) | PredictError::TooLarge(_))) => INPUT,
        _ => UNEXPECTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdac_cascade::imaging::NotEnoughMemory;
    use std::path::PathBuf;

    #[test]
    fn missing_memory_has_its_code_wherever_it_is_missing() {
        let source = NotEnoughMemory { what: "the image's voxels", asked: 2_000, available: 1_000 };
        let image = ImageError::Memory { path: PathBuf::from("scan.mha"), source: source.clone() };
        let image = anyhow::Error::from(CaseError::from(image));
        assert_eq!(
            message(&image),
            "scan.mha: the image's voxels need 2000 bytes of memory, 1000 bytes are available"
        );
        assert_eq!(code(&image), MEMORY);
        assert_eq!(code(&PipelineError::from(PredictError::from(source)).into()), MEMORY);
    }
}
