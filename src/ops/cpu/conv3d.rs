//! 3-D convolution on the CPU.
//!
//! The output is cut into boxes ([`Blocking`]), by the shape of the convolution alone, so that results do not depend
//! on the number of threads. The task of a box ([`ConvTask`]) goes through its planes a few at a time. It copies the
//! input that these depend on, activated and padded with zeros in y and x, into a scratch buffer of its own, as far as it
//! is not there already; planes outside the image are left out of the sum. With three taps and stride 1 along x the copy
//! is what Winograd's algorithm multiplies ([`super::winograd`]), for tiles of AMX it is bfloat16 ([`super::amx`]),
//! otherwise the padded rows themselves. Then the kernels run over it, block by block of output channels, and finished
//! rows go to the output while their moments are taken ([`super::epilogue`]).

use super::Arithmetic;
#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::activation::{Affine, Moments};
#[cfg(target_arch = "x86_64")]
use super::amx::{self, SIDE, TileWeights};
use super::blocking::{Blocking, Costs, Extent};
use super::conv_task::{ConvTask, Scratch, SharedOutput};
use super::kernel::{PackedWeights, dispatch};
use super::winograd::{self, OUTPUTS, POINTS};
use crate::ops::value::{Activation, ActivationMut, Operand};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// How the taps along x are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// One after the other.
    Direct,
    /// Four outputs at a time ([`winograd`]).
    Winograd,
    /// Together with the channels, 32 at a time, as this many bfloat16 parts ([`super::amx`]).
    #[cfg(target_arch = "x86_64")]
    Tiles { parts: usize },
}

impl Scheme {
    pub fn points(self) -> usize {
        match self {
            Self::Direct => 1,
            Self::Winograd => POINTS,
            #[cfg(target_arch = "x86_64")]
            Self::Tiles { parts } => parts,
        }
    }
}

/// Kernel, stride and grids of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Geometry {
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub in_dims: [usize; 3],
    pub out_dims: [usize; 3],
}

/// A convolution as the CPU runs it, or a transposed one whose kernel is its stride: to every input voxel it is a
/// convolution of one tap with as many groups of output channels as the voxel becomes rows of voxels.
pub(in crate::ops) struct CpuConv {
    pub(super) geometry: Geometry,
    /// Planes and rows of the output that a voxel becomes, each a group of output channels.
    pub(super) upsampling: [usize; 2],
    /// Channels of each source.
    pub(super) channels: Vec<usize>,
    pub(super) scheme: Scheme,
    /// Segments are numbered (source, kz, ky); there are none where the weights are tiles.
    pub(super) weights: PackedWeights,
    #[cfg(target_arch = "x86_64")]
    pub(super) tiles: Option<TileWeights>,
    pub(super) blocking: Blocking,
    /// Whether sums are added to what the output holds.
    pub adds_to_output: bool,
    state: Mutex<State>,
}

/// What a run writes beside its output, allocated once.
struct State {
    affines: Vec<Affine>,
    /// Moments per task: (mean, squares) of each channel of the task.
    parts: Vec<[f64; 2]>,
}

impl CpuConv {
    /// Packs `weight(o, i, tap, x)`: output channel, input channel over all sources, `kz · kernel_y + ky`, `kx`.
    pub fn new(
        geometry: Geometry,
        operands: &[Operand],
        bias: &[f32],
        arithmetic: Arithmetic,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        Self::pack(geometry, [1, 1], operands, bias, arithmetic, weight)
    }

    /// Packs `weight(tap, o, i)` of a transposed convolution: `kz · stride_y + ky`, `kx · channels` and output channel,
    /// input channel. `bias` is that of all `stride_x · channels` of one tap.
    pub fn transposed(
        stride: [usize; 3],
        operand: Operand,
        bias: &[f32],
        arithmetic: Arithmetic,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let dims = operand.shape.dims;
        let geometry = Geometry { kernel: [1; 3], stride: [1; 3], in_dims: dims, out_dims: dims };
        let upsampling = [stride[0], stride[1]];
        let per_group = bias.len();
        let bias = bias.repeat(stride[0] * stride[1]);
        // Memory decides how long it takes, so the better precision costs next to nothing.
        let arithmetic = arithmetic.in_float32();
        Self::pack(geometry, upsampling, &[operand], &bias, arithmetic, |o, i, _, _| {
            weight(o / per_group, o % per_group, i)
        })
    }

    fn pack(
        geometry: Geometry,
        upsampling: [usize; 2],
        operands: &[Operand],
        bias: &[f32],
        arithmetic: Arithmetic,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let groups = upsampling[0] * upsampling[1];
        let [kernel_z, kernel_y, kernel_x] = geometry.kernel;
        let channels: Vec<usize> = operands.iter().map(|o| o.shape.channels).collect();
        let taps = kernel_z * kernel_y;
        let scheme = Self::choose_scheme(&geometry, &channels, bias.len() / groups, arithmetic);
        let per_position = if scheme == Scheme::Winograd { 1 } else { kernel_x };
        let segment_lens: Vec<usize> = channels.iter().flat_map(|&c| vec![per_position * c; taps]).collect();
        let weight_at = |point: usize, segment: usize, k: usize, o: usize| {
            let (source, tap) = (segment / taps, segment % taps);
            let (x, c) = (k / channels[source], k % channels[source]);
            let input = c + if source == 0 { 0 } else { channels[0] };
            match scheme {
                Scheme::Winograd => {
                    winograd::kernel_at(point, std::array::from_fn(|x| weight(o, input, tap, x)))
                }
                _ => weight(o, input, tap, x),
            }
        };
        #[cfg(target_arch = "x86_64")]
        let (weights, tiles) = if let Scheme::Tiles { .. } = scheme {
            let weights = PackedWeights::pack(arithmetic, groups, bias, 1, &[], weight_at);
            let tiles =
                TileWeights::pack(arithmetic.precision(), &weights, &segment_lens, |segment, k, o| {
                    weight_at(0, segment, k, o)
                });
            (weights, Some(tiles))
        } else {
            (PackedWeights::pack(arithmetic, groups, bias, scheme.points(), &segment_lens, weight_at), None)
        };
        #[cfg(target_arch = "x86_64")]
        let (block_bytes, stretches) = match &tiles {
            Some(tiles) => (tiles.block_bytes(), tiles.stretches.len() > 1),
            None => (weights.block_bytes(), false),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let weights =
            PackedWeights::pack(arithmetic, groups, bias, scheme.points(), &segment_lens, weight_at);
        #[cfg(not(target_arch = "x86_64"))]
        let (block_bytes, stretches) = (weights.block_bytes(), false);
        let (number_bytes, costs) = match scheme {
            #[cfg(target_arch = "x86_64")]
            Scheme::Tiles { parts } => (2 * parts, Costs::tiles(parts)),
            _ => (4, Costs::VECTORS),
        };
        let extent = Extent {
            geometry,
            channels: channels.iter().sum(),
            winograd: scheme == Scheme::Winograd,
            stretches,
            number_bytes,
            blocks: weights.block_count(),
            block_bytes,
            costs,
        };
        let blocking = Blocking::choose(&extent);
        let affines = operands.iter().map(|_| Affine::default()).collect();
        let parts = Self::new_parts(&geometry, &weights, &blocking);
        Self {
            geometry,
            upsampling,
            channels,
            scheme,
            weights,
            #[cfg(target_arch = "x86_64")]
            tiles,
            blocking,
            adds_to_output: false,
            state: Mutex::new(State { affines, parts }),
        }
    }

    /// Moments for all tasks.
    fn new_parts(geometry: &Geometry, weights: &PackedWeights, blocking: &Blocking) -> Vec<[f64; 2]> {
        let tasks = blocking.tasks(geometry.out_dims, weights.block_count());
        vec![[0.0; 2]; tasks * Self::channels_per_task(weights, blocking)]
    }

    /// Winograd pays where there is enough to sum per transform, and tiles of four do not overhang rows by much.
    fn choose_scheme(
        geometry: &Geometry,
        channels: &[usize],
        out_channels: usize,
        arithmetic: Arithmetic,
    ) -> Scheme {
        // Tiles of 32 inputs × 32 outputs that are mostly padding are slower than vectors.
        #[cfg(target_arch = "x86_64")]
        if arithmetic.isa() == Isa::Amx
            && out_channels > SIDE
            && channels.iter().all(|c| c * geometry.kernel[2] >= SIDE)
        {
            return Scheme::Tiles { parts: amx::parts(arithmetic.precision()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _: (usize, Arithmetic) = (out_channels, arithmetic);
        let channels: usize = channels.iter().sum();
        let [kernel_z, kernel_y, kernel_x] = geometry.kernel;
        let width = geometry.out_dims[2];
        let fits = 6 * width.next_multiple_of(OUTPUTS) <= 8 * width;
        if kernel_x == 3 && geometry.stride[2] == 1 && fits && kernel_z * kernel_y * channels >= 64 {
            Scheme::Winograd
        } else {
            Scheme::Direct
        }
    }

    fn channels_per_task(weights: &PackedWeights, blocking: &Blocking) -> usize {
        (0..weights.block_count())
            .step_by(blocking.blocks)
            .map(|b| {
                let end = (b + blocking.blocks).min(weights.block_count());
                weights.block(end - 1).0.end - weights.block(b).0.start
            })
            .max()
            .unwrap_or(0)
    }

    /// Writes the raw output, or adds to it, and tells its moments per channel if they are asked for.
    pub fn run(
        &self,
        sources: &[Activation<'_>],
        out: &mut ActivationMut<'_>,
        moments: Option<&mut Moments>,
    ) {
        assert_eq!(
            sources.len(),
            self.channels.len(),
            "convolution called with other sources than packed for"
        );
        let voxels: usize = self.geometry.out_dims.iter().product();
        assert_eq!(
            out.raw.len(),
            voxels * self.weights.out_channels,
            "output of another shape than packed for"
        );
        for (source, &channels) in sources.iter().zip(&self.channels) {
            let voxels: usize = self.geometry.in_dims.iter().product();
            assert_eq!(source.raw.len(), voxels * channels, "source of another shape than packed for");
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { affines, parts } = &mut *state;
        for (affine, source) in affines.iter_mut().zip(sources) {
            affine.set(source);
        }
        let per_task = Self::channels_per_task(&self.weights, &self.blocking);
        let shared = SharedOutput { to: out.raw.as_mut_ptr(), len: out.raw.len() };
        let (affines, wanted) = (&*affines, moments.is_some());
        parts.par_chunks_mut(per_task).enumerate().with_max_len(1).for_each(|(task, parts)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let parts = wanted.then_some(parts);
                let place = self.blocking.place(task, self.geometry.out_dims, self.weights.block_count());
                let work = ConvTask { conv: self, sources, affines, place, out: &shared, parts, scratch };
                dispatch(self.weights.arithmetic.isa(), work);
            });
        });
        if let Some(moments) = moments {
            moments.clear();
            for (task, parts) in parts.chunks(per_task).enumerate() {
                let place = self.blocking.place(task, self.geometry.out_dims, self.weights.block_count());
                moments.merge(self.channel_range(&place.blocks), place.voxels() as f64, parts);
            }
        }
    }

    /// Input voxels of a row with `positions` outputs, and at how many positions they are kept.
    pub(super) fn columns(&self, positions: usize) -> (usize, usize) {
        let Geometry { kernel: [_, _, kernel], stride: [_, _, stride], .. } = self.geometry;
        if self.scheme == Scheme::Winograd {
            let tiles = positions.div_ceil(OUTPUTS);
            return (tiles * OUTPUTS + kernel - 1, tiles);
        }
        let columns = (positions - 1) * stride + kernel;
        (columns, columns)
    }

    /// Output channels of a voxel, or of the row of voxels that it becomes.
    pub(super) fn voxel_channels(&self) -> usize {
        self.weights.out_channels / self.upsampling.iter().product::<usize>()
    }

    fn channel_range(&self, blocks: &Range<usize>) -> Range<usize> {
        self.weights.block(blocks.start).0.start..self.weights.block(blocks.end - 1).0.end
    }
}

/// The part of the output that one task computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub z: Range<usize>,
    pub y: Range<usize>,
    pub x: Range<usize>,
    pub blocks: Range<usize>,
}

impl Place {
    fn voxels(&self) -> usize {
        self.z.len() * self.y.len() * self.x.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, Precision};
    use super::*;
    use crate::ops::value::ValueShape;

    /// Numbers of order 1.
    fn noise(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin()).collect()
    }

    /// The raw output and, but for transposed convolutions, (mean, variance) of each channel.
    fn run(conv: &CpuConv, operands: &[Operand], raw: &[Vec<f32>]) -> (Vec<f32>, Vec<(f64, f64)>) {
        let constant = [vec![0.5; 256], vec![0.25; 256]];
        let sources: Vec<_> = operands
            .iter()
            .zip(raw)
            .map(|(operand, raw)| Activation {
                operand: *operand,
                scale: &constant[0][..operand.shape.channels],
                shift: &constant[1][..operand.shape.channels],
                raw,
            })
            .collect();
        let out_channels = conv.weights.out_channels;
        let mut out = vec![0.0; conv.geometry.out_dims.iter().product::<usize>() * out_channels];
        let mut view = ActivationMut { scale: &mut [], shift: &mut [], raw: &mut out };
        if conv.upsampling != [1, 1] {
            conv.run(&sources, &mut view, None);
            return (out, Vec::new());
        }
        let mut moments = Moments::empty(out_channels);
        conv.run(&sources, &mut view, Some(&mut moments));
        (out, (0..out_channels).map(|c| moments.mean_and_variance(c)).collect())
    }

    /// Compares runs in several boxes with one in the boxes that were chosen.
    fn check(packed: &dyn Fn() -> CpuConv, operands: &[Operand], out_dims: [usize; 3], what: &str) {
        let raw: Vec<_> = operands.iter().enumerate().map(|(i, o)| noise(i, o.shape.data_len())).collect();
        let nothing: Vec<_> = raw.iter().map(|raw| vec![f32::NAN; raw.len()]).collect();
        let (expected, expected_moments) = run(&packed(), operands, &raw);
        for (planes, group, rows, columns, blocks) in
            [(13, 1, 6, 22, 2), (4, 2, 3, 22, 2), (6, 3, 2, 8, 1), (1, 1, 1, 4, 1), (8, 8, 4, 12, 2)]
        {
            let mut conv = packed();
            let columns = if columns == 22 { out_dims[2] } else { columns };
            conv.blocking = Blocking { planes, group, rows, columns, blocks };
            conv.state.get_mut().unwrap().parts =
                CpuConv::new_parts(&conv.geometry, &conv.weights, &conv.blocking);
            // Leaves numbers in the scratch buffers that must not be read.
            run(&conv, operands, &nothing);
            let (out, moments) = run(&conv, operands, &raw);
            assert!(out == expected, "{what} {:?}", conv.blocking);
            for ((mean, variance), (expected_mean, expected_variance)) in
                moments.iter().zip(&expected_moments)
            {
                assert!((mean - expected_mean).abs() < 1e-5, "{what}: {mean}, expected {expected_mean}");
                assert!(
                    (variance / expected_variance - 1.0).abs() < 1e-5,
                    "{what}: {variance}, expected {expected_variance}"
                );
            }
        }
    }

    #[test]
    fn boxes_and_groups_of_planes_change_nothing_but_the_order_of_moments() {
        let out_channels = 40;
        let bias = noise(3, 2 * out_channels);
        let weights = noise(2, out_channels * 40 * 49);
        let all = Isa::available().map(|isa| (isa, Precision::F32));
        for (isa, precision) in all.chain(Isa::Amx.is_available().then_some((Isa::Amx, Precision::Bf16))) {
            let arithmetic = Arithmetic::new(Some(isa), precision).unwrap();
            for (in_dims, kernel, stride, inputs) in [
                ([13, 6, 22], [3; 3], [1; 3], &[24][..]),
                ([13, 6, 22], [3; 3], [2, 1, 2], &[24]),
                ([13, 6, 22], [1, 3, 3], [1; 3], &[24, 16]),
                ([13, 6, 22], [5, 1, 1], [3, 1, 1], &[24]),
                ([2, 6, 22], [7, 3, 3], [1; 3], &[16, 24]),
                ([9, 3, 9], [3; 3], [1; 3], &[32]),
                ([3, 6, 19], [3; 3], [1; 3], &[200, 128]), // weights in stretches
            ] {
                let operands: Vec<_> = inputs
                    .iter()
                    .map(|&channels| Operand {
                        shape: ValueShape { dims: in_dims, channels },
                        negative_slope: 0.01,
                    })
                    .collect();
                let total: usize = inputs.iter().sum();
                let out_dims = std::array::from_fn(|a| (in_dims[a] - 1) / stride[a] + 1);
                let geometry = Geometry { kernel, stride, in_dims, out_dims };
                let taps = kernel[0] * kernel[1];
                let weight = |o: usize, i: usize, tap: usize, x: usize| {
                    weights[(((o * total + i) * taps + tap) * kernel[2] + x) % weights.len()]
                };
                let packed = || CpuConv::new(geometry, &operands, &bias[..out_channels], arithmetic, weight);
                check(
                    &packed,
                    &operands,
                    out_dims,
                    &format!("{arithmetic} {kernel:?} {stride:?} {inputs:?}"),
                );
            }
            let operand =
                Operand { shape: ValueShape { dims: [5, 6, 22], channels: 24 }, negative_slope: 0.01 };
            let weight = |tap: usize, o: usize, i: usize| weights[(tap * 80 + o) * 24 + i];
            let packed = || CpuConv::transposed([2, 2, 2], operand, &bias, arithmetic, weight);
            check(&packed, &[operand], operand.shape.dims, &format!("{arithmetic} transposed"));
        }
    }
}
