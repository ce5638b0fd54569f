//! Labels and probabilities of several voxels at once.
//!
//! The heads of [`STRIP`] voxels lie side by side, so that every line of arithmetic here is one of vectors.

use super::{Decision, SegmentationRequest};
use crate::nnunet::dataset::OutputKind;
use crate::nnunet::resampling::STRIP;

/// One value for each of several voxels.
type Lanes = [f32; STRIP];

/// Labels of the voxels with these logits (heads, voxels), and the requested head's probability, 0 without a request.
///
/// The logits are replaced by probabilities, where those are needed.
#[inline(always)]
pub(super) fn decide(
    kind: &OutputKind,
    request: SegmentationRequest,
    logits: &mut [Lanes],
) -> ([u16; STRIP], Lanes) {
    let labels = match kind {
        OutputKind::Labels { .. } if request.decision == Decision::Logits => {
            let labels = first_maximum(logits);
            if request.probability_of.is_some() {
                softmax(logits);
            }
            labels
        }
        OutputKind::Labels { .. } => {
            softmax(logits);
            first_maximum(logits)
        }
        OutputKind::Regions { paint_order } => {
            for v in logits.as_flattened_mut() {
                *v = sigmoid(*v);
            }
            paint(paint_order, logits)
        }
    };
    (labels, request.probability_of.map_or([0.0; STRIP], |head| logits[head]))
}

/// Replaces logits by `exp(v − largest) / Σ exp(v − largest)`.
#[inline(always)]
fn softmax(logits: &mut [Lanes]) {
    let mut largest = [f32::NEG_INFINITY; STRIP];
    for v in logits.iter() {
        for i in 0..STRIP {
            largest[i] = if v[i] > largest[i] { v[i] } else { largest[i] };
        }
    }
    let mut sum = [0.0; STRIP];
    for v in logits.iter_mut() {
        for i in 0..STRIP {
            v[i] = exp(v[i] - largest[i]);
        }
        for i in 0..STRIP {
            sum[i] += v[i];
        }
    }
    for v in logits.iter_mut() {
        for i in 0..STRIP {
            v[i] /= sum[i];
        }
    }
}

#[inline(always)]
fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + exp(-v))
}

/// Index of the first of each voxel's largest values; 0 where none is larger than −∞.
#[inline(always)]
fn first_maximum(values: &[Lanes]) -> [u16; STRIP] {
    let mut best = [f32::NEG_INFINITY; STRIP];
    let mut labels = [0u32; STRIP];
    for (label, v) in values.iter().enumerate() {
        for i in 0..STRIP {
            labels[i] = if v[i] > best[i] { label as u32 } else { labels[i] };
        }
        for i in 0..STRIP {
            best[i] = if v[i] > best[i] { v[i] } else { best[i] };
        }
    }
    labels.map(|label| label as u16)
}

/// The label of the last head whose probability is above a half, 0 where there is none.
#[inline(always)]
fn paint(paint_order: &[u16], probabilities: &[Lanes]) -> [u16; STRIP] {
    let mut labels = [0; STRIP];
    for (&label, p) in paint_order.iter().zip(probabilities) {
        for i in 0..STRIP {
            labels[i] = if p[i] > 0.5 { label } else { labels[i] };
        }
    }
    labels
}

/// `eˣ` to about one unit in the last place, without branches and tables; 0 below −87 and infinite above 88.
///
/// `x = k·ln 2 + r` with `|r| ≤ ½·ln 2`: the Taylor series of `eʳ` to the seventh power, times `2ᵏ`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it leaves no fraction bits, and `k` in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has so few bits that its product with `k` is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const LOWEST: f32 = -87.0;
    const HIGHEST: f32 = 88.0;
    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > HIGHEST { HIGHEST } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (bounded - k * LN_2[0]) - k * LN_2[1];
    let series = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let series = 1.0 / 24.0 + r * (1.0 / 120.0 + r * series);
    let series = r + (r * r) * (0.5 + r * (1.0 / 6.0 + r * series));
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let value = (1.0 + series) * power;
    let value = if x < LOWEST { 0.0 } else { value };
    if x > HIGHEST { f32::INFINITY } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One voxel as the definition has it, in double precision where that cannot move a decision.
    fn naive(kind: &OutputKind, request: SegmentationRequest, logits: &[f32]) -> (u16, f64) {
        let first_maximum = |values: &[f32]| {
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            values.iter().position(|&v| v == largest).unwrap() as u16
        };
        match kind {
            OutputKind::Labels { .. } => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers: Vec<f64> = logits.iter().map(|v| f64::from(v - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let probabilities: Vec<f64> = powers.iter().map(|p| p / sum).collect();
                (first_maximum(logits), request.probability_of.map_or(0.0, |head| probabilities[head]))
            }
            OutputKind::Regions { paint_order } => {
                let probability = |v: f32| 1.0 / (1.0 + (-f64::from(v)).exp());
                let painted = paint_order.iter().zip(logits).rfind(|(_, v)| probability(**v) > 0.5);
                let label = painted.map_or(0, |(label, _)| *label);
                (label, request.probability_of.map_or(0.0, |head| probability(logits[head])))
            }
        }
    }

    fn one(kind: &OutputKind, request: SegmentationRequest, logits: &[f32]) -> (u16, f32) {
        let mut lanes: Vec<Lanes> = logits.iter().map(|&v| [v; STRIP]).collect();
        let (labels, probabilities) = decide(kind, request, &mut lanes);
        (labels[STRIP - 1], probabilities[0])
    }

    const SOFTMAX: OutputKind = OutputKind::Labels { classes: 3 };

    proptest! {
        /// Logits are multiples of 1/64, so that different ones have different probabilities.
        #[test]
        fn lanes_are_decided_as_voxels_alone(
            logits in proptest::collection::vec(proptest::array::uniform16(-2000..2000i16), 1..9),
            regions: bool,
            by_logits: bool,
            head in proptest::option::of(0..9usize),
        ) {
            let mut lanes: Vec<Lanes> = logits.iter().map(|v| v.map(|v| f32::from(v) / 64.0)).collect();
            let before = lanes.clone();
            let heads = lanes.len();
            let kind = match regions {
                true => OutputKind::Regions { paint_order: (0..heads).map(|h| 3 * h as u16 % 7 + 1).collect() },
                false => OutputKind::Labels { classes: heads },
            };
            let decision = if by_logits { Decision::Logits } else { Decision::Probabilities };
            let request = SegmentationRequest { decision, probability_of: head.map(|h| h % heads) };
            let (labels, probabilities) = decide(&kind, request, &mut lanes);
            for lane in 0..STRIP {
                let voxel: Vec<f32> = before.iter().map(|v| v[lane]).collect();
                let (label, probability) = naive(&kind, request, &voxel);
                prop_assert_eq!(labels[lane], label);
                prop_assert!((f64::from(probabilities[lane]) - probability).abs() <= 2.5e-7);
            }
        }
    }

    #[test]
    fn the_exponential_is_precise_everywhere() {
        let mut worst = 0.0_f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst < 1.3e-7, "{worst:e}");
        assert_eq!(
            [0.0, -0.0, -87.5, f32::NEG_INFINITY, 89.0, f32::INFINITY].map(exp),
            [1.0, 1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]
        );
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn equal_logits_go_to_the_first_label() {
        let request = SegmentationRequest { decision: Decision::Logits, probability_of: None };
        assert_eq!(one(&SOFTMAX, request, &[1.0, 2.0, 2.0]).0, 1);
    }

    #[test]
    fn logits_that_differ_by_less_than_their_probabilities_can_tell_go_to_the_first_label() {
        let request = SegmentationRequest::default();
        let (a, b) = (20.0f32, 20.000_002_f32);
        assert!(b > a);
        assert_eq!(one(&SOFTMAX, request, &[-30.0, 1e-9, 0.0]).0, 1);
        assert_eq!(one(&SOFTMAX, request, &[-30.0, 0.0, 1e-9]).0, 1);
        let by_logits = SegmentationRequest { decision: Decision::Logits, ..request };
        assert_eq!(one(&SOFTMAX, by_logits, &[0.0, a, b]).0, 2);
    }

    #[test]
    fn logits_that_are_no_numbers_are_background() {
        let request = SegmentationRequest::default();
        assert_eq!(one(&SOFTMAX, request, &[0.0, f32::NAN, 1.0]).0, 0);
        assert_eq!(one(&SOFTMAX, request, &[f32::NEG_INFINITY; 3]).0, 0);
    }

    #[test]
    fn later_regions_paint_over_earlier_ones() {
        let regions = OutputKind::Regions { paint_order: vec![2, 1, 3] };
        let request = SegmentationRequest { probability_of: Some(0), ..Default::default() };
        assert_eq!(one(&regions, request, &[5.0, 5.0, -5.0]).0, 1);
        assert_eq!(one(&regions, request, &[5.0, -5.0, -5.0]).0, 2);
        assert_eq!(one(&regions, request, &[-5.0, -5.0, -5.0]).0, 0);
        assert!((one(&regions, request, &[0.0, 0.0, 0.0]).1 - 0.5).abs() < 1e-7);
    }
}
