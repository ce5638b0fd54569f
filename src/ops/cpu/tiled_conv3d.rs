//! The part of a convolution's task that runs on tile registers ([`super::amx`]).

use super::aligned::AlignedFloats;
use super::amx::{SIDE, Start, TileSegment, TileSum, TileWeights, Tiles};
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
        sums: &mut AlignedFloats,
    ) {
        if weights.stretches.len() > 1 {
            return self.tiles_in_stretches(output, (tiles, weights), copied, inputs, sums);
        }
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
            let segments = self.tile_segments(z, copied, &mut list);
            let sum = TileSum { weights, block, segments, inputs };
            let mut done = 0;
            for pair in (0..count).step_by(2) {
                let last = (pair + 1).min(count - 1);
                let at = |i: usize| [i / per_row, (i % per_row * positions).min(columns - positions)];
                let at = [at(pair), at(last)];
                let to = [at[0][0] * row_len + at[0][1] * width, at[1][0] * row_len + at[1][1] * width];
                tiles.multiply(sum, at, Start::Bias, finished, to);
                while (done + 1) * per_row <= last + 1 {
                    let row = &finished[done * row_len..][..row_len];
                    self.finish_row(epilogue, block, [z, self.place.y.start + done], row);
                    done += 1;
                }
            }
        }
    }

    /// The same where a block's weights outgrow the second-level cache: some of them for all planes, then the next ones.
    #[inline(always)]
    fn tiles_in_stretches(
        &self,
        output: BlockOutput<'_>,
        (tiles, weights): (&Tiles, &TileWeights),
        copied: &[Copied; 2],
        inputs: &[u16],
        sums: &mut AlignedFloats,
    ) {
        let BlockOutput { block, planes, finished, epilogue } = output;
        let width = self.finished_width(block);
        let columns = self.place.x.len();
        let (per_row, positions) = self.row_tiles();
        let rows = self.place.y.len();
        let count = rows * per_row;
        let tile_len = positions * width;
        let at = |i: usize| [i / per_row, (i % per_row * positions).min(columns - positions)];
        // Every tile has a place of its own: positions that two share must not be added to twice.
        let sums = sums.first(planes.len() * count * tile_len);
        let mut list = [TileSegment::default(); MAX_SEGMENTS];
        for (number, stretch) in weights.stretches.iter().enumerate() {
            let start = if number == 0 { Start::Bias } else { Start::Sums };
            for (z, sums) in planes.clone().zip(sums.chunks_exact_mut(count * tile_len)) {
                let segments = self.tile_segments(z, copied, &mut list);
                let first = segments.partition_point(|s| s.weights < stretch.start);
                let end = segments.partition_point(|s| s.weights < stretch.end);
                let sum = TileSum { weights, block, segments: &segments[first..end], inputs };
                for pair in (0..count).step_by(2) {
                    let pair = [pair, (pair + 1).min(count - 1)];
                    tiles.multiply(sum, pair.map(at), start, sums, pair.map(|i| i * tile_len));
                }
            }
        }
        let row = finished.first(columns * width);
        let rows_of_sums = planes.flat_map(|z| self.place.y.clone().map(move |y| [z, y]));
        for (at_row, sums) in rows_of_sums.zip(sums.chunks_exact(per_row * tile_len)) {
            for (i, tile) in sums.chunks_exact(tile_len).enumerate() {
                row[at(i)[1] * width..][..tile_len].copy_from_slice(tile);
            }
            self.finish_row(epilogue, block, at_row, row);
        }
    }

    /// The segments of the box's first position in plane `z`.
    fn tile_segments<'l>(
        &self,
        z: usize,
        copied: &[Copied; 2],
        list: &'l mut [TileSegment; MAX_SEGMENTS],
    ) -> &'l [TileSegment] {
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
        &list[..used]
    }
}
