//! The program as a user meets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "shared_data/mod.rs"]
mod shared_data;

use assert_cmd::Command;
use pdac_cascade::imaging::components::{Components, Connectivity};
use pdac_cascade::imaging::file::{Compression, read_image, write_image};
use pdac_cascade::imaging::geometry::{Geometry, IDENTITY};
use pdac_cascade::imaging::{Volume, Voxels};
use pdac_cascade::ops::Isa;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MAP: &str = "images/pdac-detection-map";

fn program() -> Command {
    let mut command = Command::cargo_bin("pdac-cascade").unwrap();
    command.current_dir(ROOT);
    command
}

/// A case folder and an output folder.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: TempDir::new().unwrap() };
        fs::create_dir_all(desk.images()).unwrap();
        desk
    }

    fn images(&self) -> PathBuf {
        self.input().join("images/venous-ct")
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("in")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn with_scan(volume: &Volume<i16>) -> Self {
        let desk = Self::new();
        write_image(&desk.images().join("scan.mha"), volume, Compression::Zlib).unwrap();
        desk
    }

    fn with_file(name: &str, bytes: &[u8]) -> Self {
        let desk = Self::new();
        fs::write(desk.images().join(name), bytes).unwrap();
        desk
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program();
        command
            .arg("run")
            .arg("--input")
            .arg(self.input())
            .arg("--output")
            .arg(self.output())
            .args(arguments);
        command.output().unwrap()
    }

    /// Runs, expects this exit code and error, and no output file.
    fn refuses(&self, arguments: &[&str], code: i32, messages: &[&str]) {
        let done = self.run(arguments);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{stderr}");
        for message in messages {
            assert!(stderr.contains(message), "{message:?} is not in:\n{stderr}");
        }
        assert!(!self.output().join("pdac-likelihood.json").exists());
        for folder in [self.output(), self.output().join("images"), self.output().join(MAP)] {
            let files = fs::read_dir(&folder).into_iter().flatten().map(|e| e.unwrap().path());
            let left: Vec<_> = files.filter(|p| p.is_file()).collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }

    fn likelihood(&self) -> f64 {
        serde_json::from_slice(&fs::read(self.output().join("pdac-likelihood.json")).unwrap()).unwrap()
    }

    fn map(&self, stem: &str) -> Volume<f32> {
        let image = read_image(&self.output().join(MAP).join(format!("{stem}.mha"))).unwrap();
        assert!(matches!(image.voxels, Voxels::F32(_)), "the map is {}", image.voxels.type_name());
        image.into_f32_volume()
    }
}

fn header(fields: &str) -> String {
    format!("ObjectType = Image\n{fields}\nElementDataFile = LOCAL\n")
}

/// Fat with a muscle-like blob, nothing like a pancreas.
fn dull_scan(shape: [usize; 3], spacing: [f64; 3]) -> Volume<i16> {
    let data = ndarray::Array3::from_shape_fn(shape, |(z, y, x)| if (z + y + x) % 7 < 3 { 50 } else { -100 });
    Volume::new(data, Geometry::axis_aligned(shape, spacing))
}

#[test]
fn the_demonstration_case_gives_the_expected_outputs() {
    let desk = Desk::new();
    let overlay = desk.folder.path().join("overlay.png");
    let mut command = program();
    command.args(["run", "--input", "test_input", "--threads", "2", "--output"]).arg(desk.output());
    command.arg("--overlay").arg(&overlay).assert().success();
    let stem = "phantom-venous-ct";
    let expected =
        read_image(&Path::new(ROOT).join("test_output").join(MAP).join(format!("{stem}.mha"))).unwrap();
    let expected = expected.into_f32_volume();
    let input =
        read_image(&Path::new(ROOT).join("test_input/images/venous-ct").join(format!("{stem}.mha"))).unwrap();
    let map = desk.map(stem);
    assert_eq!(map.geometry, expected.geometry);
    assert_eq!(map.geometry, input.geometry);
    let largest = map.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= 1e-3, "the map differs by {largest}");
    let found = Components::find(&map.data, Connectivity::Corners, |&v| v > 0.0);
    assert_eq!(found.count(), 1);
    let text = fs::read_to_string(Path::new(ROOT).join("test_output/pdac-likelihood.json")).unwrap();
    let likelihood: f64 = text.trim().parse().unwrap();
    assert!((desk.likelihood() - likelihood).abs() <= 1e-3, "likelihood {}", desk.likelihood());
    check_report(&desk.output().join("run-report.json"), likelihood);
    assert_eq!(&fs::read(overlay).unwrap()[1..4], b"PNG");
    let files: Vec<_> = fs::read_dir(desk.output().join(MAP)).unwrap().collect();
    assert_eq!(files.len(), 1, "exactly one image: {files:?}");
}

/// Where the demonstration's likelihood comes from.
fn check_report(file: &Path, likelihood: f64) {
    let read =
        |file: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() };
    let (got, expected) = (read(file), read(&Path::new(ROOT).join("test_output/run-report.json")));
    assert_eq!(got.as_object().unwrap().len(), 1, "{got}");
    let (got, expected) = (&got["likelihood"], &expected["likelihood"]);
    for key in ["combine", "patches"] {
        assert_eq!(got[key], expected[key]);
    }
    for key in ["head", "map", "joined"] {
        let apart = (got[key].as_f64().unwrap() - expected[key].as_f64().unwrap()).abs();
        assert!(apart <= 1e-3, "{key}: {} for {}", got[key], expected[key]);
    }
    assert!((expected["joined"].as_f64().unwrap() - likelihood).abs() < 1e-9);
    let [head, map] = ["head", "map"].map(|key| expected[key].as_f64().unwrap());
    assert!((head - map).abs() > 0.1, "the two prove little if they are alike: {head} and {map}");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let bytes = |threads: &str| {
        let desk = Desk::new();
        let mut command = program();
        command
            .args(["--input", "test_input", "--quiet", "--threads", threads, "--output"])
            .arg(desk.output());
        command.assert().success();
        (desk.map("phantom-venous-ct").data, fs::read(desk.output().join("pdac-likelihood.json")).unwrap())
    };
    assert_eq!(bytes("1"), bytes("3"));
}

#[test]
fn help_names_every_option_and_exit_code() {
    let help = |arguments: &[&str]| {
        let done = program().args(arguments).env("COLUMNS", "100").output().unwrap();
        assert!(done.status.success());
        String::from_utf8(done.stdout).unwrap()
    };
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help-run", help(&["run", "--help"]));
    insta::assert_snapshot!("help-phantom", help(&["phantom", "--help"]));
}

#[test]
fn wrong_arguments_name_the_option() {
    program().args(["--threads", "0"]).assert().code(2).stderr(predicates::str::contains("--threads"));
    program()
        .args(["--accumulate", "bf16"])
        .assert()
        .code(2)
        .stderr(predicates::str::contains("float32, float16"));
    program().args(["walk"]).assert().code(2).stderr(predicates::str::contains("walk"));
}

#[test]
fn the_instruction_set_can_be_chosen_and_is_logged() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    for isa in Isa::available() {
        let done = desk.run(&["--cpu-isa", isa.name(), "--threads", "3", "--log", "json"]);
        assert!(done.status.success());
        let json = String::from_utf8(done.stderr).unwrap();
        let mut lines = json.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let done = lines.rfind(|l| l["message"] == "done").unwrap();
        assert_eq!((&done["arithmetic"], &done["threads"]), (&format!("{isa} f32").into(), &3.into()));
    }
    let text = String::from_utf8(desk.run(&["--cpu-isa", "portable"]).stderr).unwrap();
    assert!(text.contains("worker threads started threads="), "{text}");
    assert!(text.contains("arithmetic=portable f32"), "{text}");
}

#[test]
fn bfloat16_where_there_is_none_is_float32_with_a_warning() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let done = desk.run(&["--quiet", "--cpu-isa", "portable", "--precision", "bf16"]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{text}");
    assert!(text.contains("--precision bf16: portable has no such products, computing in float32"), "{text}");
    assert!(!text.contains("GPU"), "{text}");
}

#[test]
fn an_instruction_set_that_the_processor_lacks_is_a_usage_error() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    desk.refuses(&["--cpu-isa", "sse9"], 2, &["--cpu-isa", "amx, avx512, avx2, portable"]);
    let Some(absent) = Isa::FASTEST_FIRST.into_iter().find(|isa| !isa.is_available()) else {
        eprintln!("skipped: this processor has every instruction set");
        return;
    };
    let message = format!("--cpu-isa: this processor has no {absent} instructions (it has ");
    desk.refuses(&["--cpu-isa", absent.name()], 2, &[&message, "portable)"]);
}

#[test]
fn a_missing_or_ambiguous_image_is_named() {
    let empty = Desk::new();
    empty.refuses(&[], 3, &["images/venous-ct: holds no image, expected one"]);
    let two = Desk::with_scan(&dull_scan([4, 5, 6], [3.0; 3]));
    fs::write(two.images().join("other.nii.gz"), b"").unwrap();
    two.refuses(&[], 3, &["holds 2 images (other.nii.gz, scan.mha), expected one"]);
    fs::remove_dir_all(two.images()).unwrap();
    two.refuses(
        &[],
        3,
        &["holds no task's image, expected one in images/venous-ct or images/abdominal-t1-mri or "],
    );
    two.refuses(&["--task", "panther-t2"], 3, &["images/abdominal-t2-mri: no such folder; PANTHER task 2 (T2-weighted MRI) expects one image there"]);
}

#[test]
fn images_that_cannot_be_used_are_named_with_the_reason() {
    let short = "NDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\n";
    let table: [(&str, String, usize, &[&str]); 8] = [
        ("truncated", header(&format!("{short}ElementSpacing = 1 1 1")), 100, &["scan.mha", "240"]),
        ("zero spacing", header(&format!("{short}ElementSpacing = 1 0 1")), 240, &["scan.mha", "spacing"]),
        ("no image", "hello".to_owned(), 0, &["scan.mha"]),
        ("2-D", header("NDims = 2\nDimSize = 4 5\nElementType = MET_SHORT"), 40, &["scan.mha", "2"]),
        ("4-D", header("NDims = 4\nDimSize = 4 5 6 2\nElementType = MET_SHORT"), 480, &["scan.mha", "4"]),
        ("vector", header(&format!("{short}ElementNumberOfChannels = 3")), 720, &["scan.mha", "3"]),
        (
            "singular direction",
            header(&format!("{short}TransformMatrix = 1 0 0 1 0 0 0 0 1")),
            240,
            &["scan.mha", "is singular"],
        ),
        (
            "huge",
            header("NDims = 3\nDimSize = 99999999 99999999 99999999\nElementType = MET_SHORT"),
            9,
            &["scan.mha"],
        ),
    ];
    for (what, header, bytes, messages) in table {
        eprintln!("{what}");
        let file = [header.as_bytes(), vec![0; bytes].as_slice()].concat();
        Desk::with_file("scan.mha", &file).refuses(&[], 3, messages);
    }
}

#[test]
fn voxels_that_are_not_numbers_are_named() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut data = ndarray::Array3::<f32>::zeros((3, 4, 5));
        data[(2, 1, 3)] = value;
        let volume = Volume::new(data, Geometry::axis_aligned([3, 4, 5], [1.0; 3]));
        let desk = Desk::new();
        write_image(&desk.images().join("scan.mha"), &volume, Compression::None).unwrap();
        desk.refuses(
            &[],
            3,
            &["scan.mha: voxel (x, y, z) = [3, 1, 2] is", "expected finite values below 1e9"],
        );
    }
}

#[test]
fn a_spacing_in_the_wrong_unit_is_refused_instead_of_filling_the_memory() {
    let wide = Desk::with_scan(&dull_scan([2, 256, 256], [1000.0; 3]));
    wide.refuses(&[], 3, &["2676.5 GiB as float32, more than the limit of 4.0 GiB: is its spacing right?"]);
    let tiny = Desk::with_scan(&dull_scan([2, 4, 4], [1e-6; 3]));
    tiny.refuses(
        &[],
        3,
        &["scan.mha: spacing is [1e-6, 1e-6, 1e-6] mm (x, y, z), expected 0.001 to 1000 mm"],
    );
}

#[test]
fn a_direction_that_is_no_rotation_is_refused() {
    let mut scan = dull_scan([4, 5, 6], [3.0; 3]);
    scan.geometry.direction = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    Desk::with_scan(&scan).refuses(
        &[],
        3,
        &["scan.mha: direction is", "expected orthogonal columns of length 1"],
    );
}

#[test]
fn the_picture_replaces_nothing_but_pictures() {
    let desk = Desk::with_scan(&dull_scan([4, 5, 6], [3.0; 3]));
    desk.refuses(&["--overlay", "scan.mha"], 2, &["the name must end in .png"]);
    let folder = desk.folder.path().join("folder.png");
    fs::create_dir(&folder).unwrap();
    desk.refuses(&["--overlay", folder.to_str().unwrap()], 4, &["exists and is not a regular file"]);
}

#[test]
fn the_platforms_list_says_where_the_inputs_are() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    fs::rename(desk.images(), desk.input().join("images/elsewhere")).unwrap();
    desk.refuses(&[], 3, &["holds no task's image, expected one in images/venous-ct or "]);
    let list = |slug: &str, path: &str| {
        let entry =
            |slug: &str, path: &str| serde_json::json!({"socket": {"slug": slug, "relative_path": path}});
        let list = [entry("report", "report.json"), entry(slug, path)];
        fs::write(desk.input().join("inputs.json"), serde_json::json!(list).to_string()).unwrap();
    };
    list("arterial-phase-ct-scan", "images/elsewhere");
    desk.refuses(&[], 3, &["holds no task's image", "; inputs.json names: report, arterial-phase-ct-scan"]);
    list("venous-phase-ct-scan", "../elsewhere");
    desk.refuses(&[], 3, &["inputs.json: relative_path of venous-phase-ct-scan is \"../elsewhere\""]);
    list("venous-phase-ct-scan", "images/elsewhere");
    let done = desk.run(&[]);
    let log = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{log}");
    assert!(log.contains("inputs that are not asked for are ignored: report"), "{log}");
    assert_eq!(desk.map("scan").geometry.shape, [4, 20, 22]);
    list("venous-phase-ct-scan", "images/elsewhere/scan.mha");
    assert!(desk.run(&[]).status.success(), "the list may name the file");
}

#[test]
fn clinical_information_is_checked_and_no_reason_to_lose_a_case() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let file = desk.input().join("clinical-information-pancreatic-ct.json");
    let log = || {
        let done = desk.run(&[]);
        let log = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{log}");
        log
    };
    assert!(log().contains("clinical_information=false"));
    fs::write(&file, r#"{"age": null, "sex": null, "study_date": null, "scanner": null}"#).unwrap();
    assert!(log().contains("clinical_information=true"));
    fs::write(&file, r#"{"age": 42, "sex": "F"}"#).unwrap();
    let log = log();
    let warning = "clinical-information-pancreatic-ct.json: age: expected three digits and D, W, M or Y, such as \"042Y\" or null, got a number; going on without";
    assert!(log.contains(warning), "{log}");
}

#[test]
fn outputs_of_earlier_cases_are_removed() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let images = desk.output().join(MAP);
    fs::create_dir_all(&images).unwrap();
    for name in ["earlier.mha", "other.tif", ".writing-killed", "notes.txt"] {
        fs::write(images.join(name), "").unwrap();
    }
    fs::write(desk.output().join(".writing-killed"), "").unwrap();
    assert!(desk.run(&[]).status.success());
    let mut names: Vec<_> = fs::read_dir(&images).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["notes.txt", "scan.mha"]);
    assert!(!desk.output().join(".writing-killed").exists());
}

#[test]
fn folders_in_the_place_of_outputs_are_removed_if_they_are_empty() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let folder = desk.output().join(MAP).join("scan.mha");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir(desk.output().join("pdac-likelihood.json")).unwrap();
    assert!(desk.run(&[]).status.success());
    let full = desk.output().join(MAP).join("other.mha");
    fs::create_dir_all(full.join("more")).unwrap();
    let done = desk.run(&[]);
    let log = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(4), "{log}");
    assert!(log.contains("other.mha: an earlier output cannot be removed: Directory not empty"), "{log}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_scan_may_have_any_name() {
    use std::os::unix::ffi::OsStringExt;
    let scan = dull_scan([4, 20, 22], [9.0, 4.5, 4.5]);
    for name in [
        [vec![0xff; 84], b".mha".to_vec()].concat(),
        b"a\nERROR b\x1b[31m.mha".to_vec(),
        [vec![b'x'; 251], b".mha".to_vec()].concat(),
    ] {
        let desk = Desk::with_scan(&scan);
        let name = std::ffi::OsString::from_vec(name);
        fs::rename(desk.images().join("scan.mha"), desk.images().join(&name)).unwrap();
        let done = desk.run(&[]);
        let log = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{log}");
        assert!(
            log.lines().all(|l| l.starts_with(" INFO") || l.starts_with(" WARN")) && !log.contains('\x1b'),
            "{log}"
        );
        assert_eq!(fs::read_dir(desk.output().join(MAP)).unwrap().count(), 1);
    }
}

#[test]
fn validate_says_what_the_outputs_are_and_what_they_break() {
    let validate = |output: &Path, more: &[&str]| {
        let done = program().args(["validate", "--output"]).arg(output).args(more).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let (code, out, _) =
        validate(Path::new("test_output"), &["--input", "test_input", "--expected", "test_output"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.starts_with("detection map phantom-venous-ct: [160, 160, 48] voxels (x, y, z), lesions: 1\n"),
        "{out}"
    );
    assert!(out.ends_with("map 0.000e0, likelihood 0.000e0\nvalid\n"), "{out}");

    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    assert!(desk.run(&[]).status.success());
    fs::write(desk.output().join("pdac-likelihood.json"), "NaN").unwrap();
    let (code, out, err) = validate(&desk.output(), &["--input", "test_input"]);
    assert_eq!(code, Some(7), "{out}{err}");
    assert_eq!(out.matches("broken: ").count(), 4, "likelihood, size, spacing, origin: {out}");
    assert!(
        err.contains("pdac-likelihood.json: expected a bare JSON number") && err.contains("(and 3 more)"),
        "{err}"
    );
    let (code, _, err) = validate(&desk.output(), &["--expected", "/nowhere"]);
    assert_eq!(code, Some(7), "{err}");
    assert!(err.contains("/nowhere"), "{err}");
    assert_eq!(validate(&desk.output(), &["--input", "/nowhere"]).0, Some(3));
}

#[test]
fn a_failing_case_leaves_no_outputs_of_an_earlier_one() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    assert!(desk.run(&[]).status.success());
    assert!(desk.likelihood() < 0.5);
    fs::write(desk.images().join("scan.mha"), "ruined").unwrap();
    desk.refuses(&[], 3, &["scan.mha"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_log_that_cannot_be_written_does_not_stop_the_case() {
    let full = Path::new("/dev/full");
    assert!(full.exists(), "this test needs Linux");
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("pdac-cascade"));
    command.current_dir(ROOT).arg("--input").arg(desk.input()).arg("--output").arg(desk.output());
    let status = command.stderr(fs::OpenOptions::new().write(true).open(full).unwrap()).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(desk.map("scan").geometry.shape, [4, 20, 22]);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_found_before_the_work() {
    let desk = Desk::with_scan(&dull_scan([4, 5, 6], [3.0; 3]));
    fs::write(desk.output(), b"a file").unwrap();
    let done = desk.run(&[]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("out/images/pdac-detection-map: cannot be written"), "{stderr}");
    assert!(!stderr.contains("low resolution"), "work was begun:\n{stderr}");
    fs::remove_file(desk.output()).unwrap();
    desk.refuses(&["--overlay", "/nowhere/at/all.png"], 4, &["/nowhere/at/all.png: cannot be written"]);
}

/// A copy of the demonstration weights that a test may spoil.
fn weights_copy(desk: &Desk) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let copied = desk.folder.path().join("weights");
    copy(&Path::new(ROOT).join("tests/golden/baseline"), &copied);
    copied
}

/// Changes the recipe of a copy of the weights.
fn edit_recipe(weights: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let file = weights.join("panorama/pipeline.json");
    let mut recipe = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut recipe);
    fs::write(file, recipe.to_string()).unwrap();
}

#[test]
fn missing_and_mismatching_weights_are_named_before_the_work() {
    let desk = Desk::with_scan(&dull_scan([4, 5, 6], [3.0; 3]));
    desk.refuses(&["--weights", "/nowhere"], 5, &["/nowhere/panorama/pipeline.json", "No such file"]);
    let weights = weights_copy(&desk);
    let folder = weights.to_str().unwrap();
    let mut folders = fs::read_dir(weights.join("panorama")).unwrap().map(|e| e.unwrap().path());
    let lesion = folders.find(|p| p.to_string_lossy().contains("Dataset104")).unwrap();
    let model = fs::read_dir(lesion).unwrap().next().unwrap().unwrap().path();
    let plans = fs::read_to_string(model.join("plans.json")).unwrap();
    let spoiled = plans.replace("            24,\n            24\n", "            24,\n            48\n");
    let spoiled = if spoiled == plans { plans.replace("24, 24]", "24, 48]") } else { spoiled };
    assert_ne!(spoiled, plans, "the plans were to be spoiled");
    fs::write(model.join("plans.json"), spoiled).unwrap();
    desk.refuses(
        &["--weights", folder],
        5,
        &[
            "of its tensors do not fit the plans' network",
            "encoder.stages.3.0.convs.0.conv.weight",
            "encoder.stages.3.0.convs.1.conv.weight",
        ],
    );
    fs::write(model.join("plans.json"), plans).unwrap();
    let checkpoint = model.join("fold_2/checkpoint_best_panorama.safetensors");
    let bytes = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    desk.refuses(&["--weights", folder], 5, &["fold_2/checkpoint_best_panorama.safetensors"]);
    fs::remove_file(&checkpoint).unwrap();
    desk.refuses(&["--weights", folder], 5, &["fold_2", "checkpoint_best_panorama"]);
}

#[test]
fn impossible_recipes_are_refused_with_the_key() {
    type Change = fn(&mut serde_json::Value);
    let table: [(Change, &str); 6] = [
        (
            |r| r["lesion"]["model"]["step"] = 0.0.into(),
            "lesion.model.step is 0, needs a number from 0.01 to 1",
        ),
        (|r| r["lesion"]["lesion_label"] = 9.into(), "label 9 is asked for, lesion.model has labels 0 to 6"),
        (|r| r["mask"]["dilation_voxels"] = 4.into(), "mask.dilation_voxels is 4, needs an odd number"),
        (|r| r["roi"]["margin"] = 4.into(), "unknown field `margin`, expected `margin_mm_xyz`"),
        (|r| r["roi"]["margin_mm_xyz"] = serde_json::json!([1, -1, 1]), "needs three numbers of at least 0"),
        (|r| r["pancreas"]["model"]["folds"] = serde_json::json!([]), "pancreas.model.folds is empty"),
    ];
    for (change, message) in table {
        let desk = Desk::with_scan(&dull_scan([4, 5, 6], [3.0; 3]));
        let weights = weights_copy(&desk);
        edit_recipe(&weights, change);
        desk.refuses(&["--weights", weights.to_str().unwrap()], 5, &["pipeline.json", message]);
    }
}

#[test]
fn no_pancreas_is_a_zero_map_with_a_warning() {
    let scan = dull_scan([12, 30, 32], [5.0, 3.0, 3.0]);
    let desk = Desk::with_scan(&scan);
    let done = desk.run(&["--quiet"]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{stderr}");
    assert!(
        stderr.contains("no pancreas found: the detection map is all zero and the likelihood 0"),
        "{stderr}"
    );
    assert_eq!(desk.likelihood(), 0.0);
    let map = desk.map("scan");
    assert_eq!(map.geometry, scan.geometry);
    assert!(map.data.iter().all(|&v| v == 0.0));
}

#[test]
fn the_recipe_can_ask_for_the_whole_image_when_no_pancreas_is_found() {
    let desk = Desk::with_scan(&dull_scan([6, 30, 32], [3.0, 1.5, 1.5]));
    let weights = weights_copy(&desk);
    edit_recipe(&weights, |r| r["roi"]["if_no_pancreas"] = "whole_image".into());
    let done = desk.run(&["--weights", weights.to_str().unwrap()]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{stderr}");
    assert!(stderr.contains("no pancreas found: searching the whole image"), "{stderr}");
    assert!(stderr.contains("stage=\"lesion\""), "{stderr}");
}

#[test]
fn one_slice_and_two_thousand_slices_work() {
    for shape in [[1, 40, 44], [2000, 6, 5], [3, 1, 1]] {
        let mut scan = dull_scan(shape, [1.0, 4.0, 4.0]);
        scan.geometry.direction = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]];
        assert_ne!(scan.geometry.direction, IDENTITY);
        let desk = Desk::with_scan(&scan);
        let done = desk.run(&[]);
        assert!(done.status.success(), "{shape:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(desk.map("scan").geometry, scan.geometry);
    }
}

#[test]
fn the_log_is_plain_lines_or_json() {
    let desk = Desk::with_scan(&dull_scan([4, 20, 22], [9.0, 4.5, 4.5]));
    let text = String::from_utf8(desk.run(&[]).stderr).unwrap();
    for stage in ["prepare", "read", "low resolution", "pancreas", "write", "total"] {
        assert!(text.contains(&format!("finished stage=\"{stage}\" seconds=")), "{stage} is not in:\n{text}");
    }
    assert!(
        text.contains("demonstration weights trained on synthetic phantoms: unfit for patients"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "colours outside a terminal:\n{text}");
    let json = String::from_utf8(desk.run(&["--log", "json"]).stderr).unwrap();
    let lines: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["stage"] == "total" && l["peak_mb"].as_f64().unwrap() > 0.0), "{json}");
    let quiet = String::from_utf8(desk.run(&["--quiet"]).stderr).unwrap();
    assert!(quiet.lines().all(|l| l.contains("WARN")), "{quiet}");
}

#[test]
fn inspect_prints_the_plans_of_both_networks() {
    let done = program().args(["inspect", "--weights", "weights"]).assert().success();
    let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    for word in
        ["pancreas:", "lesion:", "checkpoint_final, folds 0", "decoder.seg_layers.2", "classifier", "GFLOP"]
    {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}

/// The demonstration weights say nothing about patients; this shows that a real scan goes through.
#[test]
fn a_real_contrast_ct_goes_through_the_whole_cascade() {
    let Some(folder) = shared_data::folder("abdomen_ct_venous_512") else { return };
    let desk = Desk::new();
    fs::copy(folder.join("ct_crop340x270x20.mha"), desk.images().join("ct.mha")).unwrap();
    let done = desk.run(&[]);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && stderr.contains("stage=\"lesion\""), "{stderr}");
    let map = desk.map("ct");
    assert_eq!(map.geometry.size_xyz(), [340, 270, 20]);
    let largest = map.data.iter().copied().fold(0.0, f32::max);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(desk.output().join("run-report.json")).unwrap()).unwrap();
    assert_eq!(Some(f64::from(largest)), report["likelihood"]["map"].as_f64());
    assert_eq!(Some(desk.likelihood()), report["likelihood"]["joined"].as_f64());
}
