//! Networks with a classification head against PyTorch's, segmentation and class logits in one pass
//! (`scripts/reference/make_multitask_vectors.py`).

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use candle_core::{DType, Device, Tensor};
use ndarray::Array3;
use pdac_cascade::network::{
    Architecture, ClassifierConfig, Plan, Runner, StepKind, Weights, lesion_probability,
};
use pdac_cascade::nnunet::ModelError;
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::export::SegmentationRequest;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::plans::Plans;
use pdac_cascade::nnunet::predictor::{Patch, PredictOptions, Predictor};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::{AddLogits, Arithmetic, GatherTile};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const LOGITS: f64 = 1e-4;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/multitask").join(file)
}

fn tensors(file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(file), &Device::Cpu).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn model(folds: &[u32]) -> ModelFolder {
    let folds: Vec<Fold> = folds.iter().map(|&fold| Fold::Number(fold)).collect();
    ModelFolder::open(&golden("model"), &folds, "checkpoint_final").unwrap()
}

/// Segmentation logits (class, z, y, x) and class logits of one patch.
fn both(
    plan: Plan,
    eps: f64,
    weights: HashMap<String, Tensor>,
    patch: &Tensor,
) -> (Vec<f32>, Option<[f64; 2]>) {
    let weights = Weights::pack(&plan, weights, eps, Arithmetic::detect()).unwrap();
    let runner = Runner::new(plan).unwrap();
    let tile = runner.plan().operand(runner.plan().input()).shape;
    let gather = GatherTile { image_dims: tile.dims, start: [0; 3], tile, mirroring: [false; 3] };
    runner.input().unwrap().inplace_op2(&patch.flatten_all().unwrap(), &gather).unwrap();
    runner.run(&weights).unwrap();
    let logits = runner.plan().logits();
    let sum = Tensor::zeros(logits.data_len(), DType::F32, &Device::Cpu).unwrap();
    let add = AddLogits { head: weights.head(), mirroring: [false; 3], first: true };
    sum.inplace_op2(&runner.features().unwrap(), &add).unwrap();
    let [z, y, x] = logits.dims;
    let sum = sum.reshape((z, y, x, logits.channels)).unwrap().permute((3, 0, 1, 2)).unwrap();
    (floats(&sum), runner.class_logits(&weights).unwrap())
}

/// Compares both answers with PyTorch's.
fn check(
    name: &str,
    architecture: &Architecture,
    patch: [usize; 3],
    weights: &HashMap<String, Tensor>,
    expected: &HashMap<String, Tensor>,
) {
    for plan in [architecture.plan(patch).unwrap(), architecture.plan_in_parts(patch).unwrap()] {
        let (segmentation, classes) =
            both(plan, architecture.unet().norm_eps, weights.clone(), &expected["input"]);
        let expected_segmentation = floats(&expected["segmentation"]);
        assert_eq!(segmentation.len(), expected_segmentation.len());
        let pairs = segmentation.iter().zip(&expected_segmentation);
        let apart = pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        let classes = classes.unwrap();
        let expected_classes = floats(&expected["class_logits"]);
        let pairs = classes.iter().zip(&expected_classes);
        let classes_apart = pairs.map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
        eprintln!("{name}: segmentation differs by {apart:.1e}, class logits by {classes_apart:.1e}");
        assert!(apart <= LOGITS && classes_apart <= LOGITS, "{name}: {apart}, {classes_apart}");
    }
}

#[test]
fn both_answers_are_those_of_pytorch() {
    let model = model(&[0]);
    assert!(model.classifies());
    let configuration = &model.configuration;
    let weights = model.load_fold(Fold::Number(0)).unwrap();
    check(
        "plain",
        &configuration.network,
        configuration.patch_size,
        &weights,
        &tensors("vectors.safetensors"),
    );
}

/// Class and arguments of the residual network, in plans that are otherwise the model's.
fn residual() -> (Architecture, [usize; 3]) {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let (case, mut plans) = (read(golden("residual.json")), read(golden("model/plans.json")));
    for key in ["patch_size", "architecture"] {
        plans["configurations"]["3d_fullres"][key] = case[key].clone();
    }
    let dataset = r#"{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}"#;
    let dataset = Dataset::from_json(Path::new("dataset.json"), dataset).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    let configuration = plans.configuration("3d_fullres", &dataset).unwrap();
    let size = |key: &str| usize::try_from(case["classifier"][key].as_u64().unwrap()).unwrap();
    let classifier = ClassifierConfig { width: size("width"), hidden: size("hidden") };
    (configuration.network.with_classifier(Some(classifier)).unwrap(), configuration.patch_size)
}

#[test]
fn a_residual_encoder_with_six_stages_gives_those_of_pytorch() {
    let (architecture, patch) = residual();
    let mut weights = tensors("residual.safetensors");
    let expected: HashMap<String, Tensor> = ["input", "segmentation", "class_logits"]
        .map(|key| (key.to_owned(), weights.remove(key).unwrap()))
        .into();
    let names: HashMap<String, Vec<usize>> = architecture.parameters().into_iter().collect();
    let stored = weights.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    assert_eq!(names, stored);
    check("residual", &architecture, patch, &weights, &expected);
}

/// What the classification head says of each patch of an image.
fn patches(model: &ModelFolder, image: Array3<f32>, mirroring: bool) -> Vec<Patch> {
    let options = PredictOptions {
        step: 0.5,
        mirroring,
        folds: None,
        accumulate: Accumulate::Float32,
        arithmetic: Arithmetic::detect(),
        gpu: None,
    };
    let predictor = Predictor::new(model, options).unwrap();
    let spacing = model.configuration.spacing;
    let request = SegmentationRequest::default();
    predictor.segment(vec![image], spacing, request, &|_| true).unwrap().patches
}

#[test]
fn patches_are_averaged_over_mirrored_copies_and_folds() {
    let vectors = tensors("vectors.safetensors");
    let (_, z, y, x) = vectors["image"].dims4().unwrap();
    let image = Array3::from_shape_vec((z, y, x), floats(&vectors["image"])).unwrap();
    for (folds, key) in [
        (&[0][..], "tile_class_logits_fold_0"),
        (&[1], "tile_class_logits_fold_1"),
        (&[0, 1], "tile_class_logits"),
    ] {
        let got = patches(&model(folds), image.clone(), true);
        let expected: Vec<Vec<f32>> = vectors[key].to_vec2().unwrap();
        assert_eq!(got.len(), expected.len());
        let probability =
            |logits: &Vec<f32>| lesion_probability([0, 1].map(|class| f64::from(logits[class])));
        let pairs = got.iter().zip(expected.iter().map(probability));
        let apart = pairs.map(|(patch, p)| (patch.probability - p).abs()).fold(0.0, f64::max);
        eprintln!("{key}: probabilities differ by {apart:.1e}");
        // Patches differ by some 1e-3.
        assert!(apart <= 1e-6, "{key}: {apart}");
    }
    let plain = patches(&model(&[0]), image.clone(), false);
    let mirrored = patches(&model(&[0]), image, true);
    assert!(plain.iter().zip(&mirrored).any(|(a, b)| (a.probability - b.probability).abs() > 1e-5));
    // Nine tiles, three along z and three along x, of which the fifth lies in the middle.
    let from_centre: Vec<f64> = mirrored.iter().map(|patch| patch.from_centre_mm).collect();
    assert_eq!(from_centre.iter().filter(|&&mm| mm >= from_centre[4]).count(), 9);
}

#[test]
fn patches_of_one_value_are_those_of_a_single_one() {
    let model = model(&[0, 1]);
    let constant = |shape| patches(&model, Array3::from_elem(shape, 0.75), true);
    let (one, many) = (constant((8, 16, 24)), constant((12, 16, 60)));
    assert_eq!(one.len(), 1);
    assert!(many.len() > 4);
    assert!(many.iter().all(|patch| (patch.probability - one[0].probability).abs() < 1e-12));
}

#[test]
fn the_answer_does_not_depend_on_the_number_of_threads() {
    let image =
        Array3::from_shape_fn((13, 20, 41), |(z, y, x)| ((z * 7 + y * 3 + x) % 11) as f32 * 0.3 - 1.0);
    let model = model(&[0]);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| patches(&model, image.clone(), true))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn the_encoder_runs_once_and_means_are_steps_of_the_plan() {
    let model = model(&[0]);
    let (network, patch) = (&model.configuration.network, model.configuration.patch_size);
    let plan = network.plan(patch).unwrap();
    let without = network.clone().with_classifier(None).unwrap().plan(patch).unwrap();
    let convolutions =
        |plan: &Plan| plan.steps().iter().filter(|step| matches!(step.kind, StepKind::Conv { .. })).count();
    assert_eq!(convolutions(&plan), convolutions(&without));
    let text = plan.to_string();
    assert!(text.contains("\nclassifier ") && text.contains("width 12, hidden 10"), "{text}");
}

#[test]
fn a_head_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |file: &str| {
        let to = folder.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(golden("model").join(file), to).unwrap();
    };
    copy("dataset.json");
    copy("plans.json");
    let tensors = model(&[0]).load_fold(Fold::Number(0)).unwrap();
    let metadata = HashMap::from(
        [
            ("trainer_name", "t"),
            ("configuration", "3d_fullres"),
            ("inference_allowed_mirroring_axes", "null"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let open = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        let path = folder.path().join("fold_0/checkpoint_final.safetensors");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        safetensors::serialize_to_file(tensors.iter(), Some(metadata.clone()), &path).unwrap();
        ModelFolder::open(folder.path(), &[Fold::Number(0)], "checkpoint_final")
    };
    assert!(open(&|_| ()).unwrap().classifies());
    let bare = open(&|tensors| tensors.retain(|name, _| !name.starts_with("classifier."))).unwrap();
    assert!(!bare.classifies());
    let line = |result: Result<ModelFolder, ModelError>| result.unwrap_err().to_string();
    let missing = line(open(&|tensors| drop(tensors.remove("classifier.hidden.weight"))));
    assert!(missing.contains("classifier.hidden.weight: missing, expected [hidden, width]"), "{missing}");
    let missing = line(open(&|tensors| drop(tensors.remove("classifier.projections.1.bias"))));
    assert!(missing.contains("classifier.projections.1.bias: missing, expected [12]"), "{missing}");
    for wrong in [f32::NAN, f32::INFINITY] {
        let bias = Tensor::new(&[0.0, wrong], &Device::Cpu).unwrap();
        let model = open(&|tensors| drop(tensors.insert("classifier.output.bias".to_owned(), bias.clone())));
        let said = model.unwrap().load_fold(Fold::Number(0)).unwrap_err().to_string();
        let expected = format!("classifier.output.bias: element 1: expected a finite number, got {wrong}");
        assert!(said.contains("checkpoint_final.safetensors") && said.contains(&expected), "{said}");
    }
    let three = Tensor::zeros((3, 10), DType::F32, &Device::Cpu).unwrap();
    let shape =
        line(open(&|tensors| drop(tensors.insert("classifier.output.weight".to_owned(), three.clone()))));
    assert!(shape.contains("classifier.output.weight: expected [2, 10], got [3, 10]"), "{shape}");
}
