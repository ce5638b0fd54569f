//! Weighted sums of rows: the one loop under every resampling, in vectors as wide as the processor has.
//!
//! Nothing here is contracted to a fused multiply-add and every column is summed by itself, so a result depends neither on
//! the vectors' width nor on where a column lies in its block. Lanes are counted by plain loops: what
//! `std::array::from_fn` is given is not inlined, and then not compiled for wide vectors.

/// Columns that are summed at once.
pub(crate) const LANES: usize = 16;

/// Calls `work` compiled for the widest vectors that the processor has; only what is inlined into it profits.
#[inline(always)]
pub(crate) fn with_widest_vectors<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Writes `Σ_k weights[k] · source[k·stride + i]` to `out[i]`.
#[inline(always)]
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

/// `Σ_k weights[k] · source[k·stride + i]` for `i` in `0..N`.
///
/// A sum over many taps starts at both ends of the band, where the weights are tiny, and ends in the middle: rounding to
/// `f32` then only ever hits sums that are about as small as what has been added up.
#[inline(always)]
pub(crate) fn weighted_columns<const N: usize>(source: &[f32], stride: usize, weights: &[f32]) -> [f32; N] {
    let mut sums = [0.0; N];
    match *weights {
        [1.0] => sums.copy_from_slice(&source[..N]),
        [a, b] => {
            let rows = [&source[..N], &source[stride..][..N]];
            for i in 0..N {
                sums[i] = a * rows[0][i] + b * rows[1][i];
            }
        }
        [a, b, c, d] => {
            let rows = [
                &source[..N],
                &source[stride..][..N],
                &source[2 * stride..][..N],
                &source[3 * stride..][..N],
            ];
            for i in 0..N {
                sums[i] = (a * rows[0][i] + b * rows[1][i]) + (c * rows[2][i] + d * rows[3][i]);
            }
        }
        _ => {
            let (left, right) = weights.split_at(weights.len() / 2);
            let mut high = [0.0; N];
            for (k, &w) in left.iter().enumerate() {
                add_scaled(&mut sums, &source[k * stride..], w);
            }
            for (k, &w) in right.iter().enumerate().rev() {
                add_scaled(&mut high, &source[(left.len() + k) * stride..], w);
            }
            for i in 0..N {
                sums[i] += high[i];
            }
        }
    }
    sums
}

/// Adds `w` times `source` to `sums`.
#[inline(always)]
fn add_scaled<const N: usize>(sums: &mut [f32; N], source: &[f32], w: f32) {
    for (sum, v) in sums.iter_mut().zip(&source[..N]) {
        *sum += w * v;
    }
}

/// Sets each `out[i]` to `combine(a[i], b[i])`.
#[inline(always)]
pub(super) fn combine_rows(out: &mut [f32], a: &[f32], b: &[f32], combine: impl Fn(f32, f32) -> f32) {
    let ((blocks, rest), (a, a_rest), (b, b_rest)) =
        (out.as_chunks_mut::<LANES>(), a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for ((out, a), b) in blocks.iter_mut().zip(a).zip(b) {
        for i in 0..LANES {
            out[i] = combine(a[i], b[i]);
        }
    }
    for ((out, a), b) in rest.iter_mut().zip(a_rest).zip(b_rest) {
        *out = combine(*a, *b);
    }
}

/// Sets each `row[i]` to `update(row[i], other[i])`.
#[inline(always)]
pub(super) fn update_row(row: &mut [f32], other: &[f32], update: impl Fn(f32, f32) -> f32) {
    let ((blocks, rest), (other, other_rest)) = (row.as_chunks_mut::<LANES>(), other.as_chunks::<LANES>());
    for (row, other) in blocks.iter_mut().zip(other) {
        for i in 0..LANES {
            row[i] = update(row[i], other[i]);
        }
    }
    for (v, other) in rest.iter_mut().zip(other_rest) {
        *v = update(*v, *other);
    }
}
