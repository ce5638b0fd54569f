//! Multiplying volumes by one banded matrix per axis.
//!
//! Along z and y an output row is a weighted sum of whole input rows, done sixteen columns at a time so that the sums stay
//! in registers. Along x sixteen lines are transposed into a small tile first, and the same kernel runs across lines. Both
//! axes of a slice are done while it is in the cache; z is done before or after them.
//!
//! A sum over many taps starts at both ends of the band, where the weights are tiny, and ends in the middle: rounding
//! to `f32` then only ever hits sums that are about as small as what has been added up.

use super::AxisOperator;
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

/// Columns that are summed at once.
const LANES: usize = 16;

/// Output slices per task along z: neighbours share most of their input slices.
const SLICES_PER_TASK: usize = 8;

/// Columns per cache block along z.
const BLOCK: usize = 2048;

/// `data` resampled along (z, y, x) by one operator each.
///
/// Identities are skipped; the other axes are taken in the order that needs the fewest multiplications. Between z and the
/// plane's axes there is one intermediate volume, of `f32`.
///
/// # Panics
/// If an operator's input length is not that of its axis, which is a programming error.
#[expect(clippy::needless_pass_by_value, reason = "views are passed by value, as everywhere in ndarray")]
pub fn apply(data: ArrayView3<'_, f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    let shape = checked_shape(data.dim(), operators);
    let data = data.as_standard_layout();
    match (cheapest_steps(operators).as_slice(), data.as_slice()) {
        ([first, rest @ ..], Some(voxels)) => finish(first.run(voxels, shape, operators), rest, operators),
        _ => data.into_owned(),
    }
}

/// [`apply`] for a volume that is not needed any more: it is freed as soon as the first intermediate one stands, or returned
/// as it is if there is nothing to do.
///
/// # Panics
/// As [`apply`].
pub fn apply_owned(data: Array3<f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    let shape = checked_shape(data.dim(), operators);
    let steps = cheapest_steps(operators);
    let [first, rest @ ..] = steps.as_slice() else { return data };
    if !data.is_standard_layout() {
        return apply(data.view(), operators);
    }
    // An array that was cut out of a larger one still owns the larger one's memory.
    let len = data.len();
    let (voxels, offset) = data.into_raw_vec_and_offset();
    let resampled = first.run(&voxels[offset.unwrap_or(0)..][..len], shape, operators);
    drop(voxels);
    finish(resampled, rest, operators)
}

/// A volume's voxels in C order, and its shape.
type Flat = (Vec<f32>, [usize; 3]);

/// The remaining steps.
fn finish((mut voxels, mut shape): Flat, steps: &[Step], operators: &[AxisOperator; 3]) -> Array3<f32> {
    for step in steps {
        (voxels, shape) = step.run(&voxels, shape, operators);
    }
    Array3::from_shape_vec(shape, voxels).unwrap_or_else(|_| unreachable!("a step fills its shape"))
}

/// The volume's shape, after comparing it with the operators'.
fn checked_shape(dim: (usize, usize, usize), operators: &[AxisOperator; 3]) -> [usize; 3] {
    let shape = [dim.0, dim.1, dim.2];
    assert_eq!(
        shape,
        operators.each_ref().map(AxisOperator::input_len),
        "volume and operators differ in shape"
    );
    shape
}

/// What makes one volume of another.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// Along z.
    Slices,
    /// Along one axis of each slice.
    Plane(usize),
    /// Along both axes of each slice, in this order.
    Planes(usize, usize),
}

/// The axes whose operator is not the identity, as steps in the order that needs the fewest multiplications; the first such
/// order in the table.
fn cheapest_steps(operators: &[AxisOperator; 3]) -> Vec<Step> {
    const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], [0, 2, 1], [1, 2, 0], [2, 1, 0]];
    let cost = |order: &[usize; 3]| -> f64 {
        let mut shape = operators.each_ref().map(|o| o.input_len() as f64);
        let mut total = 0.0;
        for &axis in order.iter().filter(|&&a| !operators[a].is_identity()) {
            shape[axis] = operators[axis].output_len() as f64;
            total += shape.iter().product::<f64>() * operators[axis].taps() as f64;
        }
        total
    };
    let best = ORDERS.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(&ORDERS[0]);
    let axes: Vec<usize> = best.iter().copied().filter(|&a| !operators[a].is_identity()).collect();
    match axes[..] {
        [] => vec![],
        [0] => vec![Step::Slices],
        [a] => vec![Step::Plane(a)],
        [0, a] => vec![Step::Slices, Step::Plane(a)],
        [a, 0] => vec![Step::Plane(a), Step::Slices],
        [0, a, b] => vec![Step::Slices, Step::Planes(a, b)],
        [a, b, ..] if axes.len() == 3 => vec![Step::Planes(a, b), Step::Slices],
        [a, b, ..] => vec![Step::Planes(a, b)],
    }
}

impl Step {
    /// The volume that this step makes of `input`.
    fn run(self, input: &[f32], shape: [usize; 3], operators: &[AxisOperator; 3]) -> Flat {
        let mut out_shape = shape;
        let axes: &[usize] = match self {
            Self::Slices => &[0],
            Self::Plane(a) => &[a],
            Self::Planes(a, b) => &[a, b],
        };
        for &axis in axes {
            out_shape[axis] = operators[axis].output_len();
        }
        let mut output = vec![0.0; out_shape.iter().product()];
        if !output.is_empty() {
            match self {
                Self::Slices => along_slices(input, &mut output, shape[1] * shape[2], &operators[0]),
                _ => along_planes(input, &mut output, [shape[1], shape[2]], axes, operators),
            }
        }
        (output, out_shape)
    }
}

/// Slices of `inner` voxels as weighted sums of slices.
fn along_slices(input: &[f32], output: &mut [f32], inner: usize, operator: &AxisOperator) {
    output.par_chunks_mut(SLICES_PER_TASK * inner).enumerate().for_each(|(task, slices)| {
        for start in (0..inner).step_by(BLOCK) {
            let end = (start + BLOCK).min(inner);
            for (i, slice) in slices.chunks_exact_mut(inner).enumerate() {
                let (first, weights) = operator.row(task * SLICES_PER_TASK + i);
                weighted_rows(&mut slice[start..end], &input[first * inner + start..], inner, weights);
            }
        }
    });
}

/// Each slice of the given shape (y, x) resampled along one or both of its axes.
fn along_planes(
    input: &[f32],
    output: &mut [f32],
    [height, width]: [usize; 2],
    axes: &[usize],
    operators: &[AxisOperator; 3],
) {
    let plane_len = |axes: &[usize]| {
        let len = |axis: usize, n| if axes.contains(&axis) { operators[axis].output_len() } else { n };
        len(1, height) * len(2, width)
    };
    let slices = output.par_chunks_mut(plane_len(axes)).zip(input.par_chunks(height * width));
    let half_len = if axes.len() == 2 { plane_len(&axes[..1]) } else { 0 };
    let scratch = || (vec![0.0; half_len], vec![0.0; LANES * width]);
    slices.for_each_init(scratch, |(half, tile), (out, slice)| match *axes {
        [1] => along_columns(slice, out, width, &operators[1]),
        [1, _] => {
            along_columns(slice, half, width, &operators[1]);
            along_lines(half, out, tile, &operators[2]);
        }
        [_, _] => {
            along_lines(slice, half, tile, &operators[2]);
            along_columns(half, out, operators[2].output_len(), &operators[1]);
        }
        _ => along_lines(slice, out, tile, &operators[2]),
    });
}

/// Rows of `inner` voxels as weighted sums of rows.
fn along_columns(input: &[f32], output: &mut [f32], inner: usize, operator: &AxisOperator) {
    for (o, row) in output.chunks_exact_mut(inner).enumerate() {
        let (first, weights) = operator.row(o);
        weighted_rows(row, &input[first * inner..], inner, weights);
    }
}

/// Each line of `n_in` contiguous samples resampled to one of `n_out`; `tile` holds `LANES × n_in` samples.
fn along_lines(input: &[f32], output: &mut [f32], tile: &mut [f32], operator: &AxisOperator) {
    let (n_in, n_out) = (operator.input_len(), operator.output_len());
    for (lines, out) in input.chunks(LANES * n_in).zip(output.chunks_mut(LANES * n_out)) {
        for (lane, line) in lines.chunks_exact(n_in).enumerate() {
            for (column, &v) in tile.chunks_exact_mut(LANES).zip(line) {
                column[lane] = v;
            }
        }
        let mut sums = [0.0; LANES];
        for o in 0..n_out {
            let (first, weights) = operator.row(o);
            weighted_rows(&mut sums, &tile[first * LANES..], LANES, weights);
            for (line, &v) in out.chunks_exact_mut(n_out).zip(&sums) {
                line[o] = v;
            }
        }
    }
}

/// Writes `Σ_k weights[k] · source[k·stride + i]` to `out[i]`.
#[inline]
pub(crate) fn weighted_rows(out: &mut [f32], source: &[f32], stride: usize, weights: &[f32]) {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let done = blocks.len() * LANES;
    for (b, block) in blocks.iter_mut().enumerate() {
        *block = weighted_columns(&source[b * LANES..], stride, weights);
    }
    for (i, v) in rest.iter_mut().enumerate() {
        [*v] = weighted_columns(&source[done + i..], stride, weights);
    }
}

/// Writes the `n_out × channels` samples that `operator` makes of the line `source` (`n_in × channels`) to `out`.
#[inline]
pub(crate) fn weighted_channels(out: &mut [f32], source: &[f32], channels: usize, operator: &AxisOperator) {
    match channels {
        1 => weighted_line::<1>(out, source, operator),
        2 => weighted_line::<2>(out, source, operator),
        3 => weighted_line::<3>(out, source, operator),
        4 => weighted_line::<4>(out, source, operator),
        5 => weighted_line::<5>(out, source, operator),
        6 => weighted_line::<6>(out, source, operator),
        7 => weighted_line::<7>(out, source, operator),
        8 => weighted_line::<8>(out, source, operator),
        _ => {
            for (o, sample) in out.chunks_exact_mut(channels).enumerate() {
                let (first, weights) = operator.row(o);
                weighted_rows(sample, &source[first * channels..], channels, weights);
            }
        }
    }
}

/// [`weighted_channels`] for `C` channels.
fn weighted_line<const C: usize>(out: &mut [f32], source: &[f32], operator: &AxisOperator) {
    for (o, sample) in out.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        let (first, weights) = operator.row(o);
        *sample = weighted_columns(&source[first * C..], C, weights);
    }
}

/// `Σ_k weights[k] · source[k·stride + i]` for `i` in `0..N`, both halves of the band summed from its ends inwards.
#[inline(always)]
fn weighted_columns<const N: usize>(source: &[f32], stride: usize, weights: &[f32]) -> [f32; N] {
    let (left, right) = weights.split_at(weights.len() / 2);
    let (mut low, mut high) = ([0.0; N], [0.0; N]);
    for (k, &w) in left.iter().enumerate() {
        add_scaled(&mut low, &source[k * stride..], w);
    }
    for (k, &w) in right.iter().enumerate().rev() {
        add_scaled(&mut high, &source[(left.len() + k) * stride..], w);
    }
    std::array::from_fn(|i| low[i] + high[i])
}

/// Adds `w` times the first `N` values of `source` to `sums`.
#[inline(always)]
fn add_scaled<const N: usize>(sums: &mut [f32; N], source: &[f32], w: f32) {
    for (sum, v) in sums.iter_mut().zip(&source[..N]) {
        *sum += w * v;
    }
}
