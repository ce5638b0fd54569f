//! A trained-model folder: `dataset.json`, `plans.json` and `fold_<k>/<checkpoint>`.

use super::checkpoint::Checkpoint;
use super::dataset::Dataset;
pub use super::error::ModelError;
use super::plans::{Configuration, Plans};
use crate::network::{Architecture, CLASSIFIER_PREFIX, CLASSIFIER_STAGES, ClassifierConfig};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// One of the networks of a model folder: a cross-validation fold, or the one trained on all cases.
///
/// In JSON: a number, or the string `"all"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "FoldName", into = "FoldName")]
pub enum Fold {
    /// `fold_<k>`.
    Number(u32),
    /// `fold_all`.
    All,
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// A fold as JSON spells it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a fold: a number of at least 0, or \"all\"")]
enum FoldName {
    Number(u32),
    Text(String),
}

impl From<Fold> for FoldName {
    fn from(fold: Fold) -> Self {
        match fold {
            Fold::Number(number) => Self::Number(number),
            Fold::All => Self::Text(fold.to_string()),
        }
    }
}

impl TryFrom<FoldName> for Fold {
    type Error = String;

    fn try_from(name: FoldName) -> Result<Self, String> {
        match name {
            FoldName::Number(number) => Ok(Self::Number(number)),
            FoldName::Text(text) if text == "all" => Ok(Self::All),
            FoldName::Text(text) => Err(format!("a fold is a number or \"all\", got \"{text}\"")),
        }
    }
}

/// A checked model folder; weights are read fold by fold with [`ModelFolder::load_fold`].
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// Channels and labels.
    pub dataset: Dataset,
    /// Axis of the image that becomes axis `a` of the network's world.
    pub transpose_forward: [usize; 3],
    /// The inverse of `transpose_forward`.
    pub transpose_backward: [usize; 3],
    /// The configuration that the first fold was trained with.
    pub configuration: Configuration,
    /// Axes (of the transposed volume) that the first fold's checkpoint allows to mirror; empty: none.
    pub mirroring_axes: Vec<usize>,
    /// Python class that trained the first fold.
    pub trainer_name: String,
    /// The folds, in the order asked for.
    pub folds: Vec<Fold>,
    /// Name of the checkpoint, without extension.
    pub checkpoint_name: String,
}

impl ModelFolder {
    /// The model in folder `path`, to be run with `folds` of the checkpoint `checkpoint_name` (`.pth` may be left out).
    ///
    /// Everything that can be known without reading weights is checked: both JSON files, that every fold's checkpoint
    /// exists, and that names and shapes of its tensors are the network's. Trainer, configuration and mirroring axes
    /// come from the first fold alone, as in `predict_from_raw_data.py: initialize_from_trained_model_folder`.
    ///
    /// # Errors
    /// If something is missing, malformed or not supported, or weights do not belong to the plans' network.
    pub fn open(path: &Path, folds: &[Fold], checkpoint_name: &str) -> Result<Self, ModelError> {
        if !path.is_dir() {
            return Err(ModelError::NotFound {
                path: path.to_owned(),
                what: "no such model folder".to_owned(),
            });
        }
        check_folds(path, folds)?;
        let name = checkpoint_stem(path, checkpoint_name)?;
        let dataset = Dataset::read(&path.join("dataset.json"))?;
        let plans = Plans::read(&path.join("plans.json"))?;
        let checkpoints = folds.iter().map(|fold| Checkpoint::find(&fold_path(path, *fold), name));
        let checkpoints = checkpoints.collect::<Result<Vec<_>, _>>()?;
        let [first, ..] = checkpoints.as_slice() else {
            return Err(ModelError::unsupported(path, "no fold was asked for, at least one is needed"));
        };
        let metadata = first.metadata()?;
        let mut configuration = plans.configuration(&metadata.configuration, &dataset)?;
        configuration.network = with_head_of(first, configuration.network)?;
        let expected = configuration.network.parameters();
        check_parameters(path, &checkpoints, &expected)?;
        Ok(Self {
            path: path.to_owned(),
            dataset,
            transpose_forward: plans.transpose_forward,
            transpose_backward: plans.transpose_backward,
            configuration,
            mirroring_axes: metadata.mirroring_axes,
            trainer_name: metadata.trainer_name,
            folds: folds.to_vec(),
            checkpoint_name: name.to_owned(),
        })
    }

    /// Whether the network has a classification head beside its segmentation.
    pub fn classifies(&self) -> bool {
        self.configuration.network.unet().classifier.is_some()
    }

    /// Whether scans are prepared for `other` as for this model, and its logits lie on the same grid and come back the same way:
    /// then their logits can be averaged.
    pub fn prepares_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.configuration, &other.configuration);
        self.transpose_forward == other.transpose_forward
            && a.spacing == b.spacing
            && a.data_resampling == b.data_resampling
            && a.probability_resampling == b.probability_resampling
            && a.normalization.len() == b.normalization.len()
            && a.normalization.iter().zip(&b.normalization).all(|(a, b)| a.normalises_as(b))
    }

    /// The network's parameters in one fold by name, as f32 on the CPU.
    ///
    /// # Errors
    /// If the checkpoint is missing or damaged, or does not fit the network.
    pub fn load_fold(&self, fold: Fold) -> Result<HashMap<String, Tensor>, ModelError> {
        let checkpoint = Checkpoint::find(&fold_path(&self.path, fold), &self.checkpoint_name)?;
        checkpoint.load(&self.configuration.network.parameters())
    }
}

/// The network with the classification head whose parameters are in the checkpoint, if there are any.
fn with_head_of(checkpoint: &Checkpoint, network: Architecture) -> Result<Architecture, ModelError> {
    let shapes = checkpoint.shapes();
    if !shapes.keys().any(|name| name.starts_with(CLASSIFIER_PREFIX)) {
        return Ok(network);
    }
    let name = ClassifierConfig::HIDDEN_WEIGHT;
    let expected = "expected [hidden, width]";
    let mismatch =
        |line: String| ModelError::Mismatch { path: checkpoint.path().to_owned(), lines: vec![line] };
    let Some(shape) = shapes.get(name) else { return Err(mismatch(format!("{name}: missing, {expected}"))) };
    let Some(classifier) = ClassifierConfig::of_hidden_weight(shape) else {
        return Err(mismatch(format!("{name}: {expected}, got {shape:?}")));
    };
    network.with_classifier(Some(classifier)).map_err(|stages| {
        mismatch(format!(
            "{CLASSIFIER_PREFIX}*: reads {CLASSIFIER_STAGES} stages of the encoder, which has {stages}"
        ))
    })
}

fn fold_path(path: &Path, fold: Fold) -> PathBuf {
    path.join(format!("fold_{fold}"))
}

/// Checks every fold's tensors; what does not fit is listed for all of them together.
fn check_parameters(
    path: &Path,
    checkpoints: &[Checkpoint],
    expected: &[(String, Vec<usize>)],
) -> Result<(), ModelError> {
    let mut all = Vec::new();
    for checkpoint in checkpoints {
        match checkpoint.check(expected) {
            Err(ModelError::Mismatch { path: file, lines }) => {
                let file = file.strip_prefix(path).unwrap_or(&file).display().to_string();
                all.extend(lines.into_iter().map(|line| format!("{file}: {line}")));
            }
            other => other?,
        }
    }
    if all.is_empty() { Ok(()) } else { Err(ModelError::Mismatch { path: path.to_owned(), lines: all }) }
}

fn check_folds(path: &Path, folds: &[Fold]) -> Result<(), ModelError> {
    match folds.iter().enumerate().find(|(i, fold)| folds[..*i].contains(fold)) {
        Some((_, fold)) => Err(ModelError::unsupported(path, format!("fold {fold} is asked for twice"))),
        None => Ok(()),
    }
}

/// The name without its extension; it must not lead out of the fold's folder.
fn checkpoint_stem<'a>(path: &Path, name: &'a str) -> Result<&'a str, ModelError> {
    let stem = name.strip_suffix(".pth").or_else(|| name.strip_suffix(".safetensors")).unwrap_or(name);
    if stem.is_empty() || stem.contains(['/', '\\']) || stem.starts_with('.') {
        let what = format!("expected the name of a checkpoint such as \"checkpoint_final\", got \"{name}\"");
        return Err(ModelError::unsupported(path, what));
    }
    Ok(stem)
}
