//! Public and hand-made odd files against what SimpleITK 2.5.7 reads from them.

use pdac_cascade::imaging::file::{Image, read_image};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Files that are refused although SimpleITK reads a scalar 3-D image from them, with the reason in the message.
const REFUSED_DELIBERATELY: &[(&str, &str)] = &[
    // SimpleITK fills the missing voxels with zeros without a word.
    ("made/truncated.nii", "the file has 8576 bytes of voxels, needs 8640"),
];

/// What a refusal says of files that SimpleITK refuses too.
const BROKEN: &[(&str, &str)] = &[
    ("bad_type.mha", "ElementType is \"MET_BANANA\", which is no element type"),
    ("missing_datafile.mha", "the header has no ElementDataFile"),
    ("missing_type.mha", "the header has no ElementType"),
    ("truncated.mha", "the file has 8540 bytes of voxels, needs 8640"),
    ("zero_spacing.mha", "spacing along x is 0, must be positive and finite"),
    ("invalid_utf8.mhd", "the file has 7551 bytes of voxels, needs 8000"),
    ("referring_to_system_file.mhd", "its data file /trying/to/get/a/system/file.conf"),
    ("mhd_window/errors/", "is a 2-D image (3 4 voxels)"),
    ("crash-1.nii", "dim[0] is -9510, must be 1 to 7"),
    ("crash-ed7d46344d7efb3b9f0c374d66d2e02f66cc447d.nii", "dim[0] is -1, must be 1 to 7"),
    ("analyze.hdr", "the other file of the pair is missing"),
    ("nifti1.hdr", "the other file of the pair is missing"),
    ("nifti2.hdr", "the other file of the pair is missing"),
    ("nifti2.nii", "is NIfTI-2; only NIfTI-1 is accepted"),
    ("sform_zero_matrix.nii", "the sform is singular or sheared and there is no qform"),
];

/// What a refusal says of an image that is no scalar 3-D one.
fn kind(name: &str, theirs: &Value) -> String {
    let dimensions = theirs["size"].as_array().unwrap().len();
    match dimensions {
        3 if name.ends_with("RGB.mhd") => "has 3 values a voxel (a vector or colour image)".to_owned(),
        3 if name.contains("5_1_1_1") => "has 5 values a voxel (a vector or colour image)".to_owned(),
        3 => "has colour voxels (datatype 128)".to_owned(),
        n => format!("is a {n}-D image"),
    }
}

fn reason(name: &str, theirs: &Value) -> String {
    let of = |table: &[(&str, &str)]| {
        table.iter().find(|(part, _)| name.contains(part)).map(|(_, why)| (*why).to_owned())
    };
    if theirs["ok"] != true {
        return of(BROKEN).unwrap_or_else(|| panic!("{name} has no reason in the table"));
    }
    of(REFUSED_DELIBERATELY).unwrap_or_else(|| kind(name, theirs))
}

/// How many files of a folder are read as SimpleITK reads them, and how many refused, after each has been checked.
fn compare(folder: &Path) -> (usize, usize) {
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    // Python's JSON has NaN, in values that are not looked at here.
    let expected: Value = serde_json::from_str(&expected.replace("NaN", "null")).unwrap();
    let (mut read, mut refused) = (0, 0);
    for (name, entry) in expected["files"].as_object().unwrap() {
        let theirs = &entry["simpleitk"];
        let ours = read_image(&folder.join(name));
        let is_scalar_3d = theirs["ok"] == true
            && theirs["components"] == 1
            && theirs["size"].as_array().unwrap().len() == 3;
        if is_scalar_3d && REFUSED_DELIBERATELY.iter().all(|(file, _)| file != name) {
            assert_same(name, &ours.unwrap_or_else(|error| panic!("{error}")), theirs);
            read += 1;
        } else {
            let Err(error) = ours else { panic!("{name} must be refused") };
            let message = error.to_string();
            let start = format!("{}: ", folder.join(name).display());
            assert!(message.starts_with(&start), "{message} must name {name}");
            let reason = reason(name, theirs);
            assert!(message.contains(&reason), "{message} must say {reason}");
            refused += 1;
        }
    }
    (read, refused)
}

fn assert_same(name: &str, ours: &Image, theirs: &Value) {
    let numbers =
        |key: &str| theirs[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let geometry = &ours.geometry;
    assert_eq!(geometry.size_xyz().map(|n| n as f64).as_slice(), numbers("size"), "{name}: size");
    assert_eq!(geometry.spacing_xyz().as_slice(), numbers("spacing"), "{name}: spacing");
    assert_eq!(geometry.origin.as_slice(), numbers("origin"), "{name}: origin");
    assert_eq!(geometry.direction.as_flattened(), numbers("direction"), "{name}: direction");
    assert_eq!(ours.voxels.type_name(), theirs["array_dtype"], "{name}: element type");
    assert_eq!(ours.voxels.shape(), geometry.shape, "{name}: shape");
    let sum = format!("{:x}", Sha256::digest(ours.voxels.to_le_bytes()));
    assert_eq!(sum, theirs["sha256_le_c_order"], "{name}: voxels");
}

// The counts: a test that silently looks at fewer files is broken.

#[test]
fn metaimages_are_read_as_simpleitk_reads_them() {
    let Some(folder) = crate::shared_data::folder("metaimage_odd") else { return };
    assert_eq!(compare(&folder), (52, 40));
}

#[test]
fn niftis_are_read_as_simpleitk_reads_them() {
    let Some(folder) = crate::shared_data::folder("nifti_odd") else { return };
    assert_eq!(compare(&folder), (47, 18));
}
