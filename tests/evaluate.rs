//! `evaluate`: the challenges' metrics against the packages that the challenges use, and the rules for what is scored.
//!
//! The golden masks and answers are made by `scripts/reference/make_panther_vectors.py`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "shared_data/mod.rs"]
mod shared_data;

use assert_cmd::Command;
use ndarray::Array3;
use pdac_cascade::evaluation::panther::{self, AxisOrder, Evaluation};
use pdac_cascade::evaluation::surface::SurfaceDistances;
use pdac_cascade::evaluation::{Pair, Pairs};
use pdac_cascade::imaging::file::element::Element;
use pdac_cascade::imaging::file::{Compression, read_image, write_image};
use pdac_cascade::imaging::{Geometry, MemoryGauge, Volume};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/panther_evaluation");
const ORDERS: [AxisOrder; 2] = [AxisOrder::Right, AxisOrder::Challenge];

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn evaluate(pairs: &[Pair], order: AxisOrder) -> Evaluation {
    panther::evaluate(pairs, order, MemoryGauge::UNLIMITED).unwrap()
}

fn surfaces(pair: &Pair, order: AxisOrder) -> SurfaceDistances {
    let [truth, prediction] = [&pair.truth, &pair.prediction].map(|path| read_image(path).unwrap());
    let spacing = match order {
        AxisOrder::Right => truth.geometry.spacing,
        AxisOrder::Challenge => truth.geometry.spacing_xyz(),
    };
    let [truth, prediction] =
        [truth, prediction].map(|image| image.into_f32_volume().data.mapv(|v| v != 0.0));
    SurfaceDistances::between(&truth, &prediction, spacing, MemoryGauge::UNLIMITED).unwrap().unwrap()
}

fn assert_close(got: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() <= tolerance * expected.abs(), "{what}: {got:e}, expected {expected:e}");
}

#[test]
fn golden_masks_get_the_packages_scores() {
    let expected = read_json(&Path::new(GOLDEN).join("expected.json"));
    let folder = |name: &str| Path::new(GOLDEN).join(name);
    let Pairs { pairs, without_truth } = Pairs::find(&folder("truth"), &folder("prediction")).unwrap();
    assert_eq!((pairs.len(), without_truth.len()), (8, 0));
    for (order, order_name) in ORDERS.into_iter().zip(["right", "challenge"]) {
        let evaluation = serde_json::to_value(evaluate(&pairs, order)).unwrap();
        for (case, pair) in evaluation["per_subject"].as_array().unwrap().iter().zip(&pairs) {
            let subject = case["subject"].as_str().unwrap();
            assert_eq!(subject, pair.subject);
            let expected = &expected["cases"][subject][order_name];
            for (name, number) in case.as_object().unwrap().iter().skip(1) {
                assert_close(number.as_f64().unwrap(), &expected[name], 1e-13, &format!("{subject}.{name}"));
            }
            let surfaces = surfaces(pair, order);
            let more = [
                ("surface_dice_1mm", surfaces.dice(1.0)),
                ("hausdorff50", surfaces.robust_hausdorff(50.0)),
                ("mean_from_truth", surfaces.from_truth.mean()),
                ("mean_from_prediction", surfaces.from_prediction.mean()),
                ("area_truth", surfaces.from_truth.area()),
                ("area_prediction", surfaces.from_prediction.area()),
            ];
            for (name, number) in more {
                assert_close(number, &expected[name], 1e-13, &format!("{subject}.{name}"));
            }
        }
        let aggregates = evaluation["aggregates"].as_object().unwrap();
        assert_eq!(aggregates.len(), 5);
        for (name, number) in aggregates {
            assert_close(number.as_f64().unwrap(), &expected["aggregates"][order_name][name], 1e-13, name);
        }
    }
}

fn number(case: &Value, name: &str) -> f64 {
    case[name].as_f64().unwrap()
}

fn squared_volume_difference(case: &Value) -> f64 {
    (number(case, "pred_volume_mm3") - number(case, "gt_volume_mm3")).powi(2)
}

#[test]
fn shared_masks_get_the_packages_scores() {
    let Some(folder) = shared_data::folder("panther_eval_vectors") else { return };
    let expected = read_json(&folder.join("expected.json"));
    let cases = expected["cases"].as_object().unwrap();
    let pair = |subject: &String| Pair {
        subject: subject.clone(),
        truth: folder.join(format!("{subject}_gt.mha")),
        prediction: folder.join(format!("{subject}_pred.mha")),
    };
    let pairs: Vec<_> = cases.keys().map(pair).collect();
    assert_eq!(pairs.len(), 6);
    for (order, order_name) in
        ORDERS.into_iter().zip(["correct_order_zyx", "official_order_xyz_on_zyx_array"])
    {
        let Evaluation { per_subject, aggregates } = evaluate(&pairs, order);
        for (case, pair) in per_subject.iter().zip(&pairs) {
            let (expected, surfaces) = (&cases[&case.subject][order_name], surfaces(pair, order));
            let numbers = [
                ("dice", case.scores.volumetric_dice),
                ("surface_dice_5mm", case.scores.surface_dice),
                ("surface_dice_1mm", surfaces.dice(1.0)),
                ("hd95", case.scores.hausdorff95),
                ("asd_gt_to_pred", surfaces.from_truth.mean()),
                ("asd_pred_to_gt", surfaces.from_prediction.mean()),
                ("masd", case.scores.masd),
                ("surface_area_gt", surfaces.from_truth.area()),
                ("surface_area_pred", surfaces.from_prediction.area()),
                ("gt_volume_mm3", case.scores.gt_volume),
                ("pred_volume_mm3", case.scores.pred_volume),
            ];
            assert_eq!(expected.as_object().unwrap().len(), numbers.len());
            for (name, number) in numbers {
                assert_close(number, &expected[name], 1e-12, &format!("{}.{name}", case.subject));
            }
        }
        // The file's own aggregate is not that of its six cases.
        let mean = |of: fn(&Value) -> f64| {
            cases.values().map(|case| of(&case[order_name])).sum::<f64>() / cases.len() as f64
        };
        let numbers = [
            (aggregates.mean_volumetric_dice, mean(|case| number(case, "dice"))),
            (aggregates.mean_surface_dice, mean(|case| number(case, "surface_dice_5mm"))),
            (aggregates.mean_hausdorff95, mean(|case| number(case, "hd95"))),
            (aggregates.mean_masd, mean(|case| number(case, "masd"))),
            (aggregates.tumor_burden_rmse, mean(squared_volume_difference).sqrt()),
        ];
        for (got, expected) in numbers {
            assert!((got - expected).abs() <= 1e-12 * expected, "{order_name}: {got}, expected {expected}");
        }
    }
}

/// Two folders with cases, and the program to score them.
struct Desk {
    folder: TempDir,
}

const SHAPE: [usize; 3] = [2, 3, 4];
const SPACING: [f64; 3] = [3.0, 2.0, 1.5];

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: TempDir::new().unwrap() };
        for name in ["truth", "prediction"] {
            fs::create_dir(desk.path(name)).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an image whose first voxels are `values`, the others 0.
    fn write<T: Element + Default>(&self, name: &str, values: &[T], spacing: [f64; 3]) {
        self.write_shaped(name, values, SHAPE, spacing);
    }

    fn write_shaped<T: Element + Default>(
        &self,
        name: &str,
        values: &[T],
        shape: [usize; 3],
        spacing: [f64; 3],
    ) {
        let mut data = Array3::from_elem(shape, T::default());
        data.iter_mut().zip(values).for_each(|(voxel, value)| *voxel = *value);
        let volume = Volume::new(data, Geometry::axis_aligned(shape, spacing));
        write_image(&self.path(name), &volume, Compression::None).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Exit code, standard output and standard error, the desk's folder left out.
    fn evaluate(&self, more: &[&str]) -> (i32, String, String) {
        let mut command = Command::cargo_bin("pdac-cascade").unwrap();
        command.current_dir(&self.folder);
        command.args(["evaluate", "panther", "--truth", "truth", "--prediction", "prediction"]).args(more);
        let done = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    /// The scores of the only case: both Dice, both distances, both volumes.
    fn scores(&self, more: &[&str]) -> [f64; 6] {
        let (code, _, stderr) = self.evaluate(&[&["--output", "scores.json"], more].concat());
        assert_eq!(code, 0, "{stderr}");
        let scores = &read_json(&self.path("scores.json"))["per_subject"][0];
        let names = ["volumetric_dice", "surface_dice", "hausdorff95", "masd", "gt_volume", "pred_volume"];
        names.map(|name| scores[name].as_f64().unwrap())
    }
}

/// What it is about, the first voxels of truth and prediction, whether the prediction is right, and both volumes.
type Rule = (&'static str, &'static [u8], &'static [u8], bool, [f64; 2]);

#[test]
fn predictions_are_scored_by_the_challenges_rules() {
    let diagonal = |spacing: [f64; 3]| {
        spacing.iter().zip(SHAPE).map(|(s, n)| (s * n as f64).powi(2)).sum::<f64>().sqrt()
    };
    let rules: [Rule; 6] = [
        ("nothing predicted", &[1, 1], &[], false, [18.0, 0.0]),
        ("everything predicted", &[1, 1], &[1; 24], false, [18.0, 0.0]),
        ("nothing there, nothing predicted", &[], &[], false, [0.0, 0.0]),
        ("nothing there, something predicted", &[], &[1, 1], false, [0.0, 18.0]),
        ("several labels of the truth", &[1, 2], &[1, 1], true, [18.0, 18.0]),
        ("another label predicted than 1", &[1, 1], &[7, 7], true, [18.0, 18.0]),
    ];
    for (what, truth, prediction, hit, [in_truth, in_prediction]) in rules {
        let desk = Desk::new();
        desk.write("truth/a.mha", truth, SPACING);
        desk.write("prediction/a.mha", prediction, SPACING);
        for (more, spacing) in [(&[][..], SPACING), (&["--challenge-axis-order"], [1.5, 2.0, 3.0])] {
            let (dice, far) = if hit { (1.0, 0.0) } else { (0.0, diagonal(spacing)) };
            assert_eq!(desk.scores(more), [dice, dice, far, far, in_truth, in_prediction], "{what}");
        }
    }
}

#[test]
fn voxels_count_as_they_are() {
    let desk = Desk::new();
    desk.write("truth/a.mha", &[256_i16, -1], SPACING);
    desk.write("prediction/a.mha", &[0.5_f32, 0.5], SPACING);
    assert_eq!(desk.scores(&[])[..2], [1.0, 1.0]);
    for wrong in [-1.0, f32::INFINITY] {
        desk.write("prediction/a.mha", &[wrong, wrong], SPACING);
        let (code, _, stderr) = desk.evaluate(&[]);
        assert_eq!(code, 3);
        assert!(stderr.contains("prediction/a.mha: expected a binary mask"), "{stderr}");
    }
}

#[test]
fn spacings_may_differ_by_what_files_round_off() {
    let desk = Desk::new();
    desk.write("truth/a.mha", &[1_u8], SPACING);
    desk.write("prediction/a.mha", &[1_u8], [3.0, 2.0, 1.50009]);
    assert_eq!(desk.scores(&[])[4], 9.0);
}

/// What makes one of two good cases, a and b, a bad one.
type Spoil = fn(&Desk);

/// What is spoilt, and what the program says.
const REFUSED: [(Spoil, &str); 14] = [
    (
        |desk| desk.write("prediction/b.mha", &[1_u8, 2], SPACING),
        "prediction/b.mha: expected a binary mask (0 and 1, or 0 and one other value above 0), got the values 0, 1, 2",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[2_u8; 24], SPACING),
        "prediction/b.mha: expected a binary mask (0 and 1, or 0 and one other value above 0), got the values 2",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[0.5_f32, 9.0, f32::NAN, -1.0, 3.0, 4.0], SPACING),
        "prediction/b.mha: expected a binary mask (0 and 1, or 0 and one other value above 0), got the values -1, 0.5, 3, 9, NaN, …",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[f64::NAN], SPACING),
        "prediction/b.mha: expected a binary mask (0 and 1, or 0 and one other value above 0), got the values 0, NaN",
    ),
    (
        |desk| desk.write("truth/b.mha", &[f32::NAN], SPACING),
        "truth/b.mha: expected labels, got voxels that are NaN",
    ),
    (
        |desk| desk.write_shaped("prediction/b.mha", &[1_u8], [4, 3, 2], SPACING),
        "prediction/b.mha: size is [2, 3, 4] (x, y, z), expected the [4, 3, 2] of truth/b.mha",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[1_u8], [3.0, 2.0, 1.5002]),
        "prediction/b.mha: spacing is [1.5002, 2.0, 3.0] mm (x, y, z), expected the [1.5, 2.0, 3.0] of truth/b.mha",
    ),
    (
        |desk| desk.remove("prediction/b.mha"),
        "prediction/b: no such image (.mha, .mhd, .nii, .nii.gz, .hdr), expected the prediction for truth/b.mha",
    ),
    (
        |desk| ["prediction/a.mha", "prediction/b.mha"].iter().for_each(|name| desk.remove(name)),
        "prediction/a: no such image (.mha, .mhd, .nii, .nii.gz, .hdr), expected the prediction for truth/a.mha (and 1 more)",
    ),
    (
        |desk| fs::write(desk.path("prediction/b.mha"), "ruined").unwrap(),
        "prediction/b.mha: the header has no ElementDataFile",
    ),
    (
        |desk| fs::write(desk.path("truth/b.nii"), "").unwrap(),
        "truth/b.mha and truth/b.nii: two images of one case, expected one",
    ),
    (
        |desk| ["truth/a.mha", "truth/b.mha"].iter().for_each(|name| desk.remove(name)),
        "truth: holds no image, expected the truth of at least one case",
    ),
    (
        |desk| fs::rename(desk.path("prediction"), desk.path("elsewhere")).unwrap(),
        "prediction: No such file or directory (os error 2)",
    ),
    (
        |desk| fs::create_dir(desk.path("truth/c.mha")).unwrap(),
        "truth/c.mha: expected an image file, it is a folder, a special file or a broken link",
    ),
];

#[test]
fn what_cannot_be_scored_is_refused() {
    for (spoil, message) in REFUSED {
        let desk = Desk::new();
        for name in ["truth/a.mha", "truth/b.mha", "prediction/a.mha", "prediction/b.mha"] {
            desk.write(name, &[1_u8], SPACING);
        }
        spoil(&desk);
        let (code, stdout, stderr) = desk.evaluate(&["--output", "scores.json"]);
        assert_eq!((code, stdout.as_str(), stderr.trim()), (3, "", format!("ERROR {message}").as_str()));
        assert!(!desk.path("scores.json").exists(), "{message}");
    }
}

#[test]
fn the_table_has_a_line_for_each_case_and_the_means() {
    let desk = Desk::new();
    for folder in ["truth", "prediction"] {
        for entry in fs::read_dir(Path::new(GOLDEN).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, desk.path(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
    desk.write("prediction/extra.mha", &[1_u8], SPACING);
    fs::write(desk.path("truth/notes.txt"), "no image").unwrap();
    let (code, stdout, stderr) = desk.evaluate(&["--output", "scores.json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr, " WARN prediction/extra.mha: not counted, there is no truth of this name\n");
    insta::assert_snapshot!(stdout);
    let scores = read_json(&desk.path("scores.json"));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&scores), "per_subject aggregates");
    assert_eq!(scores["per_subject"].as_array().unwrap().len(), 8);
    assert_eq!(
        names(&scores["per_subject"][0]),
        "subject volumetric_dice surface_dice hausdorff95 masd gt_volume pred_volume"
    );
    assert_eq!(
        names(&scores["aggregates"]),
        "mean_volumetric_dice mean_surface_dice mean_hausdorff95 mean_masd tumor_burden_rmse"
    );
}

/// A NIfTI-1 file, compressed, of [`SHAPE`] and [`SPACING`] whose first voxels are `values`, the others 0.
fn nifti(values: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 352 + SHAPE.iter().product::<usize>()];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    let [z, y, x] = SHAPE.map(|n| n as i16);
    put(40, &[3, x, y, z].map(i16::to_le_bytes).concat());
    put(70, &[2_i16, 8].map(i16::to_le_bytes).concat());
    let [z, y, x] = SPACING.map(|step| step as f32);
    put(76, &[1.0, x, y, z].map(f32::to_le_bytes).concat());
    put(108, &352_f32.to_le_bytes());
    put(344, b"n+1\0");
    put(352, values);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&file).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn endings_may_differ() {
    let desk = Desk::new();
    fs::write(desk.path("truth/a.nii.gz"), nifti(&[1, 1])).unwrap();
    desk.write("prediction/a.mha", &[1_u8, 1], SPACING);
    assert_eq!(desk.scores(&[]), [1.0, 1.0, 0.0, 0.0, 18.0, 18.0]);
}

#[test]
fn what_does_not_fit_into_memory_is_not_begun() {
    let desk = Desk::new();
    desk.write("truth/a.mha", &[1_u8; 24], SPACING);
    desk.write("prediction/a.mha", &[1_u8], SPACING);
    let Pairs { pairs, .. } = Pairs::find(&desk.path("truth"), &desk.path("prediction")).unwrap();
    let refusals = [
        (MemoryGauge::new(|| Some(100)), "the image's voxels need 120 bytes"),
        (MemoryGauge::new(|| Some(200)), "the distances between the surfaces need 660 bytes"),
    ];
    for (memory, message) in refusals {
        let error = panther::evaluate(&pairs, AxisOrder::Right, memory).unwrap_err();
        assert!(error.is_out_of_memory() && error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("truth/a.mha"), "{error}");
    }
}

#[test]
fn the_file_for_the_numbers_is_tried_before_the_work() {
    let desk = Desk::new();
    let (code, _, stderr) = desk.evaluate(&["--output", "/nowhere/at/all.json"]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("/nowhere/at/all.json: cannot be written"), "{stderr}");
    let (code, _, stderr) = desk.evaluate(&["--output", "truth/a.mha"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("the name must end in .json"), "{stderr}");
}
