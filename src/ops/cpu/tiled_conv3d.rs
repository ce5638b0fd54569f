//! The part of a convolution's task that runs on tile registers ([`super::amx`]).

use super::amx::{SIDE, TileSegment, TileSum, TileWeights, Tiles};
use super::conv_task::{BlockOutput, ConvTask};
use super::input_rows::Copied;
use super::kernel::{MAX_SEGMENTS, Segment};

impl ConvTask<'_> {
    /// How many tiles a row of the box is cut into, and the positions of each; the last one overlaps the one before.
    fn row_tiles(&self) -> (usize, usize) {
        let columns = self.place.x.len();
        let per_row = columns.div_ceil(SIDE);
        (per_row, columns.div_ceil(per_row))
    }

    /// Tile registers for this task.
    pub(super) fn configure_tiles(&self) -> Tiles {
        // SAFETY: AMX was chosen, which the processor has; nothing else on this thread uses tiles during a task.
        unsafe { Tiles::configure(self.row_tiles().1) }
    }

    /// One block of output channels, two tiles of positions at a time.
    #[inline(always)]
    pub(super) fn tiles(
        &self,
        output: BlockOutput<'_>,
        (tiles, weights): (&Tiles, &TileWeights),
        copied: &[Copied; 2],
        inputs: &[u16],
    ) {
        let BlockOutput { block, planes, finished, epilogue } = output;
        let width = self.finished_width(block);
        let columns = self.place.x.len();
        let (per_row, positions) = self.row_tiles();
        let rows = self.place.y.len();
        let count = rows * per_row;
        let row_len = columns * width;
        let finished = finished.first(rows * row_len);
        let mut list = [TileSegment::default(); MAX_SEGMENTS];
        for z in planes {
            let used = self.tile_segments(z, copied, &mut list);
            let sum = TileSum { weights, block, segments: &list[..used], inputs };
            let mut done = 0;
            for pair in (0..count).step_by(2) {
                let last = (pair + 1).min(count - 1);
                let at = |i: usize| [i / per_row, (i % per_row * positions).min(columns - positions)];
                let at = [at(pair), at(last)];
                let to = [at[0][0] * row_len + at[0][1] * width, at[1][0] * row_len + at[1][1] * width];
                tiles.multiply(sum, at, finished, to);
                while (done + 1) * per_row <= last + 1 {
                    let row = &finished[done * row_len..][..row_len];
                    self.finish_row(epilogue, block, [z, self.place.y.start + done], row);
                    done += 1;
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
}
