//! Output files that appear whole or not at all.

use super::{Case, Interface};
use crate::imaging::ImageError;
use crate::imaging::Volume;
use crate::imaging::file::{Compression, write_image, write_whole};
use std::io;
use std::path::{Path, PathBuf};

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
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Where a case's outputs go; the folders exist and were found to be writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    image: PathBuf,
    number: PathBuf,
}

impl Outputs {
    /// Makes the output folders and tries to write in them, before any work is done.
    ///
    /// Outputs of these names from an earlier run are removed, so that they cannot be taken for this case's if it fails;
    /// other images in the folder stay, with a warning.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(output: &Path, interface: &Interface, case: &Case) -> Result<Self, OutputError> {
        let folder = output.join(interface.output_image);
        std::fs::create_dir_all(&folder)
            .map_err(|source| OutputError::Io { path: folder.clone(), source })?;
        for path in [output, &folder] {
            tempfile::tempfile_in(path)
                .map_err(|source| OutputError::Io { path: path.to_owned(), source })?;
        }
        let image = folder.join(format!("{}.mha", case.stem));
        let number = output.join(interface.output_number);
        remove_earlier(&image)?;
        remove_earlier(&number)?;
        warn_about_others(&folder);
        Ok(Self { image, number })
    }

    /// Writes the detection map (compressed MetaImage) and the likelihood (a bare JSON number).
    ///
    /// # Errors
    /// If a file cannot be written; nothing half-written is left behind.
    pub fn write(&self, map: &Volume<f32>, likelihood: f32) -> Result<(), OutputError> {
        write_image(&self.image, map, Compression::Zlib)?;
        let text = serde_json::json!(f64::from(likelihood)).to_string();
        write_whole(&self.number, |file| file.write_all(text.as_bytes()))
            .map_err(|source| OutputError::Io { path: self.number.clone(), source })
    }
}

fn remove_earlier(path: &Path) -> Result<(), OutputError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OutputError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn warn_about_others(folder: &Path) {
    let pattern = format!("{}/*.mha", glob::Pattern::escape(&folder.to_string_lossy()));
    let others = glob::glob(&pattern).map_or(0, Iterator::count);
    if others > 0 {
        let folder = folder.display();
        tracing::warn!("{folder}: holds {others} images of other cases; the platform expects exactly one");
    }
}
