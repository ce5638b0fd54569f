//! NIfTI headers in small variations.

use super::{gzip, plain, read_in, voxels};
use pdac_cascade::imaging::file::Image;
use pdac_cascade::imaging::{Geometry, Voxels};
use tempfile::TempDir;

/// A `.nii` of [`plain`]'s voxels with some bytes of its header changed.
pub(super) fn nifti(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 352];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &348i32.to_le_bytes());
    for (at, n) in [3i16, 4, 3, 2, 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * at, &n.to_le_bytes());
    }
    put(70, &4i16.to_le_bytes());
    put(72, &16i16.to_le_bytes());
    for (at, d) in [1.0f32, 0.75, 0.5, 2.5].into_iter().enumerate() {
        put(76 + 4 * at, &d.to_le_bytes());
    }
    put(108, &352f32.to_le_bytes());
    put(344, b"n+1\0");
    for (at, field) in changes {
        put(*at, field);
    }
    [bytes, voxels()].concat()
}

fn read(name: &str, bytes: &[u8]) -> Result<Image, String> {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    read_in(folder.path(), name)
}

fn expected() -> Image {
    Image { geometry: Geometry { spacing: [2.5, 0.5, 0.75], ..plain().geometry }, ..plain() }
}

#[test]
fn the_content_tells_whether_a_file_is_gzipped() {
    let bytes = nifti(&[]);
    for name in ["scan.nii", "scan.nii.gz"] {
        assert_eq!(read(name, &bytes).unwrap(), expected(), "{name}");
        assert_eq!(read(name, &gzip(&bytes)).unwrap(), expected(), "{name}");
    }
}

#[test]
fn a_damaged_gzip_is_noticed() {
    let mut bytes = gzip(&nifti(&[]));
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    let message = read("scan.nii.gz", &bytes).unwrap_err();
    assert!(message.starts_with("scan.nii.gz: the compressed voxels are damaged: "), "{message}");
}

#[test]
fn either_file_of_a_pair_may_be_named() {
    let whole = nifti(&[(344, b"ni1\0"), (108, &0f32.to_le_bytes())]);
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("scan.hdr"), &whole[..348]).unwrap();
    std::fs::write(folder.path().join("scan.img"), &whole[352..]).unwrap();
    for name in ["scan.hdr", "scan.img"] {
        assert_eq!(read_in(folder.path(), name).unwrap(), expected(), "{name}");
    }
}

/// SimpleITK 2.5.7 reads the same from the same headers.
#[test]
fn slope_and_intercept_make_floats() {
    let scaled = |slope: f32, intercept: f32| {
        let bytes = nifti(&[(112, &slope.to_le_bytes()), (116, &intercept.to_le_bytes())]);
        read("scan.nii", &bytes).unwrap().voxels
    };
    let floats = |value: fn(f32) -> f32| Voxels::F32(plain().voxels.into_f32().mapv(value));
    assert_eq!(scaled(2.0, -1024.0), floats(|v| 2.0 * v - 1024.0));
    assert_eq!(scaled(0.0, 5.0), floats(|v| v + 5.0));
    assert_eq!(scaled(f32::NAN, 5.0), floats(|v| v + 5.0));
    assert_eq!(scaled(-1.0, 0.0), floats(|v| -v));
    for (slope, intercept) in [(1.0, 0.0), (0.0, 0.0), (1e-20, 0.0), (f32::INFINITY, 0.0), (1.0, f32::NAN)] {
        assert_eq!(scaled(slope, intercept), plain().voxels, "{slope} {intercept}");
    }
}

/// As in SimpleITK 2.5.7.
#[test]
fn numbers_that_are_none_become_zero() {
    let mut values = [1.5f32; 24];
    values[..3].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let mut bytes = nifti(&[(70, &16i16.to_le_bytes()), (116, &1f32.to_le_bytes())]);
    bytes.truncate(352);
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let Voxels::F32(read) = read("scan.nii", &bytes).unwrap().voxels else { panic!("float32 stays float32") };
    assert_eq!(read.iter().take(4).copied().collect::<Vec<_>>(), [1.0, 1.0, 1.0, 2.5]);
}

/// SimpleITK 2.5.7 reads the same from the same headers.
#[test]
fn fields_that_do_not_matter_do_not_matter() {
    let cases: &[&[(usize, &[u8])]] = &[
        &[(72, &8i16.to_le_bytes())],
        &[(0, &347i32.to_le_bytes())],
        &[(344, b"ni1\0")],
        &[(344, b"abcd")],
        &[(344, b"abcd"), (112, &2f32.to_le_bytes()), (123, &[1])],
        &[(108, &352.7f32.to_le_bytes())],
        &[(40, &7i16.to_le_bytes())],
        &[(40, &4i16.to_le_bytes()), (48, &0i16.to_le_bytes())],
        &[(123, &[5])],
    ];
    for changes in cases {
        assert_eq!(read("scan.nii", &nifti(changes)).unwrap(), expected(), "{changes:?}");
    }
}

#[test]
fn bad_niftis_are_refused_with_their_reason() {
    let field = |at: usize, n: i16| nifti(&[(at, &n.to_le_bytes())]);
    let whole = nifti(&[]);
    let spaced = |d: f32| nifti(&[(80, &d.to_le_bytes())]);
    let frames = nifti(&[(40, &4i16.to_le_bytes()), (48, &5i16.to_le_bytes())]);
    let cases = [
        (whole[..100].to_vec(), "the header has 100 bytes, needs 348"),
        (whole[..390].to_vec(), "the file has 38 bytes of voxels, needs 48"),
        (gzip(&whole)[..60].to_vec(), "the header breaks off"),
        (gzip(&whole[..390]), "the file has 38 bytes of voxels, needs 48"),
        (nifti(&[(108, &1e30f32.to_le_bytes())]), "the file has 0 bytes of voxels, needs 48"),
        (nifti(&[(0, &540i32.to_le_bytes())]), "is NIfTI-2; only NIfTI-1 is accepted"),
        (nifti(&[(0, b"abcd"), (344, b"abcd")]), "has neither NIfTI's magic nor Analyze's header size 348"),
        (field(40, 2), "is a 2-D image (4 3 voxels); only scalar 3-D images are accepted"),
        (field(40, 0), "dim[0] is 0, must be 1 to 7"),
        (field(46, 0), "the image has no voxels along z: size is 0, must be positive"),
        (field(46, -2), "dim[3] is -2, must be positive"),
        (frames, "is a 4-D image (4 3 2 5 voxels); only scalar 3-D images are accepted"),
        (field(70, 3), "datatype is 3, which is no element type"),
        (field(70, 128), "has colour voxels (datatype 128); only scalar 3-D images are accepted"),
        (field(70, 32), "has complex voxels (datatype 32); only scalar 3-D images are accepted"),
        (field(70, 1536), "has 128-bit voxels (datatype 1536); numbers of at most 64 bits are accepted"),
        (field(68, 1007), "has intent code 1007 (vectors or matrices); only scalar 3-D images are accepted"),
        (spaced(0.0), "spacing along x is 0, must be positive and finite"),
        (spaced(f32::NAN), "spacing along x is NaN, must be positive and finite"),
    ];
    for (bytes, reason) in cases {
        let Err(message) = read("scan.nii", &bytes) else { panic!("must be refused: {reason}") };
        assert!(message.starts_with(&format!("scan.nii: {reason}")), "{message}");
    }
}
