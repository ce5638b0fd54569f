//! What a classification head says on the GPU, against PyTorch: every tile of an image, mirrored, one fold and two.

use crate::device::{Child, open_gpu, show_measured};
use crate::golden::ROOT;
use crate::networks::options;
use candle_core::{Device, Tensor};
use ndarray::Array3;
use pdac_cascade::network::lesion_probability;
use pdac_cascade::nnunet::export::SegmentationRequest;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::Predictor;
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::CudaPrecision;
use std::path::Path;

#[test]
fn float32_heads_agree_with_pytorch() {
    run_in_child("f32", "memory=100000000");
}

#[test]
fn float16_heads_agree_with_pytorch() {
    run_in_child("f16", "memory=100000000");
}

fn run_in_child(precision: &str, device: &str) {
    let child = Child::inner("multitask::heads_in_a_child").with("PDAC_TEST_PRECISION", precision);
    show_measured(&child.device(device).passes());
}

#[test]
#[ignore = "runs on the software device, as a child of the two above"]
fn heads_in_a_child() {
    let gpu = open_gpu();
    let allowed = match gpu.precision() {
        CudaPrecision::F32 => 1e-6,
        CudaPrecision::F16 => 2e-3,
    };
    let folder = Path::new(ROOT).join("tests/golden/multitask");
    let vectors = candle_core::safetensors::load(folder.join("vectors.safetensors"), &Device::Cpu).unwrap();
    let floats = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
    let (_, z, y, x) = vectors["image"].dims4().unwrap();
    let image = Array3::from_shape_vec((z, y, x), floats(&vectors["image"])).unwrap();
    for (folds, key) in [(&[1][..], "tile_class_logits_fold_1"), (&[0, 1], "tile_class_logits")] {
        let folds: Vec<Fold> = folds.iter().map(|&fold| Fold::Number(fold)).collect();
        let model = ModelFolder::open(&folder.join("model"), &folds, "checkpoint_final").unwrap();
        let predictor = Predictor::new(&model, options(Some(gpu), Accumulate::Float32)).unwrap();
        let spacing = model.configuration.spacing;
        let segmentation = predictor
            .segment(vec![image.clone()], spacing, SegmentationRequest::default(), &|_| true)
            .unwrap();
        let expected = floats(&vectors[key]);
        assert_eq!(2 * segmentation.patches.len(), expected.len());
        let pairs = segmentation.patches.iter().zip(expected.chunks(2));
        let apart = pairs.map(|(patch, logits)| {
            (patch.probability - lesion_probability([0, 1].map(|class| f64::from(logits[class])))).abs()
        });
        let apart = apart.fold(0.0, f64::max);
        eprintln!("measured: {key} {}: probabilities differ by {apart:.1e}", gpu.precision());
        assert!(apart <= allowed, "{key}: {apart}");
    }
}
