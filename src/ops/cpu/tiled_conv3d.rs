//! The part of a convolution's task that runs on tile registers ([`super::amx`]).

use super::aligned::AlignedFloats;
use super::amx::{SIDE, Start, TilePosition, TileSegment, TileSum, TileWeights, Tiles};
use super::conv_task::{BlockOutput, ConvTask};
use super::input_rows::Copied;
use super::kernel::{MAX_SEGMENTS, Segment};

/// How the positions of a box's plane are cut into tiles.
#[derive(Clone, Copy)]
struct PlaneTiles {
    columns: usize,
    /// Tiles of a row; the last one overlaps the one before.
    per_row: usize,
    /// Positions of a tile.
    positions: usize,
    /// Tiles of the plane.
    count: usize,
}

impl PlaneTiles {
    /// Row and first position of a tile.
    fn at(self, tile: usize) -> TilePosition {
        [tile / self.per_row, (tile % self.per_row * self.positions).min(self.columns - self.positions)]
    }

    /// The tiles two by two; where one is left over it is its own partner.
    fn pairs(self) -> impl Iterator<Item = [usize; 2]> {
        (0..self.count).step_by(2).map(move |tile| [tile, (tile + 1).min(self.count - 1)])
    }
}

impl ConvTask<'_> {
    /// The tiles of a plane of the box.
    fn plane_tiles(&self) -> PlaneTiles {
        let columns = self.place.x.len();
        let per_row = columns.div_ceil(SIDE);
        let (positions, count) = (columns.div_ceil(per_row), self.place.y.len() * per_row);
        PlaneTiles { columns, per_row, positions, count }
    }

    /// Tile registers for this task.
    pub(super) fn configure_tiles(&self) -> Tiles {
        // SAFETY: AMX was chosen, which the processor has; nothing else on this thread uses tiles during a task.
        unsafe { Tiles::configure(self.plane_tiles().positions) }
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
        let plane = self.plane_tiles();
        let row_len = plane.columns * width;
        let finished = finished.first(self.place.y.len() * row_len);
        let mut list = [TileSegment::default(); MAX_SEGMENTS];
        for z in planes {
            let segments = self.tile_segments(z, copied, &mut list);
            let sum = TileSum { weights, block, segments, inputs };
            let mut done = 0;
            for pair in plane.pairs() {
                let at = pair.map(|tile| plane.at(tile));
                let to = at.map(|[row, position]| row * row_len + position * width);
                tiles.multiply(sum, at, Start::Bias, finished, to);
                while (done + 1) * plane.per_row <= pair[1] + 1 {
                    let row = &mut finished[done * row_len..][..row_len];
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
        let plane = self.plane_tiles();
        let tile_len = plane.positions * width;
        let plane_len = plane.count * tile_len;
        // Every tile has a place of its own: positions that two share must not be added to twice.
        let sums = sums.first(planes.len() * plane_len);
        let mut list = [TileSegment::default(); MAX_SEGMENTS];
        for (number, stretch) in weights.stretches.iter().enumerate() {
            let start = if number == 0 { Start::Bias } else { Start::Sums };
            for (z, sums) in planes.clone().zip(sums.chunks_exact_mut(plane_len)) {
                let segments = self.tile_segments(z, copied, &mut list);
                let first = segments.partition_point(|s| s.weights < stretch.start);
                let end = segments.partition_point(|s| s.weights < stretch.end);
                let sum = TileSum { weights, block, segments: &segments[first..end], inputs };
                for pair in plane.pairs() {
                    let (at, to) = (pair.map(|tile| plane.at(tile)), pair.map(|tile| tile * tile_len));
                    tiles.multiply(sum, at, start, sums, to);
                }
            }
        }
        let row = finished.first(plane.columns * width);
        let rows_of_sums = planes.flat_map(|z| self.place.y.clone().map(move |y| [z, y]));
        for (at_row, sums) in rows_of_sums.zip(sums.chunks_exact(plane.per_row * tile_len)) {
            for (i, tile) in sums.chunks_exact(tile_len).enumerate() {
                row[plane.at(i)[1] * width..][..tile_len].copy_from_slice(tile);
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
