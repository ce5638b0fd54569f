//! Folders with cases, and the program to score them.

use crate::agreement::{GOLDEN, golden, read_json};
use assert_cmd::Command;
use ndarray::Array3;
use pdac_cascade::imaging::file::element::Element;
use pdac_cascade::imaging::file::{Compression, write_image};
use pdac_cascade::imaging::{Geometry, Volume};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Folders `truth` and `prediction`, and the program to score them.
pub struct Desk {
    folder: TempDir,
}

pub const SHAPE: [usize; 3] = [2, 3, 4];
pub const SPACING: [f64; 3] = [3.0, 2.0, 1.5];

impl Desk {
    pub fn new() -> Self {
        let desk = Self { folder: TempDir::new().unwrap() };
        for name in ["truth", "prediction"] {
            fs::create_dir(desk.path(name)).unwrap();
        }
        desk
    }

    /// Three cases: a with a lesion that is found, b without lesions and with a false candidate, c with a lesion that is missed.
    pub fn with_cases() -> Self {
        let desk = Self::new();
        let cases: [(&str, [u8; 2], [f32; 2]); 3] =
            [("a", [1, 1], [0.75, 0.75]), ("b", [2, 2], [0.5, 0.0]), ("c", [1, 3], [0.0, 0.0])];
        for (case, truth, map) in cases {
            desk.write(&format!("truth/{case}.mha"), &truth, SPACING);
            desk.write(&format!("prediction/{case}.mha"), &map, SPACING);
        }
        desk
    }

    /// The golden cases, each prediction where `place` says.
    pub fn with_golden(place: impl Fn(&str) -> String) -> Self {
        let desk = Self::new();
        for case in golden()["multi_task"]["heads"].as_object().unwrap().keys() {
            let file = format!("{case}.mha");
            fs::copy(Path::new(GOLDEN).join("truth").join(&file), desk.path("truth").join(&file)).unwrap();
            let to = desk.path("prediction").join(place(case));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(Path::new(GOLDEN).join("prediction").join(&file), to).unwrap();
        }
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn likelihoods(&self, likelihoods: [&str; 3]) {
        for (case, likelihood) in ["a", "b", "c"].iter().zip(likelihoods) {
            self.text(&format!("prediction/{case}.json"), likelihood);
        }
    }

    /// Writes an image whose first voxels are `values`, the others 0.
    pub fn write<T: Element + Default>(&self, name: &str, values: &[T], spacing: [f64; 3]) {
        let mut data = Array3::from_elem(SHAPE, T::default());
        data.iter_mut().zip(values).for_each(|(voxel, value)| *voxel = *value);
        self.write_volume(name, data, spacing);
    }

    pub fn write_volume<T: Element>(&self, name: &str, data: Array3<T>, spacing: [f64; 3]) {
        let shape = data.dim().into();
        let volume = Volume::new(data, Geometry::axis_aligned(shape, spacing));
        write_image(&self.path(name), &volume, Compression::None).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Exit code, standard output and standard error.
    pub fn evaluate(&self, more: &[&str]) -> (i32, String, String) {
        let mut command = Command::cargo_bin("pdac-cascade").unwrap();
        command.current_dir(&self.folder);
        command.args(["evaluate", "panorama", "--truth", "truth", "--prediction", "prediction"]).args(more);
        if !more.contains(&"--bootstrap") {
            command.args(["--bootstrap", "50"]);
        }
        let done = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    /// The numbers that the program writes, and the table.
    pub fn scores(&self, more: &[&str]) -> (Value, String) {
        let (code, stdout, stderr) = self.evaluate(&[&["--output", "scores.json"], more].concat());
        assert_eq!(code, 0, "{stderr}");
        (read_json(&self.path("scores.json")), stdout)
    }
}
