//! Whether an output folder is what the platform and the evaluator take.
//!
//! Source: the platform takes exactly one `.mha` or `.tif` from an image folder and a JSON number from a file; the
//! evaluator of detection maps (picai_eval) takes each group of touching voxels above zero for one lesion with one confidence;
//! that of segmentations takes masks of 0 and 1.

use super::interface::{Interface, OutputForm, PANORAMA, PANTHER_T1};
use super::outputs::is_image;
use super::{list, name_of, small_file};
use crate::imaging::components::{Components, Connectivity};
use crate::imaging::file::{image_stem, is_left_behind, read_image};
use crate::imaging::{Geometry, Volume};
use ndarray::Array3;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How far spacing and origin (in voxels) and direction may be off: the tolerance that ITK's filters use.
const GEOMETRY_TOLERANCE: f64 = 1e-6;

/// More bytes than this are no number.
const LARGEST_NUMBER: u64 = 1 << 16;

/// Bytes of a MetaImage's header that are looked at.
const HEADER: u64 = 1 << 16;

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or folder.
    pub path: PathBuf,
    /// What, expected, got.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// What an output folder holds, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Every rule that is broken.
    pub findings: Vec<Finding>,
    /// File name (without ending) and detection map or segmentation.
    pub image: Option<(String, Volume<f32>)>,
    /// Groups of touching voxels above zero.
    pub lesions: usize,
    /// The likelihood, of tasks that have one.
    pub likelihood: Option<f64>,
    /// Whether the task is one of detection.
    is_detection: bool,
}

/// How far outputs are from expected ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Apart {
    /// Largest difference of the maps' values, and that of the likelihoods.
    Detection {
        /// Of the maps.
        map: f64,
        /// Of the likelihoods.
        likelihood: f64,
    },
    /// Voxels that differ.
    Segmentation {
        /// How many.
        voxels: usize,
    },
}

/// Voxels of 100 inside the one or the other of two segmentations that may differ, one in any case: near ties.
const DIFFERING: usize = 1;

/// The task whose outputs a folder holds, as far as that can be seen: both PANTHER tasks have the same.
pub fn task_of_outputs(output: &Path) -> Interface {
    let masks = entries(&output.join(PANTHER_T1.output_images())).unwrap_or_default();
    if masks.iter().any(|path| is_image(path)) { PANTHER_T1 } else { PANORAMA }
}

/// Checks an output folder; with `scan`, the input's geometry, also that the image lies on its grid.
pub fn validate(output: &Path, interface: &Interface, scan: Option<&Geometry>) -> Checked {
    let is_detection = matches!(interface.output, OutputForm::Detection { .. });
    let mut checked = Checked { is_detection, ..Checked::default() };
    if let Some(number) = interface.output_number() {
        checked.read_likelihood(&output.join(number));
    }
    checked.find_left_behind(output);
    let folder = output.join(interface.output_images());
    let element = match interface.output {
        OutputForm::Detection { .. } => "float32",
        OutputForm::Segmentation { .. } => "uint8",
    };
    if let Some(file) = checked.only_image(&folder)
        && let Some(image) = checked.read_image(&file, element)
    {
        match interface.output {
            OutputForm::Detection { .. } => checked.check_map(&file, &image.data),
            OutputForm::Segmentation { .. } => checked.check_mask(&file, &image.data),
        }
        if let Some(scan) = scan {
            checked.check_geometry(&file, &image.geometry, scan);
        }
        checked.image = Some((image_stem(&file).unwrap_or_default(), image));
    }
    checked
}

/// Adds to `got` how it differs from expected outputs of the same task: names and grids must be equal, a map's values and
/// likelihoods no further apart than `tolerance`, a segmentation's voxels equal but for 1 in 100 of the tumour's, or one. How far
/// apart they are, if there are both on one grid.
pub fn compare(output: &Path, got: &mut Checked, expected: &Checked, tolerance: f64) -> Option<Apart> {
    let (Some((name, image)), Some((other_name, other))) = (&got.image, &expected.image) else { return None };
    let mut found = Vec::new();
    if name != other_name {
        found.push(format!("the image is named {name}, expected {other_name}"));
    }
    if image.geometry != other.geometry {
        found.push(format!("the image's grid is {:?}, expected {:?}", image.geometry, other.geometry));
    }
    let pairs = || image.data.iter().zip(&other.data);
    let apart = if image.geometry.shape != other.geometry.shape {
        None
    } else if got.is_detection {
        let (Some(likelihood), Some(expected)) = (got.likelihood, expected.likelihood) else { return None };
        let map = pairs().map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        let likelihood = (likelihood - expected).abs();
        let both = [("the map's values differ", map), ("the likelihood differs", likelihood)];
        found.extend(both.into_iter().filter(|(_, difference)| *difference > tolerance).map(
            |(what, difference)| {
                format!("{what} by {difference:.3e} from what is expected, at most {tolerance:e} is allowed")
            },
        ));
        Some(Apart::Detection { map, likelihood })
    } else {
        let voxels = pairs().filter(|(a, b)| a != b).count();
        let tumour = pairs().filter(|(a, b)| **a != 0.0 || **b != 0.0).count();
        let allowed = (tumour * DIFFERING / 100).max(1);
        if voxels > allowed {
            found.push(format!(
                "{voxels} voxels differ from what is expected, {allowed} of the {tumour} in the tumour may"
            ));
        }
        Some(Apart::Segmentation { voxels })
    };
    got.findings.extend(found.into_iter().map(|what| Finding { path: output.to_owned(), what }));
    apart
}

impl Checked {
    fn found(&mut self, path: &Path, what: impl Into<String>) {
        self.findings.push(Finding { path: path.to_owned(), what: what.into() });
    }

    fn read_likelihood(&mut self, file: &Path) {
        let text = match small_file::read(file, LARGEST_NUMBER) {
            Ok(Some(text)) => text,
            Ok(None) => return self.found(file, "no such file, expected a bare JSON number"),
            Err(error) => return self.found(file, error.to_string()),
        };
        match serde_json::from_slice::<Value>(&text) {
            Err(error) => self.found(file, format!("expected a bare JSON number: {error}")),
            Ok(value) => match value.as_f64() {
                Some(number) => {
                    if !(0.0..=1.0).contains(&number) {
                        self.found(file, format!("likelihood is {number:?}, expected 0 to 1"));
                    }
                    self.likelihood = Some(number);
                }
                None => self.found(file, "expected a bare JSON number, got another JSON value"),
            },
        }
    }

    fn find_left_behind(&mut self, folder: &Path) {
        for path in entries(folder).unwrap_or_default() {
            if is_left_behind(&path) {
                self.found(&path, "half-written, expected no such file");
            } else if path.is_dir() && !path.is_symlink() {
                self.find_left_behind(&path);
            }
        }
    }

    fn only_image(&mut self, folder: &Path) -> Option<PathBuf> {
        let mut images = match entries(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.found(folder, error.to_string());
                return None;
            }
        };
        images.retain(|path| is_image(path) && !is_left_behind(path));
        images.sort();
        if images.len() != 1 {
            let names: Vec<_> = images.iter().map(|path| name_of(path)).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", list(&names)) };
            self.found(folder, format!("expected exactly one image, got {}{names}", images.len()));
            return None;
        }
        images.pop()
    }

    fn read_image(&mut self, file: &Path, element: &str) -> Option<Volume<f32>> {
        if !name_of(file).to_ascii_lowercase().ends_with(".mha") {
            self.found(file, "expected a .mha file");
            return None;
        }
        if file.is_symlink() {
            self.found(file, "is a symbolic link, expected a file");
        }
        if !is_one_file(file) {
            self.found(file, "expected the voxels in the same file (ElementDataFile = LOCAL)");
        }
        match read_image(file) {
            Ok(image) => {
                let got = image.voxels.type_name();
                if got != element {
                    self.found(file, format!("voxels are {got}, expected {element}"));
                }
                Some(image.into_f32_volume())
            }
            Err(error) => {
                let what = error.to_string();
                let what = what.strip_prefix(&format!("{}: ", file.display())).unwrap_or(&what);
                self.found(file, what);
                None
            }
        }
    }

    fn check_mask(&mut self, file: &Path, mask: &Array3<f32>) {
        if let Some(((z, y, x), value)) = mask.indexed_iter().find(|(_, v)| **v != 0.0 && **v != 1.0) {
            let voxel = [x, y, z];
            self.found(file, format!("voxel (x, y, z) = {voxel:?} is {value}, expected 0 or 1"));
        }
        self.lesions = Components::find(mask, Connectivity::Corners, |&v| v > 0.0).count();
    }

    fn check_map(&mut self, file: &Path, map: &Array3<f32>) {
        if let Some(((z, y, x), value)) = map.indexed_iter().find(|(_, v)| !(0.0..=1.0).contains(*v)) {
            let voxel = [x, y, z];
            self.found(file, format!("voxel (x, y, z) = {voxel:?} is {value}, expected 0 to 1"));
        }
        let lesions = Components::find(map, Connectivity::Corners, |&v| v > 0.0);
        self.lesions = lesions.count();
        let mut values = vec![None; lesions.count()];
        for run in &lesions.runs {
            let of_lesion = &mut values[run.label as usize - 1];
            for x in run.start..run.stop {
                let value = map[(run.z, run.y, x)];
                let first: f32 = *of_lesion.get_or_insert(value);
                if value != first {
                    let voxel = [x, run.y, run.z];
                    self.found(file, format!(
                        "voxel (x, y, z) = {voxel:?} is {value}, expected {first} as in the rest of its lesion: one constant value per lesion"
                    ));
                    return;
                }
            }
        }
    }

    fn check_geometry(&mut self, file: &Path, map: &Geometry, scan: &Geometry) {
        if map.shape != scan.shape {
            let (got, expected) = (map.size_xyz(), scan.size_xyz());
            self.found(file, format!("size is {got:?} (x, y, z), expected the scan's {expected:?}"));
        }
        let [spacing, origin] = [map.spacing_xyz(), map.origin];
        let unit = scan.spacing_xyz();
        let far =
            |a: &[f64; 3], b: &[f64; 3]| (0..3).any(|i| (a[i] - b[i]).abs() > GEOMETRY_TOLERANCE * unit[i]);
        if far(&spacing, &unit) {
            self.found(file, format!("spacing is {spacing:?} mm (x, y, z), expected the scan's {unit:?}"));
        }
        if far(&origin, &scan.origin) {
            self.found(file, format!("origin is {origin:?} mm, expected the scan's {:?}", scan.origin));
        }
        let (got, expected) = (map.direction, scan.direction);
        let pairs = got.as_flattened().iter().zip(expected.as_flattened());
        if pairs.into_iter().any(|(a, b)| (a - b).abs() > GEOMETRY_TOLERANCE) {
            self.found(file, format!("direction is {got:?}, expected the scan's {expected:?}"));
        }
    }
}

/// Whether a MetaImage holds its own voxels; also true of what is none.
fn is_one_file(file: &Path) -> bool {
    let mut header = Vec::new();
    let _unreadable = fs::File::open(file).and_then(|f| f.take(HEADER).read_to_end(&mut header));
    let header = String::from_utf8_lossy(&header);
    let data = header
        .lines()
        .find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "ElementDataFile"));
    data.is_none_or(|(_, value)| value.trim().eq_ignore_ascii_case("LOCAL"))
}

fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}
