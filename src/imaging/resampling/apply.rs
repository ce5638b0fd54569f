//! Resampling volumes with one operator per axis.
//!
//! Along z and y whole rows are weighed and added, a block of columns at a time so that it stays in the cache. Along x
//! sixteen lines are turned into a small tile first, and the same loop runs across lines. Both axes of a slice are done while
//! it is in the cache; z is done before or after them.

use super::AxisOperator;
use super::rows::{LANES, with_widest_vectors};
use super::transpose::{Pitch, transpose};
use ndarray::{Array3, ArrayView3};
use rayon::prelude::*;
use std::borrow::Cow;

/// Input values of a block of columns, so that they and a spline's coefficients stay in the second-level cache.
const BLOCK: usize = 64 * 1024;

/// Called from several threads with each finished row, and its (z, y).
pub(crate) type Finish<'a> = dyn Fn(&mut [f32], [usize; 2]) + Sync + 'a;

/// `data` resampled along (z, y, x) by one operator each.
///
/// Identities are skipped; the other axes are taken in the order that needs the fewest multiplications. Between z and the
/// plane's axes there is one intermediate volume, of `f32`; besides, each thread needs well under 1 MiB, for slices of usual
/// sizes.
///
/// # Panics
/// If an operator's input length is not that of its axis, which is a programming error.
#[expect(clippy::needless_pass_by_value, reason = "views are passed by value, as everywhere in ndarray")]
pub fn apply(data: ArrayView3<'_, f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    let shape = checked_shape(data.dim(), operators);
    let data = data.as_standard_layout();
    run(Cow::Borrowed(data.as_slice().unwrap_or_default()), shape, operators, &|_, _| ())
}

/// [`apply`] for a volume that is not needed any more: its memory is used for the result if large enough, or freed as soon
/// as the first intermediate volume stands; it is returned as it is if there is nothing to do.
///
/// # Panics
/// As [`apply`].
pub fn apply_owned(data: Array3<f32>, operators: &[AxisOperator; 3]) -> Array3<f32> {
    apply_then(data, operators, &|_, _| ())
}

/// [`apply_owned`], and `finish` done to each row of the result while it is in the cache.
///
/// # Panics
/// As [`apply`].
pub(crate) fn apply_then(
    data: Array3<f32>,
    operators: &[AxisOperator; 3],
    finish: &Finish<'_>,
) -> Array3<f32> {
    let shape = checked_shape(data.dim(), operators);
    let data = if data.is_standard_layout() { data } else { data.as_standard_layout().into_owned() };
    // An array that was cut out of a larger one still owns the larger one's memory.
    let len = data.len();
    let (mut voxels, offset) = data.into_raw_vec_and_offset();
    voxels.drain(..offset.unwrap_or(0));
    voxels.truncate(len);
    run(Cow::Owned(voxels), shape, operators, finish)
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

/// All steps, one after the other; each writes to what the one before has read, if that is large enough.
fn run(
    mut voxels: Cow<'_, [f32]>,
    mut shape: [usize; 3],
    operators: &[AxisOperator; 3],
    finish: &Finish<'_>,
) -> Array3<f32> {
    let steps = cheapest_steps(operators);
    let mut spare = vec![];
    for (i, step) in steps.iter().enumerate() {
        let out_shape = step.output_shape(shape, operators);
        let mut output = reuse(spare, out_shape.iter().product());
        if !output.is_empty() {
            let finish: &Finish<'_> = if i + 1 == steps.len() { finish } else { &|_, _| () };
            step.run(&voxels, &mut output, [shape[1], shape[2]], operators, finish);
        }
        spare = match std::mem::replace(&mut voxels, Cow::Owned(output)) {
            Cow::Owned(read) => read,
            Cow::Borrowed(_) => vec![],
        };
        shape = out_shape;
    }
    drop(spare);
    let mut voxels = voxels.into_owned();
    voxels.shrink_to_fit();
    if steps.is_empty() && !voxels.is_empty() {
        finish_rows(&mut voxels, shape, finish);
    }
    Array3::from_shape_vec(shape, voxels).unwrap_or_else(|_| unreachable!("a step fills its shape"))
}

/// `len` values of any content, in the memory of `spare` if that holds as many.
fn reuse(mut spare: Vec<f32>, len: usize) -> Vec<f32> {
    if spare.len() < len {
        drop(spare);
        return vec![0.0; len];
    }
    spare.truncate(len);
    spare
}

/// Does `finish` to every row of a volume that no step has written.
fn finish_rows(voxels: &mut [f32], [_, height, width]: [usize; 3], finish: &Finish<'_>) {
    let rows = voxels.par_chunks_exact_mut(width).enumerate();
    rows.for_each(|(r, row)| finish(row, [r / height, r % height]));
}

/// What makes one volume of another.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// Along z.
    Slices,
    /// Along one axis of each slice.
    Plane(usize),
    /// Along both axes of each slice, in this order.
    Planes([usize; 2]),
}

/// The axes whose operator is not the identity, as steps in the order that needs the fewest multiplications; the first such
/// order in the table.
fn cheapest_steps(operators: &[AxisOperator; 3]) -> Vec<Step> {
    const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], [0, 2, 1], [1, 2, 0], [2, 1, 0]];
    let cost = |order: &[usize; 3]| -> f64 {
        let mut shape = operators.each_ref().map(|o| o.input_len() as f64);
        let mut total = 0.0;
        for &axis in order.iter().filter(|&&a| !operators[a].is_identity()) {
            let lines = shape.iter().product::<f64>() / shape[axis];
            total += lines * operators[axis].multiplications() as f64;
            shape[axis] = operators[axis].output_len() as f64;
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
        [0, a, b] => vec![Step::Slices, Step::Planes([a, b])],
        [a, b, ..] if axes.len() == 3 => vec![Step::Planes([a, b]), Step::Slices],
        [a, b, ..] => vec![Step::Planes([a, b])],
    }
}

impl Step {
    /// The axes that this step resamples, in its order.
    fn axes(&self) -> &[usize] {
        match self {
            Self::Slices => &[0],
            Self::Plane(a) => std::slice::from_ref(a),
            Self::Planes(axes) => axes,
        }
    }

    /// Shape of what this step makes of a volume.
    fn output_shape(&self, mut shape: [usize; 3], operators: &[AxisOperator; 3]) -> [usize; 3] {
        for &axis in self.axes() {
            shape[axis] = operators[axis].output_len();
        }
        shape
    }

    /// Writes what this step makes of `input`, slices of the given (height, width), to `output`.
    fn run(
        &self,
        input: &[f32],
        output: &mut [f32],
        slice: [usize; 2],
        operators: &[AxisOperator; 3],
        finish: &Finish<'_>,
    ) {
        match self {
            Self::Slices => along_slices(input, output, slice, &operators[0], finish),
            _ => along_planes(input, output, slice, self.axes(), operators, finish),
        }
    }
}

/// Columns that are worked on together where each has `n` values.
fn columns_per_block(n: usize) -> usize {
    (BLOCK / n.max(1)).next_multiple_of(LANES).clamp(2 * LANES, 1024)
}

/// Slices of the given (height, width) as weighted sums of slices. A task takes a few rows of every slice.
fn along_slices(
    input: &[f32],
    output: &mut [f32],
    [height, width]: [usize; 2],
    operator: &AxisOperator,
    finish: &Finish<'_>,
) {
    let rows = (columns_per_block(operator.input_len()) / width).max(1);
    let mut tasks: Vec<Vec<&mut [f32]>> = vec![];
    tasks.resize_with(height.div_ceil(rows), Vec::new);
    for slice in output.chunks_exact_mut(height * width) {
        tasks.iter_mut().zip(slice.chunks_mut(rows * width)).for_each(|(task, part)| task.push(part));
    }
    tasks.into_par_iter().enumerate().for_each_init(Vec::new, |coefficients, (task, mut parts)| {
        let source = &input[task * rows * width..];
        with_widest_vectors(
            #[inline(always)]
            || in_blocks(source, height * width, &mut parts, operator, coefficients),
        );
        for (z, part) in parts.into_iter().enumerate() {
            for (i, row) in part.chunks_exact_mut(width).enumerate() {
                finish(row, [z, task * rows + i]);
            }
        }
    });
}

/// Resamples along the columns of `source`, rows that begin `stride` apart, into the rows `out`, a block of columns at a time.
#[inline(always)]
fn in_blocks(
    source: &[f32],
    stride: usize,
    out: &mut [&mut [f32]],
    operator: &AxisOperator,
    coefficients: &mut Vec<f32>,
) {
    let block = columns_per_block(operator.input_len());
    let width = out.first().map_or(0, |row| row.len());
    for start in (0..width).step_by(block) {
        let end = (start + block).min(width);
        let rows = out.iter_mut().map(|row| &mut row[start..end]);
        operator.resample_rows(&source[start..], stride, end - start, coefficients, rows);
    }
}

/// Memory that a thread keeps from slice to slice.
#[derive(Default)]
struct Scratch {
    /// A slice after the first of two axes.
    half: Vec<f32>,
    /// Lines along x as columns, before and after.
    tiles: [Vec<f32>; 2],
    /// Spline coefficients of a block.
    coefficients: Vec<f32>,
}

/// Each slice of the given (height, width) resampled along one or both of its axes.
fn along_planes(
    input: &[f32],
    output: &mut [f32],
    [height, width]: [usize; 2],
    axes: &[usize],
    operators: &[AxisOperator; 3],
    finish: &Finish<'_>,
) {
    let len_after = |axes: &[usize], axis: usize, n: usize| {
        if axes.contains(&axis) { operators[axis].output_len() } else { n }
    };
    let plane_len = |axes: &[usize]| len_after(axes, 1, height) * len_after(axes, 2, width);
    let out_width = len_after(axes, 2, width);
    let slices = output.par_chunks_exact_mut(plane_len(axes)).zip(input.par_chunks_exact(height * width));
    slices.enumerate().for_each_init(Scratch::default, |scratch, (z, (out, slice))| {
        let mut half = std::mem::take(&mut scratch.half);
        with_widest_vectors(
            #[inline(always)]
            || match *axes {
                [first, second] => {
                    half.resize(plane_len(&[first]), 0.0);
                    along_axis(slice, &mut half, first, width, operators, scratch);
                    along_axis(&half, out, second, len_after(&[first], 2, width), operators, scratch);
                }
                [only] => along_axis(slice, out, only, width, operators, scratch),
                _ => {}
            },
        );
        scratch.half = half;
        for (y, row) in out.chunks_exact_mut(out_width).enumerate() {
            finish(row, [z, y]);
        }
    });
}

/// A slice of rows of `width` resampled along axis 1 or 2.
#[inline(always)]
fn along_axis(
    input: &[f32],
    output: &mut [f32],
    axis: usize,
    width: usize,
    operators: &[AxisOperator; 3],
    scratch: &mut Scratch,
) {
    let operator = &operators[axis];
    if axis == 1 {
        let mut rows: Vec<&mut [f32]> = output.chunks_exact_mut(width).collect();
        in_blocks(input, width, &mut rows, operator, &mut scratch.coefficients);
    } else {
        along_lines(input, output, operator, scratch);
    }
}

/// Each line of contiguous samples resampled.
#[inline(always)]
fn along_lines(input: &[f32], output: &mut [f32], operator: &AxisOperator, scratch: &mut Scratch) {
    let (n_in, n_out) = (operator.input_len(), operator.output_len());
    let [before, after] = &mut scratch.tiles;
    before.resize(LANES * n_in, 0.0);
    after.resize(LANES * n_out, 0.0);
    for (lines, out) in input.chunks(LANES * n_in).zip(output.chunks_mut(LANES * n_out)) {
        let count = lines.len() / n_in;
        transpose(lines, Pitch { rows: count, stride: n_in }, n_in, before, LANES);
        let columns = after.chunks_exact_mut(LANES);
        operator.resample_rows(before, LANES, LANES, &mut scratch.coefficients, columns);
        transpose(after, Pitch { rows: n_out, stride: LANES }, count, out, n_out);
    }
}
