//! A scan on the GPU: normalised and resampled to the network's grid.

use super::launch::{grid, grid_over, launch};
use super::memory::{Address, DeviceMemory};
use super::{Cuda, CudaError};

/// The weights that resample one axis: row `j` weighs the samples `first[j]`, `first[j] + 1`, …
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AxisWeights {
    /// Samples before.
    pub input_len: usize,
    /// First sample of each row.
    pub first: Vec<u32>,
    /// (row, tap)
    pub weights: Vec<f32>,
    /// Nothing is to be done.
    pub is_identity: bool,
}

impl AxisWeights {
    /// Samples afterwards.
    pub fn output_len(&self) -> usize {
        self.first.len()
    }
}

/// Results are clipped to the range of what they were made from: of all, or of the slice across an axis that they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClipTo {
    /// The axis that is treated on its own.
    pub axis: Option<usize>,
    /// The slice that each slice across it comes from.
    pub source: Vec<u32>,
}

/// `(clip(v) − mean) / std`, in the mask if there is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IntensityTransform<'a> {
    /// Lower and upper bound.
    pub clip: Option<[f32; 2]>,
    pub mean: f32,
    pub std: f32,
    /// Not zero where intensities are to be changed.
    pub mask: Option<&'a [u8]>,
}

/// Weights on the GPU.
pub(super) struct DeviceAxis {
    first: DeviceMemory<u32>,
    weights: DeviceMemory<f32>,
    input_len: usize,
    taps: usize,
    pub is_identity: bool,
}

const RESAMPLING: &str = "resampling";

impl DeviceAxis {
    pub fn new(cuda: Cuda, axis: &AxisWeights) -> Result<Self, CudaError> {
        Ok(Self {
            first: cuda.upload(RESAMPLING, &axis.first)?,
            weights: cuda.upload(RESAMPLING, &axis.weights)?,
            input_len: axis.input_len,
            taps: axis.weights.len() / axis.first.len().max(1),
            is_identity: axis.is_identity,
        })
    }

    pub fn output_len(&self) -> usize {
        self.first.len()
    }

    /// Resamples (outer, axis, inner) to the rows from `row` on, `rows` of them.
    pub fn apply(
        &self,
        cuda: Cuda,
        [from, to]: [Address; 2],
        [outer, inner]: [usize; 2],
        [row, rows]: [usize; 2],
    ) -> Result<(), CudaError> {
        debug_assert!(row + rows <= self.output_len(), "rows of an axis");
        let elements = (outer * rows * inner) as u64;
        launch!(
            cuda,
            "resample_axis",
            grid_over(elements, 1),
            from,
            to,
            outer as u64,
            self.input_len as u32,
            rows as u32,
            inner as u64,
            self.first.address().plus(row * size_of::<u32>()),
            self.weights.address().plus(row * self.taps * size_of::<f32>()),
            self.taps as u32
        )
    }
}

/// Ranges that results are clipped to, (slice, channel, {low, high}).
pub(super) struct DeviceRanges {
    ranges: DeviceMemory<f32>,
    source: DeviceMemory<u32>,
    axis: Option<usize>,
    channels: usize,
}

impl DeviceRanges {
    /// The ranges of `data`, (z, y, x, channel).
    pub fn of(
        cuda: Cuda,
        clip: &ClipTo,
        data: Address,
        dims: [usize; 3],
        channels: usize,
    ) -> Result<Self, CudaError> {
        /// Parts that a slice is cut into.
        const PARTS: usize = 256;
        let [outer, slices, inner] = around(clip.axis, dims);
        let keys = slices * channels;
        let parts = (outer * inner).div_ceil(4096).clamp(1, PARTS);
        let partial = cuda.uninitialised::<f32>(RESAMPLING, keys * parts * 2)?;
        let ranges = cuda.uninitialised::<f32>(RESAMPLING, keys * 2)?;
        launch!(
            cuda,
            "range_of_parts",
            grid(keys as u32, parts as u32, 1),
            data,
            partial.address(),
            outer as u64,
            slices as u32,
            inner as u64,
            channels as u32
        )?;
        let blocks = grid(keys as u32, 1, 1);
        launch!(cuda, "range_of_slices", blocks, partial.address(), ranges.address(), parts as u32)?;
        let source = if clip.axis.is_some() { clip.source.as_slice() } else { &[0] };
        Ok(Self { ranges, source: cuda.upload(RESAMPLING, source)?, axis: clip.axis, channels })
    }

    /// Clips results of the grid `dims` (z, y, x), which begin at slice `z` of the whole output.
    pub fn clip(&self, cuda: Cuda, data: Address, dims: [usize; 3], z: usize) -> Result<(), CudaError> {
        let [outer, slices, inner] = around(self.axis, dims);
        let skipped = if self.axis == Some(0) { z } else { 0 };
        debug_assert!(skipped + slices <= self.source.len(), "slices of the output");
        let elements = (outer * slices * inner * self.channels) as u64;
        launch!(
            cuda,
            "clip_to_ranges",
            grid_over(elements, 1),
            data,
            self.ranges.address(),
            self.source.address().plus(skipped * size_of::<u32>()),
            outer as u64,
            slices as u32,
            inner as u64,
            self.channels as u32
        )
    }
}

/// Voxels before, along and after an axis of a grid; without an axis all of it is one slice.
fn around(axis: Option<usize>, [z, y, x]: [usize; 3]) -> [usize; 3] {
    match axis {
        None => [1, 1, z * y * x],
        Some(0) => [1, z, y * x],
        Some(1) => [z, y, x],
        Some(_) => [z * y, x, 1],
    }
}

/// The network's image, (channel, z, y, x) in float32.
pub(crate) struct DeviceImage {
    cuda: Cuda,
    memory: DeviceMemory<f32>,
    dims: [usize; 3],
    channels: usize,
}

const IMAGE: &str = "the scan at the network's spacing";

impl DeviceImage {
    /// Not initialised.
    pub fn new(cuda: Cuda, channels: usize, dims: [usize; 3]) -> Result<Self, CudaError> {
        let voxels: usize = dims.iter().product();
        Ok(Self { cuda, memory: cuda.uninitialised(IMAGE, channels * voxels)?, dims, channels })
    }

    /// Takes a channel, (z, y, x), that was made on the host.
    pub fn put_channel(&self, channel: usize, values: &[f32]) -> Result<(), CudaError> {
        let voxels: usize = self.dims.iter().product();
        if values.len() != voxels || channel >= self.channels {
            let what = format!("channel {channel}: {} voxels for {:?}", values.len(), self.dims);
            return Err(CudaError::Unsupported { what });
        }
        let data = self.cuda.upload(IMAGE, values)?;
        self.cuda.copy(IMAGE, &data, &self.memory, channel * voxels)
    }

    /// Normalises a channel, (z, y, x) on the scan's grid, and resamples it with one operator an axis.
    pub fn set_channel(
        &self,
        channel: usize,
        values: &[f32],
        transform: Option<IntensityTransform<'_>>,
        axes: &[AxisWeights; 3],
        clip: Option<&ClipTo>,
    ) -> Result<(), CudaError> {
        let cuda = self.cuda;
        let mut shape = axes.each_ref().map(|axis| axis.input_len);
        let voxels: usize = shape.iter().product();
        let target = axes.each_ref().map(AxisWeights::output_len);
        if values.len() != voxels || target != self.dims || channel >= self.channels {
            let what = format!("channel {channel}: {} voxels to {target:?} of {:?}", values.len(), self.dims);
            return Err(CudaError::Unsupported { what });
        }
        let mut data = cuda.upload(IMAGE, values)?;
        if let Some(transform) = transform {
            normalise(cuda, &data, transform)?;
        }
        let ranges = match clip {
            Some(clip) => Some(DeviceRanges::of(cuda, clip, data.address(), shape, 1)?),
            None => None,
        };
        for (axis, weights) in axes.iter().enumerate().filter(|(_, w)| !w.is_identity) {
            let on_device = DeviceAxis::new(cuda, weights)?;
            let [outer, _, inner] = around(Some(axis), shape);
            shape[axis] = weights.output_len();
            let resampled = cuda.uninitialised(RESAMPLING, shape.iter().product())?;
            let rows = [0, shape[axis]];
            on_device.apply(cuda, [data.address(), resampled.address()], [outer, inner], rows)?;
            data = resampled;
        }
        if let Some(ranges) = &ranges {
            ranges.clip(cuda, data.address(), shape, 0)?;
        }
        cuda.copy(IMAGE, &data, &self.memory, channel * data.len())
    }

    /// Where it begins.
    pub(super) fn address(&self) -> Address {
        self.memory.address()
    }

    /// Grid (z, y, x).
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }
}

fn normalise(
    cuda: Cuda,
    data: &DeviceMemory<f32>,
    transform: IntensityTransform<'_>,
) -> Result<(), CudaError> {
    let IntensityTransform { clip, mean, std, mask } = transform;
    let mask = match mask {
        Some(mask) if mask.len() == data.len() => Some(cuda.upload("the non-zero mask", mask)?),
        Some(mask) => {
            let what = format!("a mask of {} voxels for {}", mask.len(), data.len());
            return Err(CudaError::Unsupported { what });
        }
        None => None,
    };
    let [lower, upper] = clip.unwrap_or_default();
    let count = data.len() as u64;
    let mask_address = mask.as_ref().map_or(Address::NULL, DeviceMemory::address);
    let clips = u32::from(clip.is_some());
    let blocks = grid_over(count, 1);
    launch!(
        cuda,
        "normalise_intensities",
        blocks,
        data.address(),
        mask_address,
        count,
        clips,
        lower,
        upper,
        mean,
        std
    )
}
