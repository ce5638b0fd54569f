//! From channels on a scan's grid to a segmentation on the same grid, as nnU-Net v2 predicts.
//!
//! Source: nnU-Net v2, `predict_from_raw_data.py` and `default_preprocessor.py: run_case_npy`.

mod constant_tiles;
mod fold_mean;
mod folds;
#[cfg(feature = "cuda")]
mod on_gpu;
mod patches;
mod scan;
mod shared_scan;
mod sums;
mod tiles;
mod trial;

use super::ModelError;
use super::export::{Export, Segmentation, SegmentationRequest};
use super::model_folder::ModelFolder;
use super::preprocessing::NormalizationError;
use super::sliding_window::{Accumulate, Tiling, importance_map, mirrorings};
use crate::imaging::memory::{MemoryGauge, NotEnoughMemory, bytes};
use crate::imaging::resampling::GridTooLarge;
use crate::network::{Plan, PlanError, Runner};
#[cfg(feature = "cuda")]
use crate::ops::cuda_error;
use crate::ops::{Arithmetic, Backend, Cuda, CudaError, Mirroring};
use candle_core::{Device, Tensor};
use folds::FoldQueue;
pub use folds::Folds;
use ndarray::{Array3, Array4, ArrayView4};
use patches::ClassSums;
pub use patches::Patch;
use scan::Cropped;
pub use scan::{Preprocessed, ScanGrid, network_shape};
pub use shared_scan::SharedScan;
use std::path::PathBuf;
use std::thread;
pub(super) use sums::LogitReader;
use sums::{Sums, Weighting, bands};
use tiles::Tiles;

/// How a model is run.
#[derive(Debug, Clone, Copy)]
pub struct PredictOptions {
    /// Distance of neighbouring tiles in patches, in (0, 1]; nnU-Net's default is 0.5.
    pub step: f64,
    /// Average over mirrored copies along the axes that the checkpoint allows.
    pub mirroring: bool,
    /// Only the model's first so many folds; `None`: all.
    pub folds: Option<usize>,
    /// Arithmetic of the sums over tiles and folds.
    pub accumulate: Accumulate,
    /// Instruction set and precision of the CPU kernels.
    pub arithmetic: Arithmetic,
    /// The GPU to compute on; what it has not the memory for is computed on the CPU.
    pub gpu: Option<Cuda>,
}

impl PredictOptions {
    /// What the networks run on.
    pub fn backend(&self) -> Backend {
        self.gpu.map_or(Backend::Cpu(self.arithmetic), Backend::Cuda)
    }
}

/// Why a prediction failed.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The model folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The patch does not fit the network.
    #[error("{path}: {source}", path = path.display())]
    Plan {
        /// The model folder.
        path: PathBuf,
        /// What does not fit.
        source: Box<PlanError>,
    },
    /// Intensities that the model's normalisation cannot take.
    #[error(transparent)]
    Normalization(#[from] NormalizationError),
    /// Wrong number of channels or differing shapes.
    #[error("{path}: the model reads {expected} channels of one shape, got {got}", path = path.display())]
    Channels {
        /// The model folder.
        path: PathBuf,
        /// Channels of the model.
        expected: usize,
        /// What was given.
        got: String,
    },
    /// float16 accumulation overflowed, which nnU-Net refuses too.
    #[error("logits overflow float16 accumulators; use float32 accumulation")]
    HalfOverflow,
    /// At the model's spacing the scan has more voxels than could be worked on.
    #[error(transparent)]
    TooLarge(#[from] GridTooLarge),
    /// There is not the memory for the networks' images, activations or sums.
    #[error(transparent)]
    Memory(#[from] NotEnoughMemory),
    /// The GPU failed, or has not the memory for anything.
    #[error(transparent)]
    Gpu(Box<CudaError>),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(Box<candle_core::Error>),
    /// The observer asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<candle_core::Error> for PredictError {
    fn from(error: candle_core::Error) -> Self {
        #[cfg(feature = "cuda")]
        if let Some(error) = cuda_error(&error) {
            return Self::Gpu(Box::new(error.clone()));
        }
        Self::Tensor(Box::new(error))
    }
}

#[cfg(feature = "cuda")]
impl PredictError {
    /// Whether the GPU had not the memory that was asked for.
    fn is_out_of_gpu_memory(&self) -> bool {
        matches!(self, Self::Gpu(error) if error.is_out_of_memory())
    }
}

impl From<CudaError> for PredictError {
    fn from(error: CudaError) -> Self {
        Self::Gpu(Box::new(error))
    }
}

/// Told of every tile that is done; returns `false` to stop.
pub type TileObserver<'a> = &'a (dyn Fn(TileProgress) -> bool + 'a);

/// How far a prediction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileProgress {
    /// Tiles done, over all folds; mirrored copies count as one tile.
    pub done: usize,
    /// All tiles.
    pub total: usize,
}

/// Averaged logits on the network's grid.
#[derive(Debug, Clone)]
pub struct Logits {
    /// (z, y, x, heads).
    pub values: Array4<f32>,
    /// Whether they are, and are to stay, float16 values.
    pub half: bool,
}

/// Keeps all logits.
struct AllLogits {
    values: Vec<f32>,
    /// How many there will be.
    len: usize,
}

impl LogitReader for AllLogits {
    fn bytes(&self) -> u128 {
        bytes(&[self.len], size_of::<f32>())
    }

    fn needed_from(&self, end: usize) -> usize {
        end
    }

    fn take(&mut self, _: usize, planes: ArrayView4<'_, f32>) {
        self.values.reserve_exact(self.len - self.values.len());
        self.values.extend(planes);
    }
}

/// A model ready to predict.
pub struct Predictor<'m> {
    model: &'m ModelFolder,
    options: PredictOptions,
    plan: Plan,
    /// Of the CPU; none if all is computed on a GPU.
    runner: Option<Runner>,
    mirrorings: Vec<Mirroring>,
    memory: MemoryGauge,
    own: Folds<'m>,
    /// Weights that outlive the predictor, instead of its own.
    shared: Option<&'m Folds<'m>>,
    after: Option<&'m Folds<'m>>,
}

/// Bytes of a plan's buffer.
fn activation_bytes(plan: &Plan) -> u128 {
    bytes(&[plan.buffer_len()], size_of::<f32>())
}

/// The model's network, planned for its patch and what computes.
fn plan_of(model: &ModelFolder, backend: Backend) -> Result<Plan, PredictError> {
    let (network, patch) = (&model.configuration.network, model.configuration.patch_size);
    let plan = match backend {
        Backend::Cpu(_) => network.plan_in_parts(patch),
        Backend::Cuda(_) => network.plan(patch),
    };
    plan.map_err(|error| PredictError::Plan { path: model.path.clone(), source: Box::new(error) })
}

/// Floating-point operations of one run of a model's network on a tile.
///
/// # Errors
/// If the patch does not fit the network.
pub fn run_flop(model: &ModelFolder) -> Result<u64, PredictError> {
    Ok(plan_of(model, Backend::Cpu(Arithmetic::detect()))?.flop_of_all())
}

impl<'m> Predictor<'m> {
    /// Plans the model's network for its patch.
    ///
    /// # Errors
    /// If the patch does not fit the network or memory is refused.
    pub fn new(model: &'m ModelFolder, options: PredictOptions) -> Result<Self, PredictError> {
        Self::within(model, options, MemoryGauge::UNLIMITED)
    }

    /// As [`Predictor::new`], if there is the memory for the network's activations; the predictor asks before it takes more.
    ///
    /// # Errors
    /// As [`Predictor::new`], and if there is not.
    pub fn within(
        model: &'m ModelFolder,
        options: PredictOptions,
        memory: MemoryGauge,
    ) -> Result<Self, PredictError> {
        let plan = plan_of(model, options.backend())?;
        let runner = match options.gpu {
            Some(_) => None,
            None => {
                memory.check("the network's activations", activation_bytes(&plan))?;
                Some(Runner::new(plan.clone())?)
            }
        };
        let axes: &[usize] = if options.mirroring { &model.mirroring_axes } else { &[] };
        let own = Folds::new(model, options.backend());
        Ok(Self {
            model,
            options,
            plan,
            runner,
            mirrorings: mirrorings(axes),
            memory,
            own,
            shared: None,
            after: None,
        })
    }

    /// Takes the weights from `folds`, which may have been loaded ahead or kept, and loads the first of `after`, the next
    /// model's, while the last fold computes.
    #[must_use]
    pub fn with_folds(mut self, folds: &'m Folds<'m>, after: Option<&'m Folds<'m>>) -> Self {
        (self.shared, self.after) = (Some(folds), after);
        self
    }

    fn runner(&self) -> candle_core::Result<&Runner> {
        match &self.runner {
            Some(runner) => Ok(runner),
            None => candle_core::bail!("this predictor computes on a GPU"),
        }
    }

    /// The same model on the CPU, with weights of its own.
    #[cfg(feature = "cuda")]
    fn on_cpu(&self) -> Result<Self, PredictError> {
        let options = PredictOptions { gpu: None, ..self.options };
        Predictor::within(self.model, options, self.memory)
    }

    /// Segments a scan: preprocessing, all folds over all tiles, export.
    ///
    /// `channels` are (z, y, x) arrays of the stored values, `spacing` is (z, y, x) in mm.
    ///
    /// # Errors
    /// See [`PredictError`].
    pub fn segment(
        &self,
        channels: Vec<Array3<f32>>,
        spacing: [f64; 3],
        request: SegmentationRequest,
        observer: TileObserver<'_>,
    ) -> Result<Segmentation, PredictError> {
        self.segment_scan(SharedScan::new(self.model, channels, spacing)?, request, observer)
    }

    /// As [`Predictor::segment`], of a scan that was cropped for this model or one that prepares scans as this one does
    /// ([`ModelFolder::prepares_as`]).
    ///
    /// # Errors
    /// See [`PredictError`].
    pub fn segment_scan(
        &self,
        scan: SharedScan,
        request: SegmentationRequest,
        observer: TileObserver<'_>,
    ) -> Result<Segmentation, PredictError> {
        let scan = scan.into_cropped();
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            return match on_gpu::segment(self, gpu, &scan, request, observer) {
                Err(error) if error.is_out_of_gpu_memory() => {
                    tracing::warn!("{error}: computing on the CPU");
                    self.on_cpu()?.segment_cropped(scan, request, observer)
                }
                done => done,
            };
        }
        self.segment_cropped(scan, request, observer)
    }

    fn segment_cropped(
        &self,
        scan: Cropped,
        request: SegmentationRequest,
        observer: TileObserver<'_>,
    ) -> Result<Segmentation, PredictError> {
        let mut export = Export::new(self.model, scan.grid(), scan.target, self.half(), request);
        let mut scan = scan.preprocess(self.model, self.memory)?;
        tracing::info!("preprocessed");
        let shape = scan.shape();
        let patches = self.predict(shape, || scan.take_tensor(), &mut export, observer)?;
        let segmentation = Segmentation { patches, ..export.finish() };
        tracing::info!("predicted and exported");
        Ok(segmentation)
    }

    /// Logits averaged over tiles, mirrored copies and folds. The scan's channels are taken out of it.
    ///
    /// # Errors
    /// See [`PredictError`].
    pub fn logits(
        &self,
        scan: &mut Preprocessed,
        observer: TileObserver<'_>,
    ) -> Result<Logits, PredictError> {
        let shape = scan.shape();
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            let scan_there = on_gpu::Scan::Preprocessed(scan);
            return match on_gpu::logits(self, gpu, scan_there, || self.no_logits(shape), observer) {
                Err(error) if error.is_out_of_gpu_memory() => {
                    tracing::warn!("{error}: computing on the CPU");
                    self.on_cpu()?.logits(scan, observer)
                }
                all => self.with_shape(shape, all?),
            };
        }
        let mut all = self.no_logits(shape);
        self.predict(shape, || scan.take_tensor(), &mut all, observer)?;
        self.with_shape(shape, all)
    }

    /// Logits averaged over tiles, mirrored copies and folds of a scan that several models share, of which this is one
    /// ([`ModelFolder::prepares_as`]).
    ///
    /// # Errors
    /// See [`PredictError`].
    pub fn logits_of(&self, scan: &SharedScan, observer: TileObserver<'_>) -> Result<Logits, PredictError> {
        let shape = scan.shape();
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            let scan_there = on_gpu::Scan::Cropped(scan.cropped());
            return match on_gpu::logits(self, gpu, scan_there, || self.no_logits(shape), observer) {
                Err(error) if error.is_out_of_gpu_memory() => {
                    tracing::warn!("{error}: computing on the CPU");
                    self.on_cpu()?.logits_of(scan, observer)
                }
                all => self.with_shape(shape, all?),
            };
        }
        let image = scan.image(self.model, self.memory)?;
        let mut all = self.no_logits(shape);
        self.predict(shape, || Ok(image), &mut all, observer)?;
        self.with_shape(shape, all)
    }

    /// Takes logits on a grid of this shape.
    fn no_logits(&self, shape: [usize; 3]) -> AllLogits {
        AllLogits { values: Vec::new(), len: shape.iter().product::<usize>() * self.heads() }
    }

    fn with_shape(&self, [z, y, x]: [usize; 3], all: AllLogits) -> Result<Logits, PredictError> {
        let values = Array4::from_shape_vec((z, y, x, self.heads()), all.values);
        Ok(Logits { values: values.map_err(candle_core::Error::wrap)?, half: self.half() })
    }

    /// Gives `reader` the logits of an image of this shape, plane by plane, and returns what the classification head says of each
    /// patch. The image, (channel, z, y, x) flattened, is asked for once there is the memory for everything else.
    fn predict(
        &self,
        [depth, height, width]: [usize; 3],
        image: impl FnOnce() -> candle_core::Result<Tensor>,
        reader: &mut dyn LogitReader,
        observer: TileObserver<'_>,
    ) -> Result<Vec<Patch>, PredictError> {
        let options = self.options;
        let (model, fold_count) = (self.model, self.folds());
        let runner = self.runner()?;
        let patch = model.configuration.patch_size;
        let tiling = Tiling::new([depth, height, width], patch, options.step);
        let bands = bands(&tiling, patch[0], fold_count);
        let kept = [Sums::planes(&bands, reader), height, width];
        self.check_memory(kept, reader.bytes())?;
        let image = image()?;
        let weights = importance_map(patch, options.accumulate);
        let voxels = weights.len();
        let weights = Tensor::from_vec(weights, voxels, &Device::Cpu)?;
        let classes = self.class_sums(tiling.starts.len());
        let mut tiles = Tiles::new(runner, &self.mirrorings, image, &tiling, classes)?;
        let weighting = Weighting { tiling: &tiling, patch, weights };
        let mut sums = Sums::new(weighting, kept, self.heads(), fold_count, options.accumulate)?;
        let total = fold_count * tiling.starts.len();
        let mut done = 0;
        let folds = self.fold_queue();
        thread::scope(|scope| {
            let mut loading = None;
            for number in 0..fold_count {
                let fold = folds.next(number, &mut loading, scope)?;
                tiles.begin_fold();
                for band in &bands {
                    for tile in band.tiles.clone() {
                        tiles.predict(tile, &fold, &sums)?;
                        done += 1;
                        if !observer(TileProgress { done, total }) {
                            return Err(PredictError::Interrupted);
                        }
                    }
                    sums.end_fold(band.end)?;
                    if number + 1 == fold_count {
                        sums.hand_over(band.end, reader)?;
                    }
                }
            }
            Ok::<(), PredictError>(())
        })?;
        Ok(self.patches(tiles.classes(), &tiling))
    }

    /// Sums for what the classification head will say of so many tiles; `None` if the network has no head.
    fn class_sums(&self, tiles: usize) -> Option<ClassSums> {
        self.plan.classifier().map(|_| ClassSums::new(tiles, self.mirrorings.len() * self.folds()))
    }

    /// What the classification head said of each tile; nothing if the network has none.
    fn patches(&self, sums: Option<&ClassSums>, tiling: &Tiling) -> Vec<Patch> {
        let configuration = &self.model.configuration;
        sums.map_or_else(Vec::new, |sums| {
            sums.patches(tiling, configuration.patch_size, configuration.spacing)
        })
    }

    /// Asks for the sums over tiles and folds on a grid of this shape and for what becomes of the logits, and again for the
    /// activations, which were not written to before the first tile.
    fn check_memory(&self, kept: [usize; 3], results: u128) -> Result<(), NotEnoughMemory> {
        let plan = &self.plan;
        let sums = Sums::bytes(kept, self.heads(), self.options.accumulate);
        let tile = plan.logits();
        let tile_sums =
            if self.mirrorings.len() > 1 { bytes(&tile.dims, size_of::<f32>() * tile.channels) } else { 0 };
        let tile_weights = bytes(&tile.dims, size_of::<f32>());
        let asked = activation_bytes(plan) + sums + results + tile_sums + tile_weights;
        self.memory.check("the network's activations and the sums over its tiles", asked)
    }

    fn fold_queue(&self) -> FoldQueue<'_, 'm> {
        FoldQueue { folds: self.shared.unwrap_or(&self.own), count: self.folds(), after: self.after }
    }

    /// Folds that are averaged.
    fn folds(&self) -> usize {
        let all = self.model.folds.len();
        self.options.folds.map_or(all, |first| first.clamp(1, all))
    }

    fn heads(&self) -> usize {
        self.plan.head().classes
    }

    fn half(&self) -> bool {
        self.options.accumulate == Accumulate::Float16
    }
}
