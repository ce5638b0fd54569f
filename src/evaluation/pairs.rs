//! Which prediction belongs to which truth: images of one name, whatever their endings.

use super::EvaluationError;
use crate::imaging::file::image_stem;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A case to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name of both files without ending.
    pub subject: String,
    /// The image that is right.
    pub truth: PathBuf,
    /// The image to be scored.
    pub prediction: PathBuf,
}

/// The cases of two folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// One for every image of the truth, by name; at least one.
    pub pairs: Vec<Pair>,
    /// Predictions without truth, by name.
    pub without_truth: Vec<PathBuf>,
}

impl Pairs {
    /// Pairs the images of two folders. Subfolders, hidden files and files that are no images are passed over.
    ///
    /// # Errors
    /// If a folder cannot be listed or holds two images of one name, an image is no file, there is no truth, or a truth has
    /// no prediction.
    pub fn find(truth: &Path, prediction: &Path) -> Result<Self, EvaluationError> {
        let truths = images(truth, Some)?;
        if truths.is_empty() {
            return Err(EvaluationError::NoTruth { folder: truth.to_owned() });
        }
        let mut predictions = images(prediction, Some)?;
        let (mut pairs, mut missing) = (Vec::new(), Vec::new());
        for (subject, truth) in truths {
            match predictions.remove(&subject) {
                Some(prediction) => pairs.push(Pair { subject, truth, prediction }),
                None => missing.push((prediction.join(subject), truth)),
            }
        }
        let more = missing.len().saturating_sub(1);
        match missing.into_iter().next() {
            Some((prediction, truth)) => Err(EvaluationError::NoPrediction { prediction, truth, more }),
            None => Ok(Self { pairs, without_truth: predictions.into_values().collect() }),
        }
    }
}

/// The images of a folder by what `subject` makes of their names without ending; those of which it makes nothing are left out.
///
/// # Errors
/// If the folder cannot be listed or holds two images of one subject, or an image is no file.
pub(super) fn images(
    folder: &Path,
    subject: fn(String) -> Option<String>,
) -> Result<BTreeMap<String, PathBuf>, EvaluationError> {
    let unreadable = |source| EvaluationError::Folder { folder: folder.to_owned(), source };
    let mut images = BTreeMap::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(subject) = image_stem(&path).and_then(subject) else { continue };
        if !path.is_file() {
            return Err(EvaluationError::NotAFile { path });
        }
        if let Some(other) = images.insert(subject, path.clone()) {
            let [first, second] = if other < path { [other, path] } else { [path, other] };
            return Err(EvaluationError::Ambiguous { first, second });
        }
    }
    Ok(images)
}
