//! Prediction on a GPU: from the cropped scan to labels and probability nothing but the results comes back.
//!
//! Several runs of the network, tiles and their mirrored copies, are one batch. How many is decided from the memory that is free;
//! where it turns out not to be enough the batch is halved, then the scan is preprocessed and its sums are kept on the host,
//! then the caller is told.

mod receiver;
mod tiles;

use super::folds::Folds;
use super::{AllLogits, Cropped, LogitReader, Patch, PredictError, Predictor, Preprocessed, TileObserver};
use crate::imaging::memory::bytes;
use crate::network::{GpuRunner, Weights, sample_needs};
use crate::nnunet::export::{Export, Segmentation, SegmentationRequest};
use crate::nnunet::preprocessing::intensity_map;
use crate::nnunet::resampling::GridChange;
use crate::nnunet::sliding_window::{Tiling, importance_map};
use crate::ops::cuda::{Copies, DeviceImage, DeviceLogits, IntensityTransform, TileBatch, TileSums};
use crate::ops::{Cuda, CudaError};
use ndarray::Array4;
use receiver::{Receiver, weights_of};
use std::time::Duration;
use tiles::Tiles;

/// Voxels of a batch beyond which a GPU is busy: more copies at once would take memory and no less time.
const BUSY: usize = 1 << 24;

/// Part of the free memory that a batch is planned to fill, in percent: drivers and libraries take some for themselves.
const FILLED: u128 = 90;

/// Bytes that are left for the convolutions' workspace, or a part of the free memory where that is less.
const WORKSPACE: u128 = 256 << 20;
const WORKSPACE_PART: u128 = 4;

/// Segments a cropped scan.
pub(super) fn segment(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    scan: &Cropped,
    request: SegmentationRequest,
    observer: TileObserver<'_>,
) -> Result<Segmentation, PredictError> {
    let new = || Export::new(predictor.model, scan.grid(), scan.target, predictor.half(), request);
    predictor.memory.check("labels and probability", new().bytes())?;
    let (export, patches) = OnGpu { predictor, gpu, scan: Scan::Cropped(scan) }.run(new, observer)?;
    Ok(Segmentation { patches, ..export.finish() })
}

/// Mean logits of a scan.
pub(super) fn logits(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    scan: Scan<'_>,
    new: impl Fn() -> AllLogits,
    observer: TileObserver<'_>,
) -> Result<AllLogits, PredictError> {
    Ok(OnGpu { predictor, gpu, scan }.run(new, observer)?.0)
}

/// The network's raw output on one tile.
pub(super) fn raw_tile(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    scan: &Preprocessed,
    start: [isize; 3],
) -> Result<Vec<f32>, PredictError> {
    let image = upload(gpu, scan)?;
    run_once(predictor, gpu, &image, start, 1)
}

/// Runs the first fold once on zeros, on as many copies as a scan with many tiles would have at once.
pub(super) fn warm_up(predictor: &Predictor<'_>, gpu: Cuda) -> Result<(), PredictError> {
    let tile = predictor.plan.operand(predictor.plan.input()).shape;
    let image = DeviceImage::new(gpu, tile.channels, tile.dims)?;
    for channel in 0..tile.channels {
        image.put_channel(channel, &vec![0.0; tile.voxels()])?;
    }
    let batch = first_batch(predictor, gpu, tile.voxels(), usize::MAX)?;
    run_once(predictor, gpu, &image, [0; 3], batch).map(|_| gpu.remember_algorithms())
}

fn run_once(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    image: &DeviceImage,
    start: [isize; 3],
    samples: usize,
) -> Result<Vec<f32>, PredictError> {
    let plan = &predictor.plan;
    let fold = predictor.fold_queue().first()?;
    let mut runner = GpuRunner::new(plan.clone(), gpu, samples)?;
    let mut batch = TileBatch::new(gpu, plan.operand(plan.input()).shape, samples)?;
    let logits = plan.logits();
    let sums = TileSums::new(gpu, logits, &vec![1.0; logits.voxels()], true)?;
    batch.gather(image, &vec![(start, [false; 3]); samples], runner.input()?)?;
    runner.run(&fold)?;
    let copies = Copies { first: 0, count: 1, predictions: 1, continued: false, unfinished: true };
    sums.add(fold.head().on_gpu()?, runner.features()?, &batch, copies)?;
    let mut values = vec![0.0; logits.data_len()];
    sums.read(gpu, &mut values)?;
    Ok(values)
}

/// What one run of the network takes, of as many as a scan with many tiles would have at once, after a first that chooses
/// algorithms.
pub(super) fn time_run(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    fold: &Weights,
    clock: &dyn Fn() -> Duration,
) -> Result<Duration, PredictError> {
    let plan = &predictor.plan;
    let samples = first_batch(predictor, gpu, plan.operand(plan.input()).shape.voxels(), usize::MAX)?;
    let mut runner = GpuRunner::new(plan.clone(), gpu, samples)?;
    let mut time = Duration::ZERO;
    for _ in 0..2 {
        let began = clock();
        runner.run(fold)?;
        gpu.synchronise()?;
        time = clock().saturating_sub(began);
    }
    gpu.remember_algorithms();
    Ok(time / u32::try_from(samples).unwrap_or(u32::MAX))
}

/// The scan, preprocessed or not yet.
#[derive(Clone, Copy)]
pub(super) enum Scan<'a> {
    Cropped(&'a Cropped),
    Preprocessed(&'a Preprocessed),
}

impl Scan<'_> {
    fn shape(&self) -> [usize; 3] {
        match self {
            Self::Cropped(scan) => scan.target,
            Self::Preprocessed(scan) => scan.shape(),
        }
    }
}

/// Where the sums are kept, and how many runs of the network are one batch.
#[derive(Debug, Clone, Copy)]
struct Setting {
    batch: usize,
    /// Scan and sums on the host: only the network's activations, the image and a tile's sum are on the GPU.
    frugal: bool,
}

/// A batch of at most `most` of `all` runs: a power of two times the copies of a tile, or where those do not fit a power of two.
///
/// There are few such sizes, and each is measured once.
fn batch_size(most: usize, copies: usize, all: usize) -> usize {
    let unit = if most >= copies { copies } else { 1 };
    let enough = all.div_ceil(unit).max(1).checked_next_power_of_two().unwrap_or(usize::MAX);
    unit << (most / unit).max(1).min(enough).ilog2()
}

/// As many of `all` runs at once as keep the GPU busy and fit beside an image of so many voxels and its sums.
fn first_batch(
    predictor: &Predictor<'_>,
    gpu: Cuda,
    voxels: usize,
    all: usize,
) -> Result<usize, PredictError> {
    let (plan, network) = (&predictor.plan, &predictor.model.configuration.network);
    let (sample, most) = sample_needs(plan, gpu)?;
    let free = u128::from(gpu.free_memory()?) * FILLED / 100;
    let per_voxel = 4 * (network.unet().input_channels + predictor.heads() + 1) as u128;
    let parameters = network.parameters();
    let parameters: usize = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    // The fold that computes and the one after it.
    let weights = 2 * (parameters * gpu.precision().bytes()) as u128;
    let workspace = WORKSPACE.min(free / WORKSPACE_PART);
    let left = free.saturating_sub(voxels as u128 * per_voxel + weights + workspace);
    let fit = usize::try_from(left / (sample as u128).max(1)).unwrap_or(usize::MAX);
    let copies = predictor.mirrorings.len();
    let busy = BUSY.div_ceil(plan.logits().voxels().max(1)).next_multiple_of(copies);
    let batch = batch_size(fit.min(most).min(busy), copies, all);
    tracing::debug!(batch, fit, busy, sample, "tiles and mirrored copies at once");
    Ok(batch)
}

struct OnGpu<'a, 'm> {
    predictor: &'a Predictor<'m>,
    gpu: Cuda,
    scan: Scan<'a>,
}

impl OnGpu<'_, '_> {
    /// Predicts with less and less memory until there is enough: who took the logits, and what the classification head says.
    fn run<R: Receiver>(
        &self,
        new: impl Fn() -> R,
        observer: TileObserver<'_>,
    ) -> Result<(R, Vec<Patch>), PredictError> {
        let mut setting = self.first_setting()?;
        loop {
            let mut receiver = new();
            let done = self.attempt(setting, &mut receiver, observer);
            // What computes may still use what the attempt took.
            let ended = self.gpu.synchronise();
            let error = match done {
                Ok(patches) => {
                    ended?;
                    self.gpu.remember_algorithms();
                    return Ok((receiver, patches));
                }
                Err(error) if error.is_out_of_gpu_memory() => error,
                Err(error) => return Err(error),
            };
            self.gpu.release_scratch()?;
            setting = match setting {
                Setting { batch, frugal: false } if batch > 1 => {
                    let half = batch / 2;
                    tracing::warn!("{error}: trying again with {half} tiles at once instead of {batch}");
                    Setting { batch: half, ..setting }
                }
                Setting { frugal: false, .. } => {
                    let queue = self.predictor.fold_queue();
                    queue.folds.release();
                    queue.after.map(Folds::release);
                    tracing::warn!("{error}: trying again with the sums on the host");
                    Setting { batch: 1, frugal: true }
                }
                Setting { frugal: true, .. } => return Err(error),
            };
        }
    }

    /// As many runs at once as keep the GPU busy and fit into the memory that is free.
    fn first_setting(&self) -> Result<Setting, PredictError> {
        let all = self.tiling().starts.len() * self.predictor.mirrorings.len();
        let voxels = self.scan.shape().iter().product();
        let batch = first_batch(self.predictor, self.gpu, voxels, all)?;
        Ok(Setting { batch, frugal: false })
    }

    fn tiling(&self) -> Tiling {
        let patch = self.predictor.model.configuration.patch_size;
        Tiling::new(self.scan.shape(), patch, self.predictor.options.step)
    }

    fn attempt<R: Receiver>(
        &self,
        setting: Setting,
        receiver: &mut R,
        observer: TileObserver<'_>,
    ) -> Result<Vec<Patch>, PredictError> {
        let Self { predictor, gpu, .. } = self;
        let plan = &predictor.plan;
        let image = if setting.frugal { self.image_from_host()? } else { self.image()? };
        gpu.synchronise()?;
        tracing::info!("preprocessed");
        let tiling = self.tiling();
        let classified = tiling.starts.len();
        let weights = importance_map(predictor.model.configuration.patch_size, predictor.options.accumulate);
        let partial = setting.frugal || !setting.batch.is_multiple_of(predictor.mirrorings.len());
        let tiles = Tiles {
            on: self,
            image,
            tiling,
            batch: TileBatch::new(*gpu, plan.operand(plan.input()).shape, setting.batch)?,
            sums: TileSums::new(*gpu, plan.logits(), &weights, partial)?,
            runner: GpuRunner::new(plan.clone(), *gpu, setting.batch)?,
            marks: [None, None],
            classes: predictor.class_sums(classified),
        };
        let patches = if setting.frugal {
            let patches = tiles.with_sums_on_host(&weights, receiver, observer)?;
            tracing::info!("predicted");
            patches
        } else {
            let (logits, patches) = tiles.with_sums_on_gpu(observer)?;
            gpu.synchronise()?;
            tracing::info!("predicted");
            if let Err(error) = receiver.take_all(&logits) {
                self.export_on_host(error, &logits, receiver)?;
            }
            patches
        };
        tracing::info!("exported");
        Ok(patches)
    }

    /// Hands over logits that the GPU had not the memory to make labels of.
    fn export_on_host<R: Receiver>(
        &self,
        error: CudaError,
        logits: &DeviceLogits,
        receiver: &mut R,
    ) -> Result<(), PredictError> {
        if !error.is_out_of_memory() {
            return Err(error.into());
        }
        tracing::warn!("{error}: exporting on the host");
        let ([z, y, x], heads) = (logits.dims, logits.heads);
        self.predictor.memory.check("the logits", bytes(&logits.dims, size_of::<f32>() * heads))?;
        let values = Array4::from_shape_vec((z, y, x, heads), logits.read()?);
        receiver.take(0, values.map_err(candle_core::Error::wrap)?.view());
        Ok(())
    }

    /// Normalises and resamples the scan on the GPU.
    fn image(&self) -> Result<DeviceImage, PredictError> {
        let scan = match self.scan {
            Scan::Cropped(scan) => scan,
            Scan::Preprocessed(scan) => return upload(self.gpu, scan),
        };
        let configuration = &self.predictor.model.configuration;
        let shape = scan.crop.shape();
        let change = GridChange::new(
            shape,
            scan.target,
            scan.spacing,
            configuration.spacing,
            &configuration.data_resampling,
        );
        let (axes, clip) = weights_of(&change);
        let mask: Option<Vec<u8>> =
            scan.mask.as_ref().map(|mask| mask.iter().map(|&inside| u8::from(inside)).collect());
        let image = DeviceImage::new(self.gpu, scan.channels.len(), scan.target)?;
        for (number, (channel, normalization)) in
            scan.channels.iter().zip(&configuration.normalization).enumerate()
        {
            let map = intensity_map(normalization, channel, scan.mask.as_ref())?;
            let transform = map.map(|map| IntensityTransform {
                clip: map.clip,
                mean: map.mean,
                std: map.std,
                mask: mask.as_deref().filter(|_| map.masked),
            });
            let values = channel.as_standard_layout();
            let values = values.as_slice().unwrap_or_default();
            image.set_channel(number, values, transform, &axes, clip.as_ref())?;
        }
        Ok(image)
    }

    /// The scan as the CPU preprocesses it.
    fn image_from_host(&self) -> Result<DeviceImage, PredictError> {
        match self.scan {
            Scan::Cropped(scan) => {
                let voxels = bytes(&scan.crop.shape(), size_of::<f32>());
                self.predictor.memory.check("a copy of the scan", voxels * scan.channels.len() as u128)?;
                let scan = scan.clone().preprocess(self.predictor.model, self.predictor.memory)?;
                upload(self.gpu, &scan)
            }
            Scan::Preprocessed(scan) => upload(self.gpu, scan),
        }
    }
}

fn upload(gpu: Cuda, scan: &Preprocessed) -> Result<DeviceImage, PredictError> {
    let shape = scan.shape();
    let image = DeviceImage::new(gpu, scan.channels.len(), shape)?;
    for (number, channel) in scan.channels.iter().enumerate() {
        let values = channel.as_standard_layout();
        image.put_channel(number, values.as_slice().unwrap_or_default())?;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_few_sizes() {
        assert_eq!(batch_size(10, 1, 54), 8);
        assert_eq!([8, 15, 16, 31, 300].map(|most| batch_size(most, 8, 432)), [8, 8, 16, 16, 256]);
        assert_eq!(batch_size(300, 8, 8 * 3), 32);
        assert_eq!(batch_size(usize::MAX, 8, 16), 16);
        assert_eq!([0, 1, 3, 7].map(|most| batch_size(most, 8, 16)), [1, 1, 2, 4]);
        assert_eq!([batch_size(0, 1, 1), batch_size(40, 8, usize::MAX)], [1, 32]);
    }
}
