//! Output files that appear whole and together, or not at all.

use super::Interface;
use super::case::ENDINGS;
use super::{list, name_of};
use crate::imaging::file::{Compression, Unpublished, is_left_behind, publish, write_unpublished_image};
use crate::imaging::{ImageError, Volume};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Endings beside those of [`ENDINGS`] that the platform counts as images.
const OTHER_ENDINGS: [&str; 2] = [".tif", ".tiff"];

/// Bytes of the longest name without ending, which a file system takes and an input may exceed (where its name is not UTF-8,
/// each byte that is none becomes a character of three).
const LONGEST_STEM: usize = 200;

/// Why outputs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A folder or file cannot be made.
    #[error("{path}: cannot be written: {source}", path = path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// An output of an earlier case cannot be removed.
    #[error("{path}: an earlier output cannot be removed: {source}", path = path.display())]
    Earlier {
        /// The output.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The likelihood is none.
    #[error("{path}: likelihood is {got}, expected a number from 0 to 1", path = path.display())]
    Likelihood {
        /// The file.
        path: PathBuf,
        /// The number.
        got: f32,
    },
}

/// Where a case's outputs go; the folders exist, were found to be writable, and hold no earlier outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    images: PathBuf,
    number: PathBuf,
}

impl Outputs {
    /// Makes the output folders, tries to write in them, and removes all outputs that are there, of whichever case: the
    /// platform takes exactly one image from a folder.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(output: &Path, interface: &Interface) -> Result<Self, OutputError> {
        let images = output.join(interface.output_image);
        fs::create_dir_all(&images).map_err(|source| OutputError::Io { path: images.clone(), source })?;
        for path in [output, &images] {
            tempfile::tempfile_in(path)
                .map_err(|source| OutputError::Io { path: path.to_owned(), source })?;
        }
        let number = output.join(interface.output_number);
        remove_earlier(output, &images, &number)?;
        Ok(Self { images, number })
    }

    /// Writes the detection map (compressed MetaImage) under the case's name and the likelihood (a bare JSON number).
    ///
    /// # Errors
    /// If a file cannot be written; then neither is, and nothing half-written is left behind.
    pub fn write(&self, stem: &str, map: &Volume<f32>, likelihood: f32) -> Result<(), OutputError> {
        let Self { images, number } = self;
        if !(0.0..=1.0).contains(&likelihood) {
            return Err(OutputError::Likelihood { path: number.clone(), got: likelihood });
        }
        // Somebody may have emptied the output folder meanwhile.
        fs::create_dir_all(images).map_err(|source| OutputError::Io { path: images.clone(), source })?;
        let stem = &stem[..stem.floor_char_boundary(LONGEST_STEM)];
        let image = write_unpublished_image(&images.join(format!("{stem}.mha")), map, Compression::Zlib)?;
        let text = serde_json::json!(f64::from(likelihood)).to_string();
        let number = Unpublished::write(number, |file| file.write_all(text.as_bytes()))
            .map_err(|source| OutputError::Io { path: number.clone(), source })?;
        publish([image, number]).map_err(|(path, source)| OutputError::Io { path, source })
    }
}

/// Removes a number and images of earlier cases, and what a killed process left behind.
fn remove_earlier(output: &Path, images: &Path, number: &Path) -> Result<(), OutputError> {
    let mut earlier = Vec::new();
    for (folder, counts) in [(images, is_image as fn(&Path) -> bool), (output, |_| false)] {
        let unreadable = |source| OutputError::Io { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if counts(&path) || is_left_behind(&path) {
                earlier.push(path);
            }
        }
    }
    earlier.extend(fs::symlink_metadata(number).is_ok().then(|| number.to_owned()));
    for path in &earlier {
        let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        let removed = if is_folder { fs::remove_dir(path) } else { fs::remove_file(path) };
        removed.map_err(|source| OutputError::Earlier { path: path.clone(), source })?;
    }
    if !earlier.is_empty() {
        let names: Vec<_> = earlier.iter().map(|path| name_of(path)).collect();
        tracing::info!("removed earlier outputs: {}", list(&names));
    }
    Ok(())
}

/// Whether the platform, or a person, would take a file for an image.
pub(super) fn is_image(path: &Path) -> bool {
    let name = name_of(path).to_ascii_lowercase();
    ENDINGS.iter().chain(&OTHER_ENDINGS).any(|ending| name.ends_with(ending))
}
