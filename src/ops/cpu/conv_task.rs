//! One task of a convolution: copying the input, the sums of one tap or run of channels after the other, and what all
//! ways of summing share.

use super::activation::Affine;
use super::aligned::AlignedFloats;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, SIDE};
use super::conv3d::{CpuConv, Geometry, Place, Scheme};
use super::epilogue::Epilogue;
use super::input_rows::{Copied, InputRows, taps};
use super::kernel::{self, Columns, Destination, MAX_SEGMENTS, Segment, Vectorised};
use super::winograd::{self, POINTS};
use crate::ops::value::Activation;
use std::ops::Range;

/// Buffers of one worker thread, kept from task to task.
#[derive(Default)]
pub(super) struct Scratch {
    /// Copied input.
    rows: AlignedFloats,
    /// One activated row before it is transformed.
    line: AlignedFloats,
    /// Sums at Winograd's points: (point, plane, position, block width); or of tiles so far: (plane, tile, position, 32).
    sums: AlignedFloats,
    /// Outputs of one block before they are written: (row, position, block width).
    finished: AlignedFloats,
    /// One per block of output channels.
    epilogues: Vec<Epilogue>,
}

/// The output, written by many tasks, each within its box.
pub(super) struct SharedOutput {
    pub to: *mut f32,
    pub len: usize,
}

// SAFETY: tasks write disjoint boxes of voxels and blocks of channels, and nobody reads meanwhile but the task itself.
unsafe impl Sync for SharedOutput {}

/// One task: a box of the output.
pub(super) struct ConvTask<'a> {
    pub conv: &'a CpuConv,
    pub sources: &'a [Activation<'a>],
    /// What has to be done to each source when it is read.
    pub affines: &'a [Affine],
    pub place: Place,
    pub out: &'a SharedOutput,
    /// (mean, squares) of each channel, if they are wanted.
    pub parts: Option<&'a mut [[f64; 2]]>,
    pub scratch: &'a mut Scratch,
}

impl Vectorised for ConvTask<'_> {
    #[inline(always)]
    fn run(mut self) {
        let mut scratch = std::mem::take(self.scratch);
        let Scratch { rows, line, sums, finished, epilogues } = &mut scratch;
        let place = self.place.clone();
        let input = InputRows { conv: self.conv, sources: self.sources, place: &place };
        let sources = self.sources.len();
        let mut copied = [Copied::default(); 2];
        let mut end = 0;
        for (s, copied) in copied.iter_mut().enumerate().take(sources) {
            *copied = input.layout(s, end);
            end += self.conv.scheme.points() * copied.point();
        }
        #[cfg(target_arch = "x86_64")]
        let tiles = match self.conv.scheme {
            Scheme::Tiles { parts } => {
                // A row's last tile reads up to a run of inputs beyond the row, multiplied by zeros: they may be any
                // finite numbers. Planes that are copied later begin with zeros until then.
                rows.first((end + amx::DEPTH).div_ceil(2));
                let halves = rows.as_mut_halves();
                let starts = copied.iter().take(sources).flat_map(|copied| copied.plane_starts(parts));
                for start in starts.chain([end]) {
                    halves[start..start + amx::DEPTH].fill(0);
                }
                Some(self.configure_tiles())
            }
            _ => {
                rows.first(end);
                None
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        rows.first(end);
        epilogues.clear();
        epilogues.extend(self.place.blocks.clone().map(|block| self.epilogue(block)));
        let mut next_plane = 0;
        for first in self.place.z.clone().step_by(self.conv.blocking.group) {
            let group = first..(first + self.conv.blocking.group).min(self.place.z.end);
            let needed = input.planes(&group);
            for source in copied.iter().enumerate().take(sources) {
                let new = needed.start.max(next_plane)..needed.end;
                self.copy_planes(&input, source, new, rows, line);
            }
            next_plane = needed.end;
            for (block, epilogue) in self.place.blocks.clone().zip(epilogues.iter_mut()) {
                let output = BlockOutput { block, planes: group.clone(), finished, epilogue };
                // SAFETY: the task's box is its own; it runs on the instruction set that was chosen, which is there.
                unsafe {
                    match self.conv.scheme {
                        Scheme::Direct => self.direct(output, &copied, rows.as_slice()),
                        Scheme::Winograd => self.winograd(output, &copied, rows.as_slice(), sums),
                        #[cfg(target_arch = "x86_64")]
                        Scheme::Tiles { .. } => {
                            if let (Some(tiles), Some(weights)) = (&tiles, &self.conv.tiles) {
                                self.tiles(output, (tiles, weights), &copied, rows.as_halves(), sums);
                            }
                        }
                    }
                }
            }
        }
        let first_channel = self.conv.weights.block(self.place.blocks.start).0.start;
        for (block, epilogue) in self.place.blocks.clone().zip(epilogues.drain(..)) {
            let first = self.conv.weights.block(block).0.start - first_channel;
            epilogue.end(self.parts.as_deref_mut().map(|parts| &mut parts[first..]));
        }
        *self.scratch = scratch;
    }
}

/// What a block of output channels is computed for, a few planes at a time.
pub(super) struct BlockOutput<'a> {
    pub block: usize,
    /// Output planes.
    pub planes: Range<usize>,
    /// Buffer for rows before they are written.
    pub finished: &'a mut AlignedFloats,
    pub epilogue: &'a mut Epilogue,
}

impl ConvTask<'_> {
    /// Copies what this task reads of some input planes of source `s`.
    #[inline(always)]
    fn copy_planes(
        &self,
        input: &InputRows<'_>,
        (s, copied): (usize, &Copied),
        planes: Range<usize>,
        scratch: &mut AlignedFloats,
        line: &mut AlignedFloats,
    ) {
        let channels = self.conv.channels[s];
        for plane in planes {
            for row in 0..copied.rows {
                let at = copied.row_at(plane, row);
                let (raw, there) = input.row(s, copied, plane, row);
                match self.conv.scheme {
                    Scheme::Direct => {
                        let row = &mut scratch.as_mut_slice()[at..at + copied.row];
                        self.affines[s].apply_padded(raw, there, row);
                    }
                    Scheme::Winograd => {
                        let line = line.first(copied.columns * channels);
                        self.affines[s].apply_padded(raw, there, line);
                        let distance = copied.point();
                        let end = at + (POINTS - 1) * distance + copied.row;
                        let points = &mut scratch.as_mut_slice()[at..end];
                        winograd::transform_inputs(line, channels, points, distance);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Scheme::Tiles { parts } => {
                        let halves = &mut scratch.as_mut_halves()[at..];
                        if parts == 2 {
                            let (upper, lower) = halves.split_at_mut(copied.point());
                            let parts = [&mut upper[..copied.row], &mut lower[..copied.row]];
                            self.affines[s].apply_halves(raw, there, parts);
                        } else {
                            self.affines[s].apply_halves(raw, there, [&mut halves[..copied.row]]);
                        }
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
                    let input = point * here.point() + here.row_at(plane, y * stride[1] + ky);
                    list[used] = Segment { input, step, weights: (s * kernel_z + kz) * kernel_y + ky };
                    used += 1;
                }
            }
        }
        used
    }

    /// Where the output of a voxel's block begins.
    fn out(&self, [z, y, x]: [usize; 3], first_channel: usize) -> usize {
        let [_, height, width] = self.conv.geometry.out_dims;
        let [planes, rows] = self.conv.upsampling;
        let channels = self.conv.voxel_channels();
        let (group, channel) = (first_channel / channels, first_channel % channels);
        let (z, y) = (z * planes + group / rows, y * rows + group % rows);
        ((z * height * rows + y) * width + x) * channels + channel
    }

    /// Floats of a position in a block's finished rows.
    pub(super) fn finished_width(&self, block: usize) -> usize {
        match self.conv.scheme {
            #[cfg(target_arch = "x86_64")]
            Scheme::Tiles { .. } => 2 * SIDE,
            _ => self.conv.weights.block(block).1,
        }
    }

    /// What a block's finished rows go through.
    fn epilogue(&self, block: usize) -> Epilogue {
        let (channels, _) = self.conv.weights.block(block);
        let isa = self.conv.weights.arithmetic.isa();
        let out = (self.out.to, self.out.len);
        let width = self.finished_width(block);
        Epilogue::new(isa, [width, channels.len()], self.conv.voxel_channels(), out)
    }

    /// Writes a block's finished row (position, width) of the box, or adds it to what is there.
    #[inline(always)]
    pub(super) fn finish_row(
        &self,
        epilogue: &mut Epilogue,
        block: usize,
        [z, y]: [usize; 2],
        row: &mut [f32],
    ) {
        let (channels, _) = self.conv.weights.block(block);
        let (positions, stride) = (self.place.x.len(), self.conv.voxel_channels());
        assert_eq!(row.len(), positions * self.finished_width(block), "row of another length than the box's");
        let at = self.out([z, y, self.place.x.start], channels.start);
        assert!(at + (positions - 1) * stride + channels.len() <= self.out.len, "row beyond the output");
        if self.conv.adds_to_output {
            for (position, sums) in row.chunks_exact_mut(self.finished_width(block)).enumerate() {
                // SAFETY: as below; these voxels were written before this convolution began.
                let before = unsafe {
                    std::slice::from_raw_parts(self.out.to.add(at + position * stride), channels.len())
                };
                for (sum, before) in sums.iter_mut().zip(before) {
                    *sum += before;
                }
            }
        }
        // SAFETY: the row was checked to lie within the output and belongs to this task's box.
        unsafe { epilogue.row(row, self.out.to.add(at)) };
    }

    /// One block of output channels, row by row.
    #[inline(always)]
    unsafe fn direct(&self, output: BlockOutput<'_>, copied: &[Copied; 2], scratch: &[f32]) {
        let BlockOutput { block, planes, finished, epilogue } = output;
        let weights = &self.conv.weights;
        let (_, width) = weights.block(block);
        let positions = self.place.x.len();
        let row = finished.first(positions * width);
        let mut list = [Segment::default(); MAX_SEGMENTS];
        for z in planes {
            for y in self.place.y.clone() {
                let used = self.segments([z, y - self.place.y.start], 0, copied, &mut list);
                let to = Destination { to: row.as_mut_ptr(), stride: width, valid: width };
                let columns = Columns { block, point: 0, biased: true };
                // SAFETY: the row holds every position; the instruction set is the caller's promise.
                unsafe { kernel::run(weights, columns, &list[..used], scratch, positions, to) };
                self.finish_row(epilogue, block, [z, y], row);
            }
        }
    }
}
