//! Genuine checkpoints and model folders, and damaged ones (`scripts/reference/make_model_fixtures.py`).

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in the functions marked so, not in those they share"
)]

use pdac_cascade::nnunet::ModelError;
use pdac_cascade::nnunet::checkpoint::{Checkpoint, read_metadata};
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::plans::Plans;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/tiny")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn tiny_parameters() -> Vec<(String, Vec<usize>)> {
    let dataset = Dataset::read(&tiny().join("dataset.json")).unwrap();
    let plans = Plans::read(&tiny().join("plans.json")).unwrap();
    plans.configuration("3d_fullres", &dataset).unwrap().network.parameters()
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
    assert_eq!(lines, expected.map(|line| format!("fold_0/checkpoint_final.pth: {line}")));
}

#[test]
fn weights_that_do_not_fit_are_listed_for_every_fold() {
    let folder = copy_of_tiny();
    let path = folder.path().join("plans.json");
    let mut plans = read_json(&path);
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] =
        json!([2, 4, 5]);
    std::fs::write(&path, plans.to_string()).unwrap();
    let error = open(&folder, &[0, 1], "checkpoint_final").unwrap_err();
    for fold in ["fold_0", "fold_1"] {
        let line = format!(
            "{fold}/checkpoint_final.pth: encoder.stages.2.0.convs.0.conv.bias: expected [5], got [4]"
        );
        assert!(error.contains(&line), "{line} is not in {error}");
    }
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
        error.contains("1 of its tensors do not fit the plans' network:\n  fold_0/checkpoint_final.safetensors: decoder.seg"),
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
