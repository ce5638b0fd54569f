//! Binary morphology on 3-D masks.

use super::components::{Components, Connectivity};
use ndarray::{Array3, Axis, Slice, Zip};

/// The mask dilated with a full cube of `size` voxels along each edge.
///
/// Equals `scipy.ndimage.binary_dilation(mask, np.ones((size, size, size)))`: outside the array counts as
/// false. One pass per axis, since a cube is separable.
///
/// # Panics
/// If `size` is even, since such a cube has no centre; sizes are constants of a pipeline, not data.
pub fn dilate_cube(mask: &Array3<bool>, size: usize) -> Array3<bool> {
    assert!(size % 2 == 1, "a dilation cube needs an odd edge length, got {size}");
    let mut dilated = mask.as_standard_layout().to_owned();
    for axis in 0..3 {
        dilated = dilate_along(&dilated, Axis(axis), size / 2);
    }
    dilated
}

/// The mask with every voxel true that has a true one within `radius` voxels along `axis`.
fn dilate_along(mask: &Array3<bool>, axis: Axis, radius: usize) -> Array3<bool> {
    let length = mask.len_of(axis);
    let mut dilated = mask.clone();
    for shift in 1..=radius.min(length.saturating_sub(1)) {
        let [low, high] = [Slice::from(..length - shift), Slice::from(shift..)];
        for (to, from) in [(low, high), (high, low)] {
            Zip::from(dilated.slice_axis_mut(axis, to))
                .and(mask.slice_axis(axis, from))
                .par_for_each(|d, &m| *d |= m);
        }
    }
    dilated
}

/// The mask with its holes filled: false voxels that no path of face neighbours joins to the array's border
/// become true.
///
/// Equals `scipy.ndimage.binary_fill_holes(mask)`, which nnU-Net applies in
/// `preprocessing/cropping/cropping.py: create_nonzero_mask`.
pub fn fill_holes(mask: &Array3<bool>) -> Array3<bool> {
    let background = Components::find(mask, Connectivity::Faces, |&inside| !inside);
    let [nz, ny, nx] = background.shape;
    let mut is_open = vec![false; background.count()];
    for run in &background.runs {
        let on_border = run.z == 0 || run.z + 1 == nz || run.y == 0 || run.y + 1 == ny;
        if on_border || run.start == 0 || run.stop == nx {
            is_open[run.label as usize - 1] = true;
        }
    }
    let mut filled = mask.as_standard_layout().to_owned();
    for run in background.runs.iter().filter(|run| !is_open[run.label as usize - 1]) {
        filled.slice_mut(ndarray::s![run.z, run.y, run.start..run.stop]).fill(true);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_mask() -> impl Strategy<Value = Array3<bool>> {
        (1_usize..7, 1_usize..7, 1_usize..8, 0.02..0.98).prop_flat_map(|(z, y, x, density)| {
            proptest::collection::vec(proptest::bool::weighted(density), z * y * x)
                .prop_map(move |voxels| Array3::from_shape_vec((z, y, x), voxels).unwrap())
        })
    }

    fn dilate_naively(mask: &Array3<bool>, size: usize) -> Array3<bool> {
        let radius = size / 2;
        Array3::from_shape_fn(mask.dim(), |(z, y, x)| {
            mask.indexed_iter().any(|((mz, my, mx), &inside)| {
                inside && mz.abs_diff(z) <= radius && my.abs_diff(y) <= radius && mx.abs_diff(x) <= radius
            })
        })
    }

    /// Spreads "outside" inwards from the border until nothing changes.
    fn fill_naively(mask: &Array3<bool>) -> Array3<bool> {
        let (nz, ny, nx) = mask.dim();
        let mut outside = Array3::from_elem(mask.dim(), false);
        loop {
            let before = outside.clone();
            for ((z, y, x), _) in mask.indexed_iter().filter(|&(_, &inside)| !inside) {
                let on_border = z == 0 || y == 0 || x == 0 || z + 1 == nz || y + 1 == ny || x + 1 == nx;
                outside[(z, y, x)] |= on_border
                    || [
                        (z - 1, y, x),
                        (z + 1, y, x),
                        (z, y - 1, x),
                        (z, y + 1, x),
                        (z, y, x - 1),
                        (z, y, x + 1),
                    ]
                    .iter()
                    .any(|&at| before[at]);
            }
            if outside == before {
                return outside.mapv(|o| !o);
            }
        }
    }

    proptest! {
        #[test]
        fn dilation_is_that_of_the_definition(mask in any_mask(), radius in 0_usize..5) {
            let size = 2 * radius + 1;
            prop_assert_eq!(dilate_cube(&mask, size), dilate_naively(&mask, size));
        }

        #[test]
        fn filling_is_that_of_the_definition(mask in any_mask()) {
            prop_assert_eq!(fill_holes(&mask), fill_naively(&mask));
        }
    }

    #[test]
    fn a_hollow_box_is_filled_and_a_leak_at_a_corner_does_not_empty_it() {
        let mut hollow = Array3::from_elem((5, 5, 5), false);
        hollow.slice_mut(ndarray::s![1..4, 1..4, 1..4]).fill(true);
        let solid = hollow.clone();
        hollow[(2, 2, 2)] = false;
        assert_eq!(fill_holes(&hollow), solid);

        let mut leaking = hollow.clone();
        leaking[(1, 1, 1)] = false;
        let filled = fill_holes(&leaking);
        assert!(filled[(2, 2, 2)], "a diagonal gap is no opening for face neighbours");
        leaking[(1, 2, 2)] = false;
        assert!(!fill_holes(&leaking)[(2, 2, 2)]);
    }

    #[test]
    #[should_panic(expected = "odd edge length, got 4")]
    fn an_even_cube_is_refused() {
        dilate_cube(&Array3::from_elem((1, 1, 1), true), 4);
    }
}
