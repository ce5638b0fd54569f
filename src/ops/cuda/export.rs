//! From mean logits to labels and one class's probability on the scan's grid, a slab at a time.

use super::launch::{grid_over, launch};
use super::memory::{Address, DeviceMemory, Staging};
use super::scan::{AxisWeights, ClipTo, DeviceAxis, DeviceRanges};
use super::{Cuda, CudaError};
use std::ops::Range;

/// Resampled logits at a time, at most (unless one slice holds more).
const SLAB_FLOATS: usize = 16 << 20;

const EXPORT: &str = "the logits on the scan's grid";

/// How voxels are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VoxelDecision {
    /// The label of each region, in the order of painting; `None`: a softmax over labels.
    pub paint_order: Option<Vec<u16>>,
    /// The largest logit wins instead of the largest probability.
    pub by_logits: bool,
    /// Resampled logits are rounded to float16 values.
    pub round_to_half: bool,
    /// The head whose probability is kept.
    pub probability_of: Option<usize>,
}

/// Decided slices: labels and probabilities (none if none were asked for), (slice, y, x).
pub(crate) struct Decided<'a> {
    pub slices: Range<usize>,
    pub labels: &'a [u16],
    pub probability: &'a [f32],
}

/// Mean logits on the network's grid, (z, y, x, head).
pub(crate) struct DeviceLogits {
    pub cuda: Cuda,
    pub memory: DeviceMemory<f32>,
    pub dims: [usize; 3],
    pub heads: usize,
}

impl DeviceLogits {
    /// Copies them to the host.
    pub fn read(&self) -> Result<Vec<f32>, CudaError> {
        let mut values = vec![0.0; self.memory.len()];
        self.cuda.read("the logits", &self.memory, &mut values)?;
        Ok(values)
    }

    /// Resamples them with one operator an axis, decides, and hands all slices to `visit`, in order; the GPU works on the next
    /// ones meanwhile.
    pub fn decide(
        &self,
        axes: &[AxisWeights; 3],
        clip: Option<&ClipTo>,
        decision: &VoxelDecision,
        mut visit: impl FnMut(Decided<'_>),
    ) -> Result<(), CudaError> {
        let cuda = self.cuda;
        let [depth, height, width] = axes.each_ref().map(AxisWeights::output_len);
        let slice = height * width;
        let slices = (SLAB_FLOATS / (slice * self.heads).max(1)).clamp(1, depth.max(1));
        let slabs = Slabs::new(self, axes, clip, slices)?;
        let paint = decision.paint_order.as_deref();
        let paint = paint.map(|order| cuda.upload(EXPORT, order)).transpose()?;
        let paint = paint.as_ref();
        let kept = if decision.probability_of.is_some() { slices * slice } else { 0 };
        let mut sides = [Side::new(cuda, slices * slice, kept)?, Side::new(cuda, slices * slice, kept)?];
        let mut before: Option<Range<usize>> = None;
        for (number, start) in (0..depth).step_by(slices).enumerate() {
            let range = start..(start + slices).min(depth);
            let voxels = range.len() * slice;
            let side = &mut sides[number % 2];
            let logits = slabs.resample(range.clone())?;
            decide(cuda, logits, voxels, self.heads, decision, paint, side)?;
            side.labels.1.fetch(&side.labels.0, voxels)?;
            if kept > 0 {
                side.probability.1.fetch(&side.probability.0, voxels)?;
            }
            if let Some(before) = before.replace(range) {
                sides[(number + 1) % 2].show(before, slice, kept > 0, &mut visit)?;
            }
        }
        let last = depth.div_ceil(slices) + 1;
        if let Some(before) = before {
            sides[last % 2].show(before, slice, kept > 0, &mut visit)?;
        }
        cuda.synchronise()
    }
}

/// Results of a slab on both sides: one is filled while the other is read.
struct Side {
    labels: (DeviceMemory<u16>, Staging<u16>),
    probability: (DeviceMemory<f32>, Staging<f32>),
}

impl Side {
    fn new(cuda: Cuda, voxels: usize, kept: usize) -> Result<Self, CudaError> {
        Ok(Self {
            labels: (cuda.uninitialised(EXPORT, voxels)?, Staging::new(cuda, voxels)?),
            probability: (cuda.uninitialised(EXPORT, kept)?, Staging::new(cuda, kept)?),
        })
    }

    fn show(
        &self,
        slices: Range<usize>,
        slice: usize,
        with_probability: bool,
        visit: &mut impl FnMut(Decided<'_>),
    ) -> Result<(), CudaError> {
        let voxels = slices.len() * slice;
        let labels = &self.labels.1.values()?[..voxels];
        let probability = if with_probability { &self.probability.1.values()?[..voxels] } else { &[] };
        visit(Decided { slices, labels, probability });
        Ok(())
    }
}

/// The steps from the network's grid to a slab of the scan's: along z, then y, then x.
struct Slabs<'a> {
    logits: &'a DeviceLogits,
    axes: [DeviceAxis; 3],
    ranges: Option<DeviceRanges>,
    /// Results of the steps for as many slices as a slab has; empty where a step changes nothing.
    results: [DeviceMemory<f32>; 3],
    /// Of the output.
    shape: [usize; 3],
}

impl<'a> Slabs<'a> {
    fn new(
        logits: &'a DeviceLogits,
        axes: &[AxisWeights; 3],
        clip: Option<&ClipTo>,
        slices: usize,
    ) -> Result<Self, CudaError> {
        let DeviceLogits { cuda, memory, dims, heads } = logits;
        let expected = axes.each_ref().map(|axis| axis.input_len);
        if expected != *dims {
            let what = format!("logits of {dims:?}, resampling from {expected:?}");
            return Err(CudaError::Unsupported { what });
        }
        let ranges = match clip {
            Some(clip) => Some(DeviceRanges::of(*cuda, clip, memory.address(), *dims, *heads)?),
            None => None,
        };
        let shape = axes.each_ref().map(AxisWeights::output_len);
        let after = [[slices, dims[1], dims[2]], [slices, shape[1], dims[2]], [slices, shape[1], shape[2]]];
        let result = |axis: usize| {
            let len = if axes[axis].is_identity { 0 } else { after[axis].iter().product::<usize>() * heads };
            cuda.uninitialised(EXPORT, len)
        };
        let [z, y, x] = axes;
        let axes = [DeviceAxis::new(*cuda, z)?, DeviceAxis::new(*cuda, y)?, DeviceAxis::new(*cuda, x)?];
        let results = [result(0)?, result(1)?, result(2)?];
        Ok(Self { logits, axes, ranges, results, shape })
    }

    /// The logits of these slices, valid until the next ones are asked for.
    fn resample(&self, slices: Range<usize>) -> Result<Address, CudaError> {
        let DeviceLogits { cuda, memory, dims, heads } = self.logits;
        let [z, y, x] = &self.axes;
        let count = slices.len();
        let plane = dims[1] * dims[2] * heads;
        let mut at = memory.address().plus(slices.start * plane * size_of::<f32>());
        if !z.is_identity {
            let to = self.results[0].address();
            z.apply(*cuda, [memory.address(), to], [1, plane], [slices.start, count])?;
            at = to;
        }
        if !y.is_identity {
            let to = self.results[1].address();
            y.apply(*cuda, [at, to], [count, dims[2] * heads], [0, y.output_len()])?;
            at = to;
        }
        if !x.is_identity {
            let to = self.results[2].address();
            x.apply(*cuda, [at, to], [count * self.shape[1], *heads], [0, x.output_len()])?;
            at = to;
        }
        if let Some(ranges) = &self.ranges {
            ranges.clip(*cuda, at, [count, self.shape[1], self.shape[2]], slices.start)?;
        }
        Ok(at)
    }
}

fn decide(
    cuda: Cuda,
    logits: Address,
    voxels: usize,
    heads: usize,
    decision: &VoxelDecision,
    paint: Option<&DeviceMemory<u16>>,
    to: &Side,
) -> Result<(), CudaError> {
    let head = decision.probability_of.map_or(-1, |head| head as i32);
    let paint = paint.map_or(Address::NULL, DeviceMemory::address);
    launch!(
        cuda,
        "decide_voxels",
        grid_over(voxels as u64, 1),
        logits,
        voxels as u64,
        heads as u32,
        paint,
        u32::from(decision.by_logits),
        u32::from(decision.round_to_half),
        head,
        to.labels.0.address(),
        to.probability.0.address()
    )
}
