//! Every stage of one model's inference.

use crate::golden::{
    Golden, cases, differing_labels, heads_first, integers, logit_differences, near_ties, open_model,
    preprocess,
};
use pdac_cascade::nnunet::export::{Decision, Segmentation, SegmentationRequest, segment};
use pdac_cascade::nnunet::model_folder::ModelFolder;
use pdac_cascade::nnunet::predictor::{Logits, PredictOptions, Predictor, Preprocessed};
use pdac_cascade::nnunet::sliding_window::{Accumulate, importance_map, tile_starts};
use pdac_cascade::ops::Arithmetic;

const PREPROCESSED: f32 = 1e-4;
const WEIGHTS: f32 = 1e-4;
const LOGITS: f32 = 1e-3;
const PROBABILITIES: f32 = 1e-3;

fn options(accumulate: Accumulate) -> PredictOptions {
    PredictOptions {
        step: 0.5,
        mirroring: true,
        folds: None,
        accumulate,
        arithmetic: Arithmetic::detect(),
        gpu: None,
    }
}

fn check_preprocessed(golden: &Golden, scan: &Preprocessed) {
    let name = golden.name();
    let [z, y, x] = scan.shape();
    let per_channel = z * y * x;
    let channels: Vec<_> = scan.channels.iter().map(|c| c.as_standard_layout().into_owned()).collect();
    let value = |i: usize| channels[i / per_channel].as_slice().unwrap()[i % per_channel];
    let difference = golden.sample("preprocessed").largest_difference(&[channels.len(), z, y, x], value);
    eprintln!("{name}: preprocessed differs by {difference:.2e}");
    assert!(difference <= PREPROCESSED, "{name}: preprocessed differs by {difference}");
    let crop: Vec<Vec<usize>> = golden.info["crop"].as_array().unwrap().iter().map(integers).collect();
    let got: Vec<Vec<usize>> = (0..3).map(|a| vec![scan.crop.start[a], scan.crop.stop[a]]).collect();
    assert_eq!(got, crop, "{name}: non-zero box");
}

fn check_tiles(golden: &Golden, model: &ModelFolder) {
    let name = golden.name();
    let patch = model.configuration.patch_size;
    let map = importance_map(patch, Accumulate::Float32);
    let difference = golden.sample("gaussian").largest_difference(&patch, |i| map[i]);
    eprintln!("{name}: tile weights differ by {difference:.2e}");
    assert!(difference <= WEIGHTS, "{name}: tile weights differ by {difference}");
    let padded = integers(&golden.info["padded_shape"]);
    let starts = tile_starts([padded[1], padded[2], padded[3]], patch, 0.5);
    let expected: Vec<Vec<usize>> =
        golden.info["tile_starts"].as_array().unwrap().iter().map(integers).collect();
    assert_eq!(starts.to_vec(), expected, "{name}: tile starts");
}

fn check_segmentation(
    golden: &Golden,
    model: &ModelFolder,
    scan: &Preprocessed,
    logits: &Logits,
    prefix: &str,
) -> usize {
    let name = golden.name();
    let sample = golden.sample(&format!("{prefix}probabilities"));
    let heads: Vec<Segmentation> = (0..logits.values.dim().3)
        .map(|head| {
            let request =
                SegmentationRequest { decision: Decision::Probabilities, probability_of: Some(head) };
            segment(model, scan.grid(), logits, request)
        })
        .collect();
    let voxels = heads[0].labels.len();
    let value = |i: usize| heads[i / voxels].probability.as_ref().unwrap().as_slice().unwrap()[i % voxels];
    let shape: Vec<usize> = [&[heads.len()], heads[0].labels.shape()].concat();
    if prefix.is_empty() {
        let difference = sample.largest_difference(&shape, value);
        eprintln!("{name}: probabilities differ by {difference:.2e}");
        assert!(difference <= PROBABILITIES, "{name}: probabilities differ by {difference}");
    }
    let expected = golden.labels(&format!("{prefix}labels.mha"));
    let differing = differing_labels(&name, &heads[0].labels, &expected, 1);
    if prefix.is_empty() {
        let ties = near_ties(model, scan, logits, LOGITS);
        let clear = differing.iter().find(|&&at| !ties[at]);
        assert!(clear.is_none(), "{name}: label differs at {clear:?} although its logits are not close");
        assert!(expected.iter().any(|&label| label != 0), "{name}: an empty segmentation proves little");
    }
    differing.len()
}

#[test]
fn every_stage_of_inference_agrees_with_nnunet() {
    for folder in cases("nnunet", 12) {
        let golden = Golden::open(&folder);
        let name = golden.name();
        let model = open_model(&golden);
        let mut scan = preprocess(&golden, &model);
        check_preprocessed(&golden, &scan);
        check_tiles(&golden, &model);
        let predictor = Predictor::new(&model, options(Accumulate::Float32)).unwrap();
        let patch = model.configuration.patch_size;
        let below: [isize; 3] =
            std::array::from_fn(|a| -((patch[a].saturating_sub(scan.shape()[a]) / 2) as isize));
        let tile = predictor.raw_tile(scan.clone(), below).unwrap();
        let heads = tile.len() / patch.iter().product::<usize>();
        let shape = [&[heads], patch.as_slice()].concat();
        let difference =
            golden.sample("tile_output").largest_difference(&shape, heads_first(&tile, patch, heads));
        eprintln!("{name}: one tile differs by {difference:.2e}");
        assert!(difference <= LOGITS, "{name}: one tile's logits differ by {difference}");
        let logits = predictor.logits(&mut scan, &|_| true).unwrap();
        let difference = logit_differences(&golden, "logits", &logits).into_iter().fold(0.0, f32::max);
        eprintln!("{name}: logits differ by {difference:.2e}");
        assert!(difference <= LOGITS, "{name}: logits differ by {difference}");
        let differing = check_segmentation(&golden, &model, &scan, &logits, "");
        eprintln!("{name}: {differing} labels differ");
    }
}

/// float16 steps flip where the float32 sums before them differ in the last bit; near the edges, where weights are
/// subnormal, one step is large. So the number of elements that differ is bounded, not their difference.
#[test]
fn float16_accumulation_rounds_as_nnunet_does() {
    let mut compared = 0;
    for folder in cases("nnunet", 12) {
        let golden = Golden::open(&folder);
        if golden.info.get("half_logits").is_none() {
            continue;
        }
        let model = open_model(&golden);
        let mut scan = preprocess(&golden, &model);
        let predictor = Predictor::new(&model, options(Accumulate::Float16)).unwrap();
        let logits = predictor.logits(&mut scan, &|_| true).unwrap();
        let differences = logit_differences(&golden, "half_logits", &logits);
        let off = differences.iter().filter(|d| **d > 0.0).count() as f64 / differences.len() as f64;
        let precise = predictor_difference(&golden, &model);
        let labels = check_segmentation(&golden, &model, &scan, &logits, "half_");
        eprintln!(
            "{}: {off:.4} of float16 logits differ ({precise:.4} with float32), {labels} labels",
            golden.name()
        );
        assert!(off < 0.01, "{}: {off} of the float16 logits differ", golden.name());
        assert!(precise > 0.5, "float32 accumulation should not give float16 logits");
        compared += 1;
    }
    assert_eq!(compared, 3);
}

/// Part of the golden float16 logits that float32 accumulation does not hit.
fn predictor_difference(golden: &Golden, model: &ModelFolder) -> f64 {
    let mut scan = preprocess(golden, model);
    let predictor = Predictor::new(model, options(Accumulate::Float32)).unwrap();
    let logits = predictor.logits(&mut scan, &|_| true).unwrap();
    let differences = logit_differences(golden, "half_logits", &logits);
    differences.iter().filter(|d| **d > 0.0).count() as f64 / differences.len() as f64
}

#[test]
fn an_observer_can_stop_a_prediction() {
    let golden = Golden::open(&cases("nnunet", 12)[0]);
    let model = open_model(&golden);
    let mut scan = preprocess(&golden, &model);
    let predictor = Predictor::new(&model, options(Accumulate::Float32)).unwrap();
    let error = predictor.logits(&mut scan, &|_| false).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}
