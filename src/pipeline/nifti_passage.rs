//! What a NIfTI-1 file leaves of a geometry.

use crate::imaging::Geometry;
use crate::imaging::geometry::{Matrix3, invert};

/// A 3 × 3 matrix in the precision of a NIfTI-1 header; row `a` belongs to voxel axis `a` (x, y, z).
type Axes = [[f32; 3]; 3];

/// The geometry that is left of `geometry` after a passage through a NIfTI-1 file, as ITK writes and reads one.
///
/// Spacing and origin become float32. Directions become float32, orthogonal by an iteration in float32 that
/// stops short of the last bits, and then the normalised columns of a float32 sform: a second passage may change oblique
/// ones again. All bits are ITK's (SimpleITK 2.5.7) on the 2 000 random scans that this was tried on. The PANORAMA baseline hands its volumes from stage to stage in such files, which decides what happens
/// to positions halfway between two voxels.
///
/// A direction without an inverse, which no reader of this program lets through, gives one that is not finite or not
/// orthogonal.
pub fn after_nifti(geometry: &Geometry) -> Geometry {
    let axes = nearest_orthogonal(axes_of_length_one(&geometry.direction));
    let spacing = geometry.spacing_xyz().map(|v| v as f32);
    let mut direction = geometry.direction;
    for (a, axis) in axes.iter().enumerate() {
        let column = axis.map(|cosine| f64::from(spacing[a] * cosine));
        let length = column.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (row, v) in direction.iter_mut().zip(column) {
            row[a] = v / length;
        }
    }
    let single = |v: f64| f64::from(v as f32);
    Geometry {
        shape: geometry.shape,
        spacing: geometry.spacing.map(single),
        origin: geometry.origin.map(single),
        direction,
    }
}

/// The columns of a direction in float32, normalised there with a factor computed in float64.
fn axes_of_length_one(direction: &Matrix3) -> Axes {
    std::array::from_fn(|a| {
        let axis: [f32; 3] = std::array::from_fn(|r| direction[r][a] as f32);
        let squared = axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2];
        let factor = (1.0 / f64::from(squared).sqrt()) as f32;
        axis.map(|v| v * factor)
    })
}

/// The orthogonal matrix nearest to `matrix`: the orthogonal factor of its polar decomposition.
///
/// Scaled Newton iteration of N. J. Higham, "Computing the polar decomposition, with applications", SIAM J. Sci.
/// Stat. Comput. 7 (1986) 1160–1174. Precision of every step, thresholds and number of steps are those of
/// `nifti_mat33_polar` in the NIfTI-1 reference library, which ITK writes files with.
fn nearest_orthogonal(matrix: Axes) -> Axes {
    let mut x = matrix;
    let mut change = 1.0;
    for _ in 0..=100 {
        let Some(inverse) = invert(&x.map(|row| row.map(f64::from))) else { break };
        let inverse = inverse.map(|row| row.map(|v| v as f32));
        let scale = if change > 0.3 { (magnitude(&inverse) / magnitude(&x)).sqrt() } else { 1.0 };
        let reciprocal = 1.0 / scale;
        let next: Axes = std::array::from_fn(|r| {
            std::array::from_fn(|c| 0.5 * (scale * x[r][c] + reciprocal * inverse[c][r]))
        });
        let moved = next.as_flattened().iter().zip(x.as_flattened()).map(|(n, x)| f64::from((n - x).abs()));
        change = f64::from(moved.sum::<f64>() as f32);
        x = next;
        if change < 3e-6 {
            break;
        }
    }
    x
}

/// Geometric mean of the matrix norms ‖·‖₁ (columns) and ‖·‖∞ (rows).
fn magnitude(m: &Axes) -> f32 {
    let largest = |sum: &dyn Fn(usize) -> f64| (0..3).map(|a| sum(a) as f32).fold(0.0, f32::max);
    let rows = largest(&|a| (0..3).map(|b| f64::from(m[a][b].abs())).sum());
    let columns = largest(&|a| (0..3).map(|b| f64::from(m[b][a].abs())).sum());
    (rows * columns).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::roi::nearest_voxel;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize)]
    struct Table {
        low_spacing_xyz: [f64; 3],
        scans: Vec<Scan>,
    }

    #[derive(Deserialize)]
    struct Scan {
        kind: String,
        spacing_xyz: [f64; 3],
        origin: [f64; 3],
        direction: [f64; 9],
        crop: [f64; 9],
        once: [f64; 9],
        twice: [f64; 9],
        origin_twice: [f64; 3],
        low: Vec<[f64; 3]>,
        full: Vec<[i64; 3]>,
    }

    impl Scan {
        fn grid(&self, [x, y, z]: [f64; 3]) -> Geometry {
            let d = &self.direction;
            let direction = [[d[0], d[1], d[2]], [d[3], d[4], d[5]], [d[6], d[7], d[8]]];
            Geometry { shape: [1; 3], spacing: [z, y, x], origin: self.origin, direction }
        }
    }

    /// Whether all bits are equal, after asserting that the values are.
    fn same_bits(ours: &Geometry, theirs: &[f64; 9]) -> bool {
        let ours = ours.direction.as_flattened();
        assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-9), "{ours:?}, SimpleITK {theirs:?}");
        ours == theirs
    }

    #[test]
    fn passages_and_nearest_voxels_are_simpleitks() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/nifti_passage.json");
        let table: Table = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut counts = BTreeMap::<&str, [usize; 6]>::new();
        for scan in &table.scans {
            let full = scan.grid(scan.spacing_xyz);
            let once = after_nifti(&scan.grid(table.low_spacing_xyz));
            let twice = after_nifti(&once);
            assert_eq!(twice.origin, scan.origin_twice);
            let count = counts.entry(&scan.kind).or_default();
            count[0] += 1;
            count[1] += usize::from(same_bits(&after_nifti(&full), &scan.crop));
            count[2] += usize::from(same_bits(&once, &scan.once));
            count[3] += usize::from(same_bits(&twice, &scan.twice));
            for (&low, expected) in scan.low.iter().zip(&scan.full) {
                count[4] += 1;
                count[5] += usize::from(nearest_voxel(&full, &twice, low) == *expected);
            }
        }
        for (kind, [scans, crop, once, twice, voxels, nearest]) in &counts {
            eprintln!(
                "{kind}: {scans} scans, same bits {crop} {once} {twice}, {voxels} voxels, same nearest {nearest}"
            );
        }
        assert_eq!(counts.len(), 5);
        for (kind, [scans, crop, once, twice, voxels, nearest]) in counts {
            assert_eq!([crop, once, twice], [scans; 3], "directions with SimpleITK's bits, {kind}");
            assert_eq!(nearest, voxels, "nearest voxels as SimpleITK's, {kind}");
        }
    }

    #[test]
    fn the_iteration_repairs_what_is_not_orthogonal() {
        let sheared = [[1.0, 0.05, 0.0], [0.0, 1.0, 0.1], [0.0, 0.0, -2.0]];
        let q = nearest_orthogonal(sheared);
        for a in 0..3 {
            for b in 0..3 {
                let dot: f32 = (0..3).map(|c| q[a][c] * q[b][c]).sum();
                let expected = if a == b { 1.0 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-6, "{q:?}");
            }
        }
        assert!(q[2][2] < 0.0, "{q:?}");
    }
}
