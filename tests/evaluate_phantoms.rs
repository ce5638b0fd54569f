//! The detection scored on phantoms that the program makes itself.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::process::Output;
use tempfile::TempDir;

fn evaluate(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("pdac-cascade").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["evaluate", "phantoms"]).args(arguments);
    command.output().unwrap()
}

#[test]
fn two_phantoms_are_made_run_and_scored() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("scores.json");
    let done = evaluate(&["--count", "2", "--bootstrap", "5", "--output", file.to_str().unwrap()]);
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{log}");
    assert!(
        log.contains("seed=500000") && log.contains("seed=500001") && log.contains("s a phantom"),
        "{log}"
    );
    let table = String::from_utf8(done.stdout).unwrap();
    for row in [
        "2 cases, 1 lesions, found from an overlap of 0.15",
        "head alone",
        "map alone",
        "joined",
        "share of the true",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    let scores: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!((&scores["first_seed"], &scores["num_cases"]), (&Value::from(500_000), &Value::from(2)));
    let targets: Vec<_> =
        scores["case_target"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).collect();
    assert_eq!(targets, [0, 1], "the second has a lesion");
    let variants = scores["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 3);
    // One pair of patients: it is ranked rightly or it is not.
    assert!(variants.iter().all(|v| [0.0, 0.5, 1.0].contains(&v["auroc"].as_f64().unwrap())));
    let baseline = &scores["intensity_baseline"];
    assert!(baseline["threshold_hu"].is_i64() && baseline["auroc"].as_f64().unwrap() >= 0.5);
    let predictions = scores["case_pred"].as_object().unwrap().values().map(|v| v.as_f64().unwrap());
    assert!(predictions.clone().all(|p| (0.0..=1.0).contains(&p)) && predictions.clone().any(|p| p > 0.0));
}

#[test]
fn wrong_arguments_are_refused_before_the_work() {
    for (arguments, code, expected) in [
        (&["--count", "0"][..], 2, "--count <N>"),
        (&["--output", "scores.txt"], 2, "the name must end in .json"),
        (&["--min-overlap", "2"], 2, "expected a number from 0 to 1"),
        (&["--output", "/nowhere/scores.json"], 4, "/nowhere"),
        (&["--weights", "/nowhere"], 5, "/nowhere/panorama/pipeline.json"),
    ] {
        let done = evaluate(arguments);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "expected {expected:?}, got {said}");
    }
}
