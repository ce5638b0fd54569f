//! Genuine plans of residual encoders, and wrong ones (`scripts/reference/make_model_fixtures.py`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use pdac_cascade::network::{Architecture, ResidualBlock, ResidualEncoderUNetConfig};
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::plans::{Configuration, Plans};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The network, which is a `ResidualEncoderUNet`.
fn residual(configuration: Configuration) -> ResidualEncoderUNetConfig {
    match configuration.network {
        Architecture::ResidualEncoderUNet(network) => network,
        other => panic!("{other:?}"),
    }
}

#[test]
fn residual_encoders_are_read() {
    for variant in ["panther1", "torchres"] {
        let dataset = Dataset::read(&models().join(variant).join("dataset.json")).unwrap();
        let plans = Plans::read(&models().join(variant).join("plans.json")).unwrap();
        let got = plans.configuration("3d_fullres_iso1x1x1", &dataset).unwrap();
        assert_eq!((got.spacing, got.patch_size), ([1.0; 3], [32; 3]));
        let network = residual(got);
        assert_eq!(network.unet.features, [8, 16, 32, 32]);
        assert_eq!(network.unet.strides, [[1; 3], [2; 3], [2; 3], [2; 3]]);
        assert_eq!(network.unet.convs_decoder, [1, 1, 1]);
        assert_eq!((network.stem_channels, &network.blocks[..]), (8, &[1, 2, 2, 2][..]));
        assert_eq!(network.block, ResidualBlock::Basic);
        assert!(network.unet.conv_bias && network.unet.norm_affine);
    }
}

#[test]
fn legacy_plans_count_blocks_where_the_encoder_is_residual() {
    let mut plans = read_json(&models().join("panorama1/plans.json"));
    plans["configurations"]["3d_fullres"]["UNet_class_name"] = json!("ResidualEncoderUNet");
    plans["configurations"]["3d_fullres"]["n_conv_per_stage_encoder"] = json!([1, 3, 4, 6]);
    let dataset = Dataset::read(&models().join("panorama1/dataset.json")).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    let network = residual(plans.configuration("3d_fullres", &dataset).unwrap());
    assert_eq!((network.stem_channels, &network.blocks[..]), (8, &[1, 3, 4, 6][..]));
    assert_eq!((network.block, network.unet.convs_decoder), (ResidualBlock::Basic, vec![2, 2, 2]));
    assert!(network.unet.conv_bias && network.unet.norm_affine);
}

/// The network of a residual model's plans with arguments replaced or added.
fn residual_with(arguments: &[(&str, Value)]) -> Result<ResidualEncoderUNetConfig, String> {
    let mut plans = read_json(&models().join("panther1/plans.json"));
    let kwargs = &mut plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"];
    for (key, value) in arguments {
        kwargs[*key] = value.clone();
    }
    let dataset = Dataset::read(&models().join("panther1/dataset.json")).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    plans.configuration("3d_fullres", &dataset).map(residual).map_err(|error| error.to_string())
}

const BASIC: &str = "dynamic_network_architectures.building_blocks.residual.BasicBlockD";
const BOTTLENECK: &str = "dynamic_network_architectures.building_blocks.residual.BottleneckD";

#[test]
fn blocks_and_stems_are_read() {
    let default = residual_with(&[]).unwrap();
    let bottleneck = |channels: Value| {
        residual_with(&[("block", json!(BOTTLENECK)), ("bottleneck_channels", channels)]).unwrap().block
    };
    assert_eq!(bottleneck(json!([2, 4, 8, 8])), ResidualBlock::Bottleneck { channels: vec![2, 4, 8, 8] });
    assert_eq!(bottleneck(json!(4)), ResidualBlock::Bottleneck { channels: vec![4; 4] });
    assert_eq!(residual_with(&[("stem_channels", json!(5))]).unwrap().stem_channels, 5);
    assert_eq!(residual_with(&[("n_blocks_per_stage", json!(3))]).unwrap().blocks, [3; 4]);
    for neutral in [
        ("block", json!(BASIC)),
        ("block", json!(null)),
        ("bottleneck_channels", json!(null)),
        ("bottleneck_channels", json!(4)),
        ("stem_channels", json!(null)),
        ("squeeze_excitation", json!(false)),
        ("squeeze_excitation_reduction_ratio", json!(0.0625)),
        ("stochastic_depth_p", json!(0.0)),
        ("pool_type", json!("conv")),
        ("disable_default_stem", json!(false)),
    ] {
        assert_eq!(residual_with(std::slice::from_ref(&neutral)).as_ref(), Ok(&default), "{neutral:?}");
    }
}

#[test]
fn what_residual_encoders_do_not_do_is_refused_by_name() {
    let bottleneck = || ("block", json!(BOTTLENECK));
    for (arguments, message) in [
        (vec![("squeeze_excitation", json!(true))], "squeeze_excitation: true is not supported, only false"),
        (vec![("stochastic_depth_p", json!(0.1))], "stochastic_depth_p: 0.1 is not supported, only 0"),
        (vec![("pool_type", json!("max"))], "pool_type: \"max\" is not supported, only \"conv\""),
        (vec![("disable_default_stem", json!(true))], "default_stem: true is not supported, only false"),
        (
            vec![("nonlin_first", json!(false))],
            "false is not supported, only arguments of ResidualEncoderUNet",
        ),
        (vec![("n_conv_per_stage", json!(2))], "2 is not supported, only arguments of ResidualEncoderUNet"),
        (vec![("n_blocks_per_stage", json!([1, 2]))], "n_blocks_per_stage: expected 4 entries"),
        (
            vec![("n_blocks_per_stage", json!(0))],
            "n_blocks_per_stage: expected a whole number from 1 to 64, got 0",
        ),
        (vec![("stem_channels", json!(0))], "stem_channels: expected a whole number from 1 to 65536, got 0"),
        (
            vec![("block", json!("torch.nn.Identity"))],
            "block: \"torch.nn.Identity\" is not supported, only dynamic",
        ),
        (vec![bottleneck()], "arch_kwargs: \"bottleneck_channels\" is missing"),
        (
            vec![bottleneck(), ("bottleneck_channels", json!(null))],
            "bottleneck_channels: expected channels, as the block is BottleneckD, got null",
        ),
        (
            vec![bottleneck(), ("bottleneck_channels", json!([2, 2]))],
            "bottleneck_channels: expected 4 entries",
        ),
    ] {
        let error = residual_with(&arguments).unwrap_err();
        let place = "plans.json: configurations.3d_fullres.architecture.arch_kwargs";
        assert!(error.starts_with(place) && error.contains(message), "{error}\nnot: {message}");
    }
}
