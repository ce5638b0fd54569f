//! The likelihood of a cascade whose second stage has a classification head: what a recipe may ask, and what comes of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use ndarray::Array3;
use pdac_cascade::challenge::{Case, PANORAMA};
use pdac_cascade::detection::{Combine, Likelihood, PatchRule};
use pdac_cascade::imaging::Volume;
use pdac_cascade::pipeline::{Answer, Detection, ExecutionOptions, System, Unobserved};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The baseline's first stage with a random network that has a head as second stage.
fn recipe() -> Value {
    let baseline = root("tests/golden/baseline/panorama");
    let mut recipe: Value =
        serde_json::from_slice(&fs::read(baseline.join("pipeline.json")).unwrap()).unwrap();
    let pancreas = baseline.join(recipe["pancreas"]["model"]["folder"].as_str().unwrap());
    recipe["pancreas"]["model"]["folder"] = json!(pancreas);
    recipe["pancreas"]["model"]["folds"] = json!([0]);
    recipe["pancreas"]["model"]["mirroring"] = json!(false);
    recipe["lesion"]["model"] = json!({
        "folder": root("tests/golden/multitask/model"), "folds": [0, 1], "checkpoint": "checkpoint_final",
        "mirroring": false, "step": 1.0
    });
    recipe["mask"]["labels"] = json!([1, 2]);
    recipe["candidates"]["dynamic_threshold_factor"] = json!(1.5);
    recipe["roi"]["margin_mm_xyz"] = json!([0, 0, 0]);
    recipe["likelihood"] = json!({"combine": "mean", "patches": "max"});
    recipe
}

fn open(recipe: &Value) -> Result<System, String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("pipeline.json");
    fs::write(&file, recipe.to_string()).unwrap();
    System::open(&file).map_err(|error| error.to_string())
}

fn run(recipe: &Value, ct: &Volume<f32>) -> Detection {
    let system = open(recipe).unwrap();
    let run = system.begin(ExecutionOptions::default());
    match run.run(Arc::new(ct.clone()), &Unobserved).unwrap() {
        Answer::Detection(detection) => detection,
        Answer::Segmentation(_) => panic!("another system"),
    }
}

fn phantom() -> Volume<f32> {
    Case::find(&root("tests/golden/baseline/input"), &PANORAMA).unwrap().read().unwrap()
}

#[test]
fn head_and_map_are_joined_as_the_recipe_says() {
    let ct = phantom();
    let mut recipe = recipe();
    let mut maps = Vec::new();
    for (name, combine) in [
        ("mean", Combine::Mean),
        ("max", Combine::Max),
        ("noisy_or", Combine::NoisyOr),
        ("head_only", Combine::HeadOnly),
    ] {
        recipe["likelihood"]["combine"] = json!(name);
        let detection = run(&recipe, &ct);
        let Likelihood { head, map, joined, .. } = detection.joined.unwrap();
        assert!(head > 0.0 && map > 0.0 && (head - map).abs() > 0.01, "{head} and {map} prove little");
        assert_eq!(joined, combine.of(head, map), "{name}");
        assert_eq!(detection.likelihood, joined);
        let peak = detection.map.data.iter().copied().fold(0.0, f32::max);
        assert_eq!(f64::from(peak), map, "the map keeps its own confidences");
        maps.push(detection.map);
    }
    recipe["likelihood"]["combine"] = json!("map_only");
    let detection = run(&recipe, &ct);
    let peak = detection.map.data.iter().copied().fold(0.0, f32::max);
    assert_eq!((detection.joined, detection.likelihood), (None, f64::from(peak)), "the head is not asked");
    maps.push(detection.map);
    assert!(maps.iter().all(|map| map.data == maps[0].data));
    recipe["likelihood"] = json!({});
    let joined = run(&recipe, &ct).joined.unwrap();
    assert_eq!((joined.combine, joined.patches), (Combine::Mean, PatchRule::Max));
}

#[test]
fn patches_become_one_probability_as_the_recipe_says() {
    let ct = phantom();
    let mut recipe = recipe();
    let mut head = |rule: &str| {
        recipe["likelihood"]["patches"] = json!(rule);
        run(&recipe, &ct).joined.unwrap().head
    };
    let [max, mean, centre] = ["max", "mean", "centre"].map(&mut head);
    assert!(mean < max && centre <= max, "{max}, {mean}, {centre}");
}

#[test]
fn where_no_pancreas_is_found_all_is_zero() {
    let mut air = phantom();
    air.data = Array3::from_elem(air.data.dim(), -900.0);
    let detection = run(&recipe(), &air);
    let Likelihood { head, map, joined, .. } = detection.joined.unwrap();
    assert_eq!((detection.likelihood, head, map, joined), (0.0, 0.0, 0.0, 0.0));
}

/// What is wrong with a recipe or its models is said before anything runs.
#[test]
fn a_recipe_and_a_head_that_do_not_fit_are_named() {
    type Change = fn(&mut Value);
    let headless: Change = |r| {
        r["lesion"]["model"]["folder"] = r["pancreas"]["model"]["folder"].clone();
        r["mask"] = Value::Null;
    };
    let table: [(Change, &[&str]); 8] = [
        (
            |r| drop(r.as_object_mut().unwrap().remove("likelihood")),
            &[
                "lesion.model has a classification head",
                "multitask/model: checkpoint checkpoint_final has tensors classifier.*",
                "expected the key likelihood",
            ],
        ),
        (headless, &["likelihood asks for a classification head", "has none (no tensor classifier.*)"]),
        (
            |r| r["pancreas"]["model"]["folder"] = r["lesion"]["model"]["folder"].clone(),
            &["pancreas.model has a classification head", "only lesion.model of panorama may"],
        ),
        (
            |r| r["likelyhood"] = r["likelihood"].clone(),
            &["likelyhood: unknown field `likelyhood`", "did you mean `likelihood`?"],
        ),
        (
            |r| r["likelihood"]["combin"] = json!("max"),
            &["likelihood.combin: unknown field `combin`", "did you mean `combine`?"],
        ),
        (
            |r| r["likelihood"]["combine"] = json!("noisy-or"),
            &["likelihood.combine: unknown variant `noisy-or`", "did you mean `noisy_or`?"],
        ),
        (
            |r| r["lesion"]["model"]["step"] = json!("half"),
            &["lesion.model.step: invalid type: string \"half\", expected f64 at line 1 column "],
        ),
        (
            |r| r["system"] = json!("panoramma"),
            &["system: unknown variant `panoramma`", "did you mean `panorama`?"],
        ),
    ];
    for (change, expected) in table {
        let mut recipe = recipe();
        change(&mut recipe);
        let said = open(&recipe).unwrap_err();
        assert!(said.contains("pipeline.json: "), "{said}");
        for part in expected {
            assert!(said.contains(part), "expected {part:?}, got {said:?}");
        }
    }
}

#[test]
fn a_head_may_be_ignored_and_a_map_needs_none() {
    let mut with_head = recipe();
    with_head["likelihood"] = json!({"combine": "map_only"});
    open(&with_head).unwrap();
    let mut without = with_head.clone();
    without["lesion"]["model"]["folder"] = without["pancreas"]["model"]["folder"].clone();
    without["lesion"]["model"]["folds"] = json!([0]);
    without["mask"] = Value::Null;
    let detection = run(&without, &phantom());
    let peak = detection.map.data.iter().copied().fold(0.0, f32::max);
    assert_eq!((detection.joined, detection.likelihood), (None, f64::from(peak)));
}
