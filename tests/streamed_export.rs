//! A segmentation made while logits become final is, bit for bit, the one that is made of all logits at the end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ndarray::{Array3, Array4, Axis, Slice, s};
use pdac_cascade::nnunet::export::{Decision, SegmentationRequest, segment};
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::{PredictOptions, Predictor, Preprocessed};
use pdac_cascade::nnunet::resampling::{LogitGrids, Resampling};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::Arithmetic;
use proptest::prelude::*;
use std::path::Path;

fn open(name: &str, folds: u32) -> ModelFolder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name);
    let folds: Vec<Fold> = (0..folds).map(Fold::Number).collect();
    ModelFolder::open(&path, &folds, "checkpoint_final").unwrap()
}

/// Compares both ways for one scan, whose first and last slices are zero and so outside the crop.
fn check(model: &ModelFolder, shape: (usize, usize, usize), spacing: [f64; 3], accumulate: Accumulate) {
    let noise = |(z, y, x): (usize, usize, usize)| ((z * 7 + y * 5 + x * 3) % 11) as f32 * 20.0 - 60.0;
    let mut ct = Array3::from_shape_fn(shape, noise);
    ct.slice_axis_mut(Axis(0), Slice::new(0, Some(1), 1)).fill(0.0);
    ct.slice_axis_mut(Axis(0), Slice::new(-1, None, 1)).fill(0.0);
    let arithmetic = Arithmetic::detect();
    let options =
        PredictOptions { step: 0.5, mirroring: false, folds: None, accumulate, arithmetic, gpu: None };
    let predictor = Predictor::new(model, options).unwrap();
    let channels = vec![ct; model.configuration.normalization.len()];
    let mut scan = Preprocessed::new(model, channels.clone(), spacing).unwrap();
    let logits = predictor.logits(&mut scan, &|_| true).unwrap();
    for probability_of in [None, Some(0), Some(1)] {
        let request = SegmentationRequest { decision: Decision::Probabilities, probability_of };
        let expected = segment(model, scan.grid(), &logits, request);
        let got = predictor.segment(channels.clone(), spacing, request, &|_| true).unwrap();
        assert_eq!(got.labels, expected.labels, "{shape:?}, {spacing:?}, {accumulate:?}");
        let bits = |p: Option<Array3<f32>>| p.map(|p| p.mapv(f32::to_bits));
        assert_eq!(bits(got.probability), bits(expected.probability), "{shape:?}, {spacing:?}");
    }
    let labels = segment(model, scan.grid(), &logits, SegmentationRequest::default()).labels;
    let inside = labels.slice(s![1..shape.0 - 1, .., ..]);
    let first = inside.iter().next().unwrap();
    assert!(inside.iter().any(|label| label != first), "one label proves little");
}

#[test]
fn planes_are_exported_as_they_become_final() {
    let cubic = Resampling::from_orders(3, 0, None).unwrap();
    let linear = Resampling::from_orders(1, 0, Some(false)).unwrap();
    let torch = Resampling::Torch { force_separate_z: None };
    for name in ["regions", "transpose"] {
        for folds in [1, 2] {
            let mut model = open(name, folds);
            let usual = model.configuration.probability_resampling;
            let [z, y, x] = model.configuration.spacing;
            for (resampling, spacing) in [
                (usual, [z, y, x]),
                (usual, [z * 0.7, y * 1.3, x]),
                (usual, [z * 4.0, y, x]),
                (linear, [z * 1.9, y, x * 0.8]),
                (torch, [z * 0.6, y, x]),
                (cubic, [z * 1.2, y, x]),
                (cubic, [z * 4.0, y, x * 1.1]),
            ] {
                model.configuration.probability_resampling = resampling;
                let depth = (60.0 * z / spacing[0]) as usize;
                check(&model, (depth, 30, 40), spacing, Accumulate::Float32);
                check(&model, (depth, 30, 40), spacing, Accumulate::Float16);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whichever planes are handed over at a time, what is ready needs no later plane, and what is left no forgotten one.
    #[test]
    fn ready_slices_need_only_what_is_there(
        old in (1..40_usize, 1..4_usize, 1..4_usize),
        new in (1..60_usize, 1..6_usize, 1..6_usize),
        kind in 0..5_usize,
        bands in proptest::collection::vec(1..15_usize, 1..20),
    ) {
        let resampling = match kind {
            0 => Resampling::Torch { force_separate_z: Some(false) },
            1 => Resampling::Torch { force_separate_z: Some(true) },
            order => Resampling::from_orders([0, 1, 3][order - 2], 0, None).unwrap(),
        };
        let (old, new) = ([old.0, old.1, old.2], [new.0, new.1, new.2]);
        let grids = LogitGrids::new(old, new, [5.0, 1.0, 1.0], [1.0; 3], &resampling);
        let logits = Array4::from_shape_fn((old[0], old[1], old[2], 2), |(z, y, x, c)| ((z * 7 + y * 5 + x * 3 + c) % 13) as f32);
        let expected = grids.over(0, logits.view()).slab(0..new[0]);
        let (mut first, mut done, mut end) = (0, 0, 0);
        for planes in bands.iter().copied().cycle() {
            end = (end + planes).min(old[0]);
            let resampler = grids.slices_ready(end).gt(&done).then(|| grids.over(first, logits.slice(s![first..end, .., .., ..])));
            if let Some(resampler) = resampler {
                let ready = done..grids.slices_ready(end);
                prop_assert_eq!(resampler.slab(ready.clone()), expected.slice(s![ready.clone(), .., .., ..]).to_owned());
                done = ready.end;
            }
            let needed = grids.needed_from(end);
            prop_assert!((first..=end).contains(&needed));
            first = needed;
            if end == old[0] {
                break;
            }
        }
        prop_assert_eq!(done, new[0]);
    }
}
