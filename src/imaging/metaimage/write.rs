//! One `.mha` file, whole or not at all.

use super::super::file::element::Element;
use super::super::file::{Compression, DeclaredGrid, Unpublished, publish};
use super::super::{Geometry, ImageError};
use flate2::write::ZlibEncoder;
use ndarray::ArrayView3;
use std::io::{self, Write};
use std::path::Path;

/// Elements turned into bytes at a time.
const CHUNK: usize = 1 << 14;

/// ITK's own default: most of what zlib can do at a fraction of its time.
const LEVEL: flate2::Compression = flate2::Compression::new(2);

/// Writes a volume as a `.mha` file, see [`super::super::file::write_image`].
///
/// # Errors
/// As there.
pub fn write<T: Element>(
    path: &Path,
    voxels: &ArrayView3<'_, T>,
    geometry: &Geometry,
    compression: Compression,
) -> Result<(), ImageError> {
    let file = write_unpublished(path, voxels, geometry, compression)?;
    publish(vec![file]).map_err(|(path, error)| ImageError::io(&path, error))
}

/// As [`write`], but not yet under its name.
///
/// # Errors
/// As [`write`].
pub fn write_unpublished<T: Element>(
    path: &Path,
    voxels: &ArrayView3<'_, T>,
    geometry: &Geometry,
    compression: Compression,
) -> Result<Unpublished, ImageError> {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("mha")) {
        return Err(ImageError::unsupported(path, "images are written as .mha only"));
    }
    check(path, geometry, T::TYPE.bytes())?;
    let write_voxels = |to: &mut dyn Write| write_bytes(voxels, to);
    Unpublished::write(path, |file| match compression {
        Compression::None => {
            file.write_all(header::<T>(geometry, None).as_bytes())?;
            write_voxels(file)
        }
        Compression::Zlib => {
            let mut stream = ZlibEncoder::new(Vec::new(), LEVEL);
            write_voxels(&mut stream)?;
            let stream = stream.finish()?;
            file.write_all(header::<T>(geometry, Some(stream.len())).as_bytes())?;
            file.write_all(&stream)
        }
    })
    .map_err(|error| ImageError::io(path, error))
}

/// Refuses a geometry that could not be read back as it is.
fn check(path: &Path, geometry: &Geometry, element_bytes: usize) -> Result<(), ImageError> {
    let grid = DeclaredGrid {
        size: geometry.size_xyz().map(|n| n as u64),
        spacing: geometry.spacing_xyz(),
        origin: geometry.origin,
        direction: geometry.direction,
    };
    let (read_back, _) = grid.check(path, element_bytes)?;
    if read_back.spacing != geometry.spacing {
        let what = format!("spacing is {:?}, must be positive", geometry.spacing_xyz());
        return Err(ImageError::malformed(path, what));
    }
    Ok(())
}

/// The header's text; Rust prints the shortest decimal that reads back as the same `f64`.
fn header<T: Element>(geometry: &Geometry, compressed_size: Option<usize>) -> String {
    let m = geometry.direction;
    let columns = [0, 1, 2].map(|column| m.map(|row| row[column]));
    let compression = compressed_size.map_or("CompressedData = False".to_owned(), |n| {
        format!("CompressedData = True\nCompressedDataSize = {n}")
    });
    format!(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n{compression}\n\
         TransformMatrix = {}\nOffset = {}\nCenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n\
         ElementSpacing = {}\nDimSize = {}\nElementType = {}\nElementDataFile = LOCAL\n",
        words(columns.as_flattened()),
        words(&geometry.origin),
        words(&geometry.spacing_xyz()),
        words(&geometry.size_xyz()),
        T::TYPE.met_name(),
    )
}

/// Numbers with blanks between them; `{:?}` takes exponents where `{}` would print hundreds of zeros.
fn words<T: std::fmt::Debug>(numbers: &[T]) -> String {
    let words = numbers.iter().map(|number| {
        let word = format!("{number:?}");
        word.strip_suffix(".0").map(str::to_owned).unwrap_or(word)
    });
    words.collect::<Vec<_>>().join(" ")
}

fn write_bytes<T: Element>(voxels: &ArrayView3<'_, T>, to: &mut dyn Write) -> io::Result<()> {
    let standard = voxels.as_standard_layout();
    let mut bytes = Vec::new();
    for elements in standard.as_slice().unwrap_or_default().chunks(CHUNK) {
        bytes.clear();
        T::append_le_bytes(elements, &mut bytes);
        to.write_all(&bytes)?;
    }
    Ok(())
}
