//! Cubic B-spline coefficients of whole lines by two recursions, forwards and backwards.
//!
//! Where all of a line is resampled this needs two multiplications a sample and four a result, where the banded matrix needs
//! thirty a result. (M. Unser, A. Aldroubi, M. Eden, "B-spline signal processing", 1993.)
//!
//! Coefficients are a sixth of the usual ones; the weights make up for it. Along the recursion values then stay about as
//! small as the samples, and so do their rounding errors.

use super::bspline::{Ends, mirror};
use super::rows::{combine_rows, update_row};

/// The recursions' pole, √3 − 2.
const POLE: f32 = -0.267_949_2;

/// Sum of the pole's powers, 1 / (1 − pole): what the forward recursion makes of a line of ones.
const STEADY: f32 = 0.788_675_1;

/// pole / (1 − pole²), which ends the sum over all that follows the last sample.
const TAIL: f32 = -0.288_675_13;

/// What is left of a sample's weight this far away is below a tenth of `f32`'s precision.
const HORIZON: usize = 16;

impl Ends {
    /// Coefficients before the first and after the last sample that interpolation reads.
    pub(super) fn margin(self) -> usize {
        match self {
            Self::HalfSample => 2,
            Self::WholeSample => 0,
        }
    }
}

/// Writes the coefficients along the columns of `source` to `out`, [`Ends::margin`] rows more on both sides.
///
/// `source` is `n` rows that begin `stride` apart, of which the first `width` columns count; rows of `out` have `width`.
/// `HalfSample` stands for a line that goes on with copies of its edge sample: scipy adds 12, and what lies beyond them
/// weighs less than 1e-13. `WholeSample` needs two samples.
#[inline(always)]
pub(super) fn spline_coefficients(
    source: &[f32],
    stride: usize,
    width: usize,
    n: usize,
    ends: Ends,
    out: &mut Vec<f32>,
) {
    let margin = ends.margin();
    out.resize((n + 2 * margin) * width, 0.0);
    let sample = |i: usize| &source[i * stride..][..width];
    let inner = &mut out[margin * width..][..n * width];
    match ends {
        Ends::HalfSample => combine_rows(
            &mut inner[..width],
            sample(0),
            sample(0),
            #[inline(always)]
            |v, _| v * STEADY,
        ),
        Ends::WholeSample => begin_mirrored(&mut inner[..width], sample, n),
    }
    for i in 1..n {
        let (done, row) = inner.split_at_mut(i * width);
        combine_rows(
            &mut row[..width],
            &done[(i - 1) * width..],
            sample(i),
            #[inline(always)]
            |before, v| v + POLE * before,
        );
    }
    let (rest, last) = inner.split_at_mut((n - 1) * width);
    match ends {
        Ends::HalfSample => {
            update_row(
                last,
                sample(n - 1),
                #[inline(always)]
                |sum, v| v / 6.0 - TAIL * (sum - v * STEADY),
            );
        }
        Ends::WholeSample => {
            let before = &rest[(n - 2) * width..];
            update_row(
                last,
                before,
                #[inline(always)]
                |sum, before| -TAIL * (sum + POLE * before),
            );
        }
    }
    for i in (0..n - 1).rev() {
        let (row, after) = inner[i * width..].split_at_mut(width);
        update_row(
            row,
            &after[..width],
            #[inline(always)]
            |sum, after| POLE * (after - sum),
        );
    }
    if margin > 0 {
        continue_edges(out, sample(0), sample(n - 1));
    }
}

/// The forward recursion's first row on a line mirrored about its first sample.
#[inline(always)]
fn begin_mirrored<'a>(row: &mut [f32], sample: impl Fn(usize) -> &'a [f32], n: usize) {
    row.fill(0.0);
    for k in (0..HORIZON as isize).rev() {
        update_row(
            row,
            sample(mirror(k, n)),
            #[inline(always)]
            |sum, v| v + POLE * sum,
        );
    }
}

/// Fills the first and last two rows: away from the line, coefficients approach those of the edge sample geometrically.
#[inline(always)]
fn continue_edges(out: &mut [f32], first: &[f32], last: &[f32]) {
    let width = first.len();
    let (before, inner) = out.split_at_mut(2 * width);
    let (outermost, next) = before.split_at_mut(width);
    combine_rows(next, &inner[..width], first, approach_edge);
    combine_rows(outermost, next, first, approach_edge);
    let (inner, after) = out.split_at_mut(out.len() - 2 * width);
    let (next, outermost) = after.split_at_mut(width);
    combine_rows(next, &inner[inner.len() - width..], last, approach_edge);
    combine_rows(outermost, next, last, approach_edge);
}

/// The next coefficient away from the line, where all samples have the value `v`.
#[inline(always)]
fn approach_edge(inner: f32, v: f32) -> f32 {
    v / 6.0 + POLE * (inner - v / 6.0)
}
