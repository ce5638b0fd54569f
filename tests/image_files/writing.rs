//! What is written reads back as it was, and is all that is left behind.

use ndarray::Array3;
use pdac_cascade::imaging::file::element::Element;
use pdac_cascade::imaging::file::{Compression, Image, read_image, write_image};
use pdac_cascade::imaging::{Geometry, ImageError, Volume, Voxels};
use proptest::prelude::*;
use tempfile::TempDir;

/// Columns of length one at right angles, but for rounding.
fn direction() -> impl Strategy<Value = [[f64; 3]; 3]> {
    (-4.0..4.0f64, -4.0..4.0f64).prop_map(|(a, b)| {
        let ((sa, ca), (sb, cb)) = (a.sin_cos(), b.sin_cos());
        [[ca, -sa * cb, sa * sb], [sa, ca * cb, -ca * sb], [0.0, sb, cb]]
    })
}

fn geometry() -> impl Strategy<Value = Geometry> {
    let shape = prop::array::uniform3(1..5usize);
    let spacing = prop::array::uniform3(prop_oneof![1e-3..10.0, f64::MIN_POSITIVE..f64::MAX]);
    let origin = prop::array::uniform3(prop_oneof![-1e4..1e4, f64::MIN..f64::MAX]);
    (shape, spacing, origin, direction()).prop_map(|(shape, spacing, origin, direction)| Geometry {
        shape,
        spacing,
        origin,
        direction,
    })
}

fn volume<T: Arbitrary + Element>() -> impl Strategy<Value = Volume<T>> {
    geometry().prop_flat_map(|geometry| {
        let values = prop::collection::vec(any::<T>(), geometry.len());
        values.prop_map(move |v| Volume::new(Array3::from_shape_vec(geometry.shape, v).unwrap(), geometry))
    })
}

fn assert_round_trip<T: Element>(volume: &Volume<T>)
where
    Voxels: From<Array3<T>>,
{
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("scan.mha");
    for compression in [Compression::None, Compression::Zlib] {
        write_image(&path, volume, compression).unwrap();
        let read = read_image(&path).unwrap();
        assert_eq!(read.geometry, volume.geometry);
        let written = Voxels::from(volume.data.clone());
        assert_eq!(read.voxels.type_name(), written.type_name());
        // Bytes, since no NaN equals itself.
        assert_eq!(read.voxels.to_le_bytes(), written.to_le_bytes());
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left in the folder");
}

macro_rules! round_trips {
    ($($name:ident $type:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(24))]
            $(#[test] fn $name(volume in volume::<$type>()) { assert_round_trip(&volume); })*
        }
    };
}

round_trips! {
    i8_survives_writing_and_reading i8;
    u8_survives_writing_and_reading u8;
    i16_survives_writing_and_reading i16;
    u16_survives_writing_and_reading u16;
    i32_survives_writing_and_reading i32;
    u32_survives_writing_and_reading u32;
    i64_survives_writing_and_reading i64;
    u64_survives_writing_and_reading u64;
    f32_survives_writing_and_reading f32;
    f64_survives_writing_and_reading f64;
}

fn small() -> Volume<i16> {
    let direction = [[0.36, -0.8, 0.48], [0.48, 0.6, 0.64], [-0.8, 0.0, 0.6]];
    let geometry =
        Geometry { shape: [1, 1, 2], spacing: [2.5, 0.1, 1e-7], origin: [-1.0, 0.3, 1e20], direction };
    Volume::new(Array3::from_shape_vec([1, 1, 2], vec![258, -1]).unwrap(), geometry)
}

#[test]
fn the_written_file_is_this_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("scan.mha");
    Image::from(small()).write(&path, Compression::None).unwrap();
    let header = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
        CompressedData = False\nTransformMatrix = 0.36 0.48 -0.8 -0.8 0.6 0 0.48 0.64 0.6\nOffset = -1 0.3 1e20\n\
        CenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\nElementSpacing = 1e-7 0.1 2.5\nDimSize = 2 1 1\n\
        ElementType = MET_SHORT\nElementDataFile = LOCAL\n";
    let written = std::fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(&written[..header.len()]), header);
    assert_eq!(written[header.len()..], [2, 1, 255, 255]);
}

#[test]
fn an_array_in_another_layout_is_written_in_its_logical_order() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("scan.mha");
    let data = Array3::from_shape_fn([2, 3, 4], |(z, y, x)| (12 * z + 4 * y + x) as u8).reversed_axes();
    let volume = Volume::new(data.clone(), Geometry::axis_aligned([4, 3, 2], [1.0; 3]));
    write_image(&path, &volume, Compression::None).unwrap();
    assert_eq!(read_image(&path).unwrap().voxels, Voxels::U8(data));
}

#[cfg(unix)]
#[test]
fn everyone_may_read_what_is_written() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("scan.mha");
    write_image(&path, &small(), Compression::Zlib).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, geometry: Geometry| {
        let volume = Volume { geometry, ..small() };
        let error = write_image(&folder.path().join(name), &volume, Compression::None).unwrap_err();
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    let good = small().geometry;
    assert_eq!(write("scan.nii.gz", good), "scan.nii.gz: images are written as .mha only");
    let spaced = |z: f64| Geometry { spacing: [z, 0.1, 1e-7], ..good };
    assert_eq!(write("scan.mha", spaced(0.0)), "scan.mha: spacing along z is 0, must be positive and finite");
    assert_eq!(write("scan.mha", spaced(-2.5)), "scan.mha: spacing is [1e-7, 0.1, -2.5], must be positive");
    let flat = Geometry { direction: [[0.0; 3]; 3], ..good };
    assert!(write("scan.mha", flat).ends_with("is singular or not finite"));
    assert!(write("none/scan.mha", good).starts_with("none/scan.mha: "));
    // A folder of that name cannot be replaced by the finished file.
    std::fs::create_dir(folder.path().join("taken.mha")).unwrap();
    let error = write_image(&folder.path().join("taken.mha"), &small(), Compression::None).unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "only that folder is there");
}

#[test]
fn an_image_becomes_a_float_volume_on_the_same_grid() {
    let volume = Image::from(small()).into_f32_volume();
    assert_eq!(volume.geometry, small().geometry);
    assert_eq!(volume.data.iter().copied().collect::<Vec<_>>(), [258.0, -1.0]);
}
