//! What is refused, and in which words.

use crate::agreement::{OPTIONS, RUN_FOLDER};
use crate::desk::{Desk, SPACING};
use ndarray::Array3;
use pdac_cascade::evaluation::DetectionCases;
use pdac_cascade::evaluation::panorama;
use pdac_cascade::imaging::MemoryGauge;
use serde_json::{Value, json};
use std::fs;

/// What makes one of three good cases a bad one.
type Spoil = fn(&Desk);

/// What is spoilt, and what the program says.
const REFUSED: [(Spoil, &str); 24] = [
    (
        |desk| ["prediction/a.mha", "prediction/c.mha"].iter().for_each(|name| desk.remove(name)),
        "prediction: no detection map of case a\nERROR prediction: no detection map of case c\n\
         ERROR 2 of 3 cases have no truth or no detection map: a, c",
    ),
    (
        |desk| desk.text("cases.txt", "a\nx\nb\n"),
        "truth: no truth of case x\nERROR prediction: no detection map of case x\n\
         ERROR 1 of 3 cases have no truth or no detection map: x",
    ),
    (
        |desk| {
            desk.remove("truth/b.mha");
            desk.text("cases.txt", "b\n");
        },
        "truth: no truth of case b\nERROR 1 of 1 cases have no truth or no detection map: b",
    ),
    (|desk| desk.text("cases.txt", "a\nb\n\na\n"), "cases.txt: line 4: case a again, expected each once"),
    (|desk| desk.text("cases.txt", " \n"), "cases.txt: expected the name of a case in each line, got none"),
    (|desk| fs::create_dir(desk.path("cases.txt")).unwrap(), "cases.txt: Is a directory (os error 21)"),
    (
        |desk| desk.write("prediction/b.mha", &[0.5_f32, 0.25, 0.125], SPACING),
        "prediction/b.mha: expected a detection map with one value for each candidate, got at least 2 different values other than 0 \
         in 1 connected components (a map of probabilities?)",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[0.5_f32, -0.25], SPACING),
        "prediction/b.mha: expected confidences of 0 or more, got a voxel of -0.25",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[0.5_f32, f32::NAN], SPACING),
        "prediction/b.mha: expected confidences of 0 or more, got a voxel of NaN",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[1e300_f64], SPACING),
        "prediction/b.mha: expected confidences of 0 or more, got a voxel of inf",
    ),
    (
        |desk| desk.write_volume("prediction/b.mha", Array3::from_elem([4, 3, 2], 0.5_f32), SPACING),
        "prediction/b.mha: size is [2, 3, 4] (x, y, z), expected the [4, 3, 2] of truth/b.mha",
    ),
    (
        |desk| desk.write("prediction/b.mha", &[0.5_f32], [3.0, 2.0, 1.6]),
        "prediction/b.mha: spacing is [1.6, 2.0, 3.0] mm (x, y, z), expected the [1.5, 2.0, 3.0] of truth/b.mha",
    ),
    (
        |desk| desk.write("truth/b.mha", &[1.0_f32, 0.5], SPACING),
        "truth/b.mha: expected labels, which are whole numbers, got a voxel of 0.5",
    ),
    (
        |desk| desk.write("truth/b.mha", &[1.0_f32, f32::NAN], SPACING),
        "truth/b.mha: expected labels, which are whole numbers, got a voxel of NaN",
    ),
    (
        |desk| desk.likelihoods(["0.5", "\"high\"", "0.5"]),
        "prediction/b.json: expected a number from 0 to 1: invalid type: string \"high\", expected f64 at line 1 column 6",
    ),
    (
        |desk| desk.likelihoods(["0.5", "1.5", "0.5"]),
        "prediction/b.json: the likelihood is 1.5, expected a number from 0 to 1",
    ),
    (
        |desk| desk.likelihoods(["0.5", "-0.1", "0.5"]),
        "prediction/b.json: the likelihood is -0.1, expected a number from 0 to 1",
    ),
    (
        |desk| {
            desk.likelihoods(["0.5", "0.5", "0.5"]);
            desk.remove("prediction/b.json");
        },
        "prediction/b.json: no such file, expected a likelihood of every case or of none, and there is prediction/a.json",
    ),
    (
        |desk| report(desk, &json!({ "combine": "median", "head": 0.5, "map": 0.5, "joined": 0.5 })),
        "prediction/b/run-report.json: expected a report whose likelihood has combine, head, map and joined: unknown variant \
         `median`, expected one of `mean`, `max`, `noisy_or`, `map_only`, `head_only` at line 1 column 33",
    ),
    (
        |desk| report(desk, &json!({ "combine": "max", "head": 0.5, "map": 2.0, "joined": 0.5 })),
        "prediction/b/run-report.json: likelihood.map is 2, expected a number from 0 to 1",
    ),
    (
        |desk| {
            desk.likelihoods(["0.5", "0.5", "0.5"]);
            report(desk, &json!({ "combine": "mean", "head": 0.5, "map": 0.5, "joined": 0.25 }));
            fs::rename(desk.path("prediction/b.json"), desk.path("prediction/b/pdac-likelihood.json"))
                .unwrap();
        },
        "prediction/b/run-report.json: likelihood.joined is 0.25, prediction/b/pdac-likelihood.json says 0.5: not of one run",
    ),
    (
        |desk| {
            let maps = desk.path("prediction/b").join(RUN_FOLDER.map);
            fs::create_dir_all(&maps).unwrap();
            fs::copy(desk.path("prediction/b.mha"), maps.join("scan.mha")).unwrap();
        },
        "prediction/b.mha and prediction/b/images/pdac-detection-map/scan.mha: two images of one case, expected one",
    ),
    (
        |desk| ["a", "b", "c"].iter().for_each(|case| desk.remove(&format!("truth/{case}.mha"))),
        "truth: holds no image, expected the truth of at least one case",
    ),
    (
        |desk| fs::rename(desk.path("prediction"), desk.path("elsewhere")).unwrap(),
        "prediction: No such file or directory (os error 2)",
    ),
];

/// Makes case b a run with this likelihood in its report.
fn report(desk: &Desk, likelihood: &Value) {
    let run = desk.path("prediction/b");
    fs::create_dir_all(run.join(RUN_FOLDER.map)).unwrap();
    fs::rename(desk.path("prediction/b.mha"), run.join(RUN_FOLDER.map).join("scan.mha")).unwrap();
    fs::write(run.join(RUN_FOLDER.report), json!({ "likelihood": likelihood }).to_string()).unwrap();
}

#[test]
fn what_cannot_be_scored_is_refused() {
    for (spoil, message) in REFUSED {
        let desk = Desk::with_cases();
        spoil(&desk);
        let cases: &[&str] = if desk.path("cases.txt").exists() { &["--cases", "cases.txt"] } else { &[] };
        let (code, stdout, stderr) = desk.evaluate(&[&["--output", "scores.json"], cases].concat());
        assert_eq!((code, stdout.as_str(), stderr.trim()), (3, "", format!("ERROR {message}").as_str()));
        assert!(!desk.path("scores.json").exists(), "{message}");
    }
}

#[test]
fn a_report_of_another_map_is_refused() {
    let desk = Desk::with_cases();
    report(&desk, &json!({ "combine": "mean", "head": 0.9, "map": 0.1, "joined": 0.5 }));
    let (code, _, stderr) = desk.evaluate(&[]);
    let said =
        "prediction/b/images/pdac-detection-map/scan.mha: the maximum is 0.5, the report of its run says 0.1";
    assert!(code == 3 && stderr.contains(said), "{stderr}");
}

#[test]
fn scores_do_not_take_the_place_of_a_likelihood() {
    let desk = Desk::with_cases();
    for folder in ["truth", "prediction"] {
        let (code, _, stderr) = desk.evaluate(&["--output", &format!("{folder}/a.json")]);
        assert_eq!(code, 4, "{stderr}");
        assert!(stderr.contains("a.json: cannot be written: the folder holds what is scored"), "{stderr}");
        assert!(!desk.path(&format!("{folder}/a.json")).exists());
    }
}

#[test]
fn every_missing_prediction_is_named_however_many_there_are() {
    let desk = Desk::with_cases();
    let names: Vec<_> = (0..500).map(|number| format!("100{number:03}_00001")).collect();
    desk.text("cases.txt", &names.join("\n"));
    let (code, _, stderr) = desk.evaluate(&["--cases", "cases.txt"]);
    assert_eq!(code, 3);
    for name in &names {
        assert!(stderr.contains(&format!("prediction: no detection map of case {name}\n")), "{name}");
        assert!(stderr.contains(&format!("truth: no truth of case {name}\n")), "{name}");
    }
}

#[test]
fn what_does_not_fit_into_memory_is_not_begun() {
    let desk = Desk::with_cases();
    let found =
        DetectionCases::find(&desk.path("truth"), &desk.path("prediction"), RUN_FOLDER, None).unwrap();
    let little = MemoryGauge::new(|| Some(100));
    let error = panorama::evaluate(&found.cases, &OPTIONS, little).unwrap_err();
    assert!(error.is_out_of_memory() && error.to_string().contains("truth/a.mha"), "{error}");
}

#[test]
fn arguments_are_checked_before_the_work() {
    let desk = Desk::with_cases();
    let (code, _, stderr) = desk.evaluate(&["--output", "/nowhere/at/all.json"]);
    assert_eq!(code, 4, "{stderr}");
    for (option, value) in
        [("--min-overlap", "1.5"), ("--min-overlap", "NaN"), ("--lesion-label", "0"), ("--output", "a.mha")]
    {
        let (code, _, stderr) = desk.evaluate(&[option, value]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(option), "{stderr}");
    }
}
