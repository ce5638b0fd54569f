//! Which rows of the input a task reads.

use super::conv3d::{CpuConv, Geometry, Place};
use crate::ops::value::Activation;
use std::ops::Range;

/// The input indices that taps `0..kernel` of output `position` read, cut to the image, with the first such tap.
pub(super) fn taps(position: usize, kernel: usize, stride: usize, size: usize) -> (Range<usize>, usize) {
    let start = (position * stride) as isize - (kernel / 2) as isize;
    let first_tap = (-start).max(0) as usize;
    let from = start.max(0) as usize;
    let to = ((start + kernel as isize).max(0) as usize).min(size);
    (from..to.max(from), first_tap)
}

/// Where the copied rows of one source lie in scratch: (point, plane, row, position or voxel, channel).
#[derive(Clone, Copy, Default)]
pub(super) struct Copied {
    pub at: usize,
    /// How many planes there are. Input plane `p` is kept at `p % planes`, until the one so many further takes its place.
    pub planes: usize,
    /// Input rows, counted from `first output row · stride - kernel / 2`, which may be outside.
    pub rows: usize,
    /// Voxels of an input row, counted likewise.
    pub columns: usize,
    /// Numbers of one copied row at one point.
    pub row: usize,
}

impl Copied {
    /// Numbers of a plane.
    fn plane(&self) -> usize {
        self.rows * self.row
    }

    /// Numbers of all planes.
    pub fn point(&self) -> usize {
        self.planes * self.plane()
    }

    /// Where a row of an input plane begins, at the first point.
    pub fn row_at(&self, plane: usize, row: usize) -> usize {
        self.at + plane % self.planes * self.plane() + row * self.row
    }

    /// Where each plane begins, at all of so many points.
    #[cfg(target_arch = "x86_64")]
    pub fn plane_starts(self, points: usize) -> impl Iterator<Item = usize> {
        (0..points * self.planes).map(move |i| self.at + i * self.plane())
    }
}

/// The input of one task.
pub(super) struct InputRows<'a> {
    pub conv: &'a CpuConv,
    pub sources: &'a [Activation<'a>],
    pub place: &'a Place,
}

impl<'a> InputRows<'a> {
    /// How the rows of source `s` are copied to scratch, from `at` on.
    pub fn layout(&self, s: usize, at: usize) -> Copied {
        let Geometry { kernel, stride, in_dims, .. } = self.conv.geometry;
        let group = self.conv.blocking.group.min(self.place.z.len());
        let planes = ((group - 1) * stride[0] + kernel[0]).min(in_dims[0]);
        let rows = (self.place.y.len() - 1) * stride[1] + kernel[1];
        let (columns, positions) = self.conv.columns(self.place.x.len());
        Copied { at, planes, rows, columns, row: positions * self.conv.channels[s] }
    }

    /// The input planes that the output planes `z` read.
    pub fn planes(&self, z: &Range<usize>) -> Range<usize> {
        let Geometry { kernel, stride, in_dims, .. } = self.conv.geometry;
        let (first, _) = taps(z.start, kernel[0], stride[0], in_dims[0]);
        let (last, _) = taps(z.end - 1, kernel[0], stride[0], in_dims[0]);
        first.start..last.end
    }

    /// The part of a row of an input plane of source `s` that exists, and where in the row it lies, counted in floats.
    pub fn row(&self, s: usize, copied: &Copied, plane: usize, row: usize) -> (&'a [f32], Range<usize>) {
        let Geometry { kernel, stride, in_dims: [_, height, width], .. } = self.conv.geometry;
        let channels = self.conv.channels[s];
        let y = (self.place.y.start * stride[1] + row) as isize - (kernel[1] / 2) as isize;
        if y < 0 || y >= height as isize {
            return (&[], copied.columns * channels..copied.columns * channels);
        }
        let first_column = (self.place.x.start * stride[2]) as isize - (kernel[2] / 2) as isize;
        let from = (-first_column).clamp(0, copied.columns as isize) as usize;
        let to = (width as isize - first_column).clamp(from as isize, copied.columns as isize) as usize;
        let line = (plane * height + y as usize) * width;
        let first = (line as isize + first_column + from as isize) as usize * channels;
        (&self.sources[s].raw[first..first + (to - from) * channels], from * channels..to * channels)
    }
}
