//! Golden answers, and what agreeing with them means.

use pdac_cascade::evaluation::panorama::Options;
use pdac_cascade::evaluation::{Bootstrap, RunFolder};
use serde_json::Value;
use std::fs;
use std::path::Path;

pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/panorama_evaluation");
pub const RUN_FOLDER: RunFolder = RunFolder {
    map: "images/pdac-detection-map",
    likelihood: "pdac-likelihood.json",
    report: "run-report.json",
};
pub const NO_BOOTSTRAP: Bootstrap = Bootstrap { samples: 0, seed: 0 };
pub const OPTIONS: Options = Options { min_overlap: 0.1, lesion_label: 1, bootstrap: NO_BOOTSTRAP };

pub fn read_json(path: &Path) -> Value {
    // What Python calls infinity is null in ours.
    let text = fs::read_to_string(path).unwrap().replace("Infinity", "null");
    serde_json::from_str(&text).unwrap()
}

pub fn golden() -> Value {
    read_json(&Path::new(GOLDEN).join("expected.json"))
}

/// Checks that numbers are equal to 1e-9, wherever they are.
pub fn assert_close(got: &Value, expected: &Value, place: &str) {
    match (got, expected) {
        (Value::Object(got), Value::Object(expected)) => {
            assert_eq!(got.len(), expected.len(), "{place}");
            expected
                .iter()
                .for_each(|(key, value)| assert_close(&got[key], value, &format!("{place}.{key}")));
        }
        (Value::Array(got), Value::Array(expected)) => {
            assert_eq!(got.len(), expected.len(), "{place}");
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                assert_close(got, expected, &format!("{place}[{i}]"));
            }
        }
        (Value::Number(got), Value::Number(expected)) => {
            let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((got - expected).abs() <= 1e-9, "{place}: {got:e}, expected {expected:e}");
        }
        _ => assert_eq!(got, expected, "{place}"),
    }
}

/// A case's results in an order of their own: picai_eval's false candidates come in that of a Python set.
pub fn in_order(results: &Value) -> Value {
    let mut results = results.clone();
    for case in results.as_object_mut().unwrap().values_mut() {
        let key = |result: &Value| [0, 1, 2].map(|i| result[i].as_f64().unwrap());
        case.as_array_mut().unwrap().sort_by(|a, b| key(a).partial_cmp(&key(b)).unwrap());
    }
    results
}

/// Checks all of picai_eval's keys but its version.
pub fn assert_agrees(got: &Value, expected: &Value, place: &str) {
    for (key, expected) in expected.as_object().unwrap() {
        let place = format!("{place}.{key}");
        match key.as_str() {
            "lesion_results" => assert_close(&in_order(&got[key]), &in_order(expected), &place),
            "froc" => assert_froc(&got[key], expected, &place),
            "picai_eval_version" => assert_eq!(&got[key], expected),
            _ => assert_close(&got[key], expected, &place),
        }
    }
}

pub fn assert_froc(got: &Value, expected: &Value, place: &str) {
    let by_rate = got.as_array().unwrap().iter().map(|point| {
        (point["false_positives_per_case"].as_f64().unwrap().to_string(), point["sensitivity"].clone())
    });
    assert_close(&Value::Object(by_rate.collect()), expected, place);
}
