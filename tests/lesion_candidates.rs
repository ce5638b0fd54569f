//! Lesion candidates against `report_guided_annotation` 0.3.4, bit for bit.
//!
//! The golden volumes and answers are made by `scripts/reference/make_candidate_vectors.py`; the shared data
//! holds the package's own test suite.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "shared_data/mod.rs"]
mod shared_data;

use ndarray::Array3;
use pdac_cascade::detection::{CandidateOptions, LesionCandidates, extract_lesion_candidates};
use pdac_cascade::imaging::file::read_image;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/candidates");

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    let digest = Sha256::digest(bytes.into_iter().collect::<Vec<_>>());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn map_bytes(found: &LesionCandidates) -> Vec<u8> {
    found.detection_map.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn index_bytes(found: &LesionCandidates) -> Vec<u8> {
    found.index_map.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn extract(volume: &Array3<f32>, options: &Value) -> LesionCandidates {
    let options: CandidateOptions = serde_json::from_value(options.clone()).unwrap();
    extract_lesion_candidates(volume, &options).unwrap()
}

fn golden_volumes() -> BTreeMap<String, Array3<f32>> {
    let bytes = std::fs::read(format!("{GOLDEN}/volumes.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let volume = |tensor: &safetensors::tensor::TensorView<'_>| {
        let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let shape: [usize; 3] = tensor.shape().try_into().unwrap();
        Array3::from_shape_vec(shape, values.collect()).unwrap()
    };
    tensors.iter().map(|(name, tensor)| (name.to_owned(), volume(&tensor))).collect()
}

#[test]
fn golden_volumes_give_the_originals_bits_in_every_mode() {
    let expected = read_json(&Path::new(GOLDEN).join("expected.json"));
    let settings = expected["settings"].as_array().unwrap();
    let volumes = golden_volumes();
    assert_eq!(volumes.len(), 10);
    for (name, volume) in &volumes {
        let answers = expected[name].as_array().unwrap();
        assert_eq!(answers.len(), settings.len());
        for (options, answer) in settings.iter().zip(answers) {
            let found = extract(volume, options);
            let confidences: Vec<_> =
                found.confidences.iter().map(|&(i, c)| json!([i, c.to_bits()])).collect();
            assert_eq!(Value::from(confidences), answer["confidences"], "{name} with {options}");
            let maps = [map_bytes(&found), index_bytes(&found)].concat();
            assert_eq!(sha256(maps), answer["maps_sha256"].as_str().unwrap(), "{name} with {options}");
            let largest = found.detection_map.iter().copied().fold(0.0, f32::max);
            assert_eq!(found.likelihood(), largest, "{name} with {options}");
        }
    }
}

#[test]
fn components_of_eleven_voxels_survive_and_of_ten_do_not() {
    let volume = &golden_volumes()["bars"];
    let found = extract(volume, &json!({"threshold": 0.15}));
    let sizes: Vec<_> = found
        .confidences
        .iter()
        .map(|&(index, _)| found.index_map.iter().filter(|&&i| i == index).count())
        .collect();
    assert_eq!(sizes, [11, 11, 11]);
    assert_eq!(found.confidences.iter().map(|&(i, _)| i).collect::<Vec<_>>(), [2, 5, 7], "gaps stay");
}

#[test]
fn version_two_goes_on_where_version_one_gives_up() {
    let volume = &golden_volumes()["specks_then_lesions"];
    assert_eq!(extract(volume, &json!({"threshold": "dynamic"})).confidences.len(), 2);
    assert_eq!(extract(volume, &json!({"threshold": "dynamic-v2"})).confidences.len(), 5);
}

fn load_map(path: &Path) -> Array3<f32> {
    read_image(path).unwrap().into_f32_volume().data
}

/// Options behind the names of the settings in `reference_vectors.json`.
fn options_called(setting: &str) -> Value {
    match setting {
        "dynamic" | "dynamic-v2" | "dynamic-fast" => json!({"threshold": setting}),
        "dynamic_n2_keepadjacent" => json!({
            "threshold": "dynamic", "num_lesions_to_extract": 2, "remove_adjacent_lesion_candidates": false
        }),
        "dynamic-fast_factor15" => json!({"threshold": "dynamic-fast", "dynamic_threshold_factor": 15}),
        "dynamic_factor15" => json!({"threshold": "dynamic", "dynamic_threshold_factor": 15}),
        "static0.1_round4" => json!({"threshold": 0.1, "max_prob_round_decimals": 4}),
        "dynamic-v2_min0_n10" => json!({
            "threshold": "dynamic-v2", "min_voxels_detection": 0, "num_lesions_to_extract": 10
        }),
        other => panic!("unknown setting {other}"),
    }
}

#[test]
fn the_packages_suite_gives_the_originals_bits() {
    let Some(folder) = shared_data::folder("rga_tests") else { return };
    let reference = read_json(&folder.join("reference_vectors.json"));
    for (file, entry) in reference.as_object().unwrap() {
        let volume = load_map(&folder.join(file));
        for (setting, expected) in entry["results"].as_object().unwrap() {
            let found = extract(&volume, &options_called(setting));
            let expected_confidences = expected["confidences"].as_array().unwrap();
            assert_eq!(found.confidences.len(), expected_confidences.len(), "{file} {setting}");
            for (&(index, confidence), pair) in found.confidences.iter().zip(expected_confidences) {
                assert_eq!(u64::from(index), pair[0].as_u64().unwrap(), "{file} {setting}");
                // Decimal text may come back one unit in the last place away.
                assert!((confidence - pair[1].as_f64().unwrap()).abs() < 1e-15, "{file} {setting}: {pair}");
            }
            for (bytes, key) in
                [(map_bytes(&found), "hard_sha256_le_f4"), (index_bytes(&found), "index_sha256_le_i4")]
            {
                assert_eq!(sha256(bytes), expected[key].as_str().unwrap(), "{file} {setting} {key}");
            }
        }
    }
}

/// The package's own expectation: the most confident candidates, as many as its table retains.
#[test]
fn the_packages_expected_masks_are_the_most_confident_candidates() {
    let Some(folder) = shared_data::folder("rga_tests") else { return };
    let reference = read_json(&folder.join("reference_vectors.json"));
    let mut compared = 0;
    for (file, entry) in reference.as_object().unwrap() {
        let Some(mask) = entry["repo_expected_mask"].as_str() else { continue };
        let found = extract(&load_map(&folder.join(file)), &json!({"threshold": "dynamic"}));
        let mut ranked = found.confidences.clone();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(entry["num_lesions_to_retain"].as_u64().unwrap() as usize);
        let expected = load_map(&folder.join(mask));
        let retained = found.index_map.mapv(|i| ranked.iter().any(|r| r.0 == i));
        assert_eq!(retained, expected.mapv(|v| v != 0.0), "{file}");
        compared += 1;
    }
    assert_eq!(compared, 5);
}
