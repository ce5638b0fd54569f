//! One case: the image that the platform hands over, found, read and checked.

use super::clinical::ClinicalInformation;
use super::interface::{INTERFACES, Interface};
use super::sockets::{Located, SocketError, listed_slugs, locate, tasks_of};
use super::{list, name_of};
use crate::imaging::file::{ENDINGS, image_stem, read_image_within};
use crate::imaging::{Geometry, ImageError, MemoryGauge, Volume};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Why a case cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The input folder names no task's image.
    #[error("{input}: holds no task's image, expected one in {expected}{listed}", input = input.display())]
    NoTask {
        /// Input folder.
        input: PathBuf,
        /// Folders looked for.
        expected: String,
        /// What the platform's list has instead.
        listed: String,
    },
    /// The input folder names several tasks' images.
    #[error("{input}: holds the images of {found}; name one of these tasks with --task", input = input.display())]
    SeveralTasks {
        /// Input folder.
        input: PathBuf,
        /// The tasks.
        found: String,
    },
    /// The platform's list of inputs cannot be followed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no input folder for the image.
    #[error("{folder}: no such folder; {task} expects one image there{listed}", folder = folder.display())]
    NoFolder {
        /// Folder looked for.
        folder: PathBuf,
        /// Task.
        task: &'static str,
        /// What the platform's list has instead.
        listed: String,
    },
    /// The folder cannot be listed.
    #[error("{folder}: {source}", folder = folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// The operating system's word.
        source: io::Error,
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
    /// A file with the name of an image is none, or cannot be reached.
    #[error("{path}: {what}", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The geometry cannot be that of a scan.
    #[error("{path}: {what}", path = path.display())]
    Implausible {
        /// The image.
        path: PathBuf,
        /// What, expected, got.
        what: String,
    },
    /// A voxel is not a finite number, or beyond any unit.
    #[error(
        "{path}: voxel (x, y, z) = {voxel:?} is {value}, expected finite values below {LARGEST_VALUE:e}",
        path = path.display()
    )]
    NotFinite {
        /// The image.
        path: PathBuf,
        /// Where, (x, y, z).
        voxel: [usize; 3],
        /// NaN or infinite.
        value: f32,
    },
}

/// One case of an interface: what was found in the input folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The image file.
    pub image: PathBuf,
    /// Its name without ending; outputs are named after it.
    pub stem: String,
    /// What is known about the patient; `None` if nothing was handed over, or nothing usable.
    pub clinical: Option<ClinicalInformation>,
}

/// What the platform's list names, in words; nothing without a list.
fn said_of(slugs: Option<Vec<String>>) -> String {
    slugs.map_or_else(String::new, |slugs| format!("; inputs.json names: {}", list(&slugs)))
}

/// The task whose image the input folder holds.
///
/// # Errors
/// If it holds none's, or several tasks'.
pub fn task_of(input: &Path) -> Result<Interface, CaseError> {
    let input_path = || input.to_owned();
    if let Err(source) = std::fs::read_dir(input) {
        return Err(CaseError::Unreadable { folder: input_path(), source });
    }
    match tasks_of(input, &INTERFACES).as_slice() {
        [one] => Ok(*one),
        [] => {
            let expected = INTERFACES.map(|i| i.image.path).join(" or ");
            Err(CaseError::NoTask { input: input_path(), expected, listed: said_of(listed_slugs(input)) })
        }
        several => {
            let found: Vec<&str> = several.iter().map(|i| i.name).collect();
            Err(CaseError::SeveralTasks { input: input_path(), found: found.join(" and ") })
        }
    }
}

impl Case {
    /// Finds the one image of `interface` under `input`, and the clinical information.
    ///
    /// Clinical information that is not of its form is passed over with a warning: no result depends on it.
    ///
    /// # Errors
    /// If the platform's list of inputs cannot be followed, there is no folder for the image, or it holds no image or several.
    pub fn find(input: &Path, interface: &Interface) -> Result<Self, CaseError> {
        let located = locate(input, interface)?;
        located.log_ignored();
        let (image, stem) = find_image(&located, interface)?;
        let read = |file: &PathBuf| {
            ClinicalInformation::read(file).unwrap_or_else(|error| {
                tracing::warn!("{error}; going on without clinical information");
                None
            })
        };
        let clinical = located.clinical.as_ref().and_then(read);
        tracing::info!(clinical_information = clinical.is_some(), "found {}", image.display());
        Ok(Self { image, stem, clinical })
    }

    /// Reads the image as float32 and checks that its geometry is a scan's and every voxel a usable number.
    ///
    /// # Errors
    /// If the image cannot be used.
    pub fn read(&self) -> Result<Volume<f32>, CaseError> {
        self.read_within(MemoryGauge::UNLIMITED)
    }

    /// As [`Case::read`], if there is the memory for the voxels.
    ///
    /// # Errors
    /// If the image cannot be used, or there is not.
    pub fn read_within(&self, memory: MemoryGauge) -> Result<Volume<f32>, CaseError> {
        let volume = read_image_within(&self.image, memory)?.into_f32_volume();
        check_geometry(&volume.geometry)
            .map_err(|what| CaseError::Implausible { path: self.image.clone(), what })?;
        let unusable = |v: f32| !v.is_finite() || v.abs() > LARGEST_VALUE;
        match volume.data.indexed_iter().find(|(_, v)| unusable(**v)) {
            Some(((z, y, x), &value)) => {
                Err(CaseError::NotFinite { path: self.image.clone(), voxel: [x, y, z], value })
            }
            None => Ok(volume),
        }
    }
}

/// The image file, given itself or as the only one of its folder, and its name without ending.
fn find_image(located: &Located, interface: &Interface) -> Result<(PathBuf, String), CaseError> {
    let folder = &located.image;
    if folder.is_file() {
        let stem = image_stem(folder).ok_or_else(|| CaseError::NoImage { folder: folder.clone() })?;
        return Ok((folder.clone(), stem));
    }
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            let listed = said_of(located.listed.clone());
            CaseError::NoFolder { folder: folder.clone(), task: interface.task, listed }
        }
        _ => CaseError::Unreadable { folder: folder.clone(), source },
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let Some(stem) = image_stem(&path) {
            check_file(&path)?;
            found.push((path, stem));
        }
    }
    found.sort();
    match found.len() {
        0 => Err(CaseError::NoImage { folder: folder.clone() }),
        1 => Ok(found.swap_remove(0)),
        count => {
            let names: Vec<_> = found.iter().map(|(path, _)| name_of(path)).collect();
            Err(CaseError::SeveralImages { folder: folder.clone(), count, names: list(&names) })
        }
    }
}

/// Voxel values beyond this are no measurement in any unit, and would overflow on the way.
const LARGEST_VALUE: f32 = 1e9;
/// Voxel sizes in mm that a scan can have, generously.
const SPACINGS: RangeInclusive<f64> = 1e-3..=1e3;
/// Largest coordinate in mm that an origin can have, generously.
const LARGEST_ORIGIN: f64 = 1e6;
/// How far direction columns may be from orthonormal.
const ORTHONORMAL: f64 = 1e-3;

/// Refuses geometries that a file can hold and a scanner cannot: positions would be silently wrong.
fn check_geometry(geometry: &Geometry) -> Result<(), String> {
    let Geometry { origin, direction: d, .. } = geometry;
    let spacing = geometry.spacing_xyz();
    if !spacing.iter().all(|s| SPACINGS.contains(s)) {
        let (low, high) = (SPACINGS.start(), SPACINGS.end());
        return Err(format!(
            "spacing is {spacing:?} mm (x, y, z), expected {low} to {high} mm: is its spacing right?"
        ));
    }
    if !origin.iter().all(|o| o.abs() <= LARGEST_ORIGIN) {
        return Err(format!("origin is {origin:?} mm, expected at most {LARGEST_ORIGIN} mm from 0"));
    }
    let product = |a: usize, b: usize| (0..3).map(|r| d[r][a] * d[r][b]).sum::<f64>();
    let orthonormal = |a: usize, b: usize| (product(a, b) - f64::from(u8::from(a == b))).abs() <= ORTHONORMAL;
    if !(0..9).all(|i| orthonormal(i / 3, i % 3)) {
        return Err(format!("direction is {d:?}, expected orthogonal columns of length 1"));
    }
    Ok(())
}

/// Refuses what has an image's name and is not a file that can be reached.
fn check_file(path: &Path) -> Result<(), CaseError> {
    let what = match std::fs::metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(_) => "expected an image file, it is a folder or a special file".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(CaseError::NotAFile { path: path.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::super::PANORAMA;
    use super::*;

    #[test]
    fn the_task_is_read_from_the_input() {
        let input = tempfile::tempdir().unwrap();
        let message = || task_of(input.path()).unwrap_err().to_string();
        assert!(
            message().ends_with(
                "holds no task's image, expected one in images/venous-ct or images/abdominal-t1-mri or images/abdominal-t2-mri"
            ),
            "{}",
            message()
        );
        let make = |path: &str| std::fs::create_dir_all(input.path().join(path)).unwrap();
        make("images/abdominal-t2-mri");
        assert_eq!(task_of(input.path()).unwrap().name, "panther-t2");
        make("images/venous-ct");
        assert!(
            message().ends_with(
                "holds the images of panorama and panther-t2; name one of these tasks with --task"
            ),
            "{}",
            message()
        );
        let list = r#"[{"socket": {"slug": "abdominal-t1-mri", "relative_path": "images/anywhere"}}]"#;
        std::fs::write(input.path().join("inputs.json"), list).unwrap();
        assert_eq!(task_of(input.path()).unwrap().name, "panther-t1");
    }

    #[test]
    fn a_folder_without_or_with_two_images_is_named() {
        let input = tempfile::tempdir().unwrap();
        let error = Case::find(input.path(), &PANORAMA).unwrap_err().to_string();
        assert!(
            error.ends_with("images/venous-ct: no such folder; PANORAMA expects one image there"),
            "{error}"
        );
        let folder = input.path().join(PANORAMA.image.path);
        std::fs::create_dir_all(folder.join("folder.mha")).unwrap();
        let error = Case::find(input.path(), &PANORAMA).unwrap_err().to_string();
        assert!(
            error.ends_with("folder.mha: expected an image file, it is a folder or a special file"),
            "{error}"
        );
        std::fs::remove_dir(folder.join("folder.mha")).unwrap();
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
