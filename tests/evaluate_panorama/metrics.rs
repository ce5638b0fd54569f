//! The metrics against picai_eval's.

use crate::agreement::{GOLDEN, OPTIONS, RUN_FOLDER, assert_agrees, assert_close, golden, read_json};
use crate::shared_data;
use pdac_cascade::evaluation::DetectionCases;
use pdac_cascade::evaluation::panorama::{self, Options};
use pdac_cascade::evaluation::ranking::{Froc, PrecisionRecall, Ranking, Step, area_under_roc};
use pdac_cascade::imaging::MemoryGauge;
use serde_json::{Value, json};
use std::path::Path;

fn evaluate(truth: &Path, prediction: &Path, options: Options) -> Value {
    let found = DetectionCases::find(truth, prediction, RUN_FOLDER, None).unwrap();
    let evaluation = panorama::evaluate(&found.cases, &options, MemoryGauge::UNLIMITED).unwrap();
    serde_json::to_value(evaluation).unwrap()
}

#[test]
fn golden_maps_get_picai_evals_metrics() {
    let expected = golden();
    let overlaps = expected["overlaps"].as_object().unwrap();
    assert_eq!(overlaps.len(), 3);
    for (overlap, expected) in overlaps {
        let options = Options { min_overlap: overlap.parse().unwrap(), ..OPTIONS };
        let got = evaluate(&Path::new(GOLDEN).join("truth"), &Path::new(GOLDEN).join("prediction"), options);
        assert_eq!(expected.as_object().unwrap().len(), 17);
        assert_agrees(&got, expected, overlap);
    }
}

#[test]
fn picai_evals_own_test_maps_get_its_expected_files() {
    let Some(folder) = shared_data::folder("picai_eval_tests") else { return };
    let got = evaluate(&folder, &folder, OPTIONS);
    for name in ["metrics-expected.json", "metrics-full-expected.json", "metrics-minimal-expected.json"] {
        assert_agrees(&got, &read_json(&folder.join(name)), name);
    }
    // Written by a version that kept the precision at a score of 0, and numbers as text.
    let older = read_json(&folder.join("metrics-main-expected.json"));
    assert_agrees(
        &got,
        &json!({ "lesion_results": older["lesion_results"], "auroc": older["auroc"] }),
        "main",
    );
}

/// 15 ROC curves of 96 positive and 204 negative items; picai_eval's test expects this mean area.
#[test]
fn areas_under_picai_evals_own_test_curves_are_its() {
    let Some(folder) = shared_data::folder("picai_eval_tests") else { return };
    let curves = read_json(&folder.join("test-metrics.json"));
    let [true_rates, false_rates] = ["tpr", "fpr"].map(|name| curves[name].as_array().unwrap());
    let area = |(tpr, fpr): (&Value, &Value)| {
        let count = |rates: &Value, i: usize, all: f64| (rates[i].as_f64().unwrap() * all).round() as u64;
        let steps: Vec<_> = (0..tpr.as_array().unwrap().len())
            .map(|i| Step {
                threshold: -(i as f64),
                true_positives: count(tpr, i, 96.0),
                false_positives: count(fpr, i, 204.0),
            })
            .collect();
        area_under_roc(&steps).unwrap()
    };
    let areas: Vec<_> = true_rates.iter().zip(false_rates).map(area).collect();
    let mean = areas.iter().sum::<f64>() / areas.len() as f64;
    assert_eq!(areas.len(), 15);
    assert!((mean - 0.897_680_078_976_034_7).abs() < 1e-9, "{mean}");
}

/// picai_eval's `tests/test_calculate_counts.py` and `tests/test_lesion_tpr_at_fpr.py`.
#[test]
fn picai_evals_own_test_lists_get_its_curves() {
    let curves = |cases: &[&[(u8, f64)]]| {
        let items = cases.iter().enumerate();
        let items = items.flat_map(|(i, case)| case.iter().map(move |&(lesion, c)| (i, c, lesion == 1)));
        let steps = Ranking::new(items).steps(&vec![1; cases.len()]);
        (Froc::of(&steps, cases.len()), PrecisionRecall::of(&steps).average_precision().unwrap())
    };
    let (froc, precision) =
        curves(&[&[(0, 0.0)], &[(0, 0.0)], &[(1, 1.0)], &[(1, 0.0); 2], &[(0, 0.0)], &[(1, 0.0); 2]]);
    assert_close(&json!(froc.sensitivity), &json!([0.2_f32, 0.2_f32]), "TPR");
    assert_eq!(froc.false_positives_per_case, [0.0, f64::INFINITY]);
    assert!((precision - 0.2).abs() < 1e-15);

    let (froc, precision) =
        curves(&[&[(0, 0.0)], &[(0, 0.0)], &[(1, 0.0)], &[(1, 0.0); 2], &[(0, 0.0)], &[(1, 0.0); 2]]);
    assert_eq!(froc.sensitivity, [Some(0.0); 2]);
    assert_eq!(froc.false_positives_per_case, [0.0, f64::INFINITY]);
    assert_eq!(precision, 0.0);

    let (froc, _) =
        curves(&[&[(0, 1.0)], &[(0, 2.0)], &[(1, 3.0)], &[(1, 1.0); 2], &[(0, 3.0)], &[(1, 2.5), (1, 1.5)]]);
    assert_close(&json!(froc.sensitivity), &json!([0.2_f32, 0.4_f32, 0.4_f32, 0.6_f32, 0.6_f32]), "TPR");
    let rates = [1.0_f32 / 6.0, 1.0 / 6.0, 2.0 / 6.0, 2.0 / 6.0, f32::INFINITY];
    assert_eq!(froc.false_positives_per_case, rates.map(f64::from));
    assert_eq!(froc.at(0.3).sensitivity, Some(f64::from(0.4_f32)));
    assert_eq!(froc.at(0.1).sensitivity, Some(0.0));
}
