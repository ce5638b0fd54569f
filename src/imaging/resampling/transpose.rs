//! Turning small blocks so that lines along x become columns.

use super::rows::LANES;

/// Rows that begin `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Pitch {
    /// Number of rows.
    pub rows: usize,
    /// Values from one row's beginning to the next one's.
    pub stride: usize,
}

/// Writes the transpose of `source`, of which the first `columns` of each row count, to `out` with rows `out_stride` apart.
#[inline(always)]
pub(crate) fn transpose<T: Copy>(
    source: &[T],
    Pitch { rows, stride }: Pitch,
    columns: usize,
    out: &mut [T],
    out_stride: usize,
) {
    let whole = [rows - rows % LANES, columns - columns % LANES];
    for r in (0..whole[0]).step_by(LANES) {
        for c in (0..whole[1]).step_by(LANES) {
            transpose_square(&source[r * stride + c..], stride, &mut out[c * out_stride + r..], out_stride);
        }
    }
    for r in 0..rows {
        for c in if r < whole[0] { whole[1] } else { 0 }..columns {
            out[c * out_stride + r] = source[r * stride + c];
        }
    }
}

/// [`transpose`] of [`LANES`] rows and columns.
#[inline(always)]
fn transpose_square<T: Copy>(source: &[T], stride: usize, out: &mut [T], out_stride: usize) {
    let source = &source[..(LANES - 1) * stride + LANES];
    for c in 0..LANES {
        let column = &mut out[c * out_stride..][..LANES];
        for r in 0..LANES {
            column[r] = source[r * stride + c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place() {
        for (rows, columns) in [(1, 1), (16, 16), (3, 40), (40, 3), (33, 50)] {
            let (stride, out_stride) = (columns + 2, rows + 3);
            let source: Vec<usize> = (0..rows * stride).collect();
            let mut out = vec![usize::MAX; columns * out_stride];
            transpose(&source, Pitch { rows, stride }, columns, &mut out, out_stride);
            for (i, &v) in out.iter().enumerate() {
                let (c, r) = (i / out_stride, i % out_stride);
                assert_eq!(
                    v,
                    if r < rows { r * stride + c } else { usize::MAX },
                    "{rows} x {columns}: {r}, {c}"
                );
            }
        }
    }
}
