//! Genuine nnU-Net model folders, and damaged ones (`scripts/reference/make_model_fixtures.py`).

use pdac_cascade::nnunet::ModelError;
use pdac_cascade::nnunet::checkpoint::{Checkpoint, read_metadata};
use pdac_cascade::nnunet::dataset::{Dataset, OutputKind};
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::plans::{Configuration, NormalizationScheme, Plans};
use pdac_cascade::nnunet::resampling::Resampling;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DEFAULT: [Resampling; 2] = [
    Resampling::Default { order: 3, order_z: 0, force_separate_z: None },
    Resampling::Default { order: 1, order_z: 0, force_separate_z: None },
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

// ---------------------------------------------------------------------------------------------- plans

#[test]
fn legacy_plans_are_completed() {
    let (plans, dataset, got) = genuine("panorama1", "3d_fullres").unwrap();
    assert_eq!(plans.transpose_forward, [0, 1, 2]);
    assert_eq!(dataset.output, OutputKind::Labels { classes: 2 });
    assert_eq!((got.spacing, got.patch_size), ([9.0, 4.5, 4.5], [24, 48, 48]));
    let network = &got.network;
    assert_eq!((network.input_channels, network.classes), (1, 2));
    assert_eq!(network.features, [8, 16, 32, 32]);
    assert_eq!(network.kernels, [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]);
    assert_eq!(network.strides, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]);
    assert_eq!((&network.convs_encoder[..], &network.convs_decoder[..]), (&[2, 2, 2, 2][..], &[2, 2, 2][..]));
    assert!(network.conv_bias && network.norm_affine);
    assert_eq!((network.norm_eps, network.negative_slope), (1e-5, 0.01));
    assert_eq!([got.data_resampling, got.probability_resampling], DEFAULT);
    let channel = got.normalization[0];
    assert_eq!((channel.scheme, channel.use_mask), (NormalizationScheme::Ct, false));
    assert_eq!(channel.intensity.mean, 42.803375244140625);
    assert_eq!(channel.intensity.std, 93.94111633300781);
    assert_eq!((channel.intensity.percentile_00_5, channel.intensity.percentile_99_5), (-152.0, 253.0));
}

#[test]
fn architecture_plans_give_the_network() {
    let (_, dataset, got) = genuine("panorama2", "3d_fullres").unwrap();
    assert_eq!(dataset.output.heads(), 7);
    assert_eq!(got.spacing, [3.0, 1.494, 1.494]);
    assert_eq!(got.patch_size, [16, 48, 64]);
    assert_eq!(got.network.features, [8, 16, 32, 32]);
    assert_eq!(got.network.strides[3], [1, 2, 2]);
    assert_eq!(got.network.convs_decoder, [2, 2, 2]);
    assert!(got.network.conv_bias && got.network.norm_affine);
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
    assert_eq!(got.network.classes, 3);
    let (_, dataset, got) = genuine("multiphase", "3d_fullres").unwrap();
    assert_eq!(dataset.input_channels(), 3);
    assert_eq!(got.network.input_channels, 3);
    let means: Vec<f64> = got.normalization.iter().map(|n| n.intensity.mean).collect();
    assert_eq!(means, [38.0, 110.0, 95.0]);
}

#[test]
fn genuine_configurations_beyond_this_version_are_refused_by_name() {
    let refused = |variant: &str, configuration: &str| {
        let error = genuine(variant, configuration).unwrap_err();
        assert!(matches!(error, ModelError::Unsupported { .. }), "{error}");
        error.to_string()
    };
    let error = refused("panther1", "3d_fullres_iso1x1x1");
    let class = "configurations.3d_fullres.architecture.network_class_name: \
        \"dynamic_network_architectures.architectures.unet.ResidualEncoderUNet\" is not supported, only";
    assert!(error.contains(class), "{error}");
    let error = refused("panorama1", "2d");
    assert!(
        error.contains("configurations.2d.patch_size: [96,96] is not supported, only three-dim"),
        "{error}"
    );
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
    let tiny_plans = read_json(&tiny().join("plans.json"));
    let configuration = &mut plans["configurations"]["3d_fullres"];
    configuration["architecture"] = tiny_plans["configurations"]["3d_fullres"]["architecture"].clone();
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
        Resampling::Default { order: 3, order_z: 0, force_separate_z: Some(false) }
    );
}

#[test]
fn scalars_stand_for_all_stages_and_unusual_values_are_kept() {
    let arch = "/configurations/3d_fullres/architecture/arch_kwargs";
    let got = |key: &str, value: Value| mutated(&format!("{arch}/{key}"), value).unwrap().network;
    assert_eq!(got("n_conv_per_stage", json!(2)).convs_encoder, [2, 2, 2]);
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

// ---------------------------------------------------------------------------------------------- checkpoints

fn tiny_parameters() -> Vec<(String, Vec<usize>)> {
    genuine("tiny", "3d_fullres").unwrap().2.network.parameters()
}

/// The weights that went into the tiny model's checkpoints.
fn tiny_weights() -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(tiny().join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values =
        |view: &TensorView<'_>| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.iter().map(|(name, view)| (name.to_owned(), values(&view))).collect()
}

#[test]
fn every_dress_of_a_checkpoint_gives_the_same_weights() {
    let (expected, parameters) = (tiny_weights(), tiny_parameters());
    assert_eq!(expected.len(), parameters.len());
    let tolerances =
        [("final", 0.0), ("numpy2", 0.0), ("channels_last", 0.0), ("half", 0.0005), ("protocol4", 0.004)];
    for (kind, tolerance) in tolerances {
        let name = format!("checkpoint_{kind}");
        let loaded = Checkpoint::find(&tiny().join("fold_0"), &name).unwrap().load(&parameters).unwrap();
        assert_eq!(loaded.len(), parameters.len(), "{kind}");
        for (name, shape) in &parameters {
            assert_eq!(loaded[name].dims(), shape.as_slice(), "{kind} {name}");
            let got = loaded[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (got, want) in got.iter().zip(&expected[name]) {
                assert!((got - want).abs() <= tolerance * want.abs(), "{kind} {name}: {got} not {want}");
            }
        }
    }
}

#[test]
fn metadata_is_read_without_weights() {
    let metadata = |kind: &str| read_metadata(&tiny().join(format!("fold_0/checkpoint_{kind}.pth"))).unwrap();
    let got = metadata("final");
    assert_eq!((got.trainer_name.as_str(), got.configuration.as_str()), ("nnUNetTrainer", "3d_fullres"));
    assert_eq!(got.mirroring_axes, [0, 1]);
    assert!(metadata("numpy2").mirroring_axes.is_empty(), "None is stored");
    assert!(metadata("protocol4").mirroring_axes.is_empty(), "nothing is stored");
}

/// A checkpoint of the given pickle and storages, as PyTorch lays it out.
fn write_pth(path: &Path, pickle: &[u8], storages: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let named = storages.iter().map(|(name, bytes)| (format!("x/data/{name}"), *bytes));
    for (name, bytes) in [("x/data.pkl".to_owned(), pickle)].into_iter().chain(named) {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// Pickle of `{"network_weights": {"w": torch._utils._rebuild_tensor_v2(<arguments>)}}`.
fn weights_pickle(arguments: &[u8]) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n", arguments, b"R"].concat();
    [b"\x80\x02}", &text("network_weights")[..], b"}", &text("w"), &tensor, b"ss."].concat()
}

/// Arguments `(storage of FloatStorage "0", offset, shape, stride)`.
fn tensor_arguments(storage_type: &str, offset: u8, shape: u8, stride: u8) -> Vec<u8> {
    let storage = format!("(X\x07\0\0\0storagectorch\n{storage_type}\nX\x01\0\0\00X\x03\0\0\0cpuK\x04tQ");
    [b"(", storage.as_bytes(), &[b'K', offset, b'K', shape, 0x85, b'K', stride, 0x85, b't']].concat()
}

#[test]
fn damaged_checkpoints_are_refused_with_their_reason() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("c.pth");
    let good = std::fs::read(tiny().join("fold_0/checkpoint_final.pth")).unwrap();
    let load = |expected: &[(&str, &[usize])]| {
        let expected: Vec<_> = expected.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect();
        Checkpoint::open(&path).and_then(|c| c.load(&expected)).map(drop).map_err(|e| e.to_string())
    };
    let refused = |what: &str, message: &str| {
        let error = load(&[("w", &[4])]).unwrap_err();
        assert!(error.contains("c.pth: ") && error.contains(message), "{what}: {error}\nnot: {message}");
    };
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused("truncated", "not a whole zip, as PyTorch writes since version 1.6");
    std::fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    refused("before 1.6", "not a whole zip, as PyTorch writes since version 1.6");
    std::fs::write(&path, []).unwrap();
    refused("empty", "not a whole zip");
    write_pth(&path, b"}.", &[]);
    refused("no weights", "\"network_weights\" is missing; not an nnU-Net checkpoint");
    write_pth(&path, b"\x80\x02K\x05.", &[]);
    refused("no dict", "\"network_weights\" is missing");
    write_pth(&path, b"\x80\x02cposix\nsystem\n(Ii\n", &[]);
    refused("other opcodes", "byte 17 of the pickle: opcode 0x49 is not part of plain data");
    write_pth(&path, &weights_pickle(b"K\x01\x85"), &[]);
    refused("short arguments", "network_weights: w is not stored as PyTorch stores tensors");
    let floats = [0.5_f32, 1.0, 1.5, 2.0].map(f32::to_le_bytes).concat();
    write_pth(&path, &weights_pickle(&tensor_arguments("FloatStorage", 0, 4, 1)), &[]);
    refused("no storage", "x/data/0 in the zip");
    write_pth(&path, &weights_pickle(&tensor_arguments("FloatStorage", 1, 4, 1)), &[("0", &floats)]);
    refused("beyond", "w: reaches beyond its storage of 4 values");
    write_pth(&path, &weights_pickle(&tensor_arguments("FloatStorage", 0, 4, 2)), &[("0", &floats)]);
    refused("beyond by stride", "w: reaches beyond its storage of 4 values");
    write_pth(&path, &weights_pickle(&tensor_arguments("LongStorage", 0, 4, 1)), &[("0", &floats)]);
    refused("integers", "w: LongStorage is not supported, only float, half, bfloat16 and double");
    write_pth(&path, &weights_pickle(&tensor_arguments("FloatStorage", 0, 4, 1)), &[("0", &floats)]);
    assert_eq!(load(&[("w", &[4])]), Ok(()));
    let error = Checkpoint::open(&path).unwrap().metadata().unwrap_err().to_string();
    assert!(error.ends_with("c.pth: \"trainer_name\" is missing"), "{error}");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(16).position(|w| w == floats).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    refused("flipped bit", "x/data/0 in the zip: Invalid checksum");
}

#[test]
fn random_bytes_never_panic() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("c.pth");
    let good = std::fs::read(tiny().join("fold_0/checkpoint_protocol4.pth")).unwrap();
    let parameters = tiny_parameters();
    let mut state = 12345_u64;
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            drop((checkpoint.metadata(), checkpoint.load(&parameters)));
        }
    }
}

// ---------------------------------------------------------------------------------------------- folders

/// A copy of the tiny model with its checkpoint in folds 0 and 1.
fn copy_of_tiny() -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in ["plans.json", "dataset.json"] {
        std::fs::copy(tiny().join(file), folder.path().join(file)).unwrap();
    }
    for (fold, kind) in [("fold_0", "final"), ("fold_1", "numpy2")] {
        std::fs::create_dir(folder.path().join(fold)).unwrap();
        let source = tiny().join(format!("fold_0/checkpoint_{kind}.pth"));
        std::fs::copy(source, folder.path().join(fold).join("checkpoint_final.pth")).unwrap();
    }
    folder
}

fn open(folder: &TempDir, folds: &[u32], name: &str) -> Result<ModelFolder, String> {
    let folds: Vec<Fold> = folds.iter().map(|f| Fold::Number(*f)).collect();
    ModelFolder::open(folder.path(), &folds, name).map_err(|e| e.to_string())
}

#[test]
fn a_folder_opens_and_its_folds_load() {
    let folder = copy_of_tiny();
    for name in ["checkpoint_final", "checkpoint_final.pth"] {
        let model = open(&folder, &[0, 1], name).unwrap();
        assert_eq!(model.trainer_name, "nnUNetTrainer");
        assert_eq!(model.configuration.name, "3d_fullres");
        assert_eq!(model.mirroring_axes, [0, 1], "the first fold decides");
        assert_eq!(model.load_fold(Fold::Number(1)).unwrap().len(), tiny_parameters().len());
    }
    assert!(open(&folder, &[1, 0], "checkpoint_final").unwrap().mirroring_axes.is_empty());
}

#[test]
fn incomplete_folders_are_refused() {
    let folder = copy_of_tiny();
    let refused = |folds: &[u32], name: &str, message: &str| {
        let error = open(&folder, folds, name).unwrap_err();
        assert!(error.contains(message), "{error}\nnot: {message}");
    };
    refused(&[], "checkpoint_final", "no fold was asked for");
    refused(&[0, 1, 0], "checkpoint_final", "fold 0 is asked for twice");
    refused(
        &[0, 4],
        "checkpoint_final",
        "fold_4/checkpoint_final: no such checkpoint: the folder of the fold is not",
    );
    refused(
        &[0],
        "checkpoint_best",
        "no such checkpoint (.safetensors or .pth), there: checkpoint_final.pth",
    );
    refused(&[0], "../fold_1/checkpoint_final", "expected the name of a checkpoint such as");
    std::fs::remove_file(folder.path().join("dataset.json")).unwrap();
    refused(&[0], "checkpoint_final", "dataset.json: no such file");
    let nowhere = ModelFolder::open(&folder.path().join("nowhere"), &[Fold::All], "x").unwrap_err();
    assert!(matches!(nowhere, ModelError::NotFound { .. }));
    std::fs::write(folder.path().join("dataset.json"), "{").unwrap();
    refused(&[0], "checkpoint_final", "dataset.json: not JSON: EOF while parsing");
}

#[test]
fn weights_of_another_network_are_listed_all_at_once() {
    let folder = copy_of_tiny();
    let path = folder.path().join("plans.json");
    let mut plans = read_json(&path);
    let arch = &mut plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"];
    arch["features_per_stage"] = json!([2, 4, 5]);
    arch["n_conv_per_stage"] = json!([1, 2, 1]);
    std::fs::write(&path, plans.to_string()).unwrap();
    let folds = [Fold::Number(0)];
    let ModelError::Mismatch { lines, .. } =
        ModelFolder::open(folder.path(), &folds, "checkpoint_final").unwrap_err()
    else {
        panic!("not a mismatch");
    };
    let expected = [
        "encoder.stages.1.0.convs.1.conv.weight: missing, expected [4, 4, 3, 3, 3]",
        "encoder.stages.1.0.convs.1.conv.bias: missing, expected [4]",
        "encoder.stages.1.0.convs.1.norm.weight: missing, expected [4]",
        "encoder.stages.1.0.convs.1.norm.bias: missing, expected [4]",
        "encoder.stages.2.0.convs.0.conv.weight: expected [5, 4, 3, 3, 3], got [4, 4, 3, 3, 3]",
        "encoder.stages.2.0.convs.0.conv.bias: expected [5], got [4]",
        "encoder.stages.2.0.convs.0.norm.weight: expected [5], got [4]",
        "encoder.stages.2.0.convs.0.norm.bias: expected [5], got [4]",
        "decoder.transpconvs.0.weight: expected [5, 4, 2, 2, 2], got [4, 4, 2, 2, 2]",
        "encoder.stages.0.0.convs.1.conv.bias: not part of the network, got [2]",
        "encoder.stages.0.0.convs.1.conv.weight: not part of the network, got [2, 2, 1, 3, 3]",
        "encoder.stages.0.0.convs.1.norm.bias: not part of the network, got [2]",
        "encoder.stages.0.0.convs.1.norm.weight: not part of the network, got [2]",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn safetensors_are_read_and_preferred() {
    let folder = copy_of_tiny();
    let path = folder.path().join("fold_0/checkpoint_final.safetensors");
    let parameters = tiny_parameters();
    let data: Vec<Vec<u8>> = parameters
        .iter()
        .map(|(_, shape)| vec![half::bf16::from_f32(1.25).to_le_bytes(); shape.iter().product()].concat())
        .collect();
    let views = || {
        let pairs = parameters.iter().zip(&data);
        pairs
            .map(|((name, shape), d)| (name.clone(), TensorView::new(Dtype::BF16, shape.clone(), d).unwrap()))
    };
    let write = |count: usize, metadata: &[(&str, &str)]| {
        let map = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        safetensors::serialize_to_file(views().take(count), Some(map), &path).unwrap();
    };
    let all = [
        ("trainer_name", "T"),
        ("configuration", "3d_fullres"),
        ("inference_allowed_mirroring_axes", "[2, 0]"),
    ];
    write(parameters.len(), &all);
    let model = open(&folder, &[0, 1], "checkpoint_final").unwrap();
    assert_eq!((model.trainer_name.as_str(), &model.mirroring_axes[..]), ("T", &[2, 0][..]));
    let head = &model.load_fold(Fold::Number(0)).unwrap()["decoder.seg_layers.1.bias"];
    assert_eq!(head.to_vec1::<f32>().unwrap(), [1.25; 3]);

    write(parameters.len(), &all[..2]);
    assert!(open(&folder, &[0], "checkpoint_final").unwrap().mirroring_axes.is_empty());
    write(parameters.len(), &[all[0], all[1], ("inference_allowed_mirroring_axes", "null")]);
    assert!(open(&folder, &[0], "checkpoint_final").unwrap().mirroring_axes.is_empty());
    write(parameters.len(), &[all[0], all[1], ("inference_allowed_mirroring_axes", "[0, 3]")]);
    let error = open(&folder, &[0], "checkpoint_final").unwrap_err();
    assert!(error.ends_with("expected none, or distinct axes from 0, 1, 2"), "{error}");
    write(parameters.len(), &all[1..]);
    let error = open(&folder, &[0], "checkpoint_final").unwrap_err();
    assert!(error.ends_with("__metadata__: \"trainer_name\" is missing"), "{error}");
    write(parameters.len() - 1, &all);
    let error = open(&folder, &[0], "checkpoint_final").unwrap_err();
    assert!(
        error.contains("1 of its tensors do not fit the plans' network:\n  decoder.seg_layers.1.bias: miss"),
        "{error}"
    );
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = open(&folder, &[0], "checkpoint_final").unwrap_err();
    assert!(
        error.contains(&format!("expected {} bytes by the safetensors header, got", bytes.len())),
        "{error}"
    );
    for bytes in [&b""[..], &[0xff; 64], b"\x02\0\0\0\0\0\0\0[]"] {
        std::fs::write(&path, bytes).unwrap();
        assert!(open(&folder, &[0], "checkpoint_final").is_err());
    }
}

#[test]
fn folds_are_numbers_or_all_in_json() {
    let folds: Vec<Fold> = serde_json::from_str(r#"[0, 4, "all"]"#).unwrap();
    assert_eq!(folds, [Fold::Number(0), Fold::Number(4), Fold::All]);
    assert_eq!(serde_json::to_string(&folds).unwrap(), r#"[0,4,"all"]"#);
    assert_eq!(Fold::All.to_string(), "all");
    for bad in ["\"0\"", "-1", "1.5", "null"] {
        assert!(serde_json::from_str::<Fold>(bad).is_err(), "{bad}");
    }
}
