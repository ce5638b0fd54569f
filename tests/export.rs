//! Export of logits against a naive one that resamples everything, then decides voxel after voxel.

use ndarray::{Array3, Array4, s};
use pdac_cascade::nnunet::dataset::OutputKind;
use pdac_cascade::nnunet::export::{Decision, Segmentation, SegmentationRequest, segment_resampled};
use pdac_cascade::nnunet::preprocessing::BoundingBox;
use pdac_cascade::nnunet::resampling::{Resampling, SlabResampler};
use proptest::prelude::*;

/// Deterministic logits of order 1 to 10.
fn logits(shape: (usize, usize, usize, usize), seed: u64) -> Array4<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array4::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 20.0
    })
}

fn softmax(voxel: &[f64]) -> Vec<f64> {
    let sum: f64 = voxel.iter().map(|v| v.exp()).sum();
    voxel.iter().map(|v| v.exp() / sum).collect()
}

/// Labels and the head's probability of each voxel of the whole resampled volume, and by how much the label was decided.
fn naive(resampler: &SlabResampler<'_>, head: usize) -> (Array3<u16>, Array3<f64>, Array3<f64>) {
    let all = resampler.slab(0..resampler.output_shape()[0]);
    let shape = resampler.output_shape();
    let voxel =
        |(z, y, x)| -> Vec<f64> { all.slice(s![z, y, x, ..]).iter().map(|&v| f64::from(v)).collect() };
    let sorted = |i| {
        let mut order: Vec<(f64, u16)> = voxel(i).into_iter().zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order
    };
    let margin = |i| {
        let order = sorted(i);
        order.get(1).map_or(f64::INFINITY, |second| order[0].0 - second.0)
    };
    (
        Array3::from_shape_fn(shape, |i| sorted(i)[0].1),
        Array3::from_shape_fn(shape, |i| softmax(&voxel(i))[head]),
        Array3::from_shape_fn(shape, margin),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn export_is_resampling_then_deciding(
        old in (1..6_usize, 1..20_usize, 1..20_usize),
        new in (1..9_usize, 1..40_usize, 1..24_usize),
        before in (0..3_usize, 0..3_usize, 0..3_usize),
        after in (0..3_usize, 0..3_usize, 0..3_usize),
        heads in 1..9_usize,
        head in 0..9_usize,
        half: bool,
        by_logits: bool,
        seed: u64,
    ) {
        let head = head % heads;
        let logits = logits((old.0, old.1, old.2, heads), seed);
        let linear = Resampling::from_orders(1, 0, None).unwrap();
        let new = [new.0, new.1, new.2];
        let resampler = SlabResampler::new(logits.view(), new, [1.0; 3], [1.0; 3], &linear).round_to_half(half);
        let start = [before.0, before.1, before.2];
        let crop = BoundingBox { start, stop: [start[0] + new[0], start[1] + new[1], start[2] + new[2]] };
        let full = [crop.stop[0] + after.0, crop.stop[1] + after.1, crop.stop[2] + after.2];
        let decision = if by_logits { Decision::Logits } else { Decision::Probabilities };
        let request = SegmentationRequest { decision, probability_of: Some(head) };
        let kind = OutputKind::Labels { classes: heads };
        let got = segment_resampled(&resampler, &kind, full, &crop, request);
        let alone = segment_resampled(&resampler, &kind, full, &crop, SegmentationRequest { decision, probability_of: None });
        prop_assert_eq!(&alone.labels, &got.labels);
        prop_assert!(alone.probability.is_none());

        let (labels, probabilities, margins) = naive(&resampler, head);
        let probability = got.probability.unwrap();
        prop_assert_eq!(probability.dim(), (full[0], full[1], full[2]));
        for (at, &label) in got.labels.indexed_iter() {
            let at = [at.0, at.1, at.2];
            if (0..3).any(|a| at[a] < crop.start[a] || at[a] >= crop.stop[a]) {
                prop_assert_eq!((label, probability[at]), (0, if head == 0 { 1.0 } else { 0.0 }));
                continue;
            }
            let inside = [at[0] - start[0], at[1] - start[1], at[2] - start[2]];
            prop_assert!(label == labels[inside] || margins[inside] < 1e-6, "{at:?}: {label}");
            prop_assert!((f64::from(probability[at]) - probabilities[inside]).abs() < 5e-7, "{at:?}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let logits = logits((9, 40, 30, 7), 5);
    let linear = Resampling::from_orders(1, 0, None).unwrap();
    let shape = [37, 70, 51];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let Segmentation { labels, probability, .. } = pool.install(|| {
            let resampler = SlabResampler::new(logits.view(), shape, [1.0; 3], [1.0; 3], &linear);
            let request = SegmentationRequest { probability_of: Some(3), ..Default::default() };
            let crop = BoundingBox { start: [0; 3], stop: shape };
            segment_resampled(&resampler, &OutputKind::Labels { classes: 7 }, shape, &crop, request)
        });
        (labels, probability.unwrap().mapv(f32::to_bits))
    };
    let alone = run(1);
    assert!(alone.0.iter().any(|&label| label == 6), "only some labels are decided");
    assert!(alone == run(2) && alone == run(5));
}
