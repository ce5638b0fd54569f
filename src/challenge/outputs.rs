//! Output files that appear whole and together, or not at all.

use super::interface::{INTERFACES, Interface};
use super::{list, name_of};
use crate::imaging::file::{
    Compression, ENDINGS, Unpublished, is_left_behind, publish, write_unpublished_image,
};
use crate::imaging::{ImageError, Volume};
use std::collections::BTreeSet;
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
        got: f64,
    },
}

/// What a case's outputs say.
#[derive(Debug, Clone, Copy)]
pub enum Results<'a> {
    /// Lesion candidates with their confidences, and the patient's likelihood.
    Detection {
        /// The detection map.
        map: &'a Volume<f32>,
        /// From 0 to 1.
        likelihood: f64,
    },
    /// 1 inside the tumour, 0 elsewhere.
    Segmentation(&'a Volume<u8>),
}

/// File that tells how a case was run, relative to the output folder.
pub const REPORT: &str = "run-report.json";

/// Where a case's outputs go; the folders exist, were found to be writable, and hold no earlier outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    images: PathBuf,
    /// Of tasks that have one.
    number: Option<PathBuf>,
    report: PathBuf,
}

impl Outputs {
    /// Makes the output folders, tries to write in them, and removes all outputs that are there, of whichever case and task: the
    /// platform takes exactly one image from a folder.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(output: &Path, interface: &Interface) -> Result<Self, OutputError> {
        let images = output.join(interface.output_images());
        fs::create_dir_all(&images).map_err(|source| OutputError::Io { path: images.clone(), source })?;
        for path in [output, &images] {
            tempfile::tempfile_in(path)
                .map_err(|source| OutputError::Io { path: path.to_owned(), source })?;
        }
        Self::clear(output)?;
        for other in INTERFACES.iter().filter(|other| other.output_images() != interface.output_images()) {
            // An empty folder of another task says nothing, and one that is not empty is not ours.
            let _kept = fs::remove_dir(output.join(other.output_images()));
        }
        let number = interface.output_number().map(|number| output.join(number));
        Ok(Self { images, number, report: output.join(REPORT) })
    }

    /// Removes all outputs that are in a folder, of whichever case and task; one that is not there has none.
    ///
    /// # Errors
    /// If an output cannot be removed.
    pub fn clear(output: &Path) -> Result<(), OutputError> {
        let mut earlier = files_in(output, is_left_behind)?;
        let folders: BTreeSet<&str> = INTERFACES.iter().map(Interface::output_images).collect();
        for folder in folders {
            earlier.extend(files_in(&output.join(folder), |path| is_image(path) || is_left_behind(path))?);
        }
        let single = INTERFACES.iter().filter_map(Interface::output_number).chain([REPORT]);
        let single = single.map(|file| output.join(file));
        earlier.extend(single.filter(|file| fs::symlink_metadata(file).is_ok()));
        remove(&earlier)
    }

    /// Writes the image (compressed MetaImage) under the case's name, the likelihood (a bare JSON number) of tasks that have one,
    /// and a report (JSON) if there is one.
    ///
    /// # Errors
    /// If a file cannot be written; then none is, and nothing half-written is left behind.
    pub fn write(
        &self,
        stem: &str,
        results: Results<'_>,
        report: Option<&serde_json::Value>,
    ) -> Result<(), OutputError> {
        let Self { images, .. } = self;
        // Somebody may have emptied the output folder meanwhile.
        fs::create_dir_all(images).map_err(|source| OutputError::Io { path: images.clone(), source })?;
        let stem = &stem[..stem.floor_char_boundary(LONGEST_STEM)];
        let image = images.join(format!("{stem}.mha"));
        let mut files = Vec::new();
        match results {
            Results::Detection { map, likelihood } => {
                if let Some(number) = &self.number {
                    files.push(write_number(number, likelihood)?);
                }
                files.push(write_unpublished_image(&image, map, Compression::Zlib)?);
            }
            Results::Segmentation(mask) => {
                files.push(write_unpublished_image(&image, mask, Compression::Zlib)?);
            }
        }
        if let Some(report) = report {
            files.push(write_text(&self.report, &format!("{report:#}\n"))?);
        }
        publish(files).map_err(|(path, source)| OutputError::Io { path, source })
    }
}

fn write_number(path: &Path, likelihood: f64) -> Result<Unpublished, OutputError> {
    if !(0.0..=1.0).contains(&likelihood) {
        return Err(OutputError::Likelihood { path: path.to_owned(), got: likelihood });
    }
    write_text(path, &serde_json::json!(likelihood).to_string())
}

fn write_text(path: &Path, text: &str) -> Result<Unpublished, OutputError> {
    Unpublished::write(path, |file| file.write_all(text.as_bytes()))
        .map_err(|source| OutputError::Io { path: path.to_owned(), source })
}

/// What lies in a folder and is asked for; nothing if there is no folder.
fn files_in(folder: &Path, asked: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, OutputError> {
    let unreadable = |source| OutputError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if asked(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes outputs of earlier cases, and what a killed process left behind.
fn remove(earlier: &[PathBuf]) -> Result<(), OutputError> {
    for path in earlier {
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
