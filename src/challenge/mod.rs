//! The platform's contract: where a case's files lie under the input folder and where its outputs go.

mod outputs;

pub use outputs::{OutputError, Outputs};

use crate::imaging::file::read_image;
use crate::imaging::{ImageError, Volume};
use std::path::{Path, PathBuf};

/// One row of the platform's table: a socket read, and the sockets written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// What the task is called in messages.
    pub task: &'static str,
    /// Folder of the input image, relative to the input folder.
    pub image: &'static str,
    /// Folder of the output image, relative to the output folder.
    pub output_image: &'static str,
    /// File of the output number, relative to the output folder.
    pub output_number: &'static str,
}

/// PANORAMA: a venous CT in, a detection map and a likelihood out.
pub const PANORAMA: Interface = Interface {
    task: "PANORAMA",
    image: "images/venous-ct",
    output_image: "images/pdac-detection-map",
    output_number: "pdac-likelihood.json",
};

/// Image file endings that are looked for, in lower case.
const ENDINGS: [&str; 5] = [".mha", ".mhd", ".nii", ".nii.gz", ".hdr"];

/// Why a case cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// There is no input folder for the image.
    #[error("{folder}: no such folder; {task} expects one image there", folder = folder.display())]
    NoFolder {
        /// Folder looked for.
        folder: PathBuf,
        /// Task.
        task: &'static str,
    },
    /// The folder cannot be listed.
    #[error("{folder}: {source}", folder = folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// The folder holds no image.
    #[error("{folder}: holds no image, expected one ({endings})", folder = folder.display(), endings = ENDINGS.join(", "))]
    NoImage {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds several images.
    #[error("{folder}: holds {count} images ({names}), expected one", folder = folder.display())]
    SeveralImages {
        /// The folder.
        folder: PathBuf,
        /// How many.
        count: usize,
        /// Their names.
        names: String,
    },
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A voxel is not a finite number.
    #[error("{path}: voxel (x, y, z) = {voxel:?} is {value}, expected finite values", path = path.display())]
    NotFinite {
        /// The image.
        path: PathBuf,
        /// Where, (x, y, z).
        voxel: [usize; 3],
        /// NaN or infinite.
        value: f32,
    },
}

/// One case of an interface: the image found in the input folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The image file.
    pub image: PathBuf,
    /// Its name without ending; outputs are named after it.
    pub stem: String,
}

impl Case {
    /// Finds the one image of `interface` under `input`.
    ///
    /// # Errors
    /// If there is no such folder, or it holds no image or several.
    pub fn find(input: &Path, interface: &Interface) -> Result<Self, CaseError> {
        let folder = input.join(interface.image);
        if !folder.is_dir() {
            return Err(CaseError::NoFolder { folder, task: interface.task });
        }
        let unreadable = |source| CaseError::Unreadable { folder: folder.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if let Some(stem) = image_stem(&path).filter(|_| path.is_file()) {
                found.push(Self { stem, image: path });
            }
        }
        found.sort_by(|a, b| a.image.cmp(&b.image));
        match found.len() {
            0 => Err(CaseError::NoImage { folder }),
            1 => Ok(found.swap_remove(0)),
            count => {
                let names: Vec<_> = found.iter().filter_map(|c| c.image.file_name()?.to_str()).collect();
                Err(CaseError::SeveralImages { folder, count, names: names.join(", ") })
            }
        }
    }

    /// Reads the image as float32 and checks that every voxel is finite.
    ///
    /// # Errors
    /// If the image cannot be used.
    pub fn read(&self) -> Result<Volume<f32>, CaseError> {
        let volume = read_image(&self.image)?.into_f32_volume();
        match volume.data.indexed_iter().find(|(_, v)| !v.is_finite()) {
            Some(((z, y, x), &value)) => {
                Err(CaseError::NotFinite { path: self.image.clone(), voxel: [x, y, z], value })
            }
            None => Ok(volume),
        }
    }
}

/// The file's name without its image ending; `None` if it has none, or is hidden.
fn image_stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let ending = ENDINGS.iter().filter(|e| lower.ends_with(*e)).max_by_key(|e| e.len())?;
    let stem = &name[..name.len() - ending.len()];
    (!stem.is_empty() && !stem.starts_with('.')).then(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_is_taken_off() {
        let stem = |name: &str| image_stem(Path::new(name));
        assert_eq!(stem("scan.nii.gz").as_deref(), Some("scan"));
        assert_eq!(stem("a.b.MHA").as_deref(), Some("a.b"));
        assert_eq!(stem("scan.raw"), None);
        assert_eq!(stem(".hidden.mha"), None);
        assert_eq!(stem(".mha"), None);
    }

    #[test]
    fn a_folder_without_or_with_two_images_is_named() {
        let input = tempfile::tempdir().unwrap();
        let error = Case::find(input.path(), &PANORAMA).unwrap_err().to_string();
        assert!(
            error.ends_with("images/venous-ct: no such folder; PANORAMA expects one image there"),
            "{error}"
        );
        let folder = input.path().join(PANORAMA.image);
        std::fs::create_dir_all(folder.join("folder.mha")).unwrap();
        std::fs::write(folder.join("notes.txt"), "").unwrap();
        let error = Case::find(input.path(), &PANORAMA).unwrap_err().to_string();
        assert!(error.ends_with("holds no image, expected one (.mha, .mhd, .nii, .nii.gz, .hdr)"), "{error}");
        std::fs::write(folder.join("b.mha"), "").unwrap();
        assert_eq!(Case::find(input.path(), &PANORAMA).unwrap().stem, "b");
        std::fs::write(folder.join("a.nii.gz"), "").unwrap();
        let error = Case::find(input.path(), &PANORAMA).unwrap_err().to_string();
        assert!(error.ends_with("holds 2 images (a.nii.gz, b.mha), expected one"), "{error}");
    }
}
