//! How the output of a convolution is cut into tasks.
//!
//! A task copies the input of its box, neighbours included, so large boxes copy less; a copy that outgrows the
//! second-level cache, or weights that are read again for every small box, cost more than they save; and there must
//! be tasks enough for all threads. The choice weighs these by a few constants measured on one kind of processor; it
//! depends on shapes only, and so do the results.

use super::conv3d::{Geometry, Place};
use super::winograd::{OUTPUTS, POINTS};

/// What the choice depends on.
pub(super) struct Extent {
    pub geometry: Geometry,
    /// Input channels of all sources.
    pub channels: usize,
    pub winograd: bool,
    /// Blocks of output channels.
    pub blocks: usize,
    /// Bytes of one block's weights.
    pub block_bytes: usize,
}

/// Size of the boxes: output planes, rows, columns, and blocks of output channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocking {
    pub planes: usize,
    pub rows: usize,
    pub columns: usize,
    pub blocks: usize,
}

/// Bytes that stay in a core's second-level cache from one task to the next.
const CACHE: f64 = 512.0 * 1024.0;
/// Largest scratch of a task, in bytes.
const MAX_SCRATCH: f64 = 8.0 * 1024.0 * 1024.0;

impl Blocking {
    /// The cheapest box.
    pub fn choose(extent: &Extent) -> Self {
        let [depth, height, width] = extent.geometry.out_dims;
        let mut best = (f64::INFINITY, Self { planes: 1, rows: 1, columns: width, blocks: extent.blocks });
        for planes in [1, 2, 3, 4, 6, 8, 12].into_iter().filter(|&n| n <= depth) {
            for rows in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32].into_iter().filter(|&n| n <= height) {
                for columns in [width, 144, 96, 48].into_iter().filter(|&n| n <= width) {
                    for blocks in [extent.blocks, 4, 2, 1].into_iter().filter(|&n| n <= extent.blocks) {
                        let candidate = Self { planes, rows, columns, blocks };
                        let cost = candidate.cost(extent);
                        if cost < best.0 {
                            best = (cost, candidate);
                        }
                    }
                }
            }
        }
        best.1
    }

    /// Estimated cycles of the whole convolution.
    fn cost(&self, extent: &Extent) -> f64 {
        let Geometry { kernel, stride, out_dims, .. } = extent.geometry;
        let read = |n: usize, axis: usize| (n - 1) * stride[axis] + kernel[axis];
        let row =
            if extent.winograd { self.columns.div_ceil(OUTPUTS) * POINTS } else { read(self.columns, 2) };
        let scratch = (4 * read(self.planes, 0) * read(self.rows, 1) * row * extent.channels) as f64;
        let weights = (self.blocks * extent.block_bytes) as f64;
        let sums = if extent.winograd {
            (4 * 32 * self.planes * self.rows * self.columns.div_ceil(OUTPUTS) * POINTS) as f64
        } else {
            0.0
        };
        if scratch > MAX_SCRATCH {
            return f64::INFINITY;
        }
        let (copy, again) = if scratch + sums <= CACHE { (0.1, 0.0) } else { (0.25, 0.06) };
        let refetch = if weights <= CACHE { 0.01 } else { 0.12 };
        let task = 5000.0 + scratch * (copy + again * self.blocks as f64) + sums * 0.05 + weights * refetch;
        let tasks = self.tasks(out_dims, extent.blocks) as f64;
        let products = out_dims.iter().product::<usize>() * extent.blocks * extent.block_bytes / 4;
        let sums_at = if extent.winograd { 1.0 / OUTPUTS as f64 } else { 1.0 };
        let arithmetic = products as f64 * sums_at / 28.0;
        (arithmetic + tasks * task) * (1.0 + 3.0 / tasks)
    }

    /// Number of tasks.
    pub fn tasks(&self, [depth, height, width]: [usize; 3], blocks: usize) -> usize {
        depth.div_ceil(self.planes)
            * height.div_ceil(self.rows)
            * width.div_ceil(self.columns)
            * blocks.div_ceil(self.blocks)
    }

    /// The box of a task.
    pub fn place(&self, task: usize, [depth, height, width]: [usize; 3], blocks: usize) -> Place {
        let cut = |i: usize, size: usize, len: usize| i * size..((i + 1) * size).min(len);
        let (groups, columns, rows) =
            (blocks.div_ceil(self.blocks), width.div_ceil(self.columns), height.div_ceil(self.rows));
        Place {
            z: cut(task / (groups * columns * rows), self.planes, depth),
            y: cut(task / (groups * columns) % rows, self.rows, height),
            x: cut(task / groups % columns, self.columns, width),
            blocks: cut(task % groups, self.blocks, blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_cover_the_output_once() {
        let blocking = Blocking { planes: 2, rows: 3, columns: 4, blocks: 2 };
        let (dims, blocks) = ([5, 7, 9], 3);
        let mut covered = vec![0; 5 * 7 * 9 * 3];
        for task in 0..blocking.tasks(dims, blocks) {
            let place = blocking.place(task, dims, blocks);
            for z in place.z.clone() {
                for y in place.y.clone() {
                    for x in place.x.clone() {
                        for b in place.blocks.clone() {
                            covered[((z * 7 + y) * 9 + x) * 3 + b] += 1;
                        }
                    }
                }
            }
        }
        assert!(covered.iter().all(|&n| n == 1));
    }

    #[test]
    fn columns_of_winograd_tiles_are_whole_tiles_but_at_the_end() {
        for width in [4, 7, 36, 49, 145, 288] {
            for n in [width, 144, 96, 48].into_iter().filter(|&n| n < width) {
                assert_eq!(n % OUTPUTS, 0);
            }
        }
    }
}
