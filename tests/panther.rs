//! Tumour segmentation in MRI as a user meets it: both tasks, their recipes, their limits.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use assert_cmd::Command;
use ndarray::Array3;
use pdac_cascade::detection::ThresholdFactor;
use pdac_cascade::imaging::file::{Compression, read_image, write_image};
use pdac_cascade::imaging::{Geometry, Volume, Voxels};
use pdac_cascade::pipeline::Recipe;
use pdac_cascade::pipeline::recipe::{Average, IfNoPancreas};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MASK: &str = "images/pancreatic-tumor-segmentation";

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// An input, an output and a weights folder.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(TempDir::new().unwrap());
        fs::create_dir_all(desk.path("in/images/abdominal-t1-mri")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with_scan(data: Array3<f32>) -> Self {
        let desk = Self::new();
        let (z, y, x) = data.dim();
        desk.put(&Volume::new(data, Geometry::axis_aligned([z, y, x], [2.0, 1.5, 1.5])));
        desk
    }

    fn put(&self, scan: &Volume<f32>) {
        write_image(&self.path("in/images/abdominal-t1-mri/scan.mha"), scan, Compression::Zlib).unwrap();
    }

    /// Two tissues in a pattern that is nothing like a pancreas.
    fn put_dull(&self) {
        let data =
            Array3::from_shape_fn((4, 20, 22), |(z, y, x)| if (z + y + x) % 7 < 3 { 50.0 } else { -100.0 });
        self.put(&Volume::new(data, Geometry::axis_aligned([4, 20, 22], [9.0, 4.5, 4.5])));
    }

    /// The middle of the T1-like phantom, with the tumour in it: a few tiles.
    fn with_part_of_the_phantom() -> Self {
        let file = root("test_input/panther-t1/images/abdominal-t1-mri/phantom-t1-mri.mha");
        let phantom = read_image(&file).unwrap().into_f32_volume();
        Self::with_scan(phantom.data.slice(ndarray::s![8..24, 16..48, 20..56]).to_owned())
    }

    /// Makes the recipe of the first task: that of the demonstration, changed.
    fn recipe(&self, change: impl FnOnce(&mut Value)) {
        let mut recipe: Value =
            serde_json::from_slice(&fs::read(root("weights/panther-t1/pipeline.json")).unwrap()).unwrap();
        for member in recipe["members"].as_array_mut().unwrap() {
            let folder = root("weights/panther-t1").join(member["folder"].as_str().unwrap());
            member["folder"] = json!(folder);
        }
        change(&mut recipe);
        fs::create_dir_all(self.path("weights/panther-t1")).unwrap();
        fs::write(self.path("weights/panther-t1/pipeline.json"), recipe.to_string()).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("pdac-cascade").unwrap();
        command.current_dir(ROOT).arg("run");
        for folder in ["in", "out", "weights"].map(|name| (name, self.path(name))) {
            match folder {
                ("in", folder) => command.arg("--input").arg(folder),
                ("out", folder) => command.arg("--output").arg(folder),
                (_, folder) if folder.exists() => command.arg("--weights").arg(folder),
                _ => &mut command,
            };
        }
        command.args(arguments).output().unwrap()
    }

    /// The segmentation, and the log.
    fn segments(&self, arguments: &[&str]) -> (Volume<u8>, String) {
        let done = self.run(arguments);
        let log = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{log}");
        (mask(&self.path("out").join(MASK).join("scan.mha")), log)
    }

    fn labels(&self) -> Array3<u8> {
        self.segments(&[]).0.data
    }

    fn refuses(&self, code: i32, messages: &[&str]) {
        let done = self.run(&[]);
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{stderr}");
        for message in messages {
            assert!(stderr.contains(message), "{message:?} is not in:\n{stderr}");
        }
        let left = fs::read_dir(self.path("out").join(MASK)).into_iter().flatten().count();
        assert_eq!(left, 0, "outputs of a case that failed");
    }
}

fn mask(file: &Path) -> Volume<u8> {
    let image = read_image(file).unwrap();
    match image.voxels {
        Voxels::U8(data) => Volume::new(data, image.geometry),
        other => panic!("the segmentation is {}", other.type_name()),
    }
}

fn program(arguments: &[&str], folders: &[(&str, &Path)]) -> Output {
    let mut command = Command::cargo_bin("pdac-cascade").unwrap();
    command.current_dir(ROOT).args(arguments);
    folders.iter().for_each(|(option, folder)| {
        command.arg(option).arg(folder);
    });
    command.output().unwrap()
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// The expected segmentations were made by nnU-Net (`scripts/reference/make_panther_demo.py`): mean logits in the first task, mean
/// probabilities in the second.
#[test]
fn both_tasks_give_the_expected_segmentations() {
    for (task, images) in
        [("panther-t1", "images/abdominal-t1-mri"), ("panther-t2", "images/abdominal-t2-mri")]
    {
        let (input, expected) = (root("test_input").join(task), root("test_output").join(task));
        let output = TempDir::new().unwrap();
        let done = program(&["run"], &[("--input", &input), ("--output", output.path())]);
        let log = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success(), "{log}");
        let scan = read_image(&only_file(&input.join(images))).unwrap();
        let got = mask(&only_file(&output.path().join(MASK)));
        let expected = mask(&only_file(&expected.join(MASK)));
        assert_eq!(got.geometry, scan.geometry, "{task}: the scan's geometry to the bit");
        assert!(expected.data.iter().any(|&v| v == 1), "{task}: an empty segmentation proves nothing");
        let differing = got.data.iter().zip(&expected.data).filter(|(a, b)| a != b).count();
        eprintln!("{task}: {differing} of {} voxels differ from nnU-Net's", got.data.len());
        assert!(differing <= 1, "{task}: {differing} voxels differ");
        assert!(!output.path().join("pdac-likelihood.json").exists());
        assert!(!output.path().join("run-report.json").exists(), "nobody asked for a report");
    }
}

#[test]
fn validate_knows_segmentations() {
    let (input, expected) = (root("test_input/panther-t2"), root("test_output/panther-t2"));
    let check = |output: &Path| {
        let folders = [("--input", input.as_path()), ("--output", output), ("--expected", &expected)];
        let done = program(&["validate"], &folders);
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, out) = check(&expected);
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.starts_with("segmentation phantom-t2-mri: [72, 68, 34] voxels (x, y, z), lesions: 1\n"),
        "{out}"
    );
    assert!(out.contains("apart from the expected: 0 voxels\nvalid\n"), "{out}");

    let spoiled = TempDir::new().unwrap();
    let mut image = mask(&only_file(&expected.join(MASK)));
    image.data.slice_mut(ndarray::s![0, 0, ..30]).fill(2);
    fs::create_dir_all(spoiled.path().join(MASK)).unwrap();
    write_image(&spoiled.path().join(MASK).join("other.mha"), &image, Compression::Zlib).unwrap();
    let (code, out) = check(spoiled.path());
    assert_eq!(code, Some(7), "{out}");
    for message in [
        "voxel (x, y, z) = [0, 0, 0] is 2, expected 0 or 1",
        "the image is named other, expected phantom-t2-mri",
        "30 voxels differ from what is expected, 1 of the 53 in the tumour may",
    ] {
        assert!(out.contains(message), "{message:?} is not in:\n{out}");
    }
    let as_floats = Volume::new(image.data.mapv(f32::from), image.geometry);
    write_image(&spoiled.path().join(MASK).join("other.mha"), &as_floats, Compression::Zlib).unwrap();
    assert!(check(spoiled.path()).1.contains("voxels are float32, expected uint8"));
}

#[test]
fn a_scan_that_cannot_be_an_mri_is_named() {
    let image = |value: &dyn Fn(usize) -> f32| Array3::from_shape_fn((4, 6, 8), |(z, y, x)| value(z + y + x));
    Desk::with_scan(image(&|_| 300.0)).refuses(3, &["scan.mha: every voxel is 300, expected an image"]);
    Desk::with_scan(image(&|i| if i < 4 { -1024.0 } else { 40.0 }))
        .refuses(3, &["scan.mha: the lowest value is -1024, expected an MRI", "is it a CT?"]);
    let mut block = Array3::zeros((4, 6, 8));
    block.slice_mut(ndarray::s![1..3, 2..4, 3..7]).fill(5.0);
    Desk::with_scan(block).refuses(3, &["scan.mha: every voxel is 5 within the box of those that are not 0"]);
    Desk::new().refuses(3, &["images/abdominal-t1-mri: holds no image, expected one"]);
}

#[test]
fn negative_intensities_are_an_mri_s() {
    let desk = Desk::with_scan(Array3::from_shape_fn((9, 20, 24), |(z, y, x)| {
        ((z * y + x) % 37) as f32 * 25.0 - 450.0
    }));
    let (mask, _) = desk.segments(&["--overlay", desk.path("picture.png").to_str().unwrap()]);
    assert_eq!(mask.data.dim(), (9, 20, 24));
    assert!(fs::read(desk.path("picture.png")).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn impossible_recipes_are_refused_with_the_key() {
    type Change = fn(&mut Value);
    let table: [(Change, &str); 21] = [
        (|r| r["members"] = json!([]), "members is empty, an ensemble needs at least one"),
        (
            |r| r["members"][1]["weight"] = json!(0),
            "members[1].weight is 0, needs a number from 0.000001 to 1000000",
        ),
        (|r| r["members"][0]["step"] = json!(0.0), "members[0].step is 0, needs a number from 0.01 to 1"),
        (|r| r["members"][0]["folds"] = json!([]), "members[0].folds is empty"),
        (|r| r["members"][0]["folds"] = json!([-1]), "expected a fold: a number of at least 0, or \"all\""),
        (|r| r["members"][0]["weight"] = json!(1e39), "members[0].weight is "),
        (|r| r["members"][0]["mirrors"] = json!(true), "unknown field `mirrors`"),
        (
            |r| {
                r.as_object_mut().unwrap().remove("roi");
            },
            "missing field `roi`",
        ),
        (
            |r| {
                r.as_object_mut().unwrap().remove("pancreas");
            },
            "missing field `pancreas`",
        ),
        (|r| r["pancreas"] = coarse_stage(&[1]), "pancreas is there, but neither roi nor "),
        (
            |r| {
                r["pancreas"] = coarse_stage(&[1]);
                r["pancreas"]["spacing_mm_xyz"] = json!([1e6, 1, 1]);
            },
            "pancreas.spacing_mm_xyz is [1000000.0, 1.0, 1.0], needs three numbers from 0.1 to 100",
        ),
        (|r| r["tumour_label"] = json!(3), "tumour_label is 3, members[0] has the tumours' labels 1 to 2"),
        (|r| r["tumour_label"] = json!(0), "tumour_label is 0"),
        (
            |r| r["roi"] = json!({"margin_mm_xyz": [9, 9, 9], "if_no_pancreas": "zero_map"}),
            "roi is asked for, but pancreas is null",
        ),
        (
            |r| r["postprocessing"] = json!({"min_pancreas_overlap": 0.15}),
            "postprocessing.min_pancreas_overlap is above 0, but pancreas is null",
        ),
        (|r| r["postprocessing"] = json!({"min_volume_mm3": -1}), "postprocessing.min_volume_mm3 is -1"),
        (|r| r["postprocessing"] = json!({"connectivity": 18}), "connectivity is 18, expected 6 or 26"),
        (|r| r["pancreas"] = coarse_stage(&[0]), "pancreas.labels has 0, which is the background"),
        (
            |r| {
                r["pancreas"] = coarse_stage(&[7]);
                r["postprocessing"] = json!({"min_pancreas_overlap": 0.1});
            },
            "pancreas.labels has 7, pancreas.model has labels 0 to 2",
        ),
        (|r| r["average"] = json!("median"), "unknown variant `median`"),
        (|r| r["system"] = json!("panorama"), "unknown field `"),
    ];
    for (change, message) in table {
        let desk = Desk::with_part_of_the_phantom();
        desk.recipe(change);
        desk.refuses(5, &["panther-t1/pipeline.json: ", message]);
    }
}

#[test]
fn members_that_cannot_be_averaged_are_named() {
    let desk = Desk::with_part_of_the_phantom();
    let others = only_file(&root("weights/panther-t2/expert_1"));
    desk.recipe(|recipe| {
        let model = only_file(&others);
        recipe["members"][1]["folder"] = json!(model);
        recipe["members"][1]["checkpoint"] = json!("checkpoint_best");
        recipe["average"] = json!("logits");
    });
    desk.refuses(5, &["average is \"logits\", but members[1] prepares scans otherwise than members[0]"]);
    desk.recipe(|recipe| recipe["members"][1]["folder"] = json!(root("tests/golden/models/regions")));
    desk.refuses(5, &["members[1] predicts regions, the ensemble needs labels"]);
    desk.recipe(|recipe| {
        let lesion = "Dataset104_PANORAMA_baseline_PDAC_Detection";
        let model = only_file(&root("tests/golden/baseline/panorama").join(lesion));
        recipe["members"][1]["folder"] = json!(model);
        recipe["members"][1]["checkpoint"] = json!("checkpoint_best_panorama");
    });
    let first = "members[0] has background 0, tumor 1, pancreas 2";
    desk.refuses(5, &["members[1] has the labels background 0, ", first]);
    desk.recipe(|recipe| {
        recipe["members"][1]["folder"] = json!(root("tests/golden/multitask/model"));
        recipe["members"][1]["checkpoint"] = json!("checkpoint_final");
    });
    desk.refuses(5, &["members[1] has a classification head"]);
    let moved = desk.path("moved");
    fs::create_dir_all(moved.join("fold_0")).unwrap();
    let source = only_file(&only_file(&root("weights/panther-t1/expert_1")));
    for file in ["plans.json", "fold_0/checkpoint_final.safetensors"] {
        fs::copy(source.join(file), moved.join(file)).unwrap();
    }
    let text = fs::read_to_string(source.join("dataset.json")).unwrap();
    let mut dataset: Value = serde_json::from_str(&text).unwrap();
    dataset["labels"] = json!({"background": 0, "tumor": 2, "pancreas": 1});
    fs::write(moved.join("dataset.json"), dataset.to_string()).unwrap();
    desk.recipe(|recipe| recipe["members"][1]["folder"] = json!(moved));
    desk.refuses(5, &["members[1] has the labels background 0, ", "tumor 2", first]);
}

#[test]
fn a_task_without_weights_is_told_which_have_some() {
    let desk = Desk::with_part_of_the_phantom();
    fs::create_dir_all(desk.path("weights/panther-t2")).unwrap();
    fs::write(desk.path("weights/panther-t2/pipeline.json"), "{}").unwrap();
    desk.refuses(5, &["panther-t1/pipeline.json: no such file; there are recipes for panther-t2"]);
    desk.recipe(|recipe| {
        let other = fs::read(root("tests/golden/baseline/panorama/pipeline.json")).unwrap();
        *recipe = serde_json::from_slice(&other).unwrap();
        for stage in ["pancreas", "lesion"] {
            let folder = root("tests/golden/baseline/panorama")
                .join(recipe[stage]["model"]["folder"].as_str().unwrap());
            recipe[stage]["model"]["folder"] = json!(folder);
        }
    });
    desk.refuses(5, &["system is \"panorama\", PANTHER task 1 (T1-weighted MRI) needs \"panther\""]);
}

/// A member beside itself answers what it answers alone, whatever is averaged; of two others the weightier wins.
#[test]
fn weights_say_how_much_a_member_counts() {
    let desk = Desk::with_part_of_the_phantom();
    let with = |numbers: &[(usize, f64)], average: &str| {
        desk.recipe(|recipe| {
            let members = numbers.iter().map(|&(number, weight)| {
                let mut member = recipe["members"][number].clone();
                member["weight"] = json!(weight);
                member
            });
            recipe["members"] = members.collect();
            recipe["average"] = json!(average);
        });
        desk.labels()
    };
    let (first, second) = (with(&[(0, 1.0)], "auto"), with(&[(1, 1.0)], "auto"));
    assert!(first.iter().any(|&v| v == 1), "an empty segmentation proves nothing");
    assert_ne!(first, second, "members that agree prove nothing");
    for average in ["logits", "probabilities"] {
        assert_eq!(with(&[(0, 1.0), (0, 3.0)], average), first, "{average}");
        assert_eq!(with(&[(0, 1e6), (1, 1.0)], average), first, "{average}");
        assert_eq!(with(&[(0, 1.0), (1, 1e6)], average), second, "{average}");
    }
    let (logits, probabilities) =
        (with(&[(0, 1.0), (1, 1.0)], "logits"), with(&[(0, 1.0), (1, 1.0)], "probabilities"));
    assert_eq!(with(&[(1, 1.0), (0, 1.0)], "logits"), logits, "the order of members does not matter");
    assert!(logits != first || probabilities != first, "the second member counts too");
}

/// The demonstration's second member as the first stage of a cascade.
fn coarse_stage(labels: &[u16]) -> Value {
    let dataset = only_file(&root("weights/panther-t1/expert_1"));
    json!({
        "model": {"folder": only_file(&dataset), "folds": [0], "checkpoint": "checkpoint_final", "mirroring": false,
            "step": 1.0},
        "spacing_mm_xyz": [1.4, 1.4, 2.5], "outside_value": 0.0, "labels": labels
    })
}

/// A first stage that finds no pancreas in [`Desk::put_dull`]'s scan.
fn stage_for_ct() -> Value {
    let pancreas = root("tests/golden/baseline/panorama/Dataset103_PANORAMA_baseline_Pancreas_Segmentation");
    json!({
        "model": {"folder": only_file(&pancreas), "folds": [0, 1, 2, 3, 4], "checkpoint": "checkpoint_final", "mirroring": true, "step": 0.5},
        "spacing_mm_xyz": [4.5, 4.5, 9.0], "outside_value": 8.0
    })
}

#[test]
fn a_first_stage_narrows_the_search_and_judges_components() {
    let desk = Desk::with_part_of_the_phantom();
    let with = |labels: &[u16], roi: Value, postprocessing: Value| {
        desk.recipe(|recipe| {
            recipe["members"].as_array_mut().unwrap().truncate(1);
            recipe["pancreas"] = coarse_stage(labels);
            recipe["roi"] = roi;
            recipe["postprocessing"] = postprocessing;
        });
        desk.segments(&[])
    };
    let everything = json!({});
    desk.recipe(|recipe| recipe["members"].as_array_mut().unwrap().truncate(1));
    let (whole, log) = desk.segments(&[]);
    assert!(!log.contains("started stage=\"pancreas\""), "{log}");
    let tumour = whole.data.iter().filter(|&&v| v == 1).count();
    assert!(tumour > 0);
    let roi = |margin: f64, otherwise: &str| json!({"margin_mm_xyz": [margin, margin, margin], "if_no_pancreas": otherwise});
    let (wide, _) = with(&[1, 2], roi(500.0, "zero_map"), everything.clone());
    assert_eq!(wide.data, whole.data, "margins beyond the scan leave all of it");
    let (narrow, log) = with(&[1, 2], roi(3.0, "zero_map"), everything.clone());
    assert_eq!(narrow.geometry, whole.geometry);
    assert!(log.contains("started stage=\"pancreas\"") && log.contains("started stage=\"tumour\""), "{log}");
    let (believed, _) = with(&[1, 2], roi(500.0, "zero_map"), json!({"min_voxels": 10_000}));
    assert!(believed.data.iter().all(|&v| v == 0));
    let (believed, log) = with(&[1], Value::Null, json!({"min_pancreas_overlap": 1.0, "connectivity": 6}));
    assert!(believed.data.iter().filter(|&&v| v == 1).count() < tumour, "{log}");
    let (largest, _) = with(&[1, 2], roi(500.0, "zero_map"), json!({"largest_component_only": true}));
    let left = largest.data.iter().filter(|&&v| v == 1).count();
    assert!(left > 0 && left <= tumour);
}

/// Made by nnU-Net and SimpleITK (`scripts/reference/make_panther_demo.py cascade`): at low resolution the tumour is looked for, a
/// box of 20 × 18 × 11 voxels around it is searched.
#[test]
fn a_cascade_gives_the_originals_segmentation() {
    let desk = Desk::new();
    let phantom = root("test_input/panther-t1/images/abdominal-t1-mri/phantom-t1-mri.mha");
    fs::copy(phantom, desk.path("in/images/abdominal-t1-mri/scan.mha")).unwrap();
    desk.recipe(|recipe| {
        recipe["members"].as_array_mut().unwrap().truncate(1);
        recipe["pancreas"] = coarse_stage(&[1]);
        recipe["pancreas"]["spacing_mm_xyz"] = json!([1.6, 1.6, 2.8]);
        recipe["pancreas"]["outside_value"] = json!(8.0);
        recipe["pancreas"]["model"]["step"] = json!(0.5);
        recipe["roi"] = json!({"margin_mm_xyz": [6.0, 8.0, 4.0], "if_no_pancreas": "zero_map"});
    });
    let expected = mask(&root("tests/golden/panther_cascade/tumour.mha"));
    let (got, _) = desk.segments(&[]);
    assert_eq!(got.geometry, expected.geometry);
    let differing = got.data.iter().zip(&expected.data).filter(|(a, b)| a != b).count();
    eprintln!("cascade: {differing} voxels differ");
    assert!(expected.data.iter().any(|&v| v == 1) && differing <= 1, "{differing} voxels differ");
    let whole = mask(&root("test_output/panther-t1").join(MASK).join("phantom-t1-mri.mha"));
    assert_ne!(got.data, whole.data, "a cascade that changes nothing proves nothing");
}

#[test]
fn without_a_pancreas_the_answer_is_empty_or_the_whole_scan_is_searched() {
    let desk = Desk::new();
    desk.put_dull();
    for (otherwise, warning) in [
        ("zero_map", "no pancreas found: the segmentation is empty"),
        ("whole_image", "no pancreas found: searching the whole image"),
    ] {
        desk.recipe(|recipe| {
            recipe["pancreas"] = stage_for_ct();
            recipe["roi"] = json!({"margin_mm_xyz": [9, 9, 9], "if_no_pancreas": otherwise});
        });
        let (mask, log) = desk.segments(&[]);
        assert!(log.contains(warning), "{log}");
        let searched = log.contains("started stage=\"tumour\"");
        assert_eq!(searched, otherwise == "whole_image", "{log}");
        assert!(searched || mask.data.iter().all(|&v| v == 0));
    }
}

#[test]
fn a_time_budget_leaves_out_what_it_must_and_says_so() {
    let desk = Desk::with_part_of_the_phantom();
    desk.recipe(|recipe| recipe["members"][0]["mirroring"] = json!(true));
    let whole = desk.labels();
    assert!(!desk.path("out/run-report.json").exists());
    let report =
        || -> Value { serde_json::from_slice(&fs::read(desk.path("out/run-report.json")).unwrap()).unwrap() };
    let (enough, log) = desk.segments(&["--time-budget", "3600"]);
    assert_eq!(enough.data, whole, "nothing is left out where there is time");
    assert!(log.contains("nothing is left out"), "{log}");
    let said = report();
    assert_eq!((&said["fits"], &said["time_budget_seconds"]), (&json!(true), &json!(3600.0)));
    let asked = json!({"folds": 1, "mirroring": true, "step": 0.5});
    assert_eq!((&said["models"][0]["recipe"], &said["models"][0]["computed"]), (&asked, &asked));
    assert!(
        said["seconds"].as_f64().unwrap() > 0.0
            && said["models"][1]["seconds_per_run"].as_f64().unwrap() > 0.0
    );

    let (_, log) = desk.segments(&["--time-budget", "0.001"]);
    assert!(log.contains("WARN time budget of 0.001 s") && log.contains("no mirroring"), "{log}");
    let said = report();
    assert_eq!(said["fits"], false);
    assert_eq!(said["models"][0]["computed"], json!({"folds": 1, "mirroring": false, "step": 1.0}));
    assert_eq!(said["models"][1]["computed"], Value::Null, "of equal members the last is left out");

    desk.segments(&[]);
    assert!(!desk.path("out/run-report.json").exists(), "a report of an earlier case");
    desk.put_dull();
    desk.recipe(|recipe| {
        recipe["pancreas"] = stage_for_ct();
        recipe["roi"] = json!({"margin_mm_xyz": [9, 9, 9], "if_no_pancreas": "zero_map"});
    });
    desk.segments(&["--time-budget", "60"]);
    assert_eq!(report()["models"][0]["computed"], Value::Null, "nothing was computed without a pancreas");
    let wrong = desk.run(&["--time-budget", "-3"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// The recipes of published systems that are shipped without weights.
#[test]
fn shipped_recipes_are_those_of_the_published_systems() {
    let read = |name: &str| Recipe::read(&root("weights/recipes").join(name)).unwrap();
    let Recipe::Panorama(pandx) = read("pandx.json") else { panic!("another system") };
    let Recipe::Panorama(baseline) = read("panorama-baseline.json") else { panic!("another system") };
    let tested = Recipe::read(&root("tests/golden/baseline/panorama/pipeline.json")).unwrap();
    let Recipe::Panorama(mut tested) = tested else { panic!("another system") };
    tested.note = None;
    assert_eq!(tested, baseline);
    assert_eq!((pandx.mask, pandx.lesion.model.mirroring, pandx.lesion.model.folds.len()), (None, true, 5));
    assert_eq!(pandx.candidates.dynamic_threshold_factor, ThresholdFactor::try_from(15.0).unwrap());
    assert_eq!((pandx.roi, pandx.pancreas.model), (baseline.roi, baseline.pancreas.model));
    for (name, checkpoint) in
        [("panther-t1.json", "checkpoint_final"), ("panther-t2.json", "checkpoint_best")]
    {
        let Recipe::Panther(recipe) = read(name) else { panic!("another system") };
        let model = &recipe.members[0].model;
        assert_eq!((recipe.members.len(), model.folds.len()), (1, 5), "{name}");
        assert_eq!((model.checkpoint.as_str(), model.mirroring, model.step), (checkpoint, false, 0.5));
        assert_eq!((recipe.tumour_label, recipe.average), (1, Average::Auto));
        assert!(recipe.pancreas.is_none() && recipe.roi.is_none());
    }
    let Recipe::Panther(first) = read("panther-t1-baseline.json") else { panic!("another system") };
    let rules = first.postprocessing;
    assert_eq!((rules.min_voxels, rules.min_pancreas_overlap), (10, 0.15));
    let Recipe::Panther(second) = read("panther-t2-baseline.json") else { panic!("another system") };
    let roi = second.roi.unwrap();
    assert_eq!((roi.margin_mm_xyz, roi.if_no_pancreas), ([70.0; 3], IfNoPancreas::WholeImage));
    let files = fs::read_dir(root("weights/recipes")).unwrap().count();
    assert_eq!(files, 6, "every recipe is read here");
}

/// Detection in CT with a residual-encoder second stage, without a mask and with factor 15: the candidates grow.
#[test]
fn a_residual_encoder_serves_detection_too() {
    let desk = Desk(TempDir::new().unwrap());
    let output = |change: &dyn Fn(&mut Value)| {
        let mut recipe: Value =
            serde_json::from_slice(&fs::read(root("weights/recipes/pandx.json")).unwrap()).unwrap();
        let pancreas = root("tests/golden/baseline/panorama")
            .join(recipe["pancreas"]["model"]["folder"].as_str().unwrap());
        recipe["pancreas"]["model"]["folder"] = json!(pancreas);
        let dataset = only_file(&root("weights/panther-t1/expert_0"));
        let lesion = json!({"folder": only_file(&dataset), "folds": [0], "checkpoint": "checkpoint_final",
            "mirroring": false, "step": 1.0});
        recipe["lesion"]["model"] = lesion;
        change(&mut recipe);
        fs::create_dir_all(desk.path("weights/panorama")).unwrap();
        fs::write(desk.path("weights/panorama/pipeline.json"), recipe.to_string()).unwrap();
        let folders = [
            ("--input", root("tests/golden/baseline/input")),
            ("--output", desk.path("out")),
            ("--weights", desk.path("weights")),
        ];
        let done = program(&["run"], &folders.each_ref().map(|(option, folder)| (*option, folder.as_path())));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let map =
            read_image(&only_file(&desk.path("out/images/pdac-detection-map"))).unwrap().into_f32_volume();
        map.data.iter().filter(|&&v| v > 0.0).count()
    };
    let grown = output(&|_| {});
    let usual = output(&|recipe| recipe["candidates"]["dynamic_threshold_factor"] = json!(2.5));
    assert!(grown > usual && usual > 0, "{grown} and {usual} voxels");
}
