//! The PANORAMA baseline: pancreas at low resolution, lesion around it at full resolution, detection map. A second stage with a
//! classification head also says how likely there is a lesion at all.
//!
//! Source: the baseline container of the PANORAMA challenge (contrast-enhanced CT, pancreatic ductal adenocarcinoma); for the
//! classification head, the challenge's report by Yu, Ma, Fu and Wang.

use super::budget::BudgetReport;
use super::ensemble::{Ensemble, Member};
use super::execution::{ExecutionOptions, Stage};
use super::locate::{Located, geometry_of, locate_pancreas};
use super::nifti_passage::after_nifti;
use super::recipe::{IfNoPancreas, LikelihoodRule, PanoramaRecipe, check_channels};
use super::roi::{cut_out, slice_of};
use super::{Observer, PipelineError};
use crate::detection::{Combine, LesionCandidates, Likelihood, check_finite, extract_lesion_candidates};
use crate::imaging::memory::bytes;
use crate::imaging::morphology::dilate_cube;
use crate::imaging::{Geometry, Volume};
use crate::nnunet::dataset::OutputKind;
use crate::nnunet::export::{Decision, Segmentation, SegmentationRequest};
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::{Patch, PredictError};
use crate::nnunet::preprocessing::BoundingBox;
use ndarray::Array3;
use std::path::Path;
use std::sync::Arc;

/// The cascade with its models checked.
#[derive(Debug, Clone)]
pub struct Panorama {
    recipe: PanoramaRecipe,
    pancreas: ModelFolder,
    lesion: ModelFolder,
}

/// What the cascade says about a scan.
#[derive(Debug, Clone)]
pub struct Detection {
    /// One constant confidence per lesion candidate, 0 elsewhere; the scan's grid.
    pub map: Volume<f32>,
    /// Largest confidence, 0 if there is no candidate; joined with a classification head's probability if the recipe says so.
    pub likelihood: f64,
    /// Number of candidates.
    pub candidates: usize,
    /// Region that was searched; `None` if no pancreas was found and the recipe asks for an empty map then.
    pub roi: Option<BoundingBox>,
    /// Where the likelihood comes from, if a classification head is asked.
    pub joined: Option<Likelihood>,
    /// What a time budget changed, if there is one.
    pub budget: Option<BudgetReport>,
}

impl Panorama {
    /// Checks the models that a recipe names, without reading their weights.
    ///
    /// # Errors
    /// If a model folder is not usable, or they contradict each other or the recipe.
    pub fn open(recipe: PanoramaRecipe, recipe_file: &Path) -> Result<Self, PipelineError> {
        let pancreas = recipe.pancreas.model.open(recipe_file)?;
        let lesion = recipe.lesion.model.open(recipe_file)?;
        let panorama = Self { recipe, pancreas, lesion };
        panorama.check().map_err(|what| PipelineError::Recipe { path: recipe_file.to_owned(), what })?;
        Ok(panorama)
    }

    /// The recipe's remark on its weights.
    pub fn note(&self) -> Option<&str> {
        self.recipe.note.as_deref()
    }

    /// The model folders with the stage that they serve.
    pub fn models(&self) -> [(&'static str, &ModelFolder); 2] {
        [("pancreas", &self.pancreas), ("lesion", &self.lesion)]
    }

    fn check(&self) -> Result<(), String> {
        self.recipe.pancreas.check_model(&self.pancreas)?;
        check_channels("lesion.model", &self.lesion)?;
        LikelihoodRule::check(self.recipe.likelihood.as_ref(), &self.lesion)?;
        let OutputKind::Labels { classes } = self.lesion.dataset.output else {
            return Err("lesion.model predicts regions, the cascade needs labels".to_owned());
        };
        let label = self.recipe.lesion.lesion_label;
        let masked = self.recipe.mask.iter().flat_map(|m| m.labels.iter().copied());
        match masked.chain([label]).find(|&l| usize::from(l) >= classes) {
            Some(unknown) => {
                Err(format!("label {unknown} is asked for, lesion.model has labels 0 to {}", classes - 1))
            }
            None if label == 0 => Err("lesion.lesion_label is 0, which is the background".to_owned()),
            None => Ok(()),
        }
    }

    /// A run of the cascade, whose first weights can be loaded before there is a scan.
    pub fn begin(&self, options: ExecutionOptions) -> PanoramaRun<'_> {
        let PanoramaRecipe { pancreas, lesion, .. } = &self.recipe;
        let pancreas = Stage::new(&self.pancreas, &pancreas.model, options);
        let lesion = Member { stage: Stage::new(&self.lesion, &lesion.model, options), weight: 1.0 };
        let lesion = Ensemble { members: vec![lesion], apart: false, memory: options.memory };
        PanoramaRun { cascade: self, options, pancreas, lesion }
    }

    /// Runs the whole cascade on a CT (HU).
    ///
    /// # Errors
    /// If a network cannot run or the observer stops it.
    pub fn run(
        &self,
        ct: Arc<Volume<f32>>,
        options: ExecutionOptions,
        observer: &dyn Observer,
    ) -> Result<Detection, PipelineError> {
        self.begin(options).run(ct, observer)
    }

    /// First stage: the pancreas at low resolution, and the region of the scan around it.
    ///
    /// # Errors
    /// If the network cannot run or the observer stops it.
    pub fn locate_pancreas(
        &self,
        ct: &Volume<f32>,
        options: ExecutionOptions,
        observer: &dyn Observer,
    ) -> Result<Located, PipelineError> {
        self.begin(options).locate_pancreas(ct, None, observer)
    }

    /// Second stage: labels and lesion probability on the region's voxels.
    ///
    /// # Errors
    /// If the network cannot run or the observer stops it.
    pub fn segment_lesion(
        &self,
        ct: &Volume<f32>,
        roi: &BoundingBox,
        options: ExecutionOptions,
        observer: &dyn Observer,
    ) -> Result<Segmentation, PipelineError> {
        let region = Volume::new(roi.copy(&ct.data), geometry_of(roi, &ct.geometry));
        Ok(self.begin(options).segment_lesion(region, observer)?.0)
    }

    /// The likelihood from what the classification head says of patches and the detection map's largest confidence; `None` where no
    /// head is asked.
    ///
    /// # Errors
    /// If the head's probability of a patch is none.
    pub fn join(&self, patches: &[Patch], map: f32) -> Result<Option<Likelihood>, PipelineError> {
        let Some(LikelihoodRule { combine, patches: rule }) = self.asked_head() else { return Ok(None) };
        let patches: Vec<(f64, f64)> = patches.iter().map(|p| (p.probability, p.from_centre_mm)).collect();
        if let Some(&(wrong, _)) = patches.iter().find(|(p, _)| !(0.0..=1.0).contains(p)) {
            return Err(PipelineError::Head(wrong));
        }
        let map = f64::from(map);
        let joined = |head| Likelihood { combine, patches: rule, head, map, joined: combine.of(head, map) };
        Ok(rule.of(&patches).map(joined))
    }

    /// What the recipe says of the head, where there is one that is asked.
    fn asked_head(&self) -> Option<LikelihoodRule> {
        self.recipe.likelihood.filter(|rule| self.lesion.classifies() && rule.combine != Combine::MapOnly)
    }

    /// Lesion probabilities near the pancreas, cut into candidates.
    ///
    /// # Errors
    /// If a probability is not finite.
    pub fn extract_candidates(&self, segmentation: Segmentation) -> Result<LesionCandidates, PipelineError> {
        // The mask would hide them.
        segmentation.probability.as_ref().map_or(Ok(()), |probability| check_finite(probability))?;
        let probability = self.masked_probability(segmentation);
        Ok(extract_lesion_candidates(&probability, &self.recipe.candidates)?)
    }

    /// What is said of a scan without a pancreas.
    fn nothing_found(&self) -> Option<Likelihood> {
        let LikelihoodRule { combine, patches } = self.asked_head()?;
        Some(Likelihood { combine, patches, head: 0.0, map: 0.0, joined: 0.0 })
    }

    /// Lesion probability, zero outside the dilated mask.
    pub fn masked_probability(&self, segmentation: Segmentation) -> Array3<f32> {
        let mut probability = segmentation.probability.unwrap_or_default();
        if let Some(mask) = &self.recipe.mask {
            let near = segmentation.labels.mapv(|label| mask.labels.contains(&label));
            let near = dilate_cube(&near, mask.dilation_voxels);
            probability.zip_mut_with(&near, |p, &near| *p = if near { *p } else { 0.0 });
        }
        probability
    }
}

/// Runs of the cascade. The second network's first weights are loaded while the last fold of the first computes.
pub struct PanoramaRun<'c> {
    cascade: &'c Panorama,
    options: ExecutionOptions,
    pancreas: Stage<'c>,
    /// Of one member.
    lesion: Ensemble<'c>,
}

impl<'c> PanoramaRun<'c> {
    /// The models in the order in which they run.
    pub(super) fn stages(&self) -> Vec<&Stage<'c>> {
        [&self.pancreas].into_iter().chain(self.lesion.stages()).collect()
    }

    /// Runs the whole cascade on a CT (HU), which is let go as soon as the region is cut out.
    ///
    /// # Errors
    /// If a network cannot run or the observer stops it.
    pub fn run(&self, ct: Arc<Volume<f32>>, observer: &dyn Observer) -> Result<Detection, PipelineError> {
        let geometry = ct.geometry;
        let Located { roi, .. } = self.locate_pancreas(&ct, self.lesion.stages().next(), observer)?;
        let roi = match (roi, self.cascade.recipe.roi.if_no_pancreas) {
            (Some(roi), _) => roi,
            (None, IfNoPancreas::WholeImage) => {
                tracing::warn!("no pancreas found: searching the whole image");
                BoundingBox { start: [0; 3], stop: geometry.shape }
            }
            (None, IfNoPancreas::ZeroMap) => {
                tracing::warn!("no pancreas found: the detection map is all zero and the likelihood 0");
                drop(ct);
                let map = self.empty_map(&geometry)?;
                let budget = self.lesion.nothing_computed(observer);
                let joined = self.cascade.nothing_found();
                return Ok(Detection { map, likelihood: 0.0, candidates: 0, roi: None, joined, budget });
            }
        };
        let region = Volume::new(cut_out(&roi, ct), geometry_of(&roi, &geometry));
        let (mut segmentation, budget) = self.segment_lesion(region, observer)?;
        observer.stage("candidates");
        let patches = std::mem::take(&mut segmentation.patches);
        let candidates = self.cascade.extract_candidates(segmentation)?;
        let joined = self.cascade.join(&patches, candidates.likelihood())?;
        let mut map = self.empty_map(&geometry)?;
        map.data.slice_mut(slice_of(&roi)).assign(&candidates.detection_map);
        Ok(Detection {
            map,
            likelihood: joined.map_or_else(|| candidates.likelihood().into(), |joined| joined.joined),
            candidates: candidates.confidences.len(),
            roi: Some(roi),
            joined,
            budget,
        })
    }

    /// A detection map without lesions, if there is the memory for it.
    fn empty_map(&self, geometry: &Geometry) -> Result<Volume<f32>, PredictError> {
        self.options.memory.check("the detection map's voxels", bytes(&geometry.shape, size_of::<f32>()))?;
        Ok(Volume::new(Array3::zeros(geometry.shape), *geometry))
    }

    fn locate_pancreas(
        &self,
        ct: &Volume<f32>,
        after: Option<&Stage<'c>>,
        observer: &dyn Observer,
    ) -> Result<Located, PipelineError> {
        let PanoramaRecipe { pancreas, roi, .. } = &self.cascade.recipe;
        locate_pancreas(&self.pancreas, pancreas, Some(roi), ct, after, observer)
    }

    fn segment_lesion(
        &self,
        region: Volume<f32>,
        observer: &dyn Observer,
    ) -> Result<(Segmentation, Option<BudgetReport>), PipelineError> {
        let lesion = usize::from(self.cascade.recipe.lesion.lesion_label);
        let spacing = after_nifti(&region.geometry).spacing;
        let request = SegmentationRequest { decision: Decision::Probabilities, probability_of: Some(lesion) };
        self.lesion.segment("lesion", region.data, spacing, request, observer)
    }
}
