//! How far the arithmetic of AMX is from float32 on vectors, on networks that were trained and at real width.
//!
//! On processors without AMX its instructions are emulated, hundreds of times slower.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "amx_emulation/emulator/mod.rs"]
mod amx_emulator;
#[path = "golden_inference/golden.rs"]
#[expect(dead_code, reason = "the golden numbers are not needed here")]
mod golden;

use candle_core::{Device, Tensor};
use golden::{Golden, ROOT, cases, open_model, preprocess};
use ndarray::Array3;
use pdac_cascade::challenge::{Case, PANORAMA};
use pdac_cascade::network::{Runner, Weights};
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::export::{SegmentationRequest, segment};
use pdac_cascade::nnunet::model_folder::ModelFolder;
use pdac_cascade::nnunet::plans::Plans;
use pdac_cascade::nnunet::predictor::{PredictOptions, Predictor};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::{AddLogits, Arithmetic, GatherTile, Isa, Precision};
use pdac_cascade::pipeline::{ExecutionOptions, System, Unobserved};
use std::path::Path;

/// Largest difference of logits in three-product float32.
const LOGITS: f32 = 1e-3;
/// Smallest overlap of a label in bfloat16 with the same in float32: one voxel of a small label is 0.005.
const DICE: f64 = 0.99;
/// Largest difference of a likelihood in bfloat16.
const LIKELIHOOD: f32 = 0.01;

/// AMX in both precisions and float32 on vectors; `None`, said aloud, where AMX cannot even be emulated.
fn arithmetics() -> Option<[Arithmetic; 3]> {
    if amx_emulator::provide() == amx_emulator::Amx::Absent {
        return None;
    }
    let make = |isa, precision| Arithmetic::new(Some(isa), precision).unwrap();
    Some([make(Isa::Amx, Precision::F32), make(Isa::Amx, Precision::Bf16), make(Isa::Avx512, Precision::F32)])
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Smallest Dice of a label that either array holds, and the voxels of that label; NaN if there is none.
fn smallest_dice(a: &Array3<u16>, b: &Array3<u16>) -> (f64, usize) {
    let count = |labels: &Array3<u16>, l| labels.iter().filter(|&&v| v == l).count();
    let both = |l| a.iter().zip(b).filter(|&(&x, &y)| x == l && y == l).count();
    let dice = (1..=a.iter().chain(b).copied().max().unwrap_or(0))
        .map(|l| (count(a, l) + count(b, l), 2 * both(l)))
        .filter(|(all, _)| *all > 0)
        .map(|(all, both)| (both as f64 / all as f64, all / 2));
    dice.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, 0))
}

fn raw_tile(golden: &Golden, model: &ModelFolder, arithmetic: Arithmetic) -> Vec<f32> {
    let options = PredictOptions {
        step: 1.0,
        mirroring: false,
        folds: None,
        accumulate: Accumulate::Float32,
        arithmetic,
        gpu: None,
    };
    Predictor::new(model, options).unwrap().raw_tile(preprocess(golden, model), [0; 3]).unwrap()
}

fn labels(golden: &Golden, model: &ModelFolder, arithmetic: Arithmetic, mirroring: bool) -> Array3<u16> {
    let options = PredictOptions {
        step: 0.5,
        mirroring,
        folds: None,
        accumulate: Accumulate::Float32,
        arithmetic,
        gpu: None,
    };
    let mut scan = preprocess(golden, model);
    let logits = Predictor::new(model, options).unwrap().logits(&mut scan, &|_| true).unwrap();
    segment(model, scan.grid(), &logits, SegmentationRequest::default()).labels
}

#[test]
fn trained_models_give_the_same_logits_and_in_bfloat16_the_same_labels() {
    let Some([split, bf16, vectors]) = arithmetics() else { return };
    for folder in cases("nnunet", 12) {
        let golden = Golden::open(&folder);
        let mut model = open_model(&golden);
        model.folds.truncate(1);
        let expected = raw_tile(&golden, &model, vectors);
        let difference = largest_difference(&raw_tile(&golden, &model, split), &expected);
        let coarse = largest_difference(&raw_tile(&golden, &model, bf16), &expected);
        let (dice, count) =
            smallest_dice(&labels(&golden, &model, bf16, false), &labels(&golden, &model, vectors, false));
        let name = golden.name();
        eprintln!(
            "{name}: {split} differs by {difference:.2e}, {bf16} by {coarse:.2e}, Dice {dice:.4} on {count} voxels"
        );
        assert!(difference <= LOGITS, "{name}: logits differ by {difference}");
        assert!(dice >= DICE, "{name}: Dice {dice}");
    }
}

#[test]
#[ignore = "takes long where AMX is emulated"]
fn models_run_with_all_folds_and_mirrorings_give_the_same_labels_in_bfloat16() {
    let Some([_, bf16, vectors]) = arithmetics() else { return };
    for folder in cases("nnunet", 12) {
        let golden = Golden::open(&folder);
        let model = open_model(&golden);
        let [coarse, expected] = [bf16, vectors].map(|arithmetic| labels(&golden, &model, arithmetic, true));
        let (dice, count) = smallest_dice(&coarse, &expected);
        eprintln!("{}: Dice {dice:.4} on {count} voxels", golden.name());
        assert!(dice >= DICE, "{}: Dice {dice}", golden.name());
    }
}

/// The lesion network's plans, with the features of the published one and a small patch.
fn wide_plans(folder: &Path) -> Plans {
    let demonstration = Path::new(ROOT).join(
        "tests/golden/baseline/panorama/Dataset104_PANORAMA_baseline_PDAC_Detection/nnUNetTrainer_Loss_CE_checkpoints__nnUNetPlans__3d_fullres",
    );
    let text = std::fs::read_to_string(demonstration.join("plans.json")).unwrap();
    let mut plans: serde_json::Value = serde_json::from_str(&text).unwrap();
    let configuration = &mut plans["configurations"]["3d_fullres"];
    configuration["patch_size"] = serde_json::json!([8, 16, 32]);
    let features = serde_json::json!([32, 64, 128, 256]);
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = features;
    let file = folder.join("plans.json");
    std::fs::write(&file, plans.to_string()).unwrap();
    std::fs::copy(demonstration.join("dataset.json"), folder.join("dataset.json")).unwrap();
    Plans::read(&file).unwrap()
}

/// Reproducible values of mean 0 and deviation 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..len).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

#[test]
fn a_network_of_real_width_gives_the_same_logits() {
    let Some([split, bf16, vectors]) = arithmetics() else { return };
    let folder = tempfile::tempdir().unwrap();
    let plans = wide_plans(folder.path());
    let dataset = Dataset::read(&folder.path().join("dataset.json")).unwrap();
    let configuration = plans.configuration("3d_fullres", &dataset).unwrap();
    let network = &configuration.network;
    let logits = |arithmetic: Arithmetic| {
        let plan = network.plan(configuration.patch_size).unwrap();
        let tensors = network.parameters().into_iter().enumerate().map(|(i, (name, shape))| {
            let len = shape.iter().product();
            let values = match name.as_str() {
                n if n.ends_with("norm.weight") => vec![1.0; len],
                n if n.ends_with("bias") => vec![0.0; len],
                _ => {
                    let deviation = (2.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
                    noise(i as u64 + 1, len).into_iter().map(|v| v * deviation).collect()
                }
            };
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        });
        let weights = Weights::pack(&plan, tensors.collect(), network.unet().norm_eps, arithmetic).unwrap();
        let runner = Runner::new(plan).unwrap();
        let tile = runner.plan().operand(runner.plan().input()).shape;
        let patch = Tensor::from_vec(noise(99, tile.data_len()), tile.data_len(), &Device::Cpu).unwrap();
        let gather = GatherTile { image_dims: tile.dims, start: [0; 3], tile, mirroring: [false; 3] };
        runner.input().unwrap().inplace_op2(&patch, &gather).unwrap();
        runner.run(&weights).unwrap();
        let len = runner.plan().logits().data_len();
        let logits = Tensor::zeros(len, candle_core::DType::F32, &Device::Cpu).unwrap();
        let head = AddLogits { head: weights.head(), mirroring: [false; 3], first: true };
        logits.inplace_op2(&runner.features().unwrap(), &head).unwrap();
        logits.to_vec1::<f32>().unwrap()
    };
    let expected = logits(vectors);
    let spread = (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
    let (difference, coarse) =
        (largest_difference(&logits(split), &expected), largest_difference(&logits(bf16), &expected));
    eprintln!("logits of deviation {spread:.2}: {split} differs by {difference:.2e}, {bf16} by {coarse:.2e}");
    assert!(spread > 0.1, "logits are all alike");
    assert!(difference <= LOGITS, "logits differ by {difference}");
    assert!(coarse <= 0.5 * spread, "bfloat16 logits differ by {coarse}");
}

#[test]
#[ignore = "runs the whole demonstration cascade, which takes long where AMX is emulated"]
fn the_demonstration_cascade_says_the_same_in_bfloat16() {
    let Some([_, bf16, vectors]) = arithmetics() else { return };
    let root = Path::new(ROOT);
    let ct = Case::find(&root.join("tests/golden/baseline/input"), &PANORAMA).unwrap().read().unwrap();
    let recipe = root.join("tests/golden/baseline/panorama/pipeline.json");
    let System::Panorama(cascade) = System::open(&recipe).unwrap() else { panic!("another system") };
    let [coarse, expected] = [bf16, vectors].map(|arithmetic| {
        let options = ExecutionOptions { arithmetic, ..ExecutionOptions::default() };
        let located = cascade.locate_pancreas(&ct, options, &Unobserved).unwrap();
        let lesion = cascade.segment_lesion(&ct, &located.roi.unwrap(), options, &Unobserved).unwrap();
        let labels = lesion.labels.clone();
        (located.labels.data, labels, cascade.extract_candidates(lesion).unwrap().likelihood())
    });
    let dice = [smallest_dice(&coarse.0, &expected.0), smallest_dice(&coarse.1, &expected.1)];
    let difference = (coarse.2 - expected.2).abs();
    eprintln!("Dice {dice:.4?}, likelihood {} for {}", coarse.2, expected.2);
    assert!(dice.iter().all(|&(d, _)| d >= DICE) && difference <= LIKELIHOOD);
}
