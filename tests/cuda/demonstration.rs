//! The demonstration case, whole and as small as a case can be that goes through all stages.

use crate::device::{Child, Ended, ROOT};
use pdac_cascade::imaging::file::read_image;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

const STEM: &str = "phantom-venous-ct";
const MAP: &str = "images/pdac-detection-map";

/// The folder of the demonstration case.
pub fn input() -> PathBuf {
    Path::new(ROOT).join("test_input")
}

/// The folder of the case that the baseline's small models are for.
fn small_input() -> PathBuf {
    Path::new(ROOT).join("tests/golden/baseline/input")
}

/// What the demonstration case is known to give.
pub fn expected() -> Outputs {
    Outputs::of(&Path::new(ROOT).join("test_output"))
}

/// A folder for outputs.
pub struct Desk(TempDir);

impl Desk {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn output(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// Names of the files that the outputs are.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in [self.output(), self.output().join(MAP)] {
            let files = fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
            let files = files.filter(|p| p.is_file());
            names.extend(files.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()));
        }
        names.sort();
        names
    }

    pub fn outputs(&self) -> Outputs {
        Outputs::of(&self.output())
    }

    /// Both files' bytes.
    pub fn bytes(&self) -> [Vec<u8>; 2] {
        let map = self.output().join(MAP).join(format!("{STEM}.mha"));
        [map, self.output().join("pdac-likelihood.json")].map(|file| fs::read(file).unwrap())
    }

    /// The demonstration case with these arguments.
    pub fn whole(&self, arguments: &[&str]) -> Child {
        let arguments = [&["run", "--threads", "2"], arguments].concat();
        Child::program(&arguments).folders(&input(), &self.output())
    }

    /// A server of the small case, on a port that is free.
    pub fn serve(&self, arguments: &[&str]) -> std::process::Command {
        let weights = small_weights().to_str().unwrap();
        let serve = ["serve", "--host", "127.0.0.1", "--port", "0", "--threads", "2", "--weights", weights];
        let child = Child::program(&[&serve, arguments].concat());
        child.folders(&small_input(), &self.output()).into_command()
    }

    /// The small case with one fold of each model, and tiles side by side.
    pub fn small(&self, arguments: &[&str]) -> Child {
        let weights = small_weights().to_str().unwrap();
        let arguments = [&["run", "--threads", "2", "--weights", weights], arguments].concat();
        Child::program(&arguments).folders(&small_input(), &self.output())
    }
}

/// Detection map and likelihood.
#[derive(Debug, Clone)]
pub struct Outputs {
    pub map: Vec<f32>,
    pub likelihood: f64,
}

impl Outputs {
    fn of(folder: &Path) -> Self {
        let map = read_image(&folder.join(MAP).join(format!("{STEM}.mha"))).unwrap().into_f32_volume();
        let text = fs::read_to_string(folder.join("pdac-likelihood.json")).unwrap();
        Self { map: map.data.into_iter().collect(), likelihood: text.trim().parse().unwrap() }
    }

    /// Asserts that likelihood and lesions are those of `expected`; `ended` is shown where they are not.
    #[track_caller]
    pub fn assert_near(&self, expected: &Self, tolerance: f64, ended: &Ended) {
        let apart = (self.likelihood - expected.likelihood).abs();
        assert!(
            apart <= tolerance,
            "likelihood {} for {}\n{}",
            self.likelihood,
            expected.likelihood,
            ended.log
        );
        assert_eq!(self.map.len(), expected.map.len());
        // A label that differs moves a lesion's border.
        let pairs = self.map.iter().zip(&expected.map);
        let far = pairs.filter(|(a, b)| f64::from((**a - **b).abs()) > tolerance).count();
        assert!(far * 2000 <= self.map.len(), "{far} voxels of the map differ\n{}", ended.log);
        assert!(expected.likelihood > 0.1, "a case without a lesion proves little");
    }
}

/// Weights of which one fold and no overlapping tiles are used.
pub fn small_weights() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let of = Path::new(ROOT).join("tests/golden/baseline/panorama");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small_weights");
        // Of an earlier run, if any.
        let _none = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("panorama")).unwrap();
        let text = fs::read_to_string(of.join("pipeline.json")).unwrap();
        let mut recipe: serde_json::Value = serde_json::from_str(&text).unwrap();
        for stage in ["pancreas", "lesion"] {
            let model = &mut recipe[stage]["model"];
            model["folds"] = serde_json::json!([0]);
            model["step"] = serde_json::json!(1.0);
            model["mirroring"] = serde_json::json!(stage == "lesion");
            let dataset =
                Path::new(recipe[stage]["model"]["folder"].as_str().unwrap()).components().next().unwrap();
            std::os::unix::fs::symlink(of.join(dataset), folder.join("panorama").join(dataset)).unwrap();
        }
        fs::write(folder.join("panorama/pipeline.json"), recipe.to_string()).unwrap();
        folder
    })
}

/// What the small case gives on the CPU.
pub fn small_on_cpu() -> &'static Outputs {
    static OUTPUTS: OnceLock<Outputs> = OnceLock::new();
    OUTPUTS.get_or_init(|| {
        let desk = Desk::new();
        desk.small(&["--device", "cpu"]).run().succeeded();
        desk.outputs()
    })
}
