//! Tiles of one constant: the prediction is, bit for bit, the one that runs the network for every tile and mirroring.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ndarray::{Array3, Slice};
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::predictor::{PredictOptions, Predictor, Preprocessed};
use pdac_cascade::nnunet::preprocessing::BoundingBox;
use pdac_cascade::nnunet::sliding_window::{Accumulate, Tiling, importance_map, mirrorings};
use pdac_cascade::ops::{Arithmetic, Mirroring};
use proptest::prelude::*;
use std::path::Path;

fn open(folds: &[u32]) -> ModelFolder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/regions");
    let folds: Vec<Fold> = folds.iter().map(|&k| Fold::Number(k)).collect();
    ModelFolder::open(&path, &folds, "checkpoint_final").unwrap()
}

fn options(mirroring: bool) -> PredictOptions {
    let (accumulate, arithmetic) = (Accumulate::Float32, Arithmetic::detect());
    PredictOptions { step: 0.5, mirroring, folds: None, accumulate, arithmetic, gpu: None }
}

fn scan(channels: &[Array3<f32>]) -> Preprocessed {
    let shape: [usize; 3] = channels[0].shape().try_into().unwrap();
    let crop = BoundingBox { start: [0; 3], stop: shape };
    Preprocessed { channels: channels.to_vec(), full_shape: shape, crop, spacing: [1.0; 3] }
}

fn flip(array: &mut Array3<f32>, mirroring: Mirroring) {
    for axis in (0..3).filter(|&a| mirroring[a]) {
        array.slice_axis_inplace(ndarray::Axis(axis), Slice::new(0, None, -1));
    }
}

/// Sum over mirrorings of one tile's logits, each from a network run of its own on the mirrored image.
fn tile_sum(
    predictor: &Predictor<'_>,
    channels: &[Array3<f32>],
    start: [isize; 3],
    patch: [usize; 3],
    all: &[Mirroring],
) -> Vec<f32> {
    let mut sum = Vec::new();
    for &mirroring in all {
        let mut image = channels.to_vec();
        image.iter_mut().for_each(|c| flip(c, mirroring));
        let start = std::array::from_fn(|a| {
            let n = channels[0].shape()[a] as isize;
            if mirroring[a] { n - start[a] - patch[a] as isize } else { start[a] }
        });
        let raw = predictor.raw_tile(scan(&image), start).unwrap();
        let heads = raw.len() / patch.iter().product::<usize>();
        let [d, h, w] = patch;
        let at = |i: usize, n: usize, flipped: bool| if flipped { n - 1 - i } else { i };
        let turned = (0..raw.len()).map(|i| {
            let (voxel, head) = (i / heads, i % heads);
            let z = at(voxel / w / h, d, mirroring[0]);
            let y = at(voxel / w % h, h, mirroring[1]);
            let x = at(voxel % w, w, mirroring[2]);
            raw[((z * h + y) * w + x) * heads + head]
        });
        if sum.is_empty() {
            sum = turned.collect();
        } else {
            sum = sum.iter().zip(turned).map(|(s, v)| s + v).collect();
        }
    }
    sum
}

/// The whole prediction, (z, y, x, heads), without any reuse.
fn naive(folds: &[u32], channels: &[Array3<f32>], mirroring: bool) -> Vec<f32> {
    let image: [usize; 3] = channels[0].shape().try_into().unwrap();
    let model = open(folds);
    let patch = model.configuration.patch_size;
    let all = mirrorings(if mirroring { &model.mirroring_axes } else { &[] });
    let tiling = Tiling::new(image, patch, 0.5);
    let map = importance_map(patch, Accumulate::Float32);
    let heads = model.dataset.output.heads();
    let mut weights = vec![0f32; image.iter().product()];
    let mut total = vec![0f32; weights.len() * heads];
    for (i, &fold) in folds.iter().enumerate() {
        let model = open(&[fold]);
        let predictor = Predictor::new(&model, options(mirroring)).unwrap();
        for &start in &tiling.starts {
            let sum = tile_sum(&predictor, channels, start, patch, &all);
            for (voxel, &weight) in map.iter().enumerate() {
                let at = [voxel / patch[2] / patch[1], voxel / patch[2] % patch[1], voxel % patch[2]];
                let [z, y, x] = std::array::from_fn(|a| at[a] as isize + start[a]);
                let inside = [z, y, x].iter().zip(image).all(|(&p, n)| p >= 0 && p < n as isize);
                if inside {
                    let to = ((z * image[1] as isize + y) * image[2] as isize + x) as usize;
                    for head in 0..heads {
                        total[to * heads + head] += sum[voxel * heads + head] / all.len() as f32 * weight;
                    }
                    weights[to] += if i == 0 { weight } else { 0.0 };
                }
            }
        }
    }
    total.iter().enumerate().map(|(i, v)| v / (weights[i / heads] * folds.len() as f32)).collect()
}

fn check(folds: &[u32], channels: &[Array3<f32>], mirroring: bool) {
    let model = open(folds);
    let predictor = Predictor::new(&model, options(mirroring)).unwrap();
    let logits = predictor.logits(&mut scan(channels), &|_| true).unwrap();
    let got: Vec<u32> = logits.values.iter().map(|v| v.to_bits()).collect();
    let expected: Vec<u32> = naive(folds, channels, mirroring).into_iter().map(f32::to_bits).collect();
    assert_eq!(got.len(), expected.len());
    let differing = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{differing} of {} logits differ", got.len());
}

/// An image whose columns are cut into stretches, each filled with one value, or with noise where there is none.
fn striped(shape: [usize; 3], stretches: &[Option<f32>]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| {
        let noise = ((z * 7 + y * 13 + x * 29) % 17) as f32 / 8.0 - 1.0;
        stretches[x * stretches.len() / shape[2]].unwrap_or(noise)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn reuse_changes_no_bit(
        stretches in proptest::collection::vec(
            prop_oneof![Just(None), Just(Some(0.0)), Just(Some(-0.0)), Just(Some(-1.25)), Just(Some(0.5))],
            1..4,
        ),
        shape in (18usize..26, 26usize..34, 38usize..120),
        mirroring in any::<bool>(),
    ) {
        check(&[0], &[striped(shape.into(), &stretches)], mirroring);
    }
}

#[test]
fn constants_shared_by_many_tiles_are_kept_per_fold() {
    let image = striped([24, 32, 110], &[Some(0.5), Some(0.5), None]);
    for mirroring in [true, false] {
        check(&[0, 1], std::slice::from_ref(&image), mirroring);
    }
}

#[test]
fn a_constant_image_smaller_than_the_patch_is_constant_with_its_padding_only_if_zero() {
    for value in [0.0, 0.5] {
        check(&[0], &[Array3::from_elem((20, 30, 90), value)], true);
    }
}
