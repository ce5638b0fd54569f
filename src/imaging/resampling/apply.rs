//! Multiplying volumes by one banded matrix per axis.
//!
//! A pass along an axis sees the volume as `(outer, n, inner)` with `inner` contiguous. Along z and y an output row is a
//! weighted sum of whole input rows, done sixteen columns at a time so that the sums stay in registers. Along x
//! (`inner` = 1) sixteen lines are transposed into a small tile first, and the same kernel runs across lines.
//!
//! A sum over many taps starts at both ends of the band, where the weights are tiny, and ends in the middle: rounding
//! to `f32` then only ever hits sums that are about as small as what has been added up.

use super::AxisOperator;
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;

/// Columns that are summed at once.
const LANES: usize = 16;

/// Output rows per task along z and y: neighbours share most of their input rows.
const ROWS_PER_TASK: usize = 16;

/// Columns per cache block along z and y.
const BLOCK: usize = 2048;

/// `data` resampled along (z, y, x) by one operator each.
///
/// Identities are skipped; the other axes are taken in the order that needs the fewest multiplications. Intermediate
/// volumes are `f32`; besides the result at most one of them exists at a time.
///
/// # Panics
/// If an operator's input length is not that of its axis, which is a programming error.
pub fn apply(data: ArrayView3<'_, f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    let mut shape = checked_shape(data.dim(), operators);
    let data = data.as_standard_layout();
    let order = cheapest_order(operators);
    let (Some((&first, rest)), Some(voxels)) = (order.split_first(), data.as_slice()) else {
        return data.into_owned();
    };
    let resampled = pass(voxels, &mut shape, first, &operators[first]);
    finish(resampled, shape, rest, operators)
}

/// [`apply`] for a volume that is not needed any more: it is freed after the first axis, or returned as it is if there is
/// nothing to do.
///
/// # Panics
/// As [`apply`].
pub fn apply_owned(data: Array3<f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    let shape = checked_shape(data.dim(), operators);
    let order = cheapest_order(operators);
    if order.is_empty() || !data.is_standard_layout() {
        return if order.is_empty() { data } else { apply(data.view(), operators) };
    }
    finish(data.into_raw_vec_and_offset().0, shape, &order, operators)
}

/// The remaining passes over a volume's voxels.
fn finish(mut voxels: Vec<f32>, mut shape: [usize; 3], order: &[usize], operators: &[AxisOperator; 3]) -> Array3<f32> {
    for &axis in order {
        voxels = pass(&voxels, &mut shape, axis, &operators[axis]);
    }
    Array3::from_shape_vec(shape, voxels).unwrap_or_else(|_| unreachable!("a pass fills its shape"))
}

/// The volume's shape, after comparing it with the operators'.
fn checked_shape(dim: (usize, usize, usize), operators: &[AxisOperator; 3]) -> [usize; 3] {
    let shape = [dim.0, dim.1, dim.2];
    assert_eq!(shape, operators.each_ref().map(AxisOperator::input_len), "volume and operators differ in shape");
    shape
}

/// The axes whose operator is not the identity, in the order that needs the fewest multiplications; the first such order
/// in lexicographic order of the axes.
fn cheapest_order(operators: &[AxisOperator; 3]) -> Vec<usize> {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
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
    best.iter().copied().filter(|&a| !operators[a].is_identity()).collect()
}

/// The voxels resampled along one axis; `shape` becomes theirs.
fn pass(input: &[f32], shape: &mut [usize; 3], axis: usize, operator: &AxisOperator) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    shape[axis] = operator.output_len();
    let mut output = vec![0.0; shape.iter().product()];
    if output.is_empty() {
        return output;
    }
    if inner == 1 {
        along_lines(input, &mut output, operator);
    } else {
        let slabs = output.par_chunks_mut(operator.output_len() * inner);
        slabs.zip(input.par_chunks(operator.input_len() * inner)).for_each(|(out, slab)| {
            let tasks = out.par_chunks_mut(ROWS_PER_TASK * inner).enumerate();
            tasks.for_each(|(task, rows)| across_rows(slab, rows, inner, task * ROWS_PER_TASK, operator));
        });
    }
    output
}

/// Output rows from `first_row` on of one `(n, inner)` slab.
fn across_rows(slab: &[f32], rows: &mut [f32], inner: usize, first_row: usize, operator: &AxisOperator) {
    for start in (0..inner).step_by(BLOCK) {
        let end = (start + BLOCK).min(inner);
        for (r, row) in rows.chunks_exact_mut(inner).enumerate() {
            let (first, weights) = operator.row(first_row + r);
            weighted_rows(&mut row[start..end], &slab[first * inner + start..], inner, weights);
        }
    }
}

/// Each line of `n_in` contiguous samples resampled to one of `n_out`.
fn along_lines(input: &[f32], output: &mut [f32], operator: &AxisOperator) {
    let (n_in, n_out) = (operator.input_len(), operator.output_len());
    let tasks = output.par_chunks_mut(LANES * n_out).zip(input.par_chunks(LANES * n_in));
    tasks.for_each_init(
        || vec![0.0; LANES * n_in],
        |tile, (out, lines)| {
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
        },
    );
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
