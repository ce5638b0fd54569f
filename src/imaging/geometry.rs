//! Where a voxel grid lies in the patient.

/// A 3 × 3 matrix, row-major.
pub type Matrix3 = [[f64; 3]; 3];

/// Shape, spacing, origin and direction of a voxel grid, in ITK's conventions.
///
/// The physical position (LPS, mm) of voxel `(i, j, k)` along x, y, z is
/// `origin + direction · (spacing_x·i, spacing_y·j, spacing_z·k)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Voxels along (z, y, x).
    pub shape: [usize; 3],
    /// Distance between voxel centres in mm along (z, y, x); positive and finite.
    pub spacing: [f64; 3],
    /// LPS position (x, y, z) in mm of the first voxel's centre.
    pub origin: [f64; 3],
    /// Row-major direction cosines; column `a` is the LPS direction of voxel axis `a` in the order x, y, z.
    pub direction: Matrix3,
}

/// The 3 × 3 identity.
pub const IDENTITY: Matrix3 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

impl Geometry {
    /// An axis-aligned grid at the origin with the given shape and spacing, both (z, y, x).
    pub fn axis_aligned(shape: [usize; 3], spacing: [f64; 3]) -> Self {
        Self { shape, spacing, origin: [0.0; 3], direction: IDENTITY }
    }

    /// Number of voxels.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no voxel at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Spacing in file order (x, y, z), mm.
    pub fn spacing_xyz(&self) -> [f64; 3] {
        [self.spacing[2], self.spacing[1], self.spacing[0]]
    }

    /// Size in file order (x, y, z), voxels.
    pub fn size_xyz(&self) -> [usize; 3] {
        [self.shape[2], self.shape[1], self.shape[0]]
    }

    /// LPS position in mm of a (possibly fractional) voxel index, both (x, y, z).
    ///
    /// Same order of operations as `itk::ImageBase::TransformContinuousIndexToPhysicalPoint`.
    pub fn index_to_physical(&self, index_xyz: [f64; 3]) -> [f64; 3] {
        let to_physical = self.index_to_physical_matrix();
        let mut point = self.origin;
        for (row, p) in to_physical.iter().zip(&mut point) {
            for (m, i) in row.iter().zip(index_xyz) {
                *p += m * i;
            }
        }
        point
    }

    /// Fractional voxel index (x, y, z) of an LPS position in mm; `None` if the direction is singular.
    pub fn physical_to_index(&self, point: [f64; 3]) -> Option<[f64; 3]> {
        let inverse = invert(&self.index_to_physical_matrix())?;
        let offset: [f64; 3] = std::array::from_fn(|a| point[a] - self.origin[a]);
        Some(inverse.map(|row| row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2]))
    }

    /// Direction with its columns scaled by the spacing.
    fn index_to_physical_matrix(&self) -> Matrix3 {
        let spacing = self.spacing_xyz();
        self.direction.map(|row| std::array::from_fn(|a| row[a] * spacing[a]))
    }
}

/// Determinant of a 3 × 3 matrix.
pub fn determinant(m: &Matrix3) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// Inverse; `None` where the determinant is zero or not finite.
///
/// An entry that is alone in its row and column becomes its exact reciprocal, as `itk::Matrix::GetInverse` has it for
/// diagonal matrices and, but for a last bit now and then, for permuted ones: positions half-way between the voxels of
/// an axis-aligned grid stay half-way. The rest are cofactors over the determinant, a few last bits from ITK's, which
/// come from a singular value decomposition.
pub fn invert(m: &Matrix3) -> Option<Matrix3> {
    let det = determinant(m);
    if det == 0.0 || !det.is_finite() {
        return None;
    }
    let cofactor = |r: usize, c: usize| {
        let [r1, r2] = [(r + 1) % 3, (r + 2) % 3];
        let [c1, c2] = [(c + 1) % 3, (c + 2) % 3];
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let alone =
        |r: usize, c: usize| [1, 2].iter().all(|k| m[r][(c + k) % 3] == 0.0 && m[(r + k) % 3][c] == 0.0);
    let entry = |r, c| if alone(r, c) { 1.0 / m[r][c] } else { cofactor(r, c) / det };
    Some(std::array::from_fn(|r| std::array::from_fn(|c| entry(c, r))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn physical_to_index_undoes_index_to_physical_on_an_oblique_grid() {
        let geometry = Geometry {
            shape: [4, 5, 6],
            spacing: [2.5, 0.8, 0.75],
            origin: [10.5, -20.25, 30.125],
            direction: [[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, -1.0]],
        };
        let index = [1.25, -3.0, 2.0];
        let back = geometry.physical_to_index(geometry.index_to_physical(index)).unwrap();
        for (a, b) in back.iter().zip(index) {
            assert!((a - b).abs() < 1e-12, "{back:?}");
        }
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert!(invert(&[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).is_none());
    }

    #[test]
    fn lone_entries_become_reciprocals() {
        // Cofactors give other bits for an entry of each.
        let inverse = invert(&[[0.75, 0.0, 0.0], [0.0, 0.75, 0.0], [0.0, 0.0, 0.8]]).unwrap();
        assert_eq!(inverse, [[1.0 / 0.75, 0.0, 0.0], [0.0, 1.0 / 0.75, 0.0], [0.0, 0.0, 1.25]]);
        let inverse = invert(&[[0.0, 0.0, -0.9], [1.2, 0.0, 0.0], [0.0, 0.9, 0.0]]).unwrap();
        assert_eq!(inverse, [[0.0, 1.0 / 1.2, 0.0], [0.0, 0.0, 1.0 / 0.9], [-1.0 / 0.9, 0.0, 0.0]]);
    }
}
