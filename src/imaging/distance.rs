//! Exact Euclidean distances on a voxel grid.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayViewMut1, Axis};

/// Distance in mm of each voxel's centre from that of the nearest true voxel, (z, y, x); infinite if there is none.
///
/// `spacing` in mm along (z, y, x). Equals `scipy.ndimage.distance_transform_edt(~mask, sampling=spacing)` but for the last
/// bit now and then. One pass per axis, each the lower envelope of parabolas: Felzenszwalb and Huttenlocher, "Distance
/// transforms of sampled functions", Theory of Computing 8 (2012).
pub fn distance_to_nearest(mask: &Array3<bool>, spacing: [f64; 3]) -> Array3<f64> {
    let mut squared = Array3::from_elem(mask.dim(), f64::INFINITY);
    squared.zip_mut_with(mask, |distance, &inside| {
        if inside {
            *distance = 0.0;
        }
    });
    for (axis, step) in spacing.into_iter().enumerate() {
        let across = Axis(usize::from(axis == 0));
        let within = Axis(usize::from(axis == 2));
        squared.axis_iter_mut(across).into_par_iter().for_each_init(
            Envelope::default,
            |envelope, mut slab| {
                for line in slab.lanes_mut(within) {
                    envelope.lower(line, step);
                }
            },
        );
    }
    squared.par_mapv_inplace(f64::sqrt);
    squared
}

/// The lower envelope of a line's parabolas; kept from line to line for its memory.
#[derive(Default)]
struct Envelope {
    /// The line's values.
    heights: Vec<f64>,
    /// Where each parabola of the envelope has its vertex, and from where on it is the lowest, in voxels.
    parabolas: Vec<(usize, f64)>,
}

impl Envelope {
    /// Makes every value the smallest of all `value[v] + (step · (q - v))²`.
    fn lower(&mut self, mut line: ArrayViewMut1<'_, f64>, step: f64) {
        self.heights.clear();
        self.heights.extend(&line);
        self.parabolas.clear();
        for vertex in 0..self.heights.len() {
            if self.heights[vertex].is_finite() {
                self.add(vertex, step);
            }
        }
        let mut parabolas = self.parabolas.iter().copied().peekable();
        let Some((mut vertex, _)) = parabolas.next() else { return };
        for (q, value) in line.iter_mut().enumerate() {
            while let Some((next, _)) = parabolas.next_if(|&(_, from)| from < q as f64) {
                vertex = next;
            }
            let away = step * q.abs_diff(vertex) as f64;
            *value = self.heights[vertex] + away * away;
        }
    }

    /// Adds the parabola of a vertex right of all others, and drops those that are nowhere the lowest any more.
    fn add(&mut self, vertex: usize, step: f64) {
        let from = loop {
            let Some(&(left, left_from)) = self.parabolas.last() else { break f64::NEG_INFINITY };
            let from = self.crossing(left, vertex, step);
            if from > left_from {
                break from;
            }
            self.parabolas.pop();
        };
        self.parabolas.push((vertex, from));
    }

    /// Where two parabolas meet, in voxels.
    fn crossing(&self, left: usize, right: usize, step: f64) -> f64 {
        let rise = (self.heights[right] - self.heights[left]) / (step * step);
        let apart = (right - left) as f64;
        0.5 * ((left + right) as f64 + rise / apart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(mask: &Array3<bool>, spacing: [f64; 3]) -> Array3<f64> {
        let square = |a: usize, b: usize, step: f64| (step * a.abs_diff(b) as f64).powi(2);
        Array3::from_shape_fn(mask.dim(), |(z, y, x)| {
            let inside = mask.indexed_iter().filter(|&(_, &inside)| inside);
            let squares = inside.map(|((mz, my, mx), _)| {
                square(z, mz, spacing[0]) + square(y, my, spacing[1]) + square(x, mx, spacing[2])
            });
            squares.fold(f64::INFINITY, f64::min).sqrt()
        })
    }

    fn any_mask() -> impl Strategy<Value = Array3<bool>> {
        (1_usize..8, 1_usize..8, 1_usize..12, 0.0..0.4).prop_flat_map(|(z, y, x, density)| {
            proptest::collection::vec(proptest::bool::weighted(density), z * y * x)
                .prop_map(move |voxels| Array3::from_shape_vec((z, y, x), voxels).unwrap())
        })
    }

    proptest! {
        #[test]
        fn distances_are_those_of_the_definition(
            mask in any_mask(),
            spacing in proptest::array::uniform3(0.05_f64..6.0),
        ) {
            let (got, expected) = (distance_to_nearest(&mask, spacing), naive(&mask, spacing));
            for (g, e) in got.iter().zip(&expected) {
                prop_assert!(g == e || (g - e).abs() <= 1e-14 * e, "{g:e} is not {e:e}");
            }
        }

        #[test]
        fn distances_are_exact_where_squares_are(mask in any_mask()) {
            let spacing = [2.5, 0.75, 1.0];
            prop_assert_eq!(distance_to_nearest(&mask, spacing), naive(&mask, spacing));
        }
    }

    #[test]
    fn a_mask_without_a_true_voxel_is_infinitely_far() {
        let far = distance_to_nearest(&Array3::from_elem((2, 3, 4), false), [1.0; 3]);
        assert!(far.iter().all(|&d| d == f64::INFINITY));
    }
}
