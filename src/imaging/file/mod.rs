//! The one door for image files: scalar 3-D images in, scalar 3-D images out.
//!
//! MetaImage and NIfTI-1 are read the way ITK 5.4 (SimpleITK 2.5) reads them, so that a scan lies where the published
//! systems see it. Where ITK guesses or returns memory it never filled, this refuses or does the right thing; each
//! such place is named in [`metaimage`] and [`nifti`].

pub mod element;
mod name;
pub(crate) mod source;
mod whole;

pub use name::{ENDINGS, image_stem};
pub use whole::{Unpublished, abandon_unfinished, folder_of, is_left_behind, publish, write_whole};

use super::geometry::{Matrix3, invert};
use super::memory;
use super::{Geometry, ImageError, MemoryGauge, Volume, Voxels, metaimage, nifti};
use element::Element;
use std::path::Path;

/// A scalar 3-D image in the element type that its file stores.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The elements, (z, y, x).
    pub voxels: Voxels,
    /// Where they lie; `geometry.shape` equals the array's shape.
    pub geometry: Geometry,
}

impl Image {
    /// The image as `f32`, values rounded to nearest where they do not fit exactly.
    pub fn into_f32_volume(self) -> Volume<f32> {
        Volume::new(self.voxels.into_f32(), self.geometry)
    }

    /// Writes the image in its own element type, see [`write_image`].
    ///
    /// # Errors
    /// As [`write_image`].
    pub fn write(&self, path: &Path, compression: Compression) -> Result<(), ImageError> {
        element::with_array!(&self.voxels, array => metaimage::write(path, &array.view(), &self.geometry, compression))
    }
}

impl<T> From<Volume<T>> for Image
where
    Voxels: From<ndarray::Array3<T>>,
{
    fn from(volume: Volume<T>) -> Self {
        Self { voxels: volume.data.into(), geometry: volume.geometry }
    }
}

/// Whether [`write_image`] compresses the voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Voxels as they are.
    None,
    /// A zlib stream.
    Zlib,
}

/// What a file's name says it holds.
enum Format {
    MetaImage,
    Nifti,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let ends_in = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends_in(&[".mha", ".mhd"]) {
            Some(Self::MetaImage)
        } else if ends_in(&[".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"]) {
            Some(Self::Nifti)
        } else {
            None
        }
    }
}

/// The scalar 3-D image in a `.mha`, `.mhd`, `.nii`, `.nii.gz`, `.hdr` or `.img` (`.gz`) file.
///
/// # Errors
/// [`ImageError::Io`] if a file cannot be read, [`ImageError::Malformed`] if it breaks its format,
/// [`ImageError::Unsupported`] for another format, another number of dimensions, or voxels that are not one number,
/// [`ImageError::Limits`] if the voxels would take more than [`MAX_BYTES`].
pub fn read_image(path: &Path) -> Result<Image, ImageError> {
    read_image_within(path, MemoryGauge::UNLIMITED)
}

/// As [`read_image`], if there is the memory for the voxels and for their becoming float32.
///
/// # Errors
/// As [`read_image`], and [`ImageError::Memory`] if there is not.
pub fn read_image_within(path: &Path, memory: MemoryGauge) -> Result<Image, ImageError> {
    match Format::of(path) {
        Some(Format::MetaImage) => metaimage::read(path, memory),
        Some(Format::Nifti) => nifti::read(path, memory),
        None => Err(ImageError::unsupported(
            path,
            "the name does not end in one of the accepted .mha, .mhd, .nii, .nii.gz, .hdr, .hdr.gz, .img, .img.gz",
        )),
    }
}

/// Writes a volume as one `.mha` file, whole or not at all: a temporary file in the same folder is renamed when complete.
///
/// Little-endian, data in the same file, mode 0644; every number of the header reads back as the same `f64`.
///
/// # Errors
/// [`ImageError::Unsupported`] if the name does not end in `.mha`, [`ImageError::Malformed`] if the geometry could not
/// be read back, [`ImageError::Io`] if the file system refuses.
pub fn write_image<T: Element>(
    path: &Path,
    volume: &Volume<T>,
    compression: Compression,
) -> Result<(), ImageError> {
    metaimage::write(path, &volume.data.view(), &volume.geometry, compression)
}

/// As [`write_image`], but not yet under its name.
///
/// # Errors
/// As [`write_image`].
pub fn write_unpublished_image<T: Element>(
    path: &Path,
    volume: &Volume<T>,
    compression: Compression,
) -> Result<Unpublished, ImageError> {
    metaimage::write_unpublished(path, &volume.data.view(), &volume.geometry, compression)
}

/// Most bytes that the voxels of one image may take in memory, where they become float32: 4 GiB, or 1024 × 1024 × 1024.
pub const MAX_BYTES: u64 = 1 << 32;

/// A grid as a file declares it, nothing checked yet; everything in file order (x, y, z).
pub(crate) struct DeclaredGrid {
    pub(crate) size: [u64; 3],
    pub(crate) spacing: [f64; 3],
    pub(crate) origin: [f64; 3],
    pub(crate) direction: Matrix3,
}

impl DeclaredGrid {
    /// The geometry, if voxels of `element_bytes` bytes on it can exist, and how many bytes they take.
    ///
    /// A negative spacing becomes positive and its direction column turns round (`itk::ImageFileReader`).
    pub(crate) fn check(self, path: &Path, element_bytes: usize) -> Result<(Geometry, u64), ImageError> {
        let malformed = |what: String| Err(ImageError::malformed(path, what));
        let Self { size, mut spacing, origin, mut direction } = self;
        for (axis, name) in ["x", "y", "z"].into_iter().enumerate() {
            if size[axis] == 0 {
                return malformed(format!(
                    "the image has no voxels along {name}: size is 0, must be positive"
                ));
            }
            if spacing[axis] == 0.0 || !spacing[axis].is_finite() {
                return malformed(format!(
                    "spacing along {name} is {}, must be positive and finite",
                    spacing[axis]
                ));
            }
            if !origin[axis].is_finite() {
                return malformed(format!("origin along {name} is {}, must be finite", origin[axis]));
            }
            if spacing[axis] < 0.0 {
                spacing[axis] = -spacing[axis];
                direction.iter_mut().for_each(|row| row[axis] = -row[axis]);
            }
        }
        if invert(&direction).is_none() {
            return malformed(format!("the direction {direction:?} is singular or not finite"));
        }
        let bytes = voxel_bytes(path, size, element_bytes)?;
        // Each size divides `bytes`, so none exceeds it.
        let shape = [size[2] as usize, size[1] as usize, size[0] as usize];
        Ok((Geometry { shape, spacing: [spacing[2], spacing[1], spacing[0]], origin, direction }, bytes))
    }
}

/// Refuses an image whose elements, and beside them its float32 voxels, need more memory than there is.
pub(crate) fn check_memory(
    path: &Path,
    geometry: &Geometry,
    element_bytes: usize,
    gauge: MemoryGauge,
) -> Result<(), ImageError> {
    let asked = memory::bytes(&geometry.shape, element_bytes + size_of::<f32>());
    gauge
        .check("the image's voxels", asked)
        .map_err(|source| ImageError::Memory { path: path.to_owned(), source })
}

fn voxel_bytes(path: &Path, size: [u64; 3], element_bytes: usize) -> Result<u64, ImageError> {
    let voxels = size.into_iter().try_fold(1, u64::checked_mul);
    let worked_on = element_bytes.max(size_of::<f32>()) as u64;
    match voxels {
        Some(voxels) if voxels <= MAX_BYTES / worked_on => Ok(voxels * element_bytes as u64),
        _ => {
            let [x, y, z] = size;
            Err(ImageError::limits(
                path,
                format!(
                    "{x} × {y} × {z} voxels of {worked_on} bytes in memory, more than the limit of {MAX_BYTES} bytes"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::geometry::IDENTITY;

    fn grid() -> DeclaredGrid {
        DeclaredGrid { size: [4, 3, 2], spacing: [1.0; 3], origin: [0.0; 3], direction: IDENTITY }
    }

    fn refusal(grid: DeclaredGrid) -> String {
        grid.check(Path::new("scan.mha"), 2).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_grid_has_its_bytes_counted() {
        let (geometry, bytes) = grid().check(Path::new("scan.mha"), 2).unwrap();
        assert_eq!((geometry.shape, bytes), ([2, 3, 4], 48));
    }

    #[test]
    fn a_negative_spacing_turns_its_column_round() {
        let mirrored = DeclaredGrid { spacing: [1.0, -2.0, 3.0], ..grid() };
        let (geometry, _) = mirrored.check(Path::new("scan.mha"), 1).unwrap();
        assert_eq!(geometry.spacing, [3.0, 2.0, 1.0]);
        assert_eq!(geometry.direction, [[1.0, -0.0, 0.0], [0.0, -1.0, 0.0], [0.0, -0.0, 1.0]]);
    }

    #[test]
    fn impossible_grids_are_refused_by_name() {
        let cases = [
            (
                DeclaredGrid { spacing: [1.0, 1.0, 0.0], ..grid() },
                "scan.mha: spacing along z is 0, must be positive and finite",
            ),
            (
                DeclaredGrid { spacing: [f64::NAN, 1.0, 1.0], ..grid() },
                "scan.mha: spacing along x is NaN, must be positive and finite",
            ),
            (
                DeclaredGrid { origin: [0.0, f64::INFINITY, 0.0], ..grid() },
                "scan.mha: origin along y is inf, must be finite",
            ),
            (
                DeclaredGrid { size: [4, 0, 2], ..grid() },
                "scan.mha: the image has no voxels along y: size is 0, must be positive",
            ),
            (
                DeclaredGrid { direction: [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], ..grid() },
                "scan.mha: the direction [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]] is singular or not finite",
            ),
            (
                DeclaredGrid { size: [1 << 40, 1 << 40, 1], ..grid() },
                "scan.mha: 1099511627776 × 1099511627776 × 1 voxels of 4 bytes in memory, more than the limit of 4294967296 bytes",
            ),
        ];
        for (grid, message) in cases {
            assert_eq!(refusal(grid), message);
        }
    }

    #[test]
    fn names_of_other_formats_are_refused() {
        for name in ["scan.dcm", "scan.nrrd", "mha", "scan.nii.bz2", "scan"] {
            let message = read_image(Path::new(name)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: the name does not end in")), "{message}");
        }
    }
}
