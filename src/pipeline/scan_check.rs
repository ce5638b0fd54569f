//! Scans that cannot be what they are said to be.

use crate::nnunet::preprocessing::{nonzero_box, range};
use ndarray::Array3;

/// Values below this do not occur in MRI; air in CT is at -1000 HU.
const LOWEST_IN_MRI: f32 = -500.0;

/// What is wrong with voxels (z, y, x) that are said to be an MRI.
///
/// # Errors
/// If all voxels have one value, all those within the box of the others than 0 have, or some are far below 0 as in CT.
pub(super) fn check_mri(scan: &Array3<f32>) -> Result<(), String> {
    let (lowest, highest) = range(&scan.view());
    if lowest >= highest {
        return Err(format!("every voxel is {lowest}, expected an image"));
    }
    if lowest < LOWEST_IN_MRI {
        return Err(format!(
            "the lowest value is {lowest}, expected an MRI without values below {LOWEST_IN_MRI}: is it a CT?"
        ));
    }
    let (lowest, highest) = range(&nonzero_box(&[scan.view()]).crop(scan));
    if lowest >= highest {
        return Err(format!(
            "every voxel is {lowest} within the box of those that are not 0, expected an image: its intensities cannot be normalised"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mri_is_named() {
        let image = |value: &dyn Fn(usize, usize, usize) -> f32| {
            Array3::from_shape_fn((4, 5, 6), |(z, y, x)| value(z, y, x))
        };
        check_mri(&image(&|z, y, x| (z + y + x) as f32 - 400.0)).unwrap();
        let message = |scan| check_mri(&scan).unwrap_err();
        assert_eq!(message(image(&|_, _, _| 7.0)), "every voxel is 7, expected an image");
        assert_eq!(
            message(image(&|z, _, _| if z == 0 { -1024.0 } else { 40.0 })),
            "the lowest value is -1024, expected an MRI without values below -500: is it a CT?"
        );
        let block = image(&|z, y, x| if (1..3).contains(&z) && y > 2 && x > 3 { 9.0 } else { 0.0 });
        assert!(message(block).starts_with("every voxel is 9 within the box of those that are not 0"));
    }
}
