//! MetaImage (`.mha`, `.mhd`), read as ITK's MetaIO reads it and written for it.
//!
//! Unlike SimpleITK, which returns memory it never filled: voxels compressed in the header's own file without
//! `CompressedDataSize`, a list that names too few files or lacks its last line's end, `LIST 3D`, a compressed stream
//! that ends early. The first three are read, the last refused. Format: MetaIO, <https://itk.org/Wiki/MetaIO>.

mod data;
mod header;
mod series;
mod write;

use super::file::{Image, check_memory, source};
use super::{ImageError, MemoryGauge};
use data::{Block, Encoding};
use series::{DataFiles, Series};
use std::io::{BufRead, Cursor, Seek};
use std::path::Path;

pub(super) use write::{write, write_unpublished};

/// The scalar 3-D image in a `.mha` or `.mhd` file and the data files it names, relative to its own folder.
///
/// # Errors
/// As [`super::file::read_image`].
pub fn read(path: &Path, memory: MemoryGauge) -> Result<Image, ImageError> {
    let (source, _) = source::open(path).map_err(|error| ImageError::io(path, error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read_from(path, source, Some(folder), memory)
}

/// The scalar 3-D image in the bytes of a `.mha` file; `path` is for messages, other files are not opened.
///
/// # Errors
/// As [`super::file::read_image`].
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Image, ImageError> {
    read_from(path, Cursor::new(bytes), None, MemoryGauge::UNLIMITED)
}

fn read_from(
    path: &Path,
    mut source: impl BufRead + Seek,
    folder: Option<&Path>,
    memory: MemoryGauge,
) -> Result<Image, ImageError> {
    let header::Header { grid, element, order, ascii, compressed, compressed_size, start, data_file } =
        header::read(path, &mut source)?;
    let (geometry, bytes) = grid.check(path, element.bytes())?;
    check_memory(path, &geometry, element.bytes(), memory)?;
    let encoding = match (ascii, compressed) {
        (true, _) => Encoding::Text,
        (false, true) => Encoding::Deflated { size: compressed_size },
        (false, false) => Encoding::Raw,
    };
    let block = Block { path, element, order, shape: geometry.shape, bytes, encoding, start };
    let shape = geometry.shape;
    let voxels = match (DataFiles::parse(&data_file, path)?, folder) {
        (DataFiles::Local, _) => block.read_local(source)?,
        (DataFiles::One(name), Some(folder)) => block.read_file(&folder.join(name))?,
        (DataFiles::List { dimensions }, Some(folder)) => {
            block.read_series(Series::list(shape, dimensions, source, folder))?
        }
        (DataFiles::Pattern(pattern), Some(folder)) => {
            block.read_series(Series::pattern(shape, pattern, folder))?
        }
        (_, None) => {
            let what = format!("the voxels are in another file, {data_file}; only LOCAL is accepted here");
            return Err(ImageError::unsupported(path, what));
        }
    };
    Ok(Image { voxels, geometry })
}
