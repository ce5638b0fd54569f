//! What exit code an error becomes; the table is part of `--help`.

use super::device::Demanded;
use super::self_check::Failed;
use anyhow::anyhow;
use pdac_cascade::challenge::{CaseError, Finding, OutputError};
use pdac_cascade::evaluation::EvaluationError;
use pdac_cascade::imaging::ImageError;
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::ops::UnavailableIsa;
use pdac_cascade::phantom::PhantomError;
use pdac_cascade::pipeline::PipelineError;
use std::panic::{AssertUnwindSafe, catch_unwind};

const UNEXPECTED: u8 = 1;
const USAGE: u8 = 2;
/// The input image cannot be used.
pub const INPUT: u8 = 3;
const OUTPUT: u8 = 4;
const WEIGHTS: u8 = 5;
/// There is not enough memory.
pub const MEMORY: u8 = 6;
const RULES: u8 = 7;
/// The GPU cannot be used, or failed.
const GPU: u8 = 8;
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
    one_line(&message)
}

/// Characters of the longest message.
const LONGEST: usize = 2000;

/// A text without control characters, cut off where it is too long: names of files and sockets may hold anything.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push_str(" ...");
    }
    line
}

/// The result of `run`; a panic is an error like others.
pub fn caught(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(anyhow!("internal error: {text}"))
    })
}

/// Exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.is::<UnavailableIsa>() {
        return USAGE;
    }
    if error.is::<BrokenRules>() {
        return RULES;
    }
    if error.is::<Demanded>() || error.is::<Failed>() {
        return GPU;
    }
    match error.downcast_ref::<CaseError>() {
        Some(CaseError::Image(ImageError::Memory { .. })) => return MEMORY,
        Some(_) => return INPUT,
        None => {}
    }
    if error.is::<OutputError>() {
        return OUTPUT;
    }
    if let Some(error) = error.downcast_ref::<EvaluationError>() {
        return if error.is_out_of_memory() { MEMORY } else { INPUT };
    }
    match error.downcast_ref::<PhantomError>() {
        Some(PhantomError::Grid(_)) => return USAGE,
        Some(PhantomError::Memory(_)) => return MEMORY,
        None => {}
    }
    match error.downcast_ref::<PipelineError>() {
        Some(PipelineError::Scan(_)) => INPUT,
        Some(
            PipelineError::Recipe { .. }
            | PipelineError::Model(_)
            | PipelineError::Candidates(_)
            | PipelineError::Head(_),
        ) => WEIGHTS,
        Some(PipelineError::Predict(PredictError::Interrupted)) => INTERRUPTED,
        Some(PipelineError::Predict(PredictError::Memory(_))) => MEMORY,
        Some(PipelineError::Predict(PredictError::Gpu(error))) if error.is_out_of_memory() => MEMORY,
        Some(PipelineError::Predict(PredictError::Gpu(_))) => GPU,
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
    fn a_panic_is_an_error() {
        let error = caught(|| panic!("seven of {}", 9)).unwrap_err();
        assert_eq!((message(&error).as_str(), code(&error)), ("internal error: seven of 9", UNEXPECTED));
        caught(|| Ok(())).unwrap();
    }

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(message(&anyhow!("a\nb\u{1b}[31mc")), "a b [31mc");
        let long = message(&anyhow!("{}", "\u{20ac}".repeat(5000)));
        assert_eq!(long.chars().count(), LONGEST + 4);
    }

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
        assert_eq!(code(&PipelineError::from(PredictError::from(source.clone())).into()), MEMORY);
        assert_eq!(code(&PhantomError::from(source.clone()).into()), MEMORY);
        let truth = PathBuf::from("truth/a.mha");
        assert_eq!(code(&EvaluationError::Memory { path: truth.clone(), source }.into()), MEMORY);
        assert_eq!(code(&EvaluationError::NotAFile { path: truth }.into()), INPUT);
    }
}
