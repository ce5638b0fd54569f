//! `pipeline.json`: which models a system runs, and every number of its pre- and post-processing.

mod likelihood;
mod panther;
mod reading;

use super::PipelineError;
use crate::detection::CandidateOptions;
use crate::nnunet::dataset::OutputKind;
use crate::nnunet::model_folder::{Fold, ModelFolder};
pub use likelihood::LikelihoodRule;
pub(super) use likelihood::check_no_head;
pub use panther::{Average, MemberRun, PantherRecipe};
use reading::from_json;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Spacings in mm that a first stage can have, generously.
const SPACINGS: RangeInclusive<f64> = 0.1..=100.0;

/// The recipe of a system, as the JSON file has it. Every key is required unless it says otherwise; unknown keys
/// are errors.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// The PANORAMA baseline's cascade.
    Panorama(PanoramaRecipe),
    /// Tumour segmentation in MRI, of one PANTHER task.
    Panther(PantherRecipe),
}

/// The key that says which system a recipe is for.
#[derive(Deserialize)]
struct Tag {
    system: SystemName,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SystemName {
    Panorama,
    Panther,
}

/// Numbers of the PANORAMA cascade.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanoramaRecipe {
    /// Was read before.
    #[serde(rename = "system")]
    _system: IgnoredAny,
    /// Remark on the weights, logged at every run (optional).
    #[serde(default)]
    pub note: Option<String>,
    /// First stage: finds the pancreas in the low-resolution scan.
    pub pancreas: PancreasStage,
    /// Region around the pancreas that the second stage sees.
    pub roi: Roi,
    /// Second stage: segments the lesion.
    pub lesion: LesionStage,
    /// Where lesion probabilities count; `null`: everywhere.
    #[serde(deserialize_with = "Option::deserialize")]
    pub mask: Option<Mask>,
    /// How lesion candidates are extracted.
    pub candidates: CandidateOptions,
    /// How the likelihood comes about where the second stage has a classification head (optional); without it, the likelihood is the
    /// detection map's maximum.
    #[serde(default)]
    pub likelihood: Option<LikelihoodRule>,
}

/// A model folder and how it is run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRun {
    /// Trained-model folder (`…/Trainer__Plans__configuration`), relative to the recipe.
    pub folder: PathBuf,
    /// Folds whose logits are averaged: numbers, or `"all"`.
    pub folds: Vec<Fold>,
    /// Checkpoint name without extension.
    pub checkpoint: String,
    /// Average over mirrored copies along the axes that the checkpoint allows.
    pub mirroring: bool,
    /// Distance of neighbouring tiles in patches, from 0.01 to 1.
    pub step: f64,
}

/// The low-resolution stage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PancreasStage {
    /// The network.
    pub model: ModelRun,
    /// Spacing in mm (x, y, z) of the low-resolution scan.
    pub spacing_mm_xyz: [f64; 3],
    /// Value of low-resolution voxels outside the scan.
    pub outside_value: f32,
    /// Labels that are the pancreas (optional); without it, all but the background.
    #[serde(default)]
    pub labels: Option<Vec<u16>>,
}

/// The region of interest.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roi {
    /// Margin in mm (x, y, z) around the pancreas' bounding box.
    pub margin_mm_xyz: [f64; 3],
    /// What to do when no pancreas is found.
    pub if_no_pancreas: IfNoPancreas,
}

/// What to do when the first stage finds no pancreas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfNoPancreas {
    /// Answer that there is nothing: an all-zero detection map and likelihood 0, or an empty segmentation.
    ZeroMap,
    /// Search the whole image for lesions.
    WholeImage,
}

/// The full-resolution stage.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LesionStage {
    /// The network.
    pub model: ModelRun,
    /// Label (and softmax head) of the lesion.
    pub lesion_label: u16,
}

/// Where lesion probabilities count.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// Labels of the second stage that make up the mask.
    pub labels: Vec<u16>,
    /// Edge in voxels of the cube that the mask is dilated with; odd, 1: not at all.
    pub dilation_voxels: usize,
}

impl Recipe {
    /// Reads and validates a recipe.
    ///
    /// # Errors
    /// If the file cannot be read, is not a recipe, or holds an impossible number.
    pub fn read(path: &Path) -> Result<Self, PipelineError> {
        let error = |what: String| PipelineError::Recipe { path: path.to_owned(), what };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        Self::from_json(&text).map_err(error)
    }

    fn from_json(text: &str) -> Result<Self, String> {
        let Tag { system } = from_json(text)?;
        Ok(match system {
            SystemName::Panorama => {
                let recipe: PanoramaRecipe = from_json(text)?;
                recipe.check()?;
                Self::Panorama(recipe)
            }
            SystemName::Panther => {
                let recipe: PantherRecipe = from_json(text)?;
                recipe.check()?;
                Self::Panther(recipe)
            }
        })
    }
}

impl PanoramaRecipe {
    fn check(&self) -> Result<(), String> {
        self.pancreas.check()?;
        self.lesion.model.check("lesion.model")?;
        self.roi.check()?;
        match &self.mask {
            Some(mask) if mask.dilation_voxels % 2 == 0 => {
                Err(format!("mask.dilation_voxels is {}, needs an odd number", mask.dilation_voxels))
            }
            Some(mask) if mask.labels.is_empty() => Err("mask.labels is empty, needs a label".to_owned()),
            _ => Ok(()),
        }
    }
}

impl PancreasStage {
    pub(super) fn check(&self) -> Result<(), String> {
        self.model.check("pancreas.model")?;
        let spacing = self.spacing_mm_xyz;
        if !spacing.iter().all(|v| SPACINGS.contains(v)) {
            let (least, most) = (SPACINGS.start(), SPACINGS.end());
            return Err(format!(
                "pancreas.spacing_mm_xyz is {spacing:?}, needs three numbers from {least} to {most}"
            ));
        }
        if !self.outside_value.is_finite() {
            return Err(format!("pancreas.outside_value is {}, needs a finite number", self.outside_value));
        }
        match &self.labels {
            Some(labels) if labels.is_empty() => Err("pancreas.labels is empty, needs a label".to_owned()),
            Some(labels) if labels.contains(&0) => {
                Err("pancreas.labels has 0, which is the background".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Whether a model has the labels, and reads one channel.
    pub(super) fn check_model(&self, model: &ModelFolder) -> Result<(), String> {
        check_channels("pancreas.model", model)?;
        check_no_head("pancreas.model", model)?;
        let OutputKind::Labels { classes } = model.dataset.output else { return Ok(()) };
        match self.labels.iter().flatten().find(|&&label| usize::from(label) >= classes) {
            Some(label) => {
                Err(format!("pancreas.labels has {label}, pancreas.model has labels 0 to {}", classes - 1))
            }
            None => Ok(()),
        }
    }
}

impl Roi {
    pub(super) fn check(&self) -> Result<(), String> {
        let margin = self.margin_mm_xyz;
        if margin.iter().all(|v| v.is_finite() && *v >= 0.0) {
            Ok(())
        } else {
            Err(format!("roi.margin_mm_xyz is {margin:?}, needs three numbers of at least 0"))
        }
    }
}

/// Whether a model reads one image.
pub(super) fn check_channels(at: &str, model: &ModelFolder) -> Result<(), String> {
    match model.dataset.input_channels() {
        1 => Ok(()),
        channels => Err(format!("{at} reads {channels} channels, the cascade gives it 1")),
    }
}

impl ModelRun {
    pub(super) fn check(&self, at: &str) -> Result<(), String> {
        if !(0.01..=1.0).contains(&self.step) {
            return Err(format!("{at}.step is {}, needs a number from 0.01 to 1", self.step));
        }
        if self.folds.is_empty() {
            return Err(format!("{at}.folds is empty, needs at least one fold"));
        }
        Ok(())
    }

    /// Opens the model folder, which lies relative to the recipe's folder.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open(&self, recipe: &Path) -> Result<ModelFolder, crate::nnunet::ModelError> {
        let base = recipe.parent().unwrap_or(Path::new("."));
        ModelFolder::open(&base.join(&self.folder), &self.folds, &self.checkpoint)
    }
}
