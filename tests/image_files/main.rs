//! Image files: what SimpleITK reads, what is refused and how, and what is written.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions that tests share fail by panicking too"
)]

mod metaimage;
mod nifti;
#[path = "../shared_data/mod.rs"]
mod shared_data;
mod simpleitk;
mod writing;

use ndarray::Array3;
use pdac_cascade::imaging::file::{Image, read_image};
use pdac_cascade::imaging::{Geometry, Volume};
use std::io::Write;
use std::path::Path;

/// The `int16` values 0 … 23, little-endian.
fn voxels() -> Vec<u8> {
    (0..24i16).flat_map(i16::to_le_bytes).collect()
}

/// [`voxels`] as a 4 × 3 × 2 image on a grid without any surprise.
fn plain() -> Image {
    let data = Array3::from_shape_fn([2, 3, 4], |(z, y, x)| (12 * z + 4 * y + x) as i16);
    Volume::new(data, Geometry::axis_aligned([2, 3, 4], [1.0; 3])).into()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is read from a file in this folder; errors without the folder's path.
fn read_in(folder: &Path, name: &str) -> Result<Image, String> {
    read_image(&folder.join(name))
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.display()), ""))
}

/// A small stand-in for the fuzz targets: any header with some bytes changed is an image or an error, never a panic.
mod changed_bytes {
    use super::{gzip, metaimage, nifti, voxels};
    use pdac_cascade::imaging::{metaimage as mha, nifti as nii};
    use proptest::prelude::*;
    use std::path::Path;

    fn changed(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes
    }

    fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn metaimage_headers_never_panic(changes in changes()) {
            let bytes = changed([metaimage::header(&[]).into_bytes(), voxels()].concat(), &changes);
            if let Ok(image) = mha::decode(Path::new("any.mha"), &bytes) {
                prop_assert_eq!(image.voxels.shape(), image.geometry.shape);
            }
        }

        #[test]
        fn nifti_headers_never_panic(changes in changes(), zipped in any::<bool>()) {
            let mut bytes = changed(nifti::nifti(&[]), &changes);
            if zipped {
                bytes = gzip(&bytes);
            }
            if let Ok(image) = nii::decode(Path::new("any.nii"), &bytes) {
                prop_assert_eq!(image.voxels.shape(), image.geometry.shape);
            }
        }
    }
}
