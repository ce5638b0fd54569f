//! The part of a convolution's task that sums by Winograd's algorithm ([`super::winograd`]).

use super::aligned::AlignedFloats;
use super::conv_task::{BlockOutput, ConvTask};
use super::input_rows::Copied;
use super::kernel::{self, Columns, Destination, MAX_SEGMENTS, Segment};
use super::winograd::{self, OUTPUTS, POINTS};

impl ConvTask<'_> {
    /// One block of output channels: the sums at all points, then their transform.
    #[inline(always)]
    pub(super) unsafe fn winograd(
        &self,
        output: BlockOutput<'_>,
        copied: &[Copied; 2],
        scratch: &[f32],
        sums: &mut AlignedFloats,
    ) {
        let BlockOutput { block, planes, finished, epilogue } = output;
        let weights = &self.conv.weights;
        let (_, width) = weights.block(block);
        let rows = self.place.y.len();
        let tiles = self.place.x.len().div_ceil(OUTPUTS);
        // Rows follow each other without a gap, so with stride 1 all of a plane is one run.
        let (runs, positions) =
            if self.conv.geometry.stride[1] == 1 { (1, rows * tiles) } else { (rows, tiles) };
        let plane_len = rows * tiles * width;
        let point_len = planes.len() * plane_len;
        let sums = sums.first(POINTS * point_len);
        let mut list = [Segment::default(); MAX_SEGMENTS];
        for point in 0..POINTS {
            for (i, z) in planes.clone().enumerate() {
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
        let finished = finished.first(tiles * OUTPUTS * width);
        let bias = weights.bias(block);
        for (i, z) in planes.enumerate() {
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
                    let outputs = &mut finished[tile * OUTPUTS * width..][..OUTPUTS * width];
                    winograd::transform_sums(points, bias, outputs);
                }
                let row = &mut finished[..self.place.x.len() * width];
                self.finish_row(epilogue, block, [z, y], row);
            }
        }
    }
}
