//! Origin and direction from a NIfTI-1 header: sform, qform, or neither.

use super::super::ImageError;
use super::super::geometry::{IDENTITY, Matrix3, invert};
use nifti::NiftiHeader;
use std::path::Path;

/// A voxel-to-RAS affine in the precision of the format: three rows of three cosines times spacings and an offset.
type Affine = [[f32; 4]; 3];

/// How far from orthonormal an sform may be, and how far from the qform to count as the same.
const TOLERANCE: f32 = 1e-4;

/// Origin and direction cosines in LPS, in the header's unit of length.
///
/// The sform is taken if it has no shear and its code is 1 (scanner), or is any other and there is no qform, or is any
/// other and it hardly differs from the qform; else the qform. Identity and 0 if there is neither. (ITK 5.4,
/// `NiftiImageIO::SetImageIOOrientationFromNIfTI`; where ITK compares singular vectors of the two, this compares their
/// columns, which can differ in which of two affines within 1e-4 of each other is taken.)
pub(super) fn lps(path: &Path, raw: &NiftiHeader, is_nifti: bool) -> Result<([f64; 3], Matrix3), ImageError> {
    let sform = (is_nifti && raw.sform_code > 0).then_some([raw.srow_x, raw.srow_y, raw.srow_z]);
    let qform = (is_nifti && raw.qform_code > 0).then(|| qform(raw));
    let affine = match (sform.filter(is_without_shear), qform) {
        (Some(sform), None) => sform,
        (Some(sform), Some(qform)) if raw.sform_code == 1 || are_similar(&sform, &qform) => sform,
        (_, Some(qform)) => qform,
        (None, None) if sform.is_none() => return Ok(([0.0; 3], IDENTITY)),
        (None, None) => {
            let what = "the sform is singular or sheared and there is no qform; needs orthonormal directions";
            return Err(ImageError::malformed(path, what));
        }
    };
    let mut direction = [[0.0; 3]; 3];
    for axis in 0..3 {
        let column = affine.map(|row| f64::from(row[axis]));
        let length = column.iter().map(|c| c * c).sum::<f64>().sqrt();
        for (row, cosine) in column.into_iter().enumerate() {
            direction[row][axis] = ras_to_lps(row, cosine) / length;
        }
    }
    let origin = std::array::from_fn(|row| ras_to_lps(row, f64::from(affine[row][3])));
    Ok((origin, direction))
}

fn ras_to_lps(axis: usize, value: f64) -> f64 {
    if axis < 2 { -value } else { value }
}

/// The affine of the quaternion fields (niftilib, `nifti_quatern_to_mat44`).
fn qform(raw: &NiftiHeader) -> Affine {
    let [mut b, mut c, mut d] = [raw.quatern_b, raw.quatern_c, raw.quatern_d].map(f64::from);
    let mut a = 1.0 - (b * b + c * c + d * d);
    if a < 1e-7 {
        let scale = 1.0 / (b * b + c * c + d * d).sqrt();
        [b, c, d] = [b * scale, c * scale, d * scale];
        a = 0.0;
    } else {
        a = a.sqrt();
    }
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ];
    let mut scale =
        [1, 2, 3].map(|axis| if raw.pixdim[axis] > 0.0 { f64::from(raw.pixdim[axis]) } else { 1.0 });
    if raw.pixdim[0] < 0.0 {
        scale[2] = -scale[2];
    }
    let offset = [raw.quatern_x, raw.quatern_y, raw.quatern_z];
    std::array::from_fn(|row| {
        let [x, y, z] = std::array::from_fn(|column| (rotation[row][column] * scale[column]) as f32);
        [x, y, z, offset[row]]
    })
}

/// Whether the affine can be inverted and its columns are at right angles.
fn is_without_shear(affine: &Affine) -> bool {
    let matrix: Matrix3 = affine.map(|row| [row[0], row[1], row[2]].map(f64::from));
    let unit = unit_columns(affine);
    let is_orthonormal = (0..3).all(|i| {
        (0..3).all(|j| {
            let product = (0..3).map(|k| unit[i][k] * unit[j][k]).sum::<f32>();
            (product - if i == j { 1.0 } else { 0.0 }).abs() <= TOLERANCE
        })
    });
    invert(&matrix).is_some() && is_orthonormal
}

fn are_similar(sform: &Affine, qform: &Affine) -> bool {
    let close = |a: f32, b: f32| (a - b).abs() <= TOLERANCE;
    let (s, q) = (unit_columns(sform), unit_columns(qform));
    let lengths_are_close = (0..3).all(|axis| close(column_length(sform, axis), column_length(qform, axis)));
    let cosines_are_close = s.as_flattened().iter().zip(q.as_flattened()).all(|(&a, &b)| close(a, b));
    let offsets_are_close = (0..3).all(|row| close(sform[row][3], qform[row][3]));
    lengths_are_close && cosines_are_close && offsets_are_close
}

fn column_length(affine: &Affine, axis: usize) -> f32 {
    affine.iter().map(|row| row[axis] * row[axis]).sum::<f32>().sqrt()
}

fn unit_columns(affine: &Affine) -> [[f32; 3]; 3] {
    let lengths: [f32; 3] = std::array::from_fn(|axis| column_length(affine, axis));
    affine.map(|row| std::array::from_fn(|axis| row[axis] / lengths[axis]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with an oblique qform of code `qform` and an axis-aligned sform of code `sform`.
    fn header(qform: i16, sform: i16) -> NiftiHeader {
        NiftiHeader {
            qform_code: qform,
            sform_code: sform,
            pixdim: [1.0, 0.75, 0.8, 2.5, 1.0, 1.0, 1.0, 1.0],
            quatern_b: 0.1,
            quatern_c: 0.2,
            quatern_d: 0.3,
            quatern_x: 1.0,
            quatern_y: 2.0,
            quatern_z: 3.0,
            srow_x: [-0.75, 0.0, 0.0, 5.0],
            srow_y: [0.0, -0.8, 0.0, 6.0],
            srow_z: [0.0, 0.0, 2.5, 7.0],
            ..NiftiHeader::default()
        }
    }

    fn origin(header: &NiftiHeader) -> [f64; 3] {
        lps(Path::new("scan.nii"), header, true).unwrap().0
    }

    const QFORM: [f64; 3] = [-1.0, -2.0, 3.0];
    const SFORM: [f64; 3] = [-5.0, -6.0, 7.0];

    /// What SimpleITK 2.5.7 answers to the same headers.
    #[test]
    fn codes_choose_between_sform_and_qform() {
        let cases = [
            (0, 0, [0.0; 3]),
            (0, 1, SFORM),
            (0, 2, SFORM),
            (0, 4, SFORM),
            (1, 0, QFORM),
            (1, 1, SFORM),
            (1, 2, QFORM),
            (2, 1, SFORM),
            (2, 3, QFORM),
        ];
        for (qform, sform, expected) in cases {
            assert_eq!(origin(&header(qform, sform)), expected, "qform {qform}, sform {sform}");
        }
    }

    #[test]
    fn a_sheared_sform_gives_way_to_the_qform() {
        let sheared = |by: f32| NiftiHeader { srow_x: [-0.75, by, 0.0, 5.0], ..header(1, 1) };
        assert_eq!(origin(&sheared(4e-5)), SFORM);
        assert_eq!(origin(&sheared(2e-4)), QFORM);
        let alone = NiftiHeader { qform_code: 0, ..sheared(0.2) };
        let message = lps(Path::new("scan.nii"), &alone, true).unwrap_err().to_string();
        assert_eq!(
            message,
            "scan.nii: the sform is singular or sheared and there is no qform; needs orthonormal directions"
        );
    }

    #[test]
    fn a_similar_sform_of_another_code_is_taken_for_its_precision() {
        let mut similar = header(1, 2);
        let affine = qform(&similar);
        [similar.srow_x, similar.srow_y, similar.srow_z] = affine;
        similar.srow_x[3] += 5e-5;
        assert_eq!(origin(&similar)[0], -f64::from(1.0f32 + 5e-5));
        similar.srow_x[3] += 2e-4;
        assert_eq!(origin(&similar), QFORM);
    }

    #[test]
    fn analyze_has_no_orientation() {
        let (origin, direction) = lps(Path::new("scan.img"), &header(1, 1), false).unwrap();
        assert_eq!((origin, direction), ([0.0; 3], IDENTITY));
    }
}
