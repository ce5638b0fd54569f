//! Why predictions cannot be scored.

use super::detection_cases::Missing;
use crate::imaging::{ImageError, NotEnoughMemory};
use std::io;
use std::path::PathBuf;

/// Why predictions cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A folder cannot be listed.
    #[error("{folder}: {source}", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The folder of the truth holds no image.
    #[error("{folder}: holds no image, expected the truth of at least one case", folder = folder.display())]
    NoTruth {
        /// The folder.
        folder: PathBuf,
    },
    /// A file with the name of an image is none.
    #[error("{path}: expected an image file, it is a folder, a special file or a broken link", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Two files are of one case.
    #[error("{first} and {second}: two images of one case, expected one", first = first.display(), second = second.display())]
    Ambiguous {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A case was not predicted.
    #[error(
        "{prediction}: no such image ({endings}), expected the prediction for {truth}{more}",
        prediction = prediction.display(),
        endings = crate::imaging::file::ENDINGS.join(", "),
        truth = truth.display(),
        more = match more { 0 => String::new(), n => format!(" (and {n} more)") }
    )]
    NoPrediction {
        /// The file that was looked for, without ending.
        prediction: PathBuf,
        /// The truth of the case.
        truth: PathBuf,
        /// Other cases without prediction.
        more: usize,
    },
    /// Cases have no truth or no prediction.
    #[error("{cases_missing} of {cases} cases have no truth or no detection map: {names}",
        cases_missing = names_of(missing).len(), names = names_of(missing).join(", "))]
    Missing {
        /// Every file that should be there, by case.
        missing: Vec<Missing>,
        /// Number of cases that were to be scored.
        cases: usize,
    },
    /// Some cases have a likelihood, others not.
    #[error(
        "{missing}: no such file, expected a likelihood of every case or of none, and there is {found}",
        missing = missing.display(),
        found = found.display()
    )]
    NoLikelihood {
        /// The first likelihood that is missing.
        missing: PathBuf,
        /// The first that is there.
        found: PathBuf,
    },
    /// A file that is no image cannot be read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file holds something else than it should: voxels that are no mask or detection map, a likelihood that is none.
    #[error("{path}: {what}", path = path.display())]
    Values {
        /// The file.
        path: PathBuf,
        /// Expected, got.
        what: String,
    },
    /// Truth and prediction lie on different grids.
    #[error("{prediction}: {what} of {truth}", prediction = prediction.display(), truth = truth.display())]
    Grid {
        /// The prediction.
        prediction: PathBuf,
        /// The truth.
        truth: PathBuf,
        /// What differs, got, expected.
        what: String,
    },
    /// A case needs more memory than there is.
    #[error("{path}: {source}", path = path.display())]
    Memory {
        /// The case's truth.
        path: PathBuf,
        /// How much, and how much there is.
        source: NotEnoughMemory,
    },
}

impl EvaluationError {
    /// Whether there is too little memory, and nothing wrong with the files.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::Image(ImageError::Memory { .. }))
    }
}

/// The cases of missing files, each once.
fn names_of(missing: &[Missing]) -> Vec<&str> {
    let mut names: Vec<_> = missing.iter().map(|file| file.case.as_str()).collect();
    names.dedup();
    names
}
