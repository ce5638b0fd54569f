//! 3-D convolution on the CPU.
//!
//! The output is cut into boxes ([`Blocking`]), by the shape of the convolution alone, so that results do not depend
//! on the number of threads. The task of a box first copies the input that the box depends on, activated and padded
//! with zeros in y and x, into a scratch buffer of its own; planes outside the image are left out of the sum. With
//! three taps and stride 1 along x the copy is what Winograd's algorithm multiplies ([`super::winograd`]), otherwise
//! the padded rows themselves. Then the kernels run over it, block by block of output channels, and the moments of
//! what was written are taken while it is still in the cache.

use super::Arithmetic;
#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::activation::{Affine, Moments, Rows};
use super::aligned::AlignedFloats;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, SIDE, TileWeights};
use super::blocking::{Blocking, Extent};
use super::kernel::{self, Columns, Destination, MAX_SEGMENTS, PackedWeights, Segment, Vectorised, dispatch};
use super::winograd::{self, OUTPUTS, POINTS};
use crate::ops::value::{Activation, ActivationMut, Operand};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Buffers of one worker thread, kept from task to task.
#[derive(Default)]
pub(super) struct Scratch {
    /// Copied input.
    pub rows: AlignedFloats,
    /// One activated row before it is transformed.
    line: AlignedFloats,
    /// Sums at Winograd's points: (point, plane, position, block width).
    sums: AlignedFloats,
}

impl Scratch {
    /// Calls `work` with this thread's buffers.
    pub fn with<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        SCRATCH.with_borrow_mut(work)
    }
}

/// How the taps along x are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// One after the other.
    Direct,
    /// Four outputs at a time ([`winograd`]).
    Winograd,
    /// Together with the channels, 32 at a time, as this many bfloat16 parts ([`super::amx`]).
    #[cfg(target_arch = "x86_64")]
    Tiles { parts: usize },
}

impl Scheme {
    fn points(self) -> usize {
        match self {
            Self::Direct => 1,
            Self::Winograd => POINTS,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles { parts } => parts,
        }
    }
}

/// Kernel, stride and grids of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Geometry {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub in_dims: [usize; 3],
    pub out_dims: [usize; 3],
}

/// A convolution as the CPU runs it.
pub(in crate::ops) struct CpuConv {
    pub(super) geometry: Geometry,
    /// Channels of each source.
    channels: Vec<usize>,
    scheme: Scheme,
    /// Segments are numbered (source, kz, ky); there are none where the weights are tiles.
    pub(super) weights: PackedWeights,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<TileWeights>,
    blocking: Blocking,
    state: Mutex<State>,
}

/// What a run writes beside its output, allocated once.
struct State {
    affines: Vec<Affine>,
    /// Moments per task: (mean, squares) of each channel of the task.
    parts: Vec<[f64; 2]>,
}

impl CpuConv {
    /// Packs `weight(o, i, tap, x)`: output channel, input channel over all sources, `kz · kernel_y + ky`, `kx`.
    pub fn new(
        geometry: Geometry,
        operands: &[Operand],
        bias: &[f32],
        arithmetic: Arithmetic,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let [kernel_z, kernel_y, kernel_x] = geometry.kernel;
        let channels: Vec<usize> = operands.iter().map(|o| o.shape.channels).collect();
        let taps = kernel_z * kernel_y;
        let scheme = Self::choose_scheme(&geometry, &channels, bias.len(), arithmetic);
        let per_position = if scheme == Scheme::Winograd { 1 } else { kernel_x };
        let segment_lens: Vec<usize> = channels.iter().flat_map(|&c| vec![per_position * c; taps]).collect();
        let weight_at = |point: usize, segment: usize, k: usize, o: usize| {
            let (source, tap) = (segment / taps, segment % taps);
            let (x, c) = (k / channels[source], k % channels[source]);
            let input = c + if source == 0 { 0 } else { channels[0] };
            match scheme {
                Scheme::Winograd => {
                    winograd::kernel_at(point, std::array::from_fn(|x| weight(o, input, tap, x)))
                }
                _ => weight(o, input, tap, x),
            }
        };
        #[cfg(target_arch = "x86_64")]
        let (weights, tiles) = if let Scheme::Tiles { .. } = scheme {
            let weights = PackedWeights::pack(arithmetic, bias, 1, &[], weight_at);
            let tiles =
                TileWeights::pack(arithmetic.precision(), &weights, &segment_lens, |segment, k, o| {
                    weight_at(0, segment, k, o)
                });
            (weights, Some(tiles))
        } else {
            (PackedWeights::pack(arithmetic, bias, scheme.points(), &segment_lens, weight_at), None)
        };
        #[cfg(target_arch = "x86_64")]
        let block_bytes = tiles.as_ref().map_or(weights.block_bytes(), TileWeights::block_bytes);
        #[cfg(not(target_arch = "x86_64"))]
        let weights = PackedWeights::pack(arithmetic, bias, scheme.points(), &segment_lens, weight_at);
        #[cfg(not(target_arch = "x86_64"))]
        let block_bytes = weights.block_bytes();
        let extent = Extent {
            geometry,
            channels: channels.iter().sum(),
            winograd: scheme == Scheme::Winograd,
            blocks: weights.block_count(),
            block_bytes,
        };
        let blocking = Blocking::choose(&extent);
        let tasks = blocking.tasks(geometry.out_dims, weights.block_count());
        let state = State {
            affines: operands.iter().map(|_| Affine::default()).collect(),
            parts: vec![[0.0; 2]; tasks * Self::channels_per_task(&weights, &blocking)],
        };
        Self {
            geometry,
            channels,
            scheme,
            weights,
            #[cfg(target_arch = "x86_64")]
            tiles,
            blocking,
            state: Mutex::new(state),
        }
    }

    /// Winograd pays where there is enough to sum per transform, and tiles of four do not overhang rows by much.
    fn choose_scheme(
        geometry: &Geometry,
        channels: &[usize],
        out_channels: usize,
        arithmetic: Arithmetic,
    ) -> Scheme {
        // Tiles of 32 inputs × 32 outputs that are mostly padding are slower than vectors.
        #[cfg(target_arch = "x86_64")]
        if arithmetic.isa() == Isa::Amx
            && out_channels > SIDE
            && channels.iter().all(|c| c * geometry.kernel[2] >= SIDE)
        {
            return Scheme::Tiles { parts: amx::parts(arithmetic.precision()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _: (usize, Arithmetic) = (out_channels, arithmetic);
        let channels: usize = channels.iter().sum();
        let [kernel_z, kernel_y, kernel_x] = geometry.kernel;
        let width = geometry.out_dims[2];
        let fits = 6 * width.next_multiple_of(OUTPUTS) <= 8 * width;
        if kernel_x == 3 && geometry.stride[2] == 1 && fits && kernel_z * kernel_y * channels >= 64 {
            Scheme::Winograd
        } else {
            Scheme::Direct
        }
    }

    fn channels_per_task(weights: &PackedWeights, blocking: &Blocking) -> usize {
        (0..weights.block_count())
            .step_by(blocking.blocks)
            .map(|b| {
                let end = (b + blocking.blocks).min(weights.block_count());
                weights.block(end - 1).0.end - weights.block(b).0.start
            })
            .max()
            .unwrap_or(0)
    }

    /// Writes the raw output and, if asked for, its moments per channel.
    pub fn run(
        &self,
        sources: &[Activation<'_>],
        out: &mut ActivationMut<'_>,
        moments: Option<&mut Moments>,
    ) {
        assert_eq!(
            sources.len(),
            self.channels.len(),
            "convolution called with other sources than packed for"
        );
        assert_eq!(
            out.raw.len(),
            self.geometry.out_dims.iter().product::<usize>() * self.weights.out_channels
        );
        for (source, &channels) in sources.iter().zip(&self.channels) {
            let voxels: usize = self.geometry.in_dims.iter().product();
            assert_eq!(source.raw.len(), voxels * channels, "source of another shape than packed for");
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { affines, parts } = &mut *state;
        for (affine, source) in affines.iter_mut().zip(sources) {
            affine.set(source);
        }
        let per_task = Self::channels_per_task(&self.weights, &self.blocking);
        let shared = SharedOutput { to: out.raw.as_mut_ptr(), len: out.raw.len() };
        let (affines, wanted) = (&*affines, moments.is_some());
        parts.par_chunks_mut(per_task).enumerate().with_max_len(1).for_each(|(task, parts)| {
            Scratch::with(|scratch| {
                let parts = wanted.then_some(parts);
                let place = self.blocking.place(task, self.geometry.out_dims, self.weights.block_count());
                let work = ConvTask { conv: self, sources, affines, place, out: &shared, parts, scratch };
                dispatch(self.weights.arithmetic.isa(), work);
            });
        });
        if let Some(moments) = moments {
            moments.clear();
            for (task, parts) in parts.chunks(per_task).enumerate() {
                let place = self.blocking.place(task, self.geometry.out_dims, self.weights.block_count());
                moments.merge(self.channel_range(&place.blocks), place.voxels() as f64, parts);
            }
        }
    }

    fn channel_range(&self, blocks: &Range<usize>) -> Range<usize> {
        self.weights.block(blocks.start).0.start..self.weights.block(blocks.end - 1).0.end
    }
}

/// The output, written by many tasks, each within its box.
pub(super) struct SharedOutput {
    pub to: *mut f32,
    pub len: usize,
}

// SAFETY: tasks write disjoint boxes of voxels and blocks of channels, and nobody reads meanwhile but the task itself.
unsafe impl Sync for SharedOutput {}

/// The part of the output that one task computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub z: Range<usize>,
    pub y: Range<usize>,
    pub x: Range<usize>,
    pub blocks: Range<usize>,
}

impl Place {
    fn voxels(&self) -> usize {
        self.z.len() * self.y.len() * self.x.len()
    }
}

pub(super) struct ConvTask<'a> {
    pub conv: &'a CpuConv,
    sources: &'a [Activation<'a>],
    affines: &'a [Affine],
    pub place: Place,
    pub out: &'a SharedOutput,
    parts: Option<&'a mut [[f64; 2]]>,
    scratch: &'a mut Scratch,
}

/// Where the copied rows of one source lie in scratch: (point, plane, row, position or voxel, channel).
#[derive(Clone, Copy, Default)]
pub(super) struct Copied {
    at: usize,
    /// First input plane, which exists.
    first_plane: usize,
    planes: usize,
    /// Input rows, counted from `first output row · stride - kernel / 2`, which may be outside.
    rows: usize,
    /// Floats of one row at one point.
    pub row: usize,
}

impl Copied {
    pub fn point(&self) -> usize {
        self.planes * self.rows * self.row
    }
}

/// The input indices that taps `0..kernel` of output `position` read, cut to the image, with the first such tap.
fn taps(position: usize, kernel: usize, stride: usize, size: usize) -> (Range<usize>, usize) {
    let start = (position * stride) as isize - (kernel / 2) as isize;
    let first_tap = (-start).max(0) as usize;
    let from = start.max(0) as usize;
    let to = ((start + kernel as isize).max(0) as usize).min(size);
    (from..to.max(from), first_tap)
}

impl Vectorised for ConvTask<'_> {
    #[inline(always)]
    fn run(mut self) {
        let mut rows = std::mem::take(&mut self.scratch.rows);
        let mut line = std::mem::take(&mut self.scratch.line);
        let mut sums = std::mem::take(&mut self.scratch.sums);
        let mut copied = [Copied::default(); 2];
        let mut end = 0;
        for (s, copied) in copied.iter_mut().enumerate().take(self.sources.len()) {
            *copied = self.layout(s, end);
            end += self.conv.scheme.points() * copied.point();
        }
        #[cfg(target_arch = "x86_64")]
        if let Scheme::Tiles { .. } = self.conv.scheme {
            // The last tile reads up to a whole run of inputs beyond the end, multiplied by zeros: any numbers but NaN.
            rows.first((end + amx::DEPTH).div_ceil(2));
            rows.as_mut_halves()[end..end + amx::DEPTH].fill(0);
        }
        rows.first(end);
        for (s, copied) in copied.iter().enumerate().take(self.sources.len()) {
            self.copy_rows(s, copied, &mut rows, &mut line);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &self.conv.tiles {
            self.tiles(tiles, &copied, rows.as_halves());
        }
        for block in self.place.blocks.clone() {
            // SAFETY: the task's box is its own.
            unsafe {
                match self.conv.scheme {
                    Scheme::Direct => self.direct(block, &copied, rows.as_slice()),
                    Scheme::Winograd => self.winograd(block, &copied, rows.as_slice(), &mut sums),
                    #[cfg(target_arch = "x86_64")]
                    Scheme::Tiles { .. } => {}
                }
            }
        }
        self.scratch.rows = rows;
        self.scratch.line = line;
        self.scratch.sums = sums;
        if let Some(parts) = self.parts.take() {
            self.take_moments(parts);
        }
    }
}

impl ConvTask<'_> {
    fn layout(&self, s: usize, at: usize) -> Copied {
        let Geometry { kernel, stride, in_dims, .. } = self.conv.geometry;
        let (first, _) = taps(self.place.z.start, kernel[0], stride[0], in_dims[0]);
        let (last, _) = taps(self.place.z.end - 1, kernel[0], stride[0], in_dims[0]);
        let rows = (self.place.y.len() - 1) * stride[1] + kernel[1];
        let columns = self.place.x.len();
        let positions = match self.conv.scheme {
            Scheme::Winograd => columns.div_ceil(OUTPUTS),
            _ => (columns - 1) * stride[2] + kernel[2],
        };
        let row = positions * self.conv.channels[s];
        Copied { at, first_plane: first.start, planes: last.end - first.start, rows, row }
    }

    /// Copies what this task reads of source `s`.
    #[inline(always)]
    fn copy_rows(&self, s: usize, copied: &Copied, scratch: &mut AlignedFloats, line: &mut AlignedFloats) {
        let Geometry { kernel, stride, in_dims: [_, height, width], .. } = self.conv.geometry;
        let channels = self.conv.channels[s];
        let first_row = (self.place.y.start * stride[1]) as isize - (kernel[1] / 2) as isize;
        let first_column = (self.place.x.start * stride[2]) as isize - (kernel[2] / 2) as isize;
        let columns = match self.conv.scheme {
            Scheme::Winograd => copied.row / channels * OUTPUTS + kernel[2] - 1,
            _ => copied.row / channels,
        };
        // The part of a row that exists, counted from the row's own beginning.
        let from = (-first_column).clamp(0, columns as isize) as usize;
        let to = (width as isize - first_column).clamp(from as isize, columns as isize) as usize;
        for plane in 0..copied.planes {
            for row in 0..copied.rows {
                let at = copied.at + (plane * copied.rows + row) * copied.row;
                let y = first_row + row as isize;
                let raw = if y >= 0 && y < height as isize {
                    let start = ((copied.first_plane + plane) * height + y as usize) * width;
                    let first = (start as isize + first_column) * channels as isize;
                    let first = (first + (from * channels) as isize) as usize;
                    &self.sources[s].raw[first..first + (to - from) * channels]
                } else {
                    &[]
                };
                let there = if raw.is_empty() { columns..columns } else { from..to };
                let there = there.start * channels..there.end * channels;
                match self.conv.scheme {
                    Scheme::Direct => {
                        let row = &mut scratch.as_mut_slice()[at..at + copied.row];
                        self.affines[s].apply_padded(raw, there, row);
                    }
                    Scheme::Winograd => {
                        let line = line.first(columns * channels);
                        self.affines[s].apply_padded(raw, there, line);
                        let distance = copied.point();
                        let end = at + (POINTS - 1) * distance + copied.row;
                        let points = &mut scratch.as_mut_slice()[at..end];
                        winograd::transform_inputs(line, channels, points, distance);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Scheme::Tiles { parts } => {
                        let line = line.first(columns * channels);
                        self.affines[s].apply_padded(raw, there, line);
                        Self::write_halves(line, parts, copied.point(), &mut scratch.as_mut_halves()[at..]);
                    }
                }
            }
        }
    }

    /// Lists the segments that the positions of output row `y` (of the box) in plane `z` sum over.
    #[inline(always)]
    pub(super) fn segments(
        &self,
        [z, y]: [usize; 2],
        point: usize,
        copied: &[Copied; 2],
        list: &mut [Segment; MAX_SEGMENTS],
    ) -> usize {
        let Geometry { kernel: [kernel_z, kernel_y, _], stride, in_dims, .. } = self.conv.geometry;
        let (planes, first_tap) = taps(z, kernel_z, stride[0], in_dims[0]);
        let mut used = 0;
        for (s, &channels) in self.conv.channels.iter().enumerate() {
            let here = copied[s];
            let step = match self.conv.scheme {
                Scheme::Winograd => channels,
                _ => stride[2] * channels,
            };
            for (kz, plane) in (first_tap..).zip(planes.clone()) {
                for ky in 0..kernel_y {
                    let row = (plane - here.first_plane) * here.rows + y * stride[1] + ky;
                    let input = here.at + point * here.point() + row * here.row;
                    list[used] = Segment { input, step, weights: (s * kernel_z + kz) * kernel_y + ky };
                    used += 1;
                }
            }
        }
        used
    }

    /// Where the output of a voxel's block begins.
    pub(super) fn out(&self, [z, y, x]: [usize; 3], first_channel: usize) -> usize {
        let [_, height, width] = self.conv.geometry.out_dims;
        ((z * height + y) * width + x) * self.conv.weights.out_channels + first_channel
    }

    /// One block of output channels, row by row.
    #[inline(always)]
    unsafe fn direct(&self, block: usize, copied: &[Copied; 2], scratch: &[f32]) {
        let weights = &self.conv.weights;
        let (channels, _) = weights.block(block);
        let mut list = [Segment::default(); MAX_SEGMENTS];
        for z in self.place.z.clone() {
            for y in self.place.y.clone() {
                let used = self.segments([z, y - self.place.y.start], 0, copied, &mut list);
                let positions = self.place.x.len();
                let at = self.out([z, y, self.place.x.start], channels.start);
                assert!(at + (positions - 1) * weights.out_channels + channels.len() <= self.out.len);
                // SAFETY: the row was checked to lie within the output and belongs to this task's box; the
                // instruction set is the caller's promise.
                unsafe {
                    let to = Destination {
                        to: self.out.to.add(at),
                        stride: weights.out_channels,
                        valid: channels.len(),
                    };
                    let columns = Columns { block, point: 0, biased: true };
                    kernel::run(weights, columns, &list[..used], scratch, positions, to);
                }
            }
        }
    }

    /// Mean and squares of each channel over the box.
    #[inline(always)]
    fn take_moments(&self, parts: &mut [[f64; 2]]) {
        let channels = self.conv.channel_range(&self.place.blocks);
        let shape = Rows { voxels: self.place.x.len(), stride: self.conv.weights.out_channels };
        let rows = self.place.z.clone().flat_map(|z| self.place.y.clone().map(move |y| (z, y)));
        let rows = rows.map(|(z, y)| {
            let at = self.out([z, y, self.place.x.start], channels.start);
            assert!(at + (shape.voxels - 1) * shape.stride + channels.len() <= self.out.len);
            // SAFETY: just checked to lie within the output.
            unsafe { self.out.to.add(at).cast_const() }
        });
        // SAFETY: these channels of this box were checked to lie within the output, and this task wrote them.
        unsafe { Moments::of_rows(&rows, shape, &mut parts[..channels.len()]) };
    }
}
