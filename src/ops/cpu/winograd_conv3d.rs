//! The part of a convolution's task that sums by Winograd's algorithm ([`super::winograd`]).

use super::aligned::AlignedFloats;
use super::conv3d::{ConvTask, Copied};
use super::kernel::{self, Columns, Destination, MAX_SEGMENTS, Segment};
use super::winograd::{self, OUTPUTS, POINTS};

impl ConvTask<'_> {
    /// One block of output channels: the sums at all points, then their transform.
    #[inline(always)]
    pub(super) unsafe fn winograd(
        &self,
        block: usize,
        copied: &[Copied; 2],
        scratch: &[f32],
        sums: &mut AlignedFloats,
    ) {
        let weights = &self.conv.weights;
        let (_, width) = weights.block(block);
        let (planes, rows) = (self.place.z.len(), self.place.y.len());
        let tiles = self.place.x.len().div_ceil(OUTPUTS);
        // Rows follow each other without a gap, so with stride 1 all of a plane is one run.
        let (runs, positions) =
            if self.conv.geometry.stride[1] == 1 { (1, rows * tiles) } else { (rows, tiles) };
        let plane_len = rows * tiles * width;
        let point_len = planes * plane_len;
        let sums = sums.first(POINTS * point_len);
        let mut list = [Segment::default(); MAX_SEGMENTS];
        for point in 0..POINTS {
            for (i, z) in self.place.z.clone().enumerate() {
                for run in 0..runs {
                    let used = self.segments([z, run], point, copied, &mut list);
                    let at = point * point_len + i * plane_len + run * positions * width;
                    let to = &mut sums[at..at + positions * width];
                    // SAFETY: the destination holds every position; the instruction set is the caller's promise.
                    unsafe {
                        let to = Destination { to: to.as_mut_ptr(), stride: width, valid: width };
                        let columns = Columns { block, point, biased: false };
                        kernel::run(weights, columns, &list[..used], scratch, positions, to);
                    }
                }
            }
        }
        for (i, z) in self.place.z.clone().enumerate() {
            for (j, y) in self.place.y.clone().enumerate() {
                for tile in 0..tiles {
                    let at = i * plane_len + (j * tiles + tile) * width;
                    // Spelled out: a closure would be a function without the vector instructions.
                    let points = [
                        &sums[at..],
                        &sums[point_len + at..],
                        &sums[2 * point_len + at..],
                        &sums[3 * point_len + at..],
                        &sums[4 * point_len + at..],
                        &sums[5 * point_len + at..],
                    ];
                    self.store_tile(block, [z, y, tile], points);
                }
            }
        }
    }

    /// Transforms one tile's sums and writes those of its outputs that are inside the box.
    #[inline(always)]
    fn store_tile(&self, block: usize, [z, y, tile]: [usize; 3], sums: [&[f32]; POINTS]) {
        let weights = &self.conv.weights;
        let (channels, _) = weights.block(block);
        let mut outputs = [[0.0; 32]; OUTPUTS];
        winograd::transform_sums(sums, &weights.bias(block)[..channels.len()], &mut outputs);
        let first = self.place.x.start + tile * OUTPUTS;
        for (x, output) in (first..self.place.x.end).zip(&outputs) {
            let at = self.out([z, y, x], channels.start);
            assert!(at + channels.len() <= self.out.len);
            // SAFETY: just checked to lie within the output; the box is this task's own.
            unsafe {
                let to = self.out.to.add(at);
                if channels.len() == output.len() {
                    to.cast::<[f32; 32]>().write_unaligned(*output);
                } else {
                    std::ptr::copy_nonoverlapping(output.as_ptr(), to, channels.len());
                }
            }
        }
    }
}
