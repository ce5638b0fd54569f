//! The linear map that resamples one axis: a banded matrix, and for splines their recursion.

use super::bspline::{self, Ends};
use super::prefilter::spline_coefficients;
use super::rows::weighted_rows;

/// A banded `n_out × n_in` matrix: output sample `o` is `Σ_k weights[o][k] · input[first[o] + k]`.
///
/// Every row has the same number of weights (rows that need fewer are filled with zeros), and
/// `first[o] + taps ≤ n_in`, so applying it needs no test at the borders.
///
/// A cubic spline is kept as its recursion too, where that takes fewer multiplications: the matrix serves where a few
/// output samples are wanted, the recursion where all are. They agree to `f32` rounding.
///
/// # Panics
/// The constructors panic on `n_in = 0` with `n_out > 0`: there is nothing to take values from.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisOperator {
    input_len: usize,
    matrix: Band,
    spline: Option<Spline>,
    is_identity: bool,
}

/// Rows of a banded matrix.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    taps: usize,
    first: Vec<usize>,
    weights: Vec<f32>,
}

/// A cubic spline as a prefilter and the weights of its coefficients.
#[derive(Debug, Clone, PartialEq)]
struct Spline {
    ends: Ends,
    matrix: Band,
}

impl AxisOperator {
    /// The operator that leaves an axis of `n` samples alone.
    pub fn identity(n: usize) -> Self {
        let matrix = Band { taps: 1, first: (0..n).collect(), weights: vec![1.0; n] };
        Self { input_len: n, matrix, spline: None, is_identity: true }
    }

    /// Order 0: the sample nearest to `(i + ½)·n_in/n_out − ½`, ties going up.
    ///
    /// nnU-Net's resampling along a separate axis (`default_resampling.py: resample_data_or_seg`, `order_z = 0`) and
    /// skimage's `resize(order=0)`.
    pub fn nearest(n_in: usize, n_out: usize) -> Self {
        let position = half_sample_positions(n_in, n_out);
        Self::selecting(n_in, n_out, |i| (position(i) + 0.5).floor())
    }

    /// Order 1: linear between the two samples around `(i + ½)·n_in/n_out − ½`, clamped to the first and last.
    ///
    /// `skimage.transform.resize(order=1, mode='edge', anti_aliasing=False)`.
    pub fn linear(n_in: usize, n_out: usize) -> Self {
        let position = half_sample_positions(n_in, n_out);
        Self::interpolating(n_in, n_out, position)
    }

    /// Order 3: cubic B-spline through the samples at `(i + ½)·n_in/n_out − ½`.
    ///
    /// `skimage.transform.resize(order=3, mode='edge', anti_aliasing=False)`, that is `scipy.ndimage.zoom(mode='nearest',
    /// grid_mode=True)`: 12 copies of the edge sample are added on both sides before the prefilter, whose own ends are
    /// half-sample symmetric, and the position is not clamped. The result is not clipped here.
    pub fn cubic(n_in: usize, n_out: usize) -> Self {
        if n_in == n_out {
            return Self::identity(n_in);
        }
        let position = half_sample_positions(n_in, n_out);
        Self::from_rows(n_in, (0..n_out).map(|i| bspline::edge_padded_row(n_in, position(i))))
            .with_spline(Ends::HalfSample, position)
    }

    /// `torch.nn.functional.interpolate` with mode `linear`, `align_corners=False`, along one axis.
    ///
    /// Differs from [`AxisOperator::linear`] in that torch computes positions in `f32`: on 512 samples the weights are
    /// off by up to 3e-5, which is reproduced.
    pub fn torch_linear(n_in: usize, n_out: usize) -> Self {
        let scale = n_in as f32 / n_out as f32;
        Self::interpolating(n_in, n_out, |i| f64::from(scale * (i as f32 + 0.5) - 0.5))
    }

    /// `torch.nn.functional.interpolate` with mode `nearest-exact` along one axis.
    ///
    /// Positions in `f32` with a fused multiply-add, as torch's AVX2 build rounds them: this decides ties, where it may
    /// take the neighbour of [`AxisOperator::nearest`]'s choice.
    pub fn torch_nearest(n_in: usize, n_out: usize) -> Self {
        let scale = n_in as f32 / n_out as f32;
        Self::selecting(n_in, n_out, |i| f64::from((scale.mul_add(i as f32 + 0.5, -0.5) + 0.5).floor()))
    }

    /// ITK's cubic B-spline interpolation at the positions `i · scale`, where `scale` is new spacing / old spacing.
    ///
    /// `itk::BSplineInterpolateImageFunction` of order 3: coefficients with whole-sample mirrored ends. A single sample
    /// is constant. Positions beyond the image's half-voxel border ([`AxisOperator::itk_is_outside`]) get the mirrored
    /// continuation; ITK never asks for those. With two samples and a position above 1, ITK 5.4 mirrors one tap to index
    /// −1 and reads memory that is not the image's; here the tap is mirrored again, which is the spline.
    pub fn itk_bspline(n_in: usize, n_out: usize, scale: f64) -> Self {
        if n_in == n_out && scale == 1.0 {
            return Self::identity(n_in);
        }
        let position = |i| i as f64 * scale;
        Self::from_rows(n_in, (0..n_out).map(|i| bspline::mirrored_row(n_in, position(i))))
            .with_spline(Ends::WholeSample, position)
    }

    /// Whether output sample `i` of [`AxisOperator::itk_bspline`] lies outside the input's buffer (voxels included to
    /// their borders: −½ ≤ position < n − ½), where ITK's resampling writes its default value.
    pub fn itk_is_outside(n_in: usize, i: usize, scale: f64) -> bool {
        let position = i as f64 * scale;
        position < -0.5 || position >= n_in as f64 - 0.5
    }

    /// Number of input samples.
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Number of output samples.
    pub fn output_len(&self) -> usize {
        self.matrix.first.len()
    }

    /// Number of weights in each row.
    pub fn taps(&self) -> usize {
        self.matrix.taps
    }

    /// Whether the operator changes nothing, so that applying it can be skipped.
    pub fn is_identity(&self) -> bool {
        self.is_identity
    }

    /// Row `o`: the first input sample it needs, and the weights of that one and those after it.
    #[inline]
    pub fn row(&self, o: usize) -> (usize, &[f32]) {
        self.matrix.row(o)
    }

    /// The input sample that output sample `o` weighs most; for the nearest operators, the one it copies.
    pub fn source(&self, o: usize) -> usize {
        let (first, weights) = self.row(o);
        let heaviest = weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        first + heaviest.map_or(0, |(k, _)| k)
    }

    /// One tap per row: the sample `index(i)`, clamped to the axis.
    fn selecting(n_in: usize, n_out: usize, index: impl Fn(usize) -> f64) -> Self {
        if n_in == n_out {
            return Self::identity(n_in);
        }
        let last = n_in.saturating_sub(1) as f64;
        Self::from_rows(n_in, (0..n_out).map(|i| (index(i).clamp(0.0, last) as usize, vec![1.0])))
    }

    /// Two taps per row: linear at `position(i)`, clamped to the axis.
    fn interpolating(n_in: usize, n_out: usize, position: impl Fn(usize) -> f64) -> Self {
        if n_in == n_out {
            return Self::identity(n_in);
        }
        let last = n_in.saturating_sub(1) as f64;
        let row = |i| {
            let p = position(i).clamp(0.0, last);
            let t = p - p.floor();
            (p as usize, if t > 0.0 { vec![1.0 - t, t] } else { vec![1.0] })
        };
        Self::from_rows(n_in, (0..n_out).map(row))
    }

    /// The operator with these rows (first input sample, weights), each of which fits into the axis.
    fn from_rows(input_len: usize, rows: impl Iterator<Item = (usize, Vec<f64>)>) -> Self {
        Self { input_len, matrix: Band::new(input_len, rows), spline: None, is_identity: false }
    }

    /// The same with the spline's recursion, if there is one that is cheaper than the matrix.
    fn with_spline(mut self, ends: Ends, position: impl Fn(usize) -> f64) -> Self {
        let (n_in, n_out) = (self.input_len, self.output_len());
        if n_in > 1 {
            let coefficients = n_in + 2 * ends.margin();
            let rows = (0..n_out).map(|i| bspline::coefficient_row(n_in, position(i), ends));
            let spline = Spline { ends, matrix: Band::new(coefficients, rows) };
            if spline.multiplications(n_in) < self.multiplications() {
                self.spline = Some(spline);
            }
        }
        self
    }

    /// Multiplications that a line takes.
    pub(super) fn multiplications(&self) -> usize {
        match &self.spline {
            Some(spline) => spline.multiplications(self.input_len),
            None => self.matrix.weights.len(),
        }
    }

    /// Resamples along the columns of `source`: rows that begin `stride` apart, of which the first `width` columns count.
    ///
    /// `out` yields the output's rows, each of `width`; `coefficients` is memory that is kept from call to call.
    #[inline(always)]
    pub(super) fn resample_rows<'o>(
        &self,
        source: &[f32],
        stride: usize,
        width: usize,
        coefficients: &mut Vec<f32>,
        out: impl Iterator<Item = &'o mut [f32]>,
    ) {
        let (matrix, source, stride) = match &self.spline {
            None => (&self.matrix, source, stride),
            Some(spline) => {
                spline_coefficients(source, stride, width, self.input_len, spline.ends, coefficients);
                (&spline.matrix, coefficients.as_slice(), width)
            }
        };
        for (o, out) in out.enumerate() {
            let (first, weights) = matrix.row(o);
            weighted_rows(out, &source[first * stride..], stride, weights);
        }
    }
}

impl Spline {
    /// Multiplications that a line of `n_in` samples takes.
    fn multiplications(&self, n_in: usize) -> usize {
        2 * n_in + self.matrix.weights.len()
    }
}

impl Band {
    /// The matrix with these rows (first column, weights), each of which fits into `columns`.
    fn new(columns: usize, rows: impl Iterator<Item = (usize, Vec<f64>)>) -> Self {
        let rows: Vec<_> = rows.collect();
        assert!(columns > 0 || rows.is_empty(), "cannot resample an axis without samples");
        let taps = rows.iter().map(|(_, w)| w.len()).max().unwrap_or(0);
        let mut weights = vec![0.0; rows.len() * taps];
        let mut first = Vec::with_capacity(rows.len());
        for (o, (start, row)) in rows.into_iter().enumerate() {
            let shifted = start.min(columns - taps);
            for (k, w) in row.into_iter().enumerate() {
                weights[o * taps + start - shifted + k] = w as f32;
            }
            first.push(shifted);
        }
        Self { taps, first, weights }
    }

    /// Row `o`: its first column, and the weights of that one and those after it.
    #[inline(always)]
    fn row(&self, o: usize) -> (usize, &[f32]) {
        (self.first[o], &self.weights[o * self.taps..(o + 1) * self.taps])
    }
}

/// Where output samples lie between input samples when both grids cover the same stretch.
///
/// The order of operations is that of scipy and numpy: it decides ties.
fn half_sample_positions(n_in: usize, n_out: usize) -> impl Fn(usize) -> f64 {
    let scale = n_in as f64 / n_out as f64;
    move |i| scale * (i as f64 + 0.5) - 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constructors(n_in: usize, n_out: usize) -> [(&'static str, AxisOperator); 6] {
        [
            ("nearest", AxisOperator::nearest(n_in, n_out)),
            ("linear", AxisOperator::linear(n_in, n_out)),
            ("cubic", AxisOperator::cubic(n_in, n_out)),
            ("torch_nearest", AxisOperator::torch_nearest(n_in, n_out)),
            ("torch_linear", AxisOperator::torch_linear(n_in, n_out)),
            ("itk_bspline", AxisOperator::itk_bspline(n_in, n_out, n_in as f64 / n_out as f64)),
        ]
    }

    #[test]
    fn rows_stay_inside_the_axis_and_keep_constants() {
        for (n_in, n_out) in [(1, 1), (1, 7), (2, 1), (2, 9), (3, 2), (5, 60), (60, 5), (97, 96), (40, 1)] {
            for (name, operator) in constructors(n_in, n_out) {
                assert_eq!((operator.input_len(), operator.output_len()), (n_in, n_out), "{name}");
                for o in 0..n_out {
                    let (first, weights) = operator.row(o);
                    assert!(first + weights.len() <= n_in, "{name} {n_in} -> {n_out}: row {o}");
                    let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                    assert!((sum - 1.0).abs() < 2e-7, "{name} {n_in} -> {n_out}: row {o} sums to {sum}");
                }
            }
        }
    }

    #[test]
    fn an_unchanged_length_is_the_identity() {
        for (name, operator) in constructors(17, 17) {
            assert!(operator.is_identity(), "{name}");
        }
        assert!(!AxisOperator::itk_bspline(17, 17, 1.01).is_identity());
    }

    #[test]
    fn nearest_ties_go_up() {
        let operator = AxisOperator::nearest(4, 2);
        assert_eq!([0, 1].map(|o| operator.source(o)), [1, 3]);
    }

    /// torch.nn.functional.interpolate(torch.arange(2.)[None, None], 41, mode='nearest-exact') takes 1 at index 20.
    #[test]
    fn torch_breaks_a_tie_in_single_precision() {
        assert_eq!(AxisOperator::torch_nearest(2, 41).source(20), 1);
    }

    #[test]
    fn the_band_of_a_cubic_row_is_short() {
        assert!((30..=40).contains(&AxisOperator::cubic(500, 400).taps()));
    }

    #[test]
    fn recursion_and_matrix_are_the_same_spline() {
        for (n_in, n_out) in [(12, 40), (40, 33), (97, 96), (200, 133), (3, 50)] {
            for (name, operator) in constructors(n_in, n_out) {
                let line: Vec<f32> = (0..n_in).map(|i| ((i * 37 + 11) % 23) as f32 - 11.0).collect();
                let mut out = vec![0.0; n_out];
                operator.resample_rows(&line, 1, 1, &mut vec![], out.chunks_exact_mut(1));
                for (o, v) in out.iter().enumerate() {
                    let (first, weights) = operator.row(o);
                    let sum: f64 =
                        weights.iter().zip(&line[first..]).map(|(&w, &v)| f64::from(w) * f64::from(v)).sum();
                    assert!((f64::from(*v) - sum).abs() < 1e-5, "{name} {n_in} -> {n_out}: {v}, not {sum}");
                }
            }
        }
        assert!(AxisOperator::cubic(200, 133).spline.is_some());
        assert!(AxisOperator::cubic(500, 2).spline.is_none(), "a few samples of a long line");
    }

    #[test]
    fn outside_begins_half_a_voxel_beyond_the_last_sample() {
        let outside: Vec<bool> = (0..8).map(|i| AxisOperator::itk_is_outside(2, i, 0.25)).collect();
        assert_eq!(outside, [false, false, false, false, false, false, true, true]);
    }
}
