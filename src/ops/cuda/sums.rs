//! Tiles on the GPU: cutting them out of the image, and the sums over mirrorings, tiles and folds.

use super::head::CudaHead;
use super::launch::{grid_over, launch};
use super::layers::elements;
use super::memory::{Address, DeviceMemory};
use super::scan::DeviceImage;
use super::value::{DeviceValue, padded_channels};
use super::{Cuda, CudaError};
use crate::ops::CudaPrecision;
use crate::ops::{Mirroring, ValueShape};
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use half::f16;

/// One run of the network: a tile and a mirroring, as the kernels read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Job {
    start: [i32; 3],
    mirrored: u32,
}

/// A grid (z, y, x), as the kernels read it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct GridSize([u32; 3]);

// SAFETY: both are what the kernels of tiles.cuh declare, without padding.
#[expect(unsafe_code, reason = "kernels take arguments by their bytes")]
unsafe impl DeviceRepr for Job {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "kernels take arguments by their bytes")]
unsafe impl DeviceRepr for GridSize {}

impl GridSize {
    pub fn new(dims: [usize; 3]) -> Self {
        Self(dims.map(|n| n as u32))
    }
}

fn job(start: [isize; 3], mirroring: Mirroring) -> Job {
    let mirrored = mirroring.iter().enumerate().map(|(axis, &m)| u32::from(m) << axis).sum();
    Job { start: start.map(|s| s as i32), mirrored }
}

/// The runs of the network that are done at once: at most so many tiles and mirrorings.
pub(crate) struct TileBatch {
    cuda: Cuda,
    tile: ValueShape,
    jobs: DeviceMemory<Job>,
}

impl TileBatch {
    /// For at most `capacity` runs of a network with this input.
    pub fn new(cuda: Cuda, tile: ValueShape, capacity: usize) -> Result<Self, CudaError> {
        Ok(Self { cuda, tile, jobs: cuda.uninitialised("a batch of tiles", capacity)? })
    }

    /// Cuts these tiles, mirrored, out of the image into the network's input.
    pub fn gather(
        &mut self,
        image: &DeviceImage,
        runs: &[([isize; 3], Mirroring)],
        input: DeviceValue,
    ) -> Result<(), CudaError> {
        let jobs: Vec<Job> = runs.iter().map(|&(start, mirroring)| job(start, mirroring)).collect();
        self.cuda.write("a batch of tiles", &mut self.jobs, &jobs)?;
        let (cuda, tile) = (self.cuda, self.tile);
        let input = input.with(elements(tile, runs.len()), "gather_tiles")?;
        let name = cuda.kernel("gather_tiles_f16", "gather_tiles_f32");
        let blocks = grid_over(tile.voxels() as u64, runs.len());
        launch!(
            cuda,
            name,
            blocks,
            image.address(),
            self.jobs.address(),
            input,
            GridSize::new(image.dims()),
            GridSize::new(tile.dims),
            image.channels() as u32,
            padded_channels(tile.channels) as u32
        )
    }
}

/// Which runs of a batch are copies of one tile, and which others there are of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copies {
    /// The first of them in the batch, and how many.
    pub first: usize,
    pub count: usize,
    /// Copies of the tile in all.
    pub predictions: usize,
    /// Copies of it were in batches before.
    pub continued: bool,
    /// Copies of it are in batches to come.
    pub unfinished: bool,
}

/// The sum of one tile's logits over mirrorings, (tile voxel, class), and the weights of its voxels.
pub(crate) struct TileSums {
    sum: DeviceMemory<f32>,
    weights: DeviceMemory<f32>,
    dims: [usize; 3],
}

impl TileSums {
    /// For tiles of this grid, whose voxels have these weights (z, y, x); `partial` where a tile's copies may be in several
    /// batches, or its sum is wanted.
    pub fn new(cuda: Cuda, logits: ValueShape, weights: &[f32], partial: bool) -> Result<Self, CudaError> {
        let sum =
            cuda.uninitialised("the sum over mirrorings", if partial { logits.data_len() } else { 0 })?;
        Ok(Self { sum, weights: cuda.upload("the tiles' weights", weights)?, dims: logits.dims })
    }

    /// Copies the sum of the tile that was added last to the host.
    pub fn read(&self, cuda: Cuda, to: &mut [f32]) -> Result<(), CudaError> {
        cuda.read("the sum over mirrorings", &self.sum, to)
    }

    /// Adds the logits of copies of a tile to the tile's sum, without weighing it.
    pub fn add(
        &self,
        head: &CudaHead,
        features: DeviceValue,
        batch: &TileBatch,
        copies: Copies,
    ) -> Result<(), CudaError> {
        let copies = Copies { unfinished: true, ..copies };
        // The image is not written to: any will do.
        self.launch(
            head,
            features,
            batch,
            copies,
            Target { sums: Address::NULL, half: false, image: self.dims },
        )
    }

    fn launch(
        &self,
        head: &CudaHead,
        features: DeviceValue,
        batch: &TileBatch,
        copies: Copies,
        to: Target,
    ) -> Result<(), CudaError> {
        let cuda = head.cuda;
        let tile = ValueShape { dims: self.dims, channels: head.classes() };
        let Copies { first, count, predictions, continued, unfinished } = copies;
        let fits = (first + count) <= batch.jobs.len()
            && head.shape.dims == self.dims
            && (!(continued || unfinished) || self.sum.len() == tile.data_len());
        if !fits {
            let what = format!("accumulate_logits: {copies:?} of a batch of {}", batch.jobs.len());
            return Err(CudaError::Unsupported { what });
        }
        let features = features.with(elements(head.shape, first + count), "accumulate_logits")?;
        let name = match (cuda.precision(), to.half) {
            (CudaPrecision::F16, false) => "accumulate_logits_f16_f32",
            (CudaPrecision::F16, true) => "accumulate_logits_f16_f16",
            (CudaPrecision::F32, false) => "accumulate_logits_f32_f32",
            (CudaPrecision::F32, true) => "accumulate_logits_f32_f16",
        };
        launch!(
            cuda,
            name,
            grid_over(tile.voxels() as u64, 1),
            features,
            head.weight.address(),
            head.bias.address(),
            head.classes() as u32,
            padded_channels(head.shape.channels) as u32,
            batch.jobs.address(),
            first as u32,
            count as u32,
            predictions as u32,
            u32::from(continued),
            u32::from(unfinished),
            self.sum.address(),
            self.weights.address(),
            to.sums,
            GridSize::new(to.image),
            GridSize::new(self.dims)
        )
    }
}

/// What a tile's mean is added to.
#[derive(Clone, Copy)]
struct Target {
    sums: Address,
    half: bool,
    image: [usize; 3],
}

/// Sums of weighted logits and of weights over a whole image.
pub(crate) struct DeviceSums {
    cuda: Cuda,
    dims: [usize; 3],
    heads: usize,
    folds: usize,
    sums: Precise,
}

#[expect(clippy::large_enum_variant, reason = "there is one for a whole scan")]
/// Sums in float32, or as nnU-Net has them: rounded to float16 after every addition.
enum Precise {
    Single {
        logits: DeviceMemory<f32>,
        weights: DeviceMemory<f32>,
    },
    Half {
        fold: DeviceMemory<f16>,
        weights: DeviceMemory<f16>,
        /// Sum over the folds that have ended.
        logits: DeviceMemory<f16>,
        overflow: DeviceMemory<i32>,
    },
}

/// Float16 sums became infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

const SUMS: &str = "the sums over tiles and folds";

impl DeviceSums {
    /// Zeros, for an image of this grid.
    pub fn new(
        cuda: Cuda,
        dims: [usize; 3],
        heads: usize,
        folds: usize,
        half: bool,
    ) -> Result<Self, CudaError> {
        let voxels: usize = dims.iter().product();
        let sums = if half {
            Precise::Half {
                fold: cuda.zeros(SUMS, voxels * heads)?,
                weights: cuda.zeros(SUMS, voxels)?,
                logits: cuda.uninitialised(SUMS, voxels * heads)?,
                overflow: cuda.zeros(SUMS, 1)?,
            }
        } else {
            Precise::Single { logits: cuda.zeros(SUMS, voxels * heads)?, weights: cuda.zeros(SUMS, voxels)? }
        };
        Ok(Self { cuda, dims, heads, folds, sums })
    }

    /// Counts the weights of a tile that starts there.
    pub fn count(&self, tile: &TileSums, start: [isize; 3]) -> Result<(), CudaError> {
        let (name, sums) = match &self.sums {
            Precise::Single { weights, .. } => ("count_weights_f32", weights.address()),
            Precise::Half { weights, .. } => ("count_weights_f16", weights.address()),
        };
        let voxels: usize = tile.dims.iter().product();
        launch!(
            self.cuda,
            name,
            grid_over(voxels as u64, 1),
            tile.weights.address(),
            sums,
            job(start, [false; 3]),
            GridSize::new(self.dims),
            GridSize::new(tile.dims)
        )
    }

    /// Adds the logits of copies of a tile: to the tile's sum, and with the last ones, weighted, to the image's.
    pub fn add(
        &self,
        tile: &TileSums,
        head: &CudaHead,
        features: DeviceValue,
        batch: &TileBatch,
        copies: Copies,
    ) -> Result<(), CudaError> {
        if head.classes() != self.heads {
            let what = format!("{} classes for sums of {}", head.classes(), self.heads);
            return Err(CudaError::Unsupported { what });
        }
        let (sums, half) = match &self.sums {
            Precise::Single { logits, .. } => (logits.address(), false),
            Precise::Half { fold, .. } => (fold.address(), true),
        };
        tile.launch(head, features, batch, copies, Target { sums, half, image: self.dims })
    }

    /// Ends fold number `fold`, from 0.
    pub fn end_fold(&self, fold: usize) -> Result<(), CudaError> {
        let Precise::Half { fold: sums, weights, logits, overflow } = &self.sums else { return Ok(()) };
        launch!(
            self.cuda,
            "end_fold_f16",
            grid_over(sums.len() as u64, 1),
            sums.address(),
            weights.address(),
            logits.address(),
            weights.len() as u64,
            self.heads as u32,
            u32::from(fold == 0),
            overflow.address()
        )
    }

    /// The mean logits, (image voxel, class), once all folds have ended.
    pub fn into_means(self) -> Result<Result<DeviceMemory<f32>, Overflow>, CudaError> {
        let (cuda, folds) = (self.cuda, self.folds as f32);
        match self.sums {
            Precise::Single { logits, weights } => {
                let blocks = grid_over(logits.len() as u64, 1);
                let (voxels, heads) = (weights.len() as u64, self.heads as u32);
                let address = logits.address();
                launch!(cuda, "mean_of_sums_f32", blocks, address, weights.address(), voxels, heads, folds)?;
                Ok(Ok(logits))
            }
            Precise::Half { fold, weights, logits, overflow } => {
                let mut overflowed = [0];
                cuda.read(SUMS, &overflow, &mut overflowed)?;
                if overflowed != [0] {
                    return Ok(Err(Overflow));
                }
                drop((fold, weights));
                let means = cuda.uninitialised(SUMS, logits.len())?;
                let count = logits.len() as u64;
                let blocks = grid_over(count, 1);
                launch!(cuda, "mean_of_logits_f16", blocks, logits.address(), means.address(), count, folds)?;
                Ok(Ok(means))
            }
        }
    }
}
