//! Residual-encoder networks against PyTorch's, parameters and logits (`scripts/reference/make_network_vectors.py`), and the plan
//! of one of published size.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use candle_core::{DType, Device, Tensor};
use pdac_cascade::network::{
    Architecture, Plan, PlanError, ResidualBlock, ResidualEncoderUNetConfig, Runner, StepKind, UNetConfig,
    Weights,
};
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::plans::{Configuration, Plans};
use pdac_cascade::ops::{AddLogits, Arithmetic, GatherTile};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LOGITS: f32 = 1e-4;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The network of a case, from plans that are otherwise those of the tiny model.
fn configuration(name: &str) -> Configuration {
    let tiny = Path::new(ROOT).join("tests/data/models/tiny");
    let case = read_json(&Path::new(ROOT).join(format!("tests/golden/networks/{name}.json")));
    let mut plans = read_json(&tiny.join("plans.json"));
    for key in ["patch_size", "architecture"] {
        plans["configurations"]["3d_fullres"][key] = case[key].clone();
    }
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    plans.configuration("3d_fullres", &Dataset::read(&tiny.join("dataset.json")).unwrap()).unwrap()
}

/// The tensors of a case; `input` and `logits` are taken out.
fn tensors(name: &str) -> (HashMap<String, Tensor>, Tensor, Tensor) {
    let path = Path::new(ROOT).join(format!("tests/golden/networks/{name}.safetensors"));
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let [input, logits] = ["input", "logits"].map(|key| tensors.remove(key).unwrap());
    (tensors, input, logits)
}

/// The network's logits (z, y, x, class) for an image of the patch's size.
fn logits(
    configuration: &Configuration,
    plan: Plan,
    weights: HashMap<String, Tensor>,
    image: &Tensor,
) -> Vec<f32> {
    let network = &configuration.network;
    let weights = Weights::pack(&plan, weights, network.unet().norm_eps, Arithmetic::detect()).unwrap();
    let runner = Runner::new(plan).unwrap();
    let tile = runner.plan().operand(runner.plan().input()).shape;
    let gather = GatherTile { image_dims: tile.dims, start: [0; 3], tile, mirroring: [false; 3] };
    runner.input().unwrap().inplace_op2(&image.flatten_all().unwrap(), &gather).unwrap();
    runner.run(&weights).unwrap();
    let len = runner.plan().logits().data_len();
    let logits = Tensor::zeros(len, DType::F32, &Device::Cpu).unwrap();
    let head = AddLogits { head: weights.head(), mirroring: [false; 3], first: true };
    logits.inplace_op2(&runner.features().unwrap(), &head).unwrap();
    logits.to_vec1().unwrap()
}

#[test]
fn parameters_are_those_of_the_state_dict() {
    for name in ["basic", "bottleneck"] {
        let (expected, _, _) = tensors(name);
        let got: HashMap<String, Vec<usize>> = configuration(name).network.parameters().into_iter().collect();
        let expected: HashMap<String, Vec<usize>> =
            expected.into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect();
        assert_eq!(got, expected, "{name}");
    }
    // Behind a pooling the projection is the skip connection's second layer.
    let (basic, _, _) = tensors("basic");
    assert!(basic.contains_key("encoder.stages.1.blocks.0.skip.1.conv.weight"));
    assert!(basic.contains_key("encoder.stages.3.blocks.0.skip.0.conv.weight"));
    assert!(!basic.keys().any(|key| key.contains("skip") && key.ends_with("conv.bias")));
}

#[test]
fn logits_are_those_of_pytorch() {
    for name in ["basic", "bottleneck"] {
        let (weights, input, expected) = tensors(name);
        let configuration = configuration(name);
        let plan = configuration.network.plan(configuration.patch_size).unwrap();
        let got = logits(&configuration, plan, weights.clone(), &input);
        let plan = configuration.network.plan_in_parts(configuration.patch_size).unwrap();
        let in_parts = logits(&configuration, plan, weights, &input);
        let apart = got.iter().zip(&in_parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        eprintln!("{name}: in parts logits differ by {apart:.1e}");
        assert!(apart <= 1e-5, "{name}: in parts logits differ by {apart}");
        let expected = expected.permute((1, 2, 3, 0)).unwrap().flatten_all().unwrap();
        let expected = expected.to_vec1::<f32>().unwrap();
        assert_eq!(got.len(), expected.len());
        let difference = got.iter().zip(&expected).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
        let spread = expected.iter().copied().fold(f32::MIN, f32::max)
            - expected.iter().copied().fold(f32::MAX, f32::min);
        eprintln!("{name}: logits over {spread:.1} differ by {difference:.1e}");
        assert!(spread > 1.0, "{name}: logits are all alike");
        assert!(difference <= LOGITS, "{name}: logits differ by {difference}");
    }
}

#[test]
fn a_plan_is_printed_with_its_pools_and_sums() {
    let configuration = configuration("basic");
    let plan = configuration.network.plan(configuration.patch_size).unwrap();
    let text = plan.to_string();
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
    let pool = line("encoder.stages.1.blocks.0.skip.0");
    assert!(
        pool.contains("average 1×2×2") && pool.contains("8×16×12×4") && pool.contains("-> 8×8×6×4"),
        "{pool}"
    );
    let add = line("encoder.stages.1.blocks.0 ");
    assert!(add.contains("add") && add.contains("8×8×6×6 + 8×8×6×6") && add.contains("-> 8×8×6×6"), "{add}");
    for step in plan.steps() {
        let elements = plan.operand(step.output).shape.data_len() as u64;
        match step.kind {
            StepKind::Pool { stride } => {
                assert_eq!(plan.flop(step), elements * stride.iter().product::<usize>() as u64);
            }
            StepKind::Add { .. } => {
                assert_eq!((plan.flop(step), plan.bytes(step)), (elements, 3 * 4 * elements));
            }
            _ => assert!(plan.flop(step) > 2 * elements),
        }
    }
}

/// nnU-Net's ResEnc-L at 1 mm: 192³ voxels, six stages.
fn large() -> Architecture {
    Architecture::ResidualEncoderUNet(ResidualEncoderUNetConfig {
        unet: UNetConfig {
            input_channels: 1,
            classes: 3,
            features: vec![32, 64, 128, 256, 320, 320],
            kernels: vec![[3; 3]; 6],
            strides: [&[[1; 3]][..], &[[2; 3]; 5]].concat(),
            convs_decoder: vec![1; 5],
            conv_bias: true,
            norm_eps: 1e-5,
            norm_affine: true,
            negative_slope: 0.01,
            classifier: None,
        },
        stem_channels: 32,
        blocks: vec![1, 3, 4, 6, 6, 6],
        block: ResidualBlock::Basic,
    })
}

#[test]
fn in_parts_it_needs_two_maps_of_full_resolution_and_a_coarser_one() {
    let plan = large().plan_in_parts([192; 3]).unwrap();
    eprintln!("{}", plan.to_string().lines().last().unwrap());
    let full = 32 * 192usize.pow(3) + 64;
    // Beside them the coarser map that is upsampled next.
    let coarse = 64 * 96usize.pow(3) + 128;
    assert_eq!(plan.buffer_len(), 2 * full + coarse);
    let whole = large().plan([192; 3]).unwrap().flop_of_all() as f64;
    let more = plan.flop_of_all() as f64 / whole - 1.0;
    assert!((0.0..0.005).contains(&more), "computing the stem twice costs {more}");
}

#[test]
fn a_network_of_published_size_needs_no_more_than_three_maps_of_full_resolution() {
    let plan = large().plan([192; 3]).unwrap();
    let summary = plan.to_string();
    eprintln!("{}", summary.lines().last().unwrap());
    let full = 32 * 192usize.pow(3) + 64;
    // Of the finest stage: a block's input, its convolved map and the sum; in the decoder upsampled map, skip and result.
    assert!(plan.buffer_len() >= 3 * full && plan.buffer_len() < 3 * full + 64, "{}", plan.buffer_len());
}

#[test]
fn patches_that_the_strides_do_not_divide_are_refused() {
    let error = large().plan([192, 192, 200]).unwrap_err();
    assert_eq!(
        error,
        PlanError::UnevenPool {
            patch: [192, 192, 200],
            layer: "encoder.stages.4.blocks.0.skip.0".to_owned(),
            pooled: [12, 12, 12],
            convolved: [12, 12, 13],
        }
    );
    assert!(
        error
            .to_string()
            .ends_with("skip.0 pools to [12, 12, 12], the convolutions beside it give [12, 12, 13]")
    );
}
