//! From logits on the network's grid to labels and probabilities on the scan's, a few slices at a time.
//!
//! Source: nnU-Net v2, `export_prediction.py: convert_predicted_logits_to_segmentation_with_correct_shape` and
//! `label_handling.py`.

use super::dataset::OutputKind;
use super::model_folder::ModelFolder;
use super::predictor::{Logits, Preprocessed};
use super::preprocessing::transpose;
use super::resampling::{Resampling, SlabResampler};
use ndarray::{Array3, ArrayView4, s};
use rayon::prelude::*;
use std::ops::Range;

/// Logits resampled at a time, at most (unless one slice holds more).
const SLAB_FLOATS: usize = 2 * 1024 * 1024;

/// How labels are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// The largest float32 probability wins, the first one of equals: what nnU-Net does when it saves probabilities.
    #[default]
    Probabilities,
    /// The largest logit wins, the first one of equals: what nnU-Net does when it does not.
    Logits,
}

/// What to keep of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentationRequest {
    /// How labels are decided (regions always by probability).
    pub decision: Decision,
    /// Head whose probability is kept.
    pub probability_of: Option<usize>,
}

/// A prediction on the scan's grid and in its axis order.
#[derive(Debug, Clone)]
pub struct Segmentation {
    /// Label per voxel, (z, y, x); 0 outside the non-zero crop.
    pub labels: Array3<u16>,
    /// Probability of the requested head, (z, y, x); outside the crop 1 for head 0 of a softmax, else 0.
    pub probability: Option<Array3<f32>>,
}

/// Labels, and the requested probability, of a prediction.
///
/// # Errors
/// If the logits are not in the CPU's memory.
pub fn segment(
    model: &ModelFolder,
    scan: &Preprocessed,
    logits: &Logits,
    request: SegmentationRequest,
) -> candle_core::Result<Segmentation> {
    let kind = &model.dataset.output;
    let outside = match (kind, request.probability_of) {
        (OutputKind::Labels { .. }, Some(0)) => 1.0,
        _ => 0.0,
    };
    let mut labels = Array3::zeros(scan.full_shape);
    let mut probability = request.probability_of.map(|_| Array3::from_elem(scan.full_shape, outside));
    let [_, height, width] = scan.crop.shape();
    for_each_slab(model, scan, logits, |z, slab| {
        let place = s![
            scan.crop.start[0] + z.start..scan.crop.start[0] + z.end,
            scan.crop.start[1]..scan.crop.stop[1],
            scan.crop.start[2]..scan.crop.stop[2]
        ];
        let voxels: Vec<(u16, f32)> = slab
            .as_slice()
            .unwrap_or_default()
            .par_chunks(logits.heads)
            .with_min_len(4096)
            .map(|voxel| decide(kind, request, voxel))
            .collect();
        let shape = (z.len(), height, width);
        let at = |(z, y, x): (usize, usize, usize)| voxels[(z * height + y) * width + x];
        labels.slice_mut(place).assign(&Array3::from_shape_fn(shape, |i| at(i).0));
        if let Some(probability) = &mut probability {
            probability.slice_mut(place).assign(&Array3::from_shape_fn(shape, |i| at(i).1));
        }
    })?;
    let back = model.transpose_backward;
    Ok(Segmentation { labels: transpose(labels, back), probability: probability.map(|p| transpose(p, back)) })
}

/// Calls `visit` with the logits of a few slices at a time, resampled to the cropped scan's grid: the slices along
/// the network's first axis, and (slices, height, width, heads) in standard layout.
///
/// # Errors
/// If the logits are not in the CPU's memory.
pub fn for_each_slab(
    model: &ModelFolder,
    scan: &Preprocessed,
    logits: &Logits,
    mut visit: impl FnMut(Range<usize>, ArrayView4<'_, f32>),
) -> candle_core::Result<()> {
    let configuration = &model.configuration;
    let shape @ [depth, height, width] = scan.crop.shape();
    let slices = (SLAB_FLOATS / (height * width * logits.heads)).max(1);
    logits.with_view(|values| {
        let resampling = &configuration.probability_resampling;
        let resampler = SlabResampler::new(values, shape, configuration.spacing, scan.spacing, resampling)
            .round_to_half(logits.half && matches!(resampling, Resampling::Default { .. }));
        for start in (0..depth).step_by(slices) {
            let z = start..(start + slices).min(depth);
            visit(z.clone(), resampler.slab(z).view());
        }
    })
}

/// Label of one voxel and the requested head's probability.
fn decide(kind: &OutputKind, request: SegmentationRequest, logits: &[f32]) -> (u16, f32) {
    match kind {
        OutputKind::Labels { .. } => {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if request.decision == Decision::Logits && request.probability_of.is_none() {
                return (first_maximum(logits.iter().copied()), 0.0);
            }
            let sum: f32 = logits.iter().map(|&v| (v - largest).exp()).sum();
            let probability = |v: f32| (v - largest).exp() / sum;
            let label = match request.decision {
                Decision::Probabilities => first_maximum(logits.iter().map(|&v| probability(v))),
                Decision::Logits => first_maximum(logits.iter().copied()),
            };
            (label, request.probability_of.map_or(0.0, |head| probability(logits[head])))
        }
        OutputKind::Regions { paint_order } => {
            let probability = |v: f32| 1.0 / (1.0 + (-v).exp());
            let painted = paint_order.iter().zip(logits).rev().find(|(_, v)| probability(**v) > 0.5);
            (
                painted.map_or(0, |(label, _)| *label),
                request.probability_of.map_or(0.0, |head| probability(logits[head])),
            )
        }
    }
}

/// Index of the first of the largest values.
fn first_maximum(values: impl Iterator<Item = f32>) -> u16 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > best.1 {
            best = (i as u16, v);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFTMAX: OutputKind = OutputKind::Labels { classes: 3 };

    #[test]
    fn equal_logits_go_to_the_first_label() {
        let request = SegmentationRequest { decision: Decision::Logits, probability_of: None };
        assert_eq!(decide(&SOFTMAX, request, &[1.0, 2.0, 2.0]).0, 1);
    }

    #[test]
    fn logits_that_differ_by_less_than_their_probabilities_can_tell_go_to_the_first_label() {
        let request = SegmentationRequest::default();
        let (a, b) = (20.0f32, 20.000_002_f32);
        assert!(b > a);
        assert_eq!(decide(&SOFTMAX, request, &[-30.0, 1e-9, 0.0]).0, 1);
        assert_eq!(
            decide(&SOFTMAX, SegmentationRequest { decision: Decision::Logits, ..request }, &[0.0, a, b]).0,
            2
        );
    }

    #[test]
    fn the_probability_is_the_softmax_of_the_head() {
        let request = SegmentationRequest { probability_of: Some(2), ..Default::default() };
        let (_, p) = decide(&SOFTMAX, request, &[0.0, 0.0, 2f32.ln()]);
        assert!((p - 0.5).abs() < 1e-6);
    }

    #[test]
    fn later_regions_paint_over_earlier_ones() {
        let regions = OutputKind::Regions { paint_order: vec![2, 1, 3] };
        let request = SegmentationRequest { probability_of: Some(0), ..Default::default() };
        assert_eq!(decide(&regions, request, &[5.0, 5.0, -5.0]).0, 1);
        assert_eq!(decide(&regions, request, &[5.0, -5.0, -5.0]).0, 2);
        assert_eq!(decide(&regions, request, &[-5.0, -5.0, -5.0]).0, 0);
        assert!((decide(&regions, request, &[0.0, 0.0, 0.0]).1 - 0.5).abs() < 1e-7);
    }
}
