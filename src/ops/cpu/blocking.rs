//! How the output of a convolution is cut into tasks.
//!
//! A task copies the input of its box, neighbours included, so large boxes copy less. The planes of a box are summed a
//! few at a time, and only the input of these is kept: a copy that outgrows the second-level cache, or weights that are
//! read again for every few planes, cost more than they save; and there must be tasks enough for all threads. The
//! choice weighs these by a few constants measured on two kinds of processors; it depends on shapes and arithmetic only,
//! and so do the results.

use super::conv3d::{Geometry, Place};
use super::winograd::{OUTPUTS, POINTS};

/// What the choice depends on.
pub(super) struct Extent {
    pub geometry: Geometry,
    /// Input channels of all sources.
    pub channels: usize,
    pub winograd: bool,
    /// Whether a block's weights are used in stretches, so that sums are kept between them.
    pub stretches: bool,
    /// Bytes of a copied number, in all its parts.
    pub number_bytes: usize,
    /// Blocks of output channels.
    pub blocks: usize,
    /// Bytes of one block's weights.
    pub block_bytes: usize,
    pub costs: Costs,
}

/// What a core's work costs.
pub(super) struct Costs {
    /// Products that are added in a cycle.
    pub speed: f64,
    /// Bytes of copied input that stay in the second-level cache while they are used.
    pub cache: f64,
    /// Cycles to copy a byte that stays there, and one that does not.
    pub copy: [f64; 2],
    /// Cycles to read a byte that does not stay there for another block of output channels.
    pub again: f64,
    /// By how much copying takes longer where boxes are narrower than rows, so that memory is not read in one go.
    pub narrow: f64,
}

impl Costs {
    /// Vector instructions, with 1 MB of second-level cache.
    pub const VECTORS: Self =
        Self { speed: 28.0, cache: 512.0 * 1024.0, copy: [0.1, 0.25], again: 0.06, narrow: 1.0 };

    /// Tiles of so many bfloat16 parts, with 2 MB of second-level cache.
    #[cfg(target_arch = "x86_64")]
    pub fn tiles(parts: usize) -> Self {
        let products = if parts == 2 { 3.0 } else { 1.0 };
        Self { speed: 256.0 / products, cache: 1.5e6, copy: [0.5, 0.8], again: 0.02, narrow: 1.4 }
    }
}

/// Size of the boxes: output planes, rows, columns, and blocks of output channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocking {
    pub planes: usize,
    /// Planes that are summed at a time.
    pub group: usize,
    pub rows: usize,
    pub columns: usize,
    pub blocks: usize,
}

/// Bytes of weights that stay in a core's second-level cache beside the copied input.
pub(super) const WEIGHTS: usize = 512 * 1024;
/// Most bytes of copied input and sums of a task.
const MAX_SCRATCH: f64 = 8.0 * 1024.0 * 1024.0;

impl Blocking {
    /// The cheapest box.
    pub fn choose(extent: &Extent) -> Self {
        let [depth, height, width] = extent.geometry.out_dims;
        // Where no box is small enough, the smallest that is tried.
        let mut best =
            (f64::INFINITY, Self { planes: 1, group: 1, rows: 1, columns: width.min(48), blocks: 1 });
        let some = |candidates: &[usize], most: usize| -> Vec<usize> {
            candidates.iter().copied().filter(|&n| n <= most).collect()
        };
        for group in some(&[1, 2, 3, 4, 6, 8, 12], depth) {
            for planes in some(&[1, 2, 4, 8, 16].map(|n| n * group), depth + group - 1) {
                for rows in some(&[1, 2, 3, 4, 6, 8, 12, 16, 24, 32], height) {
                    for columns in some(&[width, 144, 96, 48], width) {
                        for blocks in some(&[extent.blocks, 4, 2, 1], extent.blocks) {
                            let candidate = Self { planes: planes.min(depth), group, rows, columns, blocks };
                            let cost = candidate.cost(extent);
                            if cost < best.0 {
                                best = (cost, candidate);
                            }
                        }
                    }
                }
            }
        }
        best.1
    }

    /// Estimated cycles of the whole convolution.
    fn cost(&self, extent: &Extent) -> f64 {
        let Geometry { kernel, stride, in_dims, out_dims } = extent.geometry;
        let read = |n: usize, axis: usize| (n - 1) * stride[axis] + kernel[axis];
        let read_planes = |n: usize| read(n, 0).min(in_dims[0]);
        let row =
            if extent.winograd { self.columns.div_ceil(OUTPUTS) * POINTS } else { read(self.columns, 2) };
        let plane = (extent.number_bytes * read(self.rows, 1) * row * extent.channels) as f64;
        let scratch = read_planes(self.group) as f64 * plane;
        let copied = read_planes(self.planes) as f64 * plane;
        let groups = self.planes.div_ceil(self.group) as f64;
        let weights = (self.blocks * extent.block_bytes) as f64;
        let sums = if extent.winograd {
            (4 * 32 * self.group * self.rows * self.columns.div_ceil(OUTPUTS) * POINTS) as f64
        } else if extent.stretches {
            (4 * 32 * self.group * self.rows * self.columns) as f64
        } else {
            0.0
        };
        if scratch + sums > MAX_SCRATCH {
            return f64::INFINITY;
        }
        let Costs { speed, cache, copy, again, narrow } = extent.costs;
        let (copy, again) = if scratch + sums <= cache { (copy[0], 0.0) } else { (copy[1], again) };
        let copy = if self.columns < out_dims[2] { copy * narrow } else { copy };
        let refetch = if weights <= WEIGHTS as f64 { 0.01 } else { 0.12 };
        let group = 500.0 + scratch * again * self.blocks as f64 + sums * 0.05 + weights * refetch;
        let task = 5000.0 + copied * copy + groups * group;
        let tasks = self.tasks(out_dims, extent.blocks) as f64;
        let products =
            out_dims.iter().product::<usize>() * extent.blocks * extent.block_bytes / extent.number_bytes;
        let sums_at = if extent.winograd { 1.0 / OUTPUTS as f64 } else { 1.0 };
        let arithmetic = products as f64 * sums_at / speed;
        (arithmetic + tasks * task) * (1.0 + 1.0 / tasks)
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
        let blocking = Blocking { planes: 2, group: 1, rows: 3, columns: 4, blocks: 2 };
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
