//! 3-D convolution and transposed convolution on the CPU.
//!
//! The output is cut into tasks of a few rows of one z-slice each, by its shape alone, so that results do not
//! depend on the number of threads. A task first copies the input rows it needs, activated and padded along x,
//! into a scratch buffer of its own; rows outside the image are left out of the sum instead of being padded.

use super::activation::{Affine, Moments};
use super::kernel::{MAX_SEGMENTS, PackedWeights, Segment, Vectorised, dispatch, row};
use super::lanes::Lanes;
use crate::ops::value::{Activation, ActivationMut};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Floats of scratch that a task may take: half of a usual second-level cache.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A convolution as the CPU runs it.
pub(in crate::ops) struct CpuConv {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    /// Segments are numbered (source, kz, ky).
    pub weights: PackedWeights,
}

impl CpuConv {
    /// Writes the raw output and returns its moments per channel if they are asked for.
    pub fn run(
        &self,
        sources: &[Activation<'_>],
        out_dims: [usize; 3],
        out: &mut ActivationMut<'_>,
        moments: bool,
    ) -> Option<Moments> {
        let [_, height, width] = out_dims;
        let row_len = width * self.weights.out_channels;
        let rows = self.rows_per_task(sources, out_dims);
        let affines: Vec<_> = sources.iter().map(Affine::of).collect();
        let parts: Vec<Option<Moments>> = out
            .raw
            .par_chunks_mut(height * row_len)
            .enumerate()
            .flat_map(|(z, slice)| {
                slice.par_chunks_mut(rows * row_len).enumerate().map(move |(part, out)| (z, part * rows, out))
            })
            .map(|(z, y, out)| {
                let rows = y..y + out.len() / row_len;
                let affines = &affines;
                SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                    let task =
                        ConvTask { conv: self, sources, affines, z, rows, width, out, moments, scratch };
                    dispatch(self.weights.isa, task)
                })
            })
            .collect();
        moments.then(|| {
            let none = Moments::empty(self.weights.out_channels);
            parts.into_iter().flatten().fold(none, |all, part| all.merge(&part))
        })
    }

    /// Output rows per task: as many as scratch holds, but few enough for all cores to find work.
    fn rows_per_task(&self, sources: &[Activation<'_>], [depth, height, _]: [usize; 3]) -> usize {
        let per_row: usize = sources.iter().map(|s| self.kernel[0] * self.padded_row(s)).sum();
        let fitting = (SCRATCH / per_row.max(1)).saturating_sub(self.kernel[1]) / self.stride[1];
        let spread = (depth * height).div_ceil(16);
        fitting.min(spread).clamp(1, height)
    }

    /// Floats of one padded input row.
    fn padded_row(&self, source: &Activation<'_>) -> usize {
        let shape = source.operand.shape;
        (shape.dims[2] + self.kernel[2] - 1) * shape.channels
    }
}

/// A few output rows of one slice.
struct ConvTask<'a> {
    conv: &'a CpuConv,
    sources: &'a [Activation<'a>],
    affines: &'a [Affine],
    z: usize,
    rows: Range<usize>,
    width: usize,
    out: &'a mut [f32],
    moments: bool,
    scratch: &'a mut Vec<f32>,
}

/// The input indices that taps `0..kernel` of output `position` read, cut to the image, with the first such tap.
fn taps(position: usize, kernel: usize, stride: usize, size: usize) -> (Range<usize>, usize) {
    let start = (position * stride) as isize - (kernel / 2) as isize;
    let first_tap = (-start).max(0) as usize;
    let from = start.max(0) as usize;
    let to = ((start + kernel as isize).max(0) as usize).min(size);
    (from..to.max(from), first_tap)
}

/// Where the copied rows of one source lie in scratch.
#[derive(Clone, Copy)]
struct Copied {
    at: usize,
    z_from: usize,
    y_from: usize,
    height: usize,
    row: usize,
    end: usize,
}

impl Vectorised for ConvTask<'_> {
    type Output = Option<Moments>;

    // No closure around the kernel: it would be a function without the target feature.
    #[inline(always)]
    unsafe fn run<W: Lanes, N: Lanes>(mut self) -> Option<Moments> {
        let all = std::mem::take(&mut self.out);
        let mut scratch = std::mem::take(self.scratch);
        let mut copied = [Copied { at: 0, z_from: 0, y_from: 0, height: 0, row: 0, end: 0 }; 2];
        let mut end = 0;
        for (s, copied) in copied.iter_mut().enumerate().take(self.sources.len()) {
            *copied = self.copy_rows(s, end, &mut scratch);
            end = copied.end;
        }
        let row_len = self.width * self.conv.weights.out_channels;
        let mut segments = [Segment { input: 0, step: 0, weights: 0 }; MAX_SEGMENTS];
        for (y, out) in self.rows.clone().zip(all.chunks_mut(row_len)) {
            let used = self.segments(y, &copied, &mut segments);
            // SAFETY: the instruction set is the caller's promise.
            unsafe { row::<W, N>(&self.conv.weights, &segments[..used], &scratch, self.width, out) };
        }
        *self.scratch = scratch;
        self.moments.then(|| Moments::of(all, self.conv.weights.out_channels))
    }
}

impl ConvTask<'_> {
    /// Copies what this task reads of source `s` to `scratch[at..]`.
    #[inline(always)]
    fn copy_rows(&self, s: usize, at: usize, scratch: &mut Vec<f32>) -> Copied {
        let source = &self.sources[s];
        let [depth, height, width] = source.operand.shape.dims;
        let channels = source.operand.shape.channels;
        let [kernel_z, kernel_y, kernel_x] = self.conv.kernel;
        let (planes, _) = taps(self.z, kernel_z, self.conv.stride[0], depth);
        let (first, _) = taps(self.rows.start, kernel_y, self.conv.stride[1], height);
        let (last, _) = taps(self.rows.end - 1, kernel_y, self.conv.stride[1], height);
        let lines = first.start..last.end.max(first.start);
        let row = self.conv.padded_row(source);
        let margin = kernel_x / 2 * channels;
        let end = at + planes.len() * lines.len() * row;
        if scratch.len() < end {
            scratch.resize(end, 0.0);
        }
        let copied = Copied { at, z_from: planes.start, y_from: lines.start, height: lines.len(), row, end };
        let mut to = at;
        for z in planes {
            for y in lines.clone() {
                let from = (z * height + y) * width * channels;
                let raw = &source.raw[from..from + width * channels];
                let line = &mut scratch[to..to + row];
                line[..margin].fill(0.0);
                line[margin + raw.len()..].fill(0.0);
                self.affines[s].apply(raw, &mut line[margin..margin + raw.len()]);
                to += row;
            }
        }
        copied
    }

    /// Lists the segments that output row `y` sums over; returns how many.
    #[inline(always)]
    fn segments(&self, y: usize, copied: &[Copied; 2], list: &mut [Segment; MAX_SEGMENTS]) -> usize {
        let [kernel_z, kernel_y, _] = self.conv.kernel;
        let mut used = 0;
        for (s, source) in self.sources.iter().enumerate() {
            let shape = source.operand.shape;
            let (planes, first_kz) = taps(self.z, kernel_z, self.conv.stride[0], shape.dims[0]);
            let (lines, first_ky) = taps(y, kernel_y, self.conv.stride[1], shape.dims[1]);
            let here = copied[s];
            for (kz, z) in (first_kz..).zip(planes) {
                for (ky, y) in (first_ky..).zip(lines.clone()) {
                    let input = here.at + ((z - here.z_from) * here.height + y - here.y_from) * here.row;
                    let step = self.conv.stride[2] * shape.channels;
                    list[used] = Segment { input, step, weights: (s * kernel_z + kz) * kernel_y + ky };
                    used += 1;
                }
            }
        }
        used
    }
}

/// A transposed convolution with kernel = stride, as the CPU runs it: one small matrix product per input row and
/// (kz, ky), written where it belongs.
pub(in crate::ops) struct CpuTransposedConv {
    pub stride: [usize; 3],
    /// One set per (kz, ky), with `stride_x · channels` output channels and a single segment.
    pub weights: Vec<PackedWeights>,
}

impl CpuTransposedConv {
    /// Writes the raw output.
    pub fn run(&self, source: &Activation<'_>, out: &mut ActivationMut<'_>) {
        let [depth, height, width] = source.operand.shape.dims;
        let channels = source.operand.shape.channels;
        let [stride_z, stride_y, _] = self.stride;
        let out_row = width * self.weights[0].out_channels;
        let affine = Affine::of(source);
        // One task writes the stride_y output rows of each input row of one output slice.
        out.raw.par_chunks_mut(height * stride_y * out_row).enumerate().take(depth * stride_z).for_each(
            |(z, slice)| {
                let from = z / stride_z * height * width * channels;
                let raw = &source.raw[from..from + height * width * channels];
                let weights = &self.weights[z % stride_z * stride_y..][..stride_y];
                SCRATCH_BUFFER.with_borrow_mut(|scratch| {
                    let task = TransposedTask {
                        weights,
                        affine: &affine,
                        raw,
                        channels,
                        width,
                        out: slice,
                        scratch,
                    };
                    dispatch(self.weights[0].isa, task);
                });
            },
        );
    }
}

/// One output slice of a transposed convolution.
struct TransposedTask<'a> {
    /// Per ky.
    weights: &'a [PackedWeights],
    affine: &'a Affine,
    raw: &'a [f32],
    channels: usize,
    width: usize,
    out: &'a mut [f32],
    scratch: &'a mut Vec<f32>,
}

impl Vectorised for TransposedTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<W: Lanes, N: Lanes>(self) {
        let row_len = self.width * self.channels;
        if self.scratch.len() < row_len {
            self.scratch.resize(row_len, 0.0);
        }
        let scratch = &mut self.scratch[..row_len];
        let segment = [Segment { input: 0, step: self.channels, weights: 0 }];
        let mut out_rows = self.out.chunks_mut(self.width * self.weights[0].out_channels);
        for raw in self.raw.chunks(row_len) {
            self.affine.apply(raw, scratch);
            for (weights, out) in self.weights.iter().zip(&mut out_rows) {
                // SAFETY: the instruction set is the caller's promise.
                unsafe { row::<W, N>(weights, &segment, scratch, self.width, out) };
            }
        }
    }
}
