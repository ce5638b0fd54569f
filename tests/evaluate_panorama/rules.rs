//! What is scored, and by which numbers.

use crate::agreement::{RUN_FOLDER, assert_agrees, assert_close, golden, read_json};
use crate::desk::Desk;
use assert_cmd::Command;
use pdac_cascade::evaluation::ranking::{PrecisionRecall, Ranking};
use serde_json::{Value, json};
use std::fs;

#[test]
fn likelihoods_rank_the_cases() {
    let desk = Desk::with_cases();
    let (by_map, _) = desk.scores(&[]);
    assert_eq!(by_map["case_pred"], json!({ "a": 0.75, "b": 0.5, "c": 0.0 }));
    assert_eq!((&by_map["auroc"], &by_map["AP"]), (&json!(0.5), &json!(0.5)));
    desk.likelihoods(["0.9", "0.1", "0.2"]);
    let (by_likelihood, _) = desk.scores(&[]);
    assert_eq!(by_likelihood["case_pred"], json!({ "a": 0.9, "b": 0.1, "c": 0.2 }));
    assert_eq!((&by_likelihood["auroc"], &by_likelihood["AP"]), (&json!(1.0), &json!(0.5)));
}

#[test]
fn another_label_can_be_the_lesions() {
    let (scores, _) = Desk::with_cases().scores(&["--lesion-label", "2"]);
    assert_eq!(scores["case_target"], json!({ "a": 0, "b": 1, "c": 0 }));
    assert_close(&scores["lesion_results"]["b"], &json!([[1, 0.5, 0.5 + 2.5e-9]]), "b");
}

/// What a run leaves is scored like maps beside likelihoods.
#[test]
fn names_and_places_of_predictions_do_not_matter() {
    let flat = Desk::with_cases();
    flat.likelihoods(["0.9", "0.1", "0.2"]);
    let (expected, table) = flat.scores(&[]);
    for case in ["a", "b", "c"] {
        let run = flat.path("prediction").join(case);
        fs::create_dir_all(run.join(RUN_FOLDER.map)).unwrap();
        fs::rename(flat.path(&format!("prediction/{case}.mha")), run.join(RUN_FOLDER.map).join("any.mha"))
            .unwrap();
        fs::rename(flat.path(&format!("prediction/{case}.json")), run.join(RUN_FOLDER.likelihood)).unwrap();
        fs::rename(flat.path(&format!("truth/{case}.mha")), flat.path(&format!("truth/{case}_label.mha")))
            .unwrap();
    }
    fs::create_dir(flat.path("prediction/no-run")).unwrap();
    assert_eq!(flat.scores(&[]), (expected.clone(), table.clone()));
    for case in ["a", "b", "c"] {
        let run = flat.path("prediction").join(case);
        let map = flat.path(&format!("prediction/{case}_detection_map.mha"));
        fs::rename(run.join(RUN_FOLDER.map).join("any.mha"), map).unwrap();
        fs::rename(run.join(RUN_FOLDER.likelihood), flat.path(&format!("prediction/{case}.json"))).unwrap();
    }
    assert_eq!(flat.scores(&[]), (expected, table));
}

/// Writes the reports of a multi-task run for the golden cases.
fn report_multi_task(desk: &Desk, expected: &Value) {
    for (case, head) in expected["heads"].as_object().unwrap() {
        let run = desk.path("prediction").join(case);
        let (map, joined) = (&expected["maps"][case], &expected["joined"][case]);
        let likelihood = json!({ "combine": "mean", "head": head, "map": map, "joined": joined });
        let report = json!({ "tiles": 7, "likelihood": likelihood });
        fs::write(run.join(RUN_FOLDER.report), report.to_string()).unwrap();
        fs::write(run.join(RUN_FOLDER.likelihood), joined.to_string()).unwrap();
    }
}

#[test]
fn head_map_and_both_are_scored_apart() {
    let desk = Desk::with_golden(|case| format!("{case}/images/pdac-detection-map/scan.mha"));
    let expected = &golden()["multi_task"];
    report_multi_task(&desk, expected);
    let (scores, table) = desk.scores(&[]);
    let variants = scores["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 3);
    for (variant, name) in variants.iter().zip(["head alone", "map alone", "joined"]) {
        assert_eq!(variant["name"], name);
        assert_agrees(variant, &expected["variants"][name], name);
    }
    assert_close(&scores["auroc"], &expected["variants"]["joined"]["auroc"], "auroc");
    insta::assert_snapshot!(table);

    fs::write(desk.path("prediction/case-07/run-report.json"), "{\"tiles\": 7}").unwrap();
    let (_, _, warning) = desk.evaluate(&[]);
    assert_eq!(
        warning.trim(),
        "WARN case-07: its run has not reported what its likelihood was made of, head and map are not scored apart"
    );
    assert!(desk.scores(&[]).0.get("variants").is_none());
}

#[test]
fn named_cases_are_scored_and_no_others() {
    let desk = Desk::with_cases();
    desk.text("cases.txt", "\u{feff}c\r\n\n b \n");
    let (scores, _) = desk.scores(&["--cases", "cases.txt"]);
    assert_eq!(scores["case_target"], json!({ "b": 0, "c": 1 }));
    assert_eq!(scores["num_cases"], 2);
}

#[test]
fn predictions_without_truth_are_named() {
    let desk = Desk::with_cases();
    desk.remove("truth/b.mha");
    let (code, stdout, stderr) = desk.evaluate(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr, " WARN prediction/b.mha: not counted, there is no truth of this name\n");
    assert!(stdout.starts_with("2 cases, 2 lesions"), "{stdout}");
}

#[test]
fn what_is_not_defined_is_no_number() {
    let desk = Desk::with_cases();
    let (code, stdout, stderr) = desk.evaluate(&["--lesion-label", "6", "--output", "scores.json"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr, " WARN no truth has a voxel of label 6: there are no lesions to be found\n");
    let scores = read_json(&desk.path("scores.json"));
    assert_eq!(scores["auroc"], Value::Null);
    assert_eq!(scores["AP"], 0.0, "as picai_eval has it");
    assert_eq!(scores["confidence_intervals"], Value::Null);
    assert_eq!(scores["lesion_TPR"], json!([null, null]));
    insta::assert_snapshot!(stdout);
    let empty = Ranking::new([]).steps(&[]);
    assert_eq!(PrecisionRecall::of(&empty).average_precision(), None);
}

#[test]
fn intervals_follow_the_seed_and_are_near_picai_evals() {
    let desk = Desk::with_golden(|case| format!("{case}.mha"));
    let intervals = |more: &[&str]| desk.scores(more).0["confidence_intervals"].clone();
    let first = intervals(&["--bootstrap", "4000", "--seed", "3"]);
    assert_eq!((&first["samples"], &first["seed"]), (&json!(4000), &json!(3)));
    assert_eq!(intervals(&["--bootstrap", "4000", "--seed", "3"]), first);
    assert_ne!(intervals(&["--bootstrap", "4000", "--seed", "4"])["auroc"], first["auroc"]);
    assert_eq!(intervals(&["--bootstrap", "0"]), Value::Null);
    let expected = &golden()["bootstrap"];
    for metric in ["auroc", "AP"] {
        for end in [0, 1] {
            let [got, expected] = [&first, expected].map(|all| all[metric][end].as_f64().unwrap());
            // Both are means of 4000 draws: the percentiles scatter by about 0.005.
            assert!((got - expected).abs() < 0.02, "{metric}: {got}, expected about {expected}");
        }
    }
}

#[test]
fn help_names_every_option_and_exit_code() {
    let mut command = Command::cargo_bin("pdac-cascade").unwrap();
    let done = command.args(["evaluate", "panorama", "--help"]).env("COLUMNS", "100").output().unwrap();
    insta::assert_snapshot!(String::from_utf8(done.stdout).unwrap());
}
