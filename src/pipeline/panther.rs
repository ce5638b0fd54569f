//! PANTHER: segmentation of a pancreatic tumour in MRI, T1-weighted (first task) or T2-weighted from an MR-Linac (second task).
//!
//! Source: the container of the challenge's winners (residual-encoder nnU-Nets, several experts averaged, tumour label only) and,
//! for the optional first stage and the rules for components, the challenge's baseline containers.

use super::budget::BudgetReport;
use super::ensemble::{Ensemble, Member};
use super::execution::{ExecutionOptions, Stage};
use super::locate::{geometry_of, locate_pancreas};
use super::recipe::{Average, IfNoPancreas, PantherRecipe, Roi, check_channels, check_no_head};
use super::roi::{cut_out, slice_of};
use super::scan_check::check_mri;
use super::{Observer, PipelineError};
use crate::detection::tumour_components::Believed;
use crate::imaging::Volume;
use crate::imaging::memory::bytes;
use crate::nnunet::dataset::{Label, OutputKind};
use crate::nnunet::export::{Decision, SegmentationRequest};
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::PredictError;
use crate::nnunet::preprocessing::BoundingBox;
use ndarray::Array3;
use std::path::Path;
use std::sync::Arc;

/// Labels as nnU-Net decides them where no probabilities are saved.
const BY_LOGITS: SegmentationRequest =
    SegmentationRequest { decision: Decision::Logits, probability_of: None };

/// One task with its models checked.
#[derive(Debug, Clone)]
pub struct Panther {
    recipe: PantherRecipe,
    pancreas: Option<ModelFolder>,
    members: Vec<ModelFolder>,
}

/// A segmented tumour.
#[derive(Debug, Clone)]
pub struct TumourSegmentation {
    /// 1 inside the tumour, 0 elsewhere; the scan's grid.
    pub mask: Volume<u8>,
    /// Components of the tumour before the recipe's rules removed some, and after.
    pub components: Believed,
    /// Volume in mm³.
    pub volume_mm3: f64,
    /// What a time budget changed, if there is one.
    pub budget: Option<BudgetReport>,
}

impl Panther {
    /// Checks the models that a recipe names, without reading their weights.
    ///
    /// # Errors
    /// If a model folder is not usable, or they contradict each other or the recipe.
    pub fn open(recipe: PantherRecipe, recipe_file: &Path) -> Result<Self, PipelineError> {
        let pancreas = recipe.pancreas.as_ref().map(|stage| stage.model.open(recipe_file)).transpose()?;
        let members = recipe.members.iter().map(|member| member.model.open(recipe_file));
        let members = members.collect::<Result<_, _>>()?;
        let panther = Self { recipe, pancreas, members };
        panther.check().map_err(|what| PipelineError::Recipe { path: recipe_file.to_owned(), what })?;
        Ok(panther)
    }

    /// The recipe's remark on its weights.
    pub fn note(&self) -> Option<&str> {
        self.recipe.note.as_deref()
    }

    /// The model folders with what they are for.
    pub fn models(&self) -> Vec<(String, &ModelFolder)> {
        let pancreas = self.pancreas.iter().map(|model| ("pancreas".to_owned(), model));
        let members = self.members.iter().enumerate().map(|(i, model)| (format!("members[{i}]"), model));
        pancreas.chain(members).collect()
    }

    fn check(&self) -> Result<(), String> {
        if let (Some(stage), Some(model)) = (&self.recipe.pancreas, &self.pancreas) {
            stage.check_model(model)?;
        }
        let label = self.recipe.tumour_label;
        for (number, model) in self.members.iter().enumerate() {
            let at = format!("members[{number}]");
            check_channels(&at, model)?;
            check_no_head(&at, model)?;
            let OutputKind::Labels { classes } = model.dataset.output else {
                return Err(format!("{at} predicts regions, the ensemble needs labels"));
            };
            if label == 0 || usize::from(label) >= classes {
                return Err(format!(
                    "tumour_label is {label}, {at} has the tumours' labels 1 to {}",
                    classes - 1
                ));
            }
            self.check_same(&at, model)?;
        }
        Ok(())
    }

    /// Whether a member's answer can be averaged with the first one's.
    fn check_same(&self, at: &str, model: &ModelFolder) -> Result<(), String> {
        let first = &self.members[0];
        let [labels, expected] = [model, first].map(|m| &m.dataset.labels);
        let moved = |(name, label): &(String, Label)| {
            expected.iter().any(|(other, at_first)| other == name && at_first != label)
        };
        if model.dataset.output != first.dataset.output || labels.iter().any(moved) {
            let [labels, expected] = [model, first].map(|m| m.dataset.described_labels());
            return Err(format!("{at} has the labels {labels}, members[0] has {expected}"));
        }
        if self.recipe.average == Average::Logits && !first.prepares_as(model) {
            let [a, b] = [model, first].map(|m| m.configuration.spacing);
            return Err(format!(
                "average is \"logits\", but {at} prepares scans otherwise than members[0] (spacing {a:?} and {b:?} mm in the \
                 networks' axis order, or another normalisation, resampling or axis order)"
            ));
        }
        Ok(())
    }

    /// A run of the task, whose first weights can be loaded before there is a scan.
    pub fn begin(&self, options: ExecutionOptions) -> PantherRun<'_> {
        let pancreas = self.recipe.pancreas.iter().zip(&self.pancreas);
        let pancreas = pancreas.map(|(stage, model)| Stage::new(model, &stage.model, options)).next();
        let members = self.recipe.members.iter().zip(&self.members).map(|(member, model)| Member {
            stage: Stage::new(model, &member.model, options),
            weight: member.weight,
        });
        let apart = self.recipe.average == Average::Probabilities;
        let members = Ensemble { members: members.collect(), apart, memory: options.memory };
        PantherRun { task: self, options, pancreas, members }
    }

    /// Segments the tumour in an MRI.
    ///
    /// # Errors
    /// If the scan is none, a network cannot run or the observer stops it.
    pub fn run(
        &self,
        mri: Arc<Volume<f32>>,
        options: ExecutionOptions,
        observer: &dyn Observer,
    ) -> Result<TumourSegmentation, PipelineError> {
        self.begin(options).run(mri, observer)
    }
}

/// Runs of one task. A network's first weights are loaded while the one before it computes.
pub struct PantherRun<'c> {
    task: &'c Panther,
    options: ExecutionOptions,
    pancreas: Option<Stage<'c>>,
    members: Ensemble<'c>,
}

impl<'c> PantherRun<'c> {
    /// The models in the order in which they run.
    pub(super) fn stages(&self) -> Vec<&Stage<'c>> {
        self.pancreas.iter().chain(self.members.stages()).collect()
    }

    /// Segments the tumour in an MRI, which is let go as soon as the region is cut out.
    ///
    /// # Errors
    /// If the scan is none, a network cannot run or the observer stops it.
    pub fn run(
        &self,
        mri: Arc<Volume<f32>>,
        observer: &dyn Observer,
    ) -> Result<TumourSegmentation, PipelineError> {
        check_mri(&mri.data).map_err(PipelineError::Scan)?;
        let geometry = mri.geometry;
        self.options
            .memory
            .check("the segmentation's voxels", bytes(&geometry.shape, size_of::<u8>()))
            .map_err(PredictError::from)?;
        let (region, pancreas) = self.pancreas_in(&mri, observer)?;
        let mut mask = Array3::zeros(geometry.shape);
        let budget;
        if let Some(region) = region {
            let spacing = geometry_of(&region, &geometry).spacing;
            let image = cut_out(&region, mri);
            let (segmentation, report) =
                self.members.segment("tumour", image, spacing, BY_LOGITS, observer)?;
            let tumour = self.task.recipe.tumour_label;
            let inside = segmentation.labels.mapv(|label| u8::from(label == tumour));
            mask.slice_mut(slice_of(&region)).assign(&inside);
            budget = report;
        } else {
            budget = self.members.nothing_computed(observer);
        }
        observer.stage("components");
        let voxel_mm3: f64 = geometry.spacing.iter().product();
        let rules = &self.task.recipe.postprocessing;
        let components = rules.apply(&mut mask, voxel_mm3, pancreas.as_ref());
        if components.found > 0 && components.kept == 0 {
            tracing::warn!("none of {} components is believed: the segmentation is empty", components.found);
        }
        let voxels = mask.iter().filter(|v| **v != 0).count();
        let volume_mm3 = voxels as f64 * voxel_mm3;
        Ok(TumourSegmentation { mask: Volume::new(mask, geometry), components, volume_mm3, budget })
    }

    /// The region that the members see, `None` if there is no pancreas and the answer is that there is no tumour then; and where
    /// the pancreas is, if a rule asks for it.
    fn pancreas_in(
        &self,
        mri: &Volume<f32>,
        observer: &dyn Observer,
    ) -> Result<(Option<BoundingBox>, Option<Array3<bool>>), PipelineError> {
        let recipe = &self.task.recipe;
        let whole = BoundingBox { start: [0; 3], stop: mri.geometry.shape };
        let (Some(stage), Some(pancreas)) = (&self.pancreas, &recipe.pancreas) else {
            return Ok((Some(whole), None));
        };
        let after = self.members.stages().next();
        let roi = recipe.roi.as_ref();
        let located = locate_pancreas(stage, pancreas, roi, mri, after, observer)?;
        let asked = recipe.postprocessing.min_pancreas_overlap > 0.0;
        let mask = asked.then(|| located.on_grid_of(&mri.geometry));
        let region = match (roi, located.roi) {
            (None, _) => Some(whole),
            (Some(_), Some(region)) => Some(region),
            (Some(Roi { if_no_pancreas: IfNoPancreas::WholeImage, .. }), None) => {
                tracing::warn!("no pancreas found: searching the whole image");
                Some(whole)
            }
            (Some(_), None) => {
                tracing::warn!("no pancreas found: the segmentation is empty");
                None
            }
        };
        Ok((region, mask))
    }
}
