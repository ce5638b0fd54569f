//! What is refused for want of memory, and weights that are loaded ahead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ndarray::Array3;
use pdac_cascade::imaging::file::{Compression, read_image_within, write_image};
use pdac_cascade::imaging::{Geometry, ImageError, MemoryGauge, Volume};
use pdac_cascade::network::PlanError;
use pdac_cascade::nnunet::export::SegmentationRequest;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::{Folds, PredictError, PredictOptions, Predictor, Preprocessed};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::Arithmetic;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

fn model_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/regions")
}

fn open(path: &Path) -> ModelFolder {
    ModelFolder::open(path, &[Fold::Number(0), Fold::Number(1)], "checkpoint_final").unwrap()
}

fn options() -> PredictOptions {
    let (accumulate, arithmetic) = (Accumulate::Float32, Arithmetic::detect());
    PredictOptions { step: 0.5, mirroring: false, folds: None, accumulate, arithmetic, gpu: None }
}

fn scan(model: &ModelFolder, shape: [usize; 3]) -> Preprocessed {
    let noise = |(z, y, x): (usize, usize, usize)| ((z * 7 + y * 5 + x * 3) % 11) as f32 * 20.0;
    let ct = Array3::from_shape_fn(shape, noise);
    Preprocessed::new(model, vec![ct], model.configuration.spacing).unwrap()
}

fn bits(predictor: &Predictor<'_>, scan: &Preprocessed) -> Vec<u32> {
    let logits = predictor.logits(&mut scan.clone(), &|_| true).unwrap();
    logits.values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn an_image_beyond_the_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scan.mha");
    let volume = Volume::new(Array3::<i16>::zeros((10, 10, 10)), Geometry::axis_aligned([10; 3], [1.0; 3]));
    write_image(&file, &volume, Compression::Zlib).unwrap();
    assert!(read_image_within(&file, MemoryGauge::new(|| Some(6000))).is_ok());
    let error = read_image_within(&file, MemoryGauge::new(|| Some(5999))).unwrap_err();
    assert!(matches!(&error, ImageError::Memory { source, .. } if source.asked == 6000), "{error}");
    let text = error.to_string();
    assert!(
        text.ends_with("the image's voxels need 6000 bytes of memory, 5999 bytes are available"),
        "{text}"
    );
}

#[test]
fn activations_sums_and_resampled_scans_beyond_the_memory_are_refused() {
    let model = open(&model_path());
    let plan = model.configuration.network.plan_in_parts(model.configuration.patch_size).unwrap();
    let activations = 4 * plan.buffer_len();
    assert!((1_000_000..20_000_000).contains(&activations), "{activations}");
    let error = Predictor::within(&model, options(), MemoryGauge::new(|| Some(1_000_000))).err().unwrap();
    let PredictError::Memory(refusal) = error else { panic!("{error}") };
    assert_eq!((refusal.asked, refusal.what), (activations as u64, "the network's activations"));
    let enough = MemoryGauge::new(|| Some(20_000_000));
    let predictor = Predictor::within(&model, options(), enough).unwrap();
    assert!(predictor.logits(&mut scan(&model, [30, 40, 50]), &|_| true).is_ok());
    let error = predictor.logits(&mut scan(&model, [200, 200, 50]), &|_| true).unwrap_err();
    assert!(
        error.to_string().starts_with("the network's activations and the sums over its tiles need"),
        "{error}"
    );
    let fine = model.configuration.spacing.map(|s| s * 20.0);
    let error = Preprocessed::within(&model, vec![Array3::ones((12, 12, 12))], fine, enough).unwrap_err();
    assert!(
        error.to_string().starts_with("the scan's voxels at the network's spacing need 55296000"),
        "{error}"
    );
}

/// What there is, for gauges, which cannot capture it.
static AVAILABLE: AtomicU64 = AtomicU64::new(0);

/// One fold keeps the sums of as many planes as a patch has, several those of all; a segmentation takes a label, and a
/// probability where one is asked for.
#[test]
fn the_memory_asked_for_is_what_is_taken() {
    let path = model_path();
    let first = ModelFolder::open(&path, &[Fold::Number(0)], "checkpoint_final").unwrap();
    let plan = first.configuration.network.plan_in_parts(first.configuration.patch_size).unwrap();
    let patch: usize = first.configuration.patch_size.iter().product();
    let (depth, plane, heads) = (60, 32 * 40, 3);
    let voxels = depth * plane;
    let fixed = 4 * plan.buffer_len() + 4 * patch;
    let gauge = MemoryGauge::new(|| Some(AVAILABLE.load(Ordering::Relaxed)));
    let request = |probability_of| SegmentationRequest { probability_of, ..Default::default() };
    for (model, planes, accumulate, per_voxel) in [
        (&first, 24, Accumulate::Float32, 4 * heads),
        (&first, 24, Accumulate::Float16, 2 * (heads + 1) + 6 * heads),
        (&open(&path), depth, Accumulate::Float32, 4 * heads),
        (&open(&path), depth, Accumulate::Float16, 2 * (heads + 1) + 6 * heads),
    ] {
        let sums = planes * plane * per_voxel;
        for (probability_of, result) in [(None, 2), (Some(1), 6)] {
            let asked = (fixed + sums + result * voxels) as u64;
            let ct = Array3::from_shape_fn((depth, 32, 40), |(z, y, x)| {
                ((z * 7 + y * 5 + x * 3) % 11) as f32 - 5.5
            });
            let run = |available| {
                AVAILABLE.store(available, Ordering::Relaxed);
                let predictor =
                    Predictor::within(model, PredictOptions { accumulate, ..options() }, gauge).unwrap();
                let spacing = model.configuration.spacing;
                predictor.segment(vec![ct.clone()], spacing, request(probability_of), &|_| true)
            };
            let error = run(asked - 1).unwrap_err();
            assert!(
                matches!(&error, PredictError::Memory(refusal) if refusal.asked == asked),
                "{asked}: {error}"
            );
            assert!(run(asked).is_ok());
        }
    }
}

#[test]
fn patches_that_overflow_are_refused() {
    let network = &open(&model_path()).configuration.network;
    for patch in [[1 << 20, 1 << 20, 1 << 20], [1 << 40, 1 << 40, 1 << 40], [1 << 62, 16, 16]] {
        let error = network.plan(patch).unwrap_err();
        assert!(matches!(&error, PlanError::TooLarge { patch: named, .. } if *named == patch), "{error}");
    }
}

#[test]
fn weights_loaded_ahead_give_the_same_bits() {
    let model = open(&model_path());
    let scan = scan(&model, [24, 32, 60]);
    let alone = bits(&Predictor::new(&model, options()).unwrap(), &scan);
    let arithmetic = Arithmetic::detect();
    let (first, after) = (Folds::new(&model, arithmetic), Folds::new(&model, arithmetic));
    std::thread::scope(|scope| {
        scope.spawn(|| first.load_ahead());
    });
    let predictor = Predictor::new(&model, options()).unwrap().with_folds(&first, Some(&after));
    assert_eq!(bits(&predictor, &scan), alone);
    assert_eq!(bits(&predictor, &scan), alone, "the first fold is loaded again");
    let next = Predictor::new(&model, options()).unwrap().with_folds(&after, None);
    assert_eq!(bits(&next, &scan), alone);
}

#[test]
fn kept_weights_give_the_same_bits_and_leave_the_memory_asked_for() {
    let model = open(&model_path());
    let scan = scan(&model, [24, 32, 60]);
    let alone = bits(&Predictor::new(&model, options()).unwrap(), &scan);
    let folds = Folds::new(&model, Arithmetic::detect());
    let memory = MemoryGauge::new(|| Some(1000));
    assert_eq!(folds.keep(memory, 1001).unwrap(), 0);
    assert!(!folds.release());
    assert_eq!(folds.keep(memory, 1000).unwrap(), 2);
    let predictor = || Predictor::new(&model, options()).unwrap().with_folds(&folds, None);
    predictor().warm_up().unwrap();
    for _ in 0..2 {
        assert_eq!(bits(&predictor(), &scan), alone);
    }
    assert!(folds.release());
    assert!(!folds.release());
    assert_eq!(bits(&predictor(), &scan), alone, "loaded again");
}

/// A copy of the model that a test may spoil.
fn copied_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dataset.json", "plans.json", "fold_0/checkpoint_final.pth", "fold_1/checkpoint_final.pth"] {
        let to = folder.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(model_path().join(name), to).unwrap();
    }
    folder
}

#[test]
fn every_fold_must_be_readable_to_be_kept() {
    let folder = copied_model();
    let model = open(folder.path());
    fs::remove_file(folder.path().join("fold_1/checkpoint_final.pth")).unwrap();
    let folds = Folds::new(&model, Arithmetic::detect());
    let error = folds.keep(MemoryGauge::UNLIMITED, 0).unwrap_err();
    assert!(error.to_string().contains("fold_1"), "{error}");
}

/// A fold that cannot be loaded is an error when its turn comes, not before.
#[test]
fn errors_of_weights_loaded_ahead_come_in_their_turn() {
    let folder = copied_model();
    let model = open(folder.path());
    let scan = scan(&model, [24, 32, 60]);
    let broken = Folds::new(&model, Arithmetic::detect());
    fs::remove_file(folder.path().join("fold_1/checkpoint_final.pth")).unwrap();
    let tiles = Cell::new(0);
    let predictor = Predictor::new(&model, options()).unwrap();
    let observer = |_| {
        tiles.set(tiles.get() + 1);
        true
    };
    let error = predictor.logits(&mut scan.clone(), &observer).unwrap_err();
    assert!(matches!(error, PredictError::Model(_)), "{error}");
    assert!(error.to_string().contains("fold_1"), "{error}");
    assert_eq!(tiles.get(), 2, "the first fold's tiles are done");
    fs::remove_file(folder.path().join("fold_0/checkpoint_final.pth")).unwrap();
    broken.load_ahead();
    let predictor = Predictor::new(&model, options()).unwrap().with_folds(&broken, None);
    let error = predictor.logits(&mut scan.clone(), &observer).unwrap_err();
    assert!(error.to_string().contains("fold_0"), "{error}");
    assert_eq!(tiles.get(), 2, "no tile was begun");
}
