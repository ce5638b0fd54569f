//! The part of a convolution's task that runs on tile registers ([`super::amx`]).

use super::amx::{self, SIDE, TileColumns, TilePosition, TileSegment, TileWeights, Tiles};
use super::conv3d::{ConvTask, Copied};
use super::kernel::{MAX_SEGMENTS, Segment};

impl ConvTask<'_> {
    /// Writes an activated line as bfloat16: rounded, or split in upper and, `distance` behind it, lower numbers.
    #[inline(always)]
    pub(super) fn write_halves(line: &[f32], parts: usize, distance: usize, out: &mut [u16]) {
        if parts == 2 {
            let (upper, lower) = out.split_at_mut(distance);
            amx::split_line(line, &mut upper[..line.len()], &mut lower[..line.len()]);
        } else {
            amx::round_line(line, &mut out[..line.len()]);
        }
    }

    /// All blocks of output channels: two tiles of positions at a time, every row cut into tiles of one length, of
    /// which the last overlaps the one before.
    pub(super) fn tiles(&self, weights: &TileWeights, copied: &[Copied; 2], inputs: &[u16]) {
        let columns = self.place.x.len();
        let per_row = columns.div_ceil(SIDE);
        let positions = columns.div_ceil(per_row);
        // SAFETY: AMX was chosen, which the processor has; nothing else on this thread uses tiles during a task.
        let tiles = unsafe { Tiles::configure(positions) };
        let count = self.place.y.len() * per_row;
        let mut sums = [0f32; 4 * SIDE * SIDE];
        let mut list = [TileSegment::default(); MAX_SEGMENTS];
        for block in self.place.blocks.clone() {
            let (channels, _) = self.conv.weights.block(block);
            let bias = &self.conv.weights.bias(block)[..channels.len()];
            let columns_of_block = TileColumns { weights, block, bias };
            for z in self.place.z.clone() {
                let used = self.tile_segments(z, copied, &mut list);
                for pair in (0..count).step_by(2) {
                    let at = [pair, (pair + 1).min(count - 1)]
                        .map(|i| [i / per_row, (i % per_row * positions).min(columns - positions)]);
                    tiles.multiply(columns_of_block, &list[..used], inputs, at, &mut sums);
                    for (at, sums) in at.into_iter().zip(sums.as_chunks::<{ 2 * SIDE * SIDE }>().0) {
                        self.store_sums(block, z, at, positions, sums);
                    }
                }
            }
        }
    }

    /// The segments of the box's first position in plane `z`.
    fn tile_segments(&self, z: usize, copied: &[Copied; 2], list: &mut [TileSegment; MAX_SEGMENTS]) -> usize {
        let [kernel_z, kernel_y, _] = self.conv.geometry.kernel;
        let mut segments = [Segment::default(); MAX_SEGMENTS];
        let used = self.segments([z, 0], 0, copied, &mut segments);
        for (to, s) in list.iter_mut().zip(&segments[..used]) {
            let here = copied[s.weights / (kernel_z * kernel_y)];
            *to = TileSegment {
                input: s.input,
                row: self.conv.geometry.stride[1] * here.row,
                step: s.step,
                part: here.point(),
                weights: s.weights,
            };
        }
        used
    }

    /// Writes one tile of positions, (half of the block, position, channel).
    fn store_sums(
        &self,
        block: usize,
        z: usize,
        [row, first]: TilePosition,
        positions: usize,
        sums: &[f32; 2 * SIDE * SIDE],
    ) {
        let (channels, _) = self.conv.weights.block(block);
        let at = self.out([z, self.place.y.start + row, self.place.x.start + first], channels.start);
        let stride = self.conv.weights.out_channels;
        assert!(at + (positions - 1) * stride + channels.len() <= self.out.len);
        for position in 0..positions {
            for (half, first) in (0..channels.len()).step_by(SIDE).enumerate() {
                let from = &sums[(half * SIDE + position) * SIDE..][..SIDE.min(channels.len() - first)];
                // SAFETY: just checked to lie within the output; the box is this task's own.
                unsafe {
                    let to = self.out.to.add(at + position * stride + first);
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                }
            }
        }
    }
}
