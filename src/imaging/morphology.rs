//! To come.

use ndarray::Array3;

/// `mask` with every hole filled: a background voxel stays only if it reaches the border through faces.
pub fn fill_holes(mask: &Array3<bool>) -> Array3<bool> {
    let (nz, ny, nx) = mask.dim();
    let mut filled = Array3::from_elem(mask.dim(), true);
    let mut todo: Vec<[usize; 3]> = mask
        .indexed_iter()
        .map(|((z, y, x), _)| [z, y, x])
        .filter(|&[z, y, x]| z == 0 || y == 0 || x == 0 || z + 1 == nz || y + 1 == ny || x + 1 == nx)
        .collect();
    while let Some(at) = todo.pop() {
        if mask[at] || !filled[at] {
            continue;
        }
        filled[at] = false;
        for axis in 0..3 {
            let [mut below, mut above] = [at, at];
            below[axis] = below[axis].saturating_sub(1);
            above[axis] = (above[axis] + 1).min(mask.shape()[axis] - 1);
            todo.extend([below, above]);
        }
    }
    filled
}
