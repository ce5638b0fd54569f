//! Rows of cubic B-spline interpolation as weights of the samples.
//!
//! Interpolation by cubic B-splines solves `M c = s` for the coefficients `c` of the samples `s` (`M` tri-diagonal,
//! 1/6, 4/6, 1/6) and weighs four of them: `wᵀ c`. The same number is `(M⁻ᵀ w)ᵀ s`, and `M⁻ᵀ w` decays by the factor
//! 2 − √3 ≈ 0.268 per sample away from the four taps, so a window around them is enough.
//! (M. Unser, "Splines: a perfect fit for signal and image processing", 1999.)

/// Copies of the edge sample that scipy adds on both sides before its prefilter (`_prepad_for_spline_filter`).
const PAD: usize = 12;

/// Samples on each side of the taps that enter the linear system; 0.268^40 < 1e-22.
const REACH: usize = 40;

/// Weights below this fraction of the largest are dropped.
const NEGLIGIBLE: f64 = 1e-9;

/// The four cubic B-spline weights at fraction `t` after the second tap.
fn spline_weights(t: f64) -> [f64; 4] {
    let (t2, t3) = (t * t, t * t * t);
    let u = 1.0 - t;
    [
        u * u * u / 6.0,
        (4.0 - 6.0 * t2 + 3.0 * t3) / 6.0,
        (1.0 + 3.0 * t + 3.0 * t2 - 3.0 * t3) / 6.0,
        t3 / 6.0,
    ]
}

/// Ends of the interpolation matrix `M` on a line of `n` samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ends {
    /// `c[−1] = c[0]`.
    HalfSample,
    /// `c[−1] = c[1]`.
    WholeSample,
}

/// Weights of the samples for the value at `position` of a line of `n_in` samples that goes on beyond its ends with
/// copies of the edge sample: the first sample's index, and the weights.
pub(super) fn edge_padded_row(n_in: usize, position: f64) -> (usize, Vec<f64>) {
    let padded = n_in + 2 * PAD;
    let p = position + PAD as f64;
    let first_tap = p.floor() as usize - 1;
    let taps = spline_weights(p - p.floor());
    let start = first_tap.saturating_sub(REACH);
    let end = (first_tap + 4 + REACH).min(padded);
    let mut window = vec![0.0; end - start];
    window[first_tap - start..first_tap - start + 4].copy_from_slice(&taps);
    solve_transposed(&mut window, start, padded, Ends::HalfSample);
    let mut samples = vec![0.0; n_in];
    for (k, w) in window.into_iter().enumerate() {
        samples[(start + k).saturating_sub(PAD).min(n_in - 1)] += w;
    }
    trim(0, &samples)
}

/// Weights of the samples for the value at `position ≥ 0` of a line of `n_in` samples mirrored about its first and last
/// sample: the first sample's index, and the weights.
pub(super) fn mirrored_row(n_in: usize, position: f64) -> (usize, Vec<f64>) {
    if n_in == 1 {
        return (0, vec![1.0]);
    }
    let first_tap = position.floor() as isize - 1;
    let indices: [usize; 4] = std::array::from_fn(|k| mirror(first_tap + k as isize, n_in));
    let lowest = indices.into_iter().min().unwrap_or(0);
    let highest = indices.into_iter().max().unwrap_or(0);
    let start = lowest.saturating_sub(REACH);
    let end = (highest + 1 + REACH).min(n_in);
    let mut window = vec![0.0; end - start];
    for (index, w) in indices.into_iter().zip(spline_weights(position - position.floor())) {
        window[index - start] += w;
    }
    solve_transposed(&mut window, start, n_in, Ends::WholeSample);
    trim(start, &window)
}

/// Weights of the coefficients for the value at `position` of a line of `n_in` samples: the first coefficient's index among
/// those that [`super::prefilter::spline_coefficients`] makes, and the weights.
pub(super) fn coefficient_row(n_in: usize, position: f64, ends: Ends) -> (usize, Vec<f64>) {
    let taps = spline_weights(position - position.floor()).map(|w| 6.0 * w);
    let first_tap = position.floor() as isize - 1;
    if ends == Ends::HalfSample {
        return ((first_tap + ends.margin() as isize) as usize, taps.to_vec());
    }
    let indices: [usize; 4] = std::array::from_fn(|k| mirror(first_tap + k as isize, n_in));
    let lowest = indices.into_iter().min().unwrap_or(0);
    let highest = indices.into_iter().max().unwrap_or(0);
    let mut row = vec![0.0; highest + 1 - lowest];
    for (index, w) in indices.into_iter().zip(taps) {
        row[index - lowest] += w;
    }
    (lowest, row)
}

/// The index that `i` becomes on a line of `n ≥ 2` samples mirrored about its first and last sample.
pub(super) fn mirror(i: isize, n: usize) -> usize {
    let period = 2 * (n - 1);
    let folded = i.rem_euclid(period as isize) as usize;
    folded.min(period - folded)
}

/// Solves `Mᵀ x = w` in place on the window `[start, start + w.len())` of a line of `n` samples, taking `x` to be zero
/// outside of it.
fn solve_transposed(w: &mut [f64], start: usize, n: usize, ends: Ends) {
    let len = w.len();
    let diagonal = |k: usize| match ends {
        Ends::HalfSample => {
            4.0 + f64::from(u8::from(start + k == 0)) + f64::from(u8::from(start + k + 1 == n))
        }
        Ends::WholeSample => 4.0,
    };
    // Column j of M has its neighbours' entry doubled where row j is an end row, so Mᵀ has it in rows 1 and n − 2.
    let below = |k: usize| if ends == Ends::WholeSample && start + k == 1 { 2.0 } else { 1.0 };
    let above = |k: usize| if ends == Ends::WholeSample && start + k + 2 == n { 2.0 } else { 1.0 };
    // Thomas algorithm; M is diagonally dominant.
    let mut upper = vec![0.0; len];
    for k in 0..len {
        let (carried, previous) = if k == 0 { (0.0, 0.0) } else { (upper[k - 1], w[k - 1]) };
        let pivot = diagonal(k) - below(k) * carried;
        upper[k] = above(k) / pivot;
        w[k] = (6.0 * w[k] - below(k) * previous) / pivot;
    }
    for k in (0..len.saturating_sub(1)).rev() {
        w[k] -= upper[k] * w[k + 1];
    }
}

/// The stretch of `weights` between its outermost weights that are not negligible, and the sample that it begins with,
/// where `weights` begins with sample `start`.
fn trim(start: usize, weights: &[f64]) -> (usize, Vec<f64>) {
    let largest = weights.iter().fold(0.0_f64, |m, w| m.max(w.abs()));
    let counts = |w: &f64| w.abs() >= NEGLIGIBLE * largest;
    let head = weights.iter().position(counts).unwrap_or(0);
    let tail = weights.iter().rposition(counts).map_or(weights.len(), |k| k + 1);
    (start + head, weights[head..tail].to_vec())
}
