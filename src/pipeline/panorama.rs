//! The PANORAMA baseline: pancreas at low resolution, lesion around it at full resolution, detection map.
//!
//! Source: the baseline container of the PANORAMA challenge (contrast-enhanced CT, pancreatic ductal adenocarcinoma).

use super::nifti_passage::after_nifti;
use super::recipe::{IfNoPancreas, ModelRun, PanoramaRecipe};
use super::roi::{corners, region_of_interest};
use super::{Observer, PipelineError, Recipe};
use crate::detection::{LesionCandidates, extract_lesion_candidates};
use crate::imaging::memory::bytes;
use crate::imaging::morphology::dilate_cube;
use crate::imaging::resampling::itk_resample_to_spacing;
use crate::imaging::{Geometry, MemoryGauge, Volume};
use crate::nnunet::dataset::OutputKind;
use crate::nnunet::export::{Decision, Segmentation, SegmentationRequest};
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::predictor::{Folds, PredictError, PredictOptions, Predictor};
use crate::nnunet::preprocessing::BoundingBox;
use crate::nnunet::sliding_window::Accumulate;
use crate::ops::{Arithmetic, Backend, Cuda};
use ndarray::{Array3, s};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a user may change about the arithmetic without touching the recipe.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionOptions {
    /// Arithmetic of the sums over tiles and folds.
    pub accumulate: Accumulate,
    /// Instruction set and precision of the CPU kernels.
    pub arithmetic: Arithmetic,
    /// Tells how much memory there is.
    pub memory: MemoryGauge,
    /// The GPU that the networks run on; `None`: the CPU.
    pub gpu: Option<Cuda>,
}

impl Default for ExecutionOptions {
    fn default() -> Self {
        let (accumulate, memory) = (Accumulate::default(), MemoryGauge::UNLIMITED);
        Self { accumulate, arithmetic: Arithmetic::detect(), memory, gpu: None }
    }
}

/// The cascade with its models checked.
#[derive(Debug, Clone)]
pub struct Panorama {
    recipe: PanoramaRecipe,
    pancreas: ModelFolder,
    lesion: ModelFolder,
}

/// What the first stage found.
#[derive(Debug, Clone)]
pub struct Located {
    /// Labels on the low-resolution grid.
    pub labels: Volume<u16>,
    /// Region for the second stage, (z, y, x) on the scan's grid; `None` if there is no pancreas.
    pub roi: Option<BoundingBox>,
}

/// What the cascade says about a scan.
#[derive(Debug, Clone)]
pub struct Detection {
    /// One constant confidence per lesion candidate, 0 elsewhere; the scan's grid.
    pub map: Volume<f32>,
    /// Largest confidence, 0 if there is no candidate.
    pub likelihood: f32,
    /// Number of candidates.
    pub candidates: usize,
    /// Region that was searched; `None` if no pancreas was found and the recipe asks for an empty map then.
    pub roi: Option<BoundingBox>,
}

impl Panorama {
    /// Reads a recipe and checks the models that it names, without reading their weights.
    ///
    /// # Errors
    /// If the recipe or a model folder is not usable, or they contradict each other.
    pub fn open(recipe_file: &Path) -> Result<Self, PipelineError> {
        let Recipe::Panorama(recipe) = Recipe::read(recipe_file)?;
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
        for (stage, model) in self.models() {
            let channels = model.dataset.input_channels();
            if channels != 1 {
                return Err(format!("{stage}.model reads {channels} channels, the cascade gives it 1"));
            }
        }
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
        let backend = options.gpu.map_or(Backend::Cpu(options.arithmetic), Backend::Cuda);
        let [pancreas, lesion] = [&self.pancreas, &self.lesion].map(|m| Folds::new(m, backend));
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
        self.begin(options).segment_lesion(region, observer)
    }

    /// Lesion probabilities near the pancreas, cut into candidates.
    ///
    /// # Errors
    /// If a probability is not finite.
    pub fn extract_candidates(&self, segmentation: Segmentation) -> Result<LesionCandidates, PipelineError> {
        let probability = self.masked_probability(segmentation);
        Ok(extract_lesion_candidates(&probability, &self.recipe.candidates)?)
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

/// How many folds' weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptFolds {
    /// Folds whose weights stay in memory.
    pub kept: usize,
    /// All folds.
    pub all: usize,
}

/// Runs of the cascade. A network's first weights are loaded while something else is done: those of the first stage
/// by [`PanoramaRun::load_first_weights`], those of the second while the last fold of the first computes.
pub struct PanoramaRun<'c> {
    cascade: &'c Panorama,
    options: ExecutionOptions,
    pancreas: Folds<'c>,
    lesion: Folds<'c>,
}

impl PanoramaRun<'_> {
    /// What the user changed.
    pub fn options(&self) -> ExecutionOptions {
        self.options
    }

    /// Loads the weights that are needed first; an error is kept for [`PanoramaRun::run`].
    pub fn load_first_weights(&self) {
        self.pancreas.load_ahead();
    }

    /// Gets ready for many scans: reads the weights of all folds and keeps as many of them as leave half of the memory that
    /// is available now, then runs each network once.
    ///
    /// # Errors
    /// If weights cannot be loaded, or a network cannot run.
    pub fn get_ready(&self) -> Result<KeptFolds, PipelineError> {
        let memory = self.options.memory;
        let reserve = match self.options.gpu {
            Some(gpu) => gpu.free_memory().map_err(PredictError::from)? / 2,
            None => memory.available().map_or(0, |available| available / 2),
        };
        let mut folds = KeptFolds { kept: 0, all: 0 };
        for model in [&self.pancreas, &self.lesion] {
            folds.kept += model.keep(memory, reserve)?;
            folds.all += model.model().folds.len();
        }
        match self.warm_up() {
            Err(PredictError::Memory(_)) if self.release_weights() => {
                folds.kept = 0;
                self.warm_up()?;
            }
            done => done?,
        }
        Ok(folds)
    }

    fn warm_up(&self) -> Result<(), PredictError> {
        let PanoramaRecipe { pancreas, lesion, .. } = &self.cascade.recipe;
        for (folds, run) in [(&self.pancreas, &pancreas.model), (&self.lesion, &lesion.model)] {
            match self.predictor(folds, run, None)?.warm_up() {
                // A case goes on with less: on the host in the end.
                Err(PredictError::Gpu(error)) if error.is_out_of_memory() => tracing::warn!("{error}"),
                done => done?,
            }
        }
        Ok(())
    }

    /// Lets go the weights that [`PanoramaRun::get_ready`] kept: whether there were any.
    pub fn release_weights(&self) -> bool {
        let [a, b] = [&self.pancreas, &self.lesion].map(Folds::release);
        a || b
    }

    /// Runs the whole cascade on a CT (HU), which is let go as soon as the region is cut out.
    ///
    /// # Errors
    /// If a network cannot run or the observer stops it.
    pub fn run(&self, ct: Arc<Volume<f32>>, observer: &dyn Observer) -> Result<Detection, PipelineError> {
        let geometry = ct.geometry;
        let Located { roi, .. } = self.locate_pancreas(&ct, Some(&self.lesion), observer)?;
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
                return Ok(Detection { map, likelihood: 0.0, candidates: 0, roi: None });
            }
        };
        let region = match Arc::try_unwrap(ct) {
            Ok(ct) => roi.cut(ct.data),
            Err(ct) => roi.copy(&ct.data),
        };
        let region = Volume::new(region, geometry_of(&roi, &geometry));
        let segmentation = self.segment_lesion(region, observer)?;
        observer.stage("candidates");
        let candidates = self.cascade.extract_candidates(segmentation)?;
        let mut map = self.empty_map(&geometry)?;
        map.data.slice_mut(slice_of(&roi)).assign(&candidates.detection_map);
        Ok(Detection {
            map,
            likelihood: candidates.likelihood(),
            candidates: candidates.confidences.len(),
            roi: Some(roi),
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
        after: Option<&Folds<'_>>,
        observer: &dyn Observer,
    ) -> Result<Located, PipelineError> {
        observer.stage("low resolution");
        let recipe = &self.cascade.recipe;
        let stage = &recipe.pancreas;
        let [x, y, z] = stage.spacing_mm_xyz;
        let low = itk_resample_to_spacing(ct, [z, y, x], stage.outside_value).map_err(PredictError::from)?;
        let read = after_nifti(&low.geometry);
        observer.stage("pancreas");
        let request = SegmentationRequest { decision: Decision::Probabilities, probability_of: None };
        let predictor = self.predictor(&self.pancreas, &stage.model, after)?;
        let segmentation = predict(&predictor, low.data, &read, request, observer)?;
        let geometry = after_nifti(&read); // nnU-Net writes its mask with what it read
        let labels = Volume::new(segmentation.labels, geometry);
        let margin = recipe.roi.margin_mm_xyz;
        let roi = corners(&labels.data).map(|c| region_of_interest(&ct.geometry, &geometry, c, margin));
        Ok(Located { labels, roi })
    }

    fn segment_lesion(
        &self,
        region: Volume<f32>,
        observer: &dyn Observer,
    ) -> Result<Segmentation, PipelineError> {
        observer.stage("lesion");
        let stage = &self.cascade.recipe.lesion;
        let geometry = after_nifti(&region.geometry);
        let request = SegmentationRequest {
            decision: Decision::Probabilities,
            probability_of: Some(usize::from(stage.lesion_label)),
        };
        let predictor = self.predictor(&self.lesion, &stage.model, None)?;
        predict(&predictor, region.data, &geometry, request, observer)
    }

    fn predictor<'a>(
        &self,
        folds: &'a Folds<'a>,
        run: &ModelRun,
        after: Option<&'a Folds<'a>>,
    ) -> Result<Predictor<'a>, PredictError> {
        let ExecutionOptions { accumulate, arithmetic, memory, gpu } = self.options;
        let options =
            PredictOptions { step: run.step, mirroring: run.mirroring, accumulate, arithmetic, gpu };
        Ok(Predictor::within(folds.model(), options, memory)?.with_folds(folds, after))
    }
}

fn predict(
    predictor: &Predictor<'_>,
    data: Array3<f32>,
    geometry: &Geometry,
    request: SegmentationRequest,
    observer: &dyn Observer,
) -> Result<Segmentation, PipelineError> {
    Ok(predictor.segment(vec![data], geometry.spacing, request, &|progress| observer.tile(progress))?)
}

/// Geometry of a region of a scan, but for the origin: the lesion stage only asks for the spacing.
fn geometry_of(region: &BoundingBox, scan: &Geometry) -> Geometry {
    Geometry { shape: region.shape(), ..*scan }
}

fn slice_of(
    region: &BoundingBox,
) -> ndarray::SliceInfo<[ndarray::SliceInfoElem; 3], ndarray::Ix3, ndarray::Ix3> {
    let [z, y, x] = std::array::from_fn(|a| region.start[a]..region.stop[a]);
    s![z, y, x]
}

/// The recipe's usual place in a folder of weights.
pub fn recipe_in(weights: &Path) -> PathBuf {
    weights.join("panorama").join("pipeline.json")
}
