//! Genuine nnU-Net plans, and wrong ones (`scripts/reference/make_model_fixtures.py`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use pdac_cascade::network::{Architecture, PlainConvUNetConfig};
use pdac_cascade::nnunet::ModelError;
use pdac_cascade::nnunet::dataset::{Dataset, OutputKind};
use pdac_cascade::nnunet::plans::{Configuration, NormalizationScheme, Plans};
use pdac_cascade::nnunet::resampling::{Resampling, SplineOrder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const DEFAULT: [Resampling; 2] = [
    Resampling::Default { order: SplineOrder::Cubic, force_separate_z: None },
    Resampling::Default { order: SplineOrder::Linear, force_separate_z: None },
];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models")
}

fn tiny() -> PathBuf {
    models().join("tiny")
}

fn genuine(variant: &str, configuration: &str) -> Result<(Plans, Dataset, Configuration), ModelError> {
    let folder = models().join(variant);
    let dataset = Dataset::read(&folder.join("dataset.json"))?;
    let plans = Plans::read(&folder.join("plans.json"))?;
    let configuration = plans.configuration(configuration, &dataset)?;
    Ok((plans, dataset, configuration))
}

/// The network, which is a `PlainConvUNet`.
fn plain(configuration: Configuration) -> PlainConvUNetConfig {
    match configuration.network {
        Architecture::PlainConvUNet(network) => network,
        other => panic!("{other:?}"),
    }
}

#[test]
fn legacy_plans_are_completed() {
    let (plans, dataset, got) = genuine("panorama1", "3d_fullres").unwrap();
    assert_eq!(plans.transpose_forward, [0, 1, 2]);
    assert_eq!(dataset.output, OutputKind::Labels { classes: 2 });
    assert_eq!((got.spacing, got.patch_size), ([9.0, 4.5, 4.5], [24, 48, 48]));
    let network = got.network.unet();
    assert_eq!((network.input_channels, network.classes), (1, 2));
    assert_eq!(network.features, [8, 16, 32, 32]);
    assert_eq!(network.kernels, [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]);
    assert_eq!(network.strides, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]);
    assert_eq!(network.convs_decoder, [2, 2, 2]);
    assert!(network.conv_bias && network.norm_affine);
    assert_eq!((network.norm_eps, network.negative_slope), (1e-5, 0.01));
    assert_eq!([got.data_resampling, got.probability_resampling], DEFAULT);
    let channel = got.normalization[0];
    assert_eq!((channel.scheme, channel.use_mask), (NormalizationScheme::Ct, false));
    assert_eq!(channel.intensity.mean, 42.803375244140625);
    assert_eq!(channel.intensity.std, 93.94111633300781);
    assert_eq!((channel.intensity.percentile_00_5, channel.intensity.percentile_99_5), (-152.0, 253.0));
    assert_eq!(plain(got).convs_encoder, [2, 2, 2, 2]);
}

#[test]
fn architecture_plans_give_the_network() {
    let (_, dataset, got) = genuine("panorama2", "3d_fullres").unwrap();
    assert_eq!(dataset.output.heads(), 7);
    assert_eq!(got.spacing, [3.0, 1.494, 1.494]);
    assert_eq!(got.patch_size, [16, 48, 64]);
    let network = plain(got).unet;
    assert_eq!(network.features, [8, 16, 32, 32]);
    assert_eq!(network.strides[3], [1, 2, 2]);
    assert_eq!(network.convs_decoder, [2, 2, 2]);
    assert!(network.conv_bias && network.norm_affine);
}

#[test]
fn transposed_masked_plans_are_read() {
    let (plans, dataset, got) = genuine("transpose", "3d_fullres").unwrap();
    assert_eq!((plans.transpose_forward, plans.transpose_backward), ([2, 0, 1], [1, 2, 0]));
    assert_eq!(dataset.channel_names, ["T2"]);
    assert_eq!(got.normalization[0].scheme, NormalizationScheme::ZScore);
    assert!(got.normalization[0].use_mask);
}

#[test]
fn regions_and_channels_are_read() {
    let (_, dataset, got) = genuine("regions", "3d_fullres").unwrap();
    assert_eq!(dataset.output, OutputKind::Regions { paint_order: vec![2, 1, 3] });
    assert_eq!(got.network.unet().classes, 3);
    let (_, dataset, got) = genuine("multiphase", "3d_fullres").unwrap();
    assert_eq!(dataset.input_channels(), 3);
    assert_eq!(got.network.unet().input_channels, 3);
    let means: Vec<f64> = got.normalization.iter().map(|n| n.intensity.mean).collect();
    assert_eq!(means, [38.0, 110.0, 95.0]);
}

#[test]
fn genuine_configurations_beyond_this_version_are_refused_by_name() {
    let error = genuine("panorama1", "2d").unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
    let message = "configurations.2d.patch_size: [96,96] is not supported, only three-dim";
    assert!(error.to_string().contains(message), "{error}");
}

/// The tiny plans with one value replaced (`null`: removed) at a JSON pointer under the configuration, or from the root.
fn mutated(pointer: &str, value: Value) -> Result<Configuration, String> {
    let mut plans: Value = read_json(&tiny().join("plans.json"));
    plans["configurations"]["child"] = json!({"inherits_from": "3d_fullres", "spacing": [2, 1.0, 1]});
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = plans.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value == json!("REMOVED") {
        parent.remove(key)
    } else {
        parent.insert(key.to_owned(), value)
    };
    let dataset = Dataset::read(&tiny().join("dataset.json")).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string());
    plans.and_then(|plans| plans.configuration("child", &dataset)).map_err(|e| e.to_string())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn children_override_what_they_inherit() {
    let got = mutated("/plans_name", json!("x")).unwrap();
    assert_eq!((got.name.as_str(), got.spacing), ("child", [2.0, 1.0, 1.0]));
    assert_eq!(got.patch_size, [4, 8, 8]);
}

#[test]
fn torch_resampling_and_its_defaults_are_read() {
    let mut plans = read_json(&models().join("torchres/plans.json"));
    let configuration = &mut plans["configurations"]["3d_fullres"];
    configuration["resampling_fn_probabilities_kwargs"] = json!({"force_separate_z": false});
    let dataset = Dataset::read(&models().join("torchres/dataset.json")).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    let got = plans.configuration("3d_fullres_iso1x1x1", &dataset).unwrap();
    assert_eq!(got.spacing, [1.0, 1.0, 1.0]);
    assert_eq!(got.data_resampling, Resampling::Torch { force_separate_z: None });
    assert_eq!(got.probability_resampling, Resampling::Torch { force_separate_z: Some(false) });
    // nnU-Net's own defaults for an absent argument: cubic, never separate.
    let got = mutated("/configurations/3d_fullres/resampling_fn_data_kwargs", json!({})).unwrap();
    assert_eq!(
        got.data_resampling,
        Resampling::Default { order: SplineOrder::Cubic, force_separate_z: Some(false) }
    );
}

#[test]
fn scalars_stand_for_all_stages_and_unusual_values_are_kept() {
    let arch = "/configurations/3d_fullres/architecture/arch_kwargs";
    let got = |key: &str, value: Value| mutated(&format!("{arch}/{key}"), value).unwrap();
    assert_eq!(plain(got("n_conv_per_stage", json!(2))).convs_encoder, [2, 2, 2]);
    let got = |key: &str, value: Value| plain(got(key, value)).unet;
    assert_eq!(got("kernel_sizes", json!([1, 3, [3, 1, 5]])).kernels, [[1; 3], [3; 3], [3, 1, 5]]);
    assert_eq!(got("nonlin_kwargs", json!({"negative_slope": 0.2})).negative_slope, 0.2);
    assert_eq!(got("nonlin_kwargs", json!(null)).negative_slope, 0.01);
    let network = got("norm_op_kwargs", json!({"eps": 1e-3}));
    assert_eq!((network.norm_eps, network.norm_affine), (1e-3, false));
    assert!(!got("conv_bias", json!("REMOVED")).conv_bias);
}

#[test]
fn old_plans_name_their_intensities_by_modality() {
    let mut plans = read_json(&tiny().join("plans.json"));
    let object = plans.as_object_mut().unwrap();
    let intensities = object.remove("foreground_intensity_properties_per_channel").unwrap();
    object.insert("foreground_intensity_properties_by_modality".to_owned(), intensities);
    let dataset = Dataset::read(&tiny().join("dataset.json")).unwrap();
    let plans = Plans::from_json(Path::new("plans.json"), &plans.to_string()).unwrap();
    assert_eq!(plans.configuration("3d_fullres", &dataset).unwrap().normalization[0].intensity.mean, 40.0);
}

#[test]
fn bad_plans_are_refused_with_their_place() {
    let cfg = "/configurations/3d_fullres";
    let arch = "/configurations/3d_fullres/architecture/arch_kwargs";
    let removed = || json!("REMOVED");
    let cases = [
        ("", "/configurations", json!([]), "configurations: expected an object, got []"),
        ("", "/configurations", json!({"a": {}}), "configurations: there is no \"child\", only \"a\""),
        (
            "",
            "/transpose_forward",
            json!([0, 1, 1]),
            "transpose_forward: expected 0, 1 and 2, each once, got [0,1,1]",
        ),
        ("", "/transpose_forward", json!([0, 1]), "transpose_forward: expected a list of 3, got [0,1]"),
        (
            "",
            "/transpose_backward",
            json!([1, 2, 0]),
            "transpose_backward: expected the inverse of transpose_forward",
        ),
        (
            "",
            "/label_manager",
            json!("Mine"),
            "label_manager: \"Mine\" is not supported, only \"LabelManager\"",
        ),
        ("", "/image_reader_writer", json!("Tiff3DIO"), "image_reader_writer: \"Tiff3DIO\" is not supported"),
        ("", "/foreground_intensity_properties_per_channel", json!({}), "per_channel: \"0\" is missing"),
        ("/configurations/child", "/inherits_from", json!("x"), "configurations: there is no \"x\""),
        (
            cfg,
            "/inherits_from",
            json!("child"),
            "3d_fullres.inherits_from: expected no cycle (after child, 3d_fullres)",
        ),
        (cfg, "/previous_stage", json!("3d_lowres"), "previous_stage: \"3d_lowres\" is not supported, only"),
        (cfg, "/patch_size", json!([4, 8]), "patch_size: [4,8] is not supported, only three-dimensional"),
        (cfg, "/patch_size", json!([4, 8, 6]), "patch_size: expected a size that the strides"),
        (
            cfg,
            "/patch_size",
            json!([4, 8, 0]),
            "patch_size[2]: expected a whole number from 1 to 4096, got 0",
        ),
        (cfg, "/patch_size", removed(), "configurations.child: \"patch_size\" is missing"),
        (
            "/configurations/child",
            "/spacing",
            json!([1, 0, 1]),
            "child.spacing[1]: expected a number above 0, got 0",
        ),
        (cfg, "/preprocessor_name", json!("Mine"), "preprocessor_name: \"Mine\" is not supported"),
        (
            cfg,
            "/normalization_schemes",
            json!(["Mine"]),
            "normalization_schemes[0]: \"Mine\" is not supported, only CT",
        ),
        (
            cfg,
            "/normalization_schemes",
            json!([]),
            "normalization_schemes: expected 1 entries, one for each channel",
        ),
        (cfg, "/use_mask_for_norm", json!([0]), "use_mask_for_norm[0]: expected true or false, got 0"),
        (
            cfg,
            "/resampling_fn_data",
            json!("mine"),
            "resampling_fn_data: \"mine\" is not supported, only resample_data",
        ),
        (
            cfg,
            "/resampling_fn_data_kwargs",
            json!({"order": 2}),
            "resampling_fn_data_kwargs.order: 2 is not supported",
        ),
        (
            cfg,
            "/resampling_fn_data_kwargs",
            json!({"order_z": 1}),
            "kwargs.order_z: 1 is not supported, only 0",
        ),
        (
            cfg,
            "/resampling_fn_data_kwargs",
            json!({"is_seg": true}),
            "kwargs.is_seg: true is not supported, only false",
        ),
        (
            cfg,
            "/resampling_fn_data_kwargs",
            json!({"mode": "linear"}),
            "kwargs.mode: \"linear\" is not supported",
        ),
        (cfg, "/architecture", removed(), "expected \"architecture\" or \"UNet_class_name\""),
        (
            cfg,
            "/architecture/network_class_name",
            json!("a.Primus"),
            "network_class_name: \"a.Primus\" is not supported",
        ),
        (
            arch,
            "/conv_op",
            json!("torch.nn.modules.conv.Conv2d"),
            "conv_op: \"torch.nn.modules.conv.Conv2d\" is not",
        ),
        (arch, "/conv_op", removed(), "arch_kwargs: \"conv_op\" is missing"),
        (arch, "/norm_op", json!(null), "norm_op: null is not supported, only torch.nn.modules.instancenorm"),
        (arch, "/norm_op_kwargs", json!({"eps": 0}), "norm_op_kwargs.eps: expected a number above 0, got 0"),
        (
            arch,
            "/nonlin",
            json!("torch.nn.ReLU"),
            "nonlin: \"torch.nn.ReLU\" is not supported, only torch.nn.LeakyReLU",
        ),
        (
            arch,
            "/nonlin_kwargs",
            json!({"slope": 1}),
            "nonlin_kwargs.slope: 1 is not supported, only negative_slope",
        ),
        (arch, "/nonlin_first", json!(true), "nonlin_first: true is not supported, only false"),
        (
            arch,
            "/dropout_op",
            json!("torch.nn.Dropout3d"),
            "dropout_op: \"torch.nn.Dropout3d\" is not supported, only null",
        ),
        (
            arch,
            "/squeeze",
            json!(1),
            "arch_kwargs.squeeze: 1 is not supported, only arguments of PlainConvUNet",
        ),
        (arch, "/n_stages", json!(1), "n_stages: expected a whole number from 2 to 16, got 1"),
        (arch, "/strides", json!([[1, 1, 1], [1, 2, 2]]), "strides: expected 3 entries, one for each stage"),
        (
            arch,
            "/strides",
            json!([[1, 2, 2], 1, 1]),
            "is not supported, only strides whose first stage is [1, 1, 1]",
        ),
        (
            arch,
            "/kernel_sizes",
            json!([[1, 3, 3], 3, 2]),
            "kernel_sizes: [[1,3,3],3,2] is not supported, only odd",
        ),
        (
            arch,
            "/features_per_stage",
            json!([2, 4, 1e9]),
            "features_per_stage[2]: expected a whole number from 1 to 65536",
        ),
        (arch, "/n_conv_per_stage_decoder", json!([1, 1, 1]), "n_conv_per_stage_decoder: expected 2 entries"),
    ];
    for (prefix, key, value, message) in cases {
        let error = mutated(&format!("{prefix}{key}"), value).unwrap_err();
        assert!(
            error.starts_with("plans.json: ") && error.contains(message),
            "{key}: {error}\nnot: {message}"
        );
    }
}
