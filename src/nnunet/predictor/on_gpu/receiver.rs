//! Who takes mean logits, wherever they are.

use super::super::{AllLogits, LogitReader};
use crate::imaging::resampling::AxisOperator;
use crate::nnunet::dataset::OutputKind;
use crate::nnunet::export::{Decision, Export, SegmentationRequest};
use crate::nnunet::resampling::GridChange;
use crate::ops::CudaError;
use crate::ops::cuda::{AxisWeights, ClipTo, DeviceLogits, VoxelDecision};

/// Takes mean logits where they are: plane by plane from the host's sums, or all at once from the GPU's.
pub(in crate::nnunet::predictor) trait Receiver: LogitReader {
    /// Takes all logits.
    fn take_all(&mut self, logits: &DeviceLogits) -> Result<(), CudaError>;
}

impl Receiver for AllLogits {
    fn take_all(&mut self, logits: &DeviceLogits) -> Result<(), CudaError> {
        self.values = logits.read()?;
        Ok(())
    }
}

impl Receiver for Export<'_> {
    fn take_all(&mut self, logits: &DeviceLogits) -> Result<(), CudaError> {
        let (change, round_to_half) = self.grids().change();
        let SegmentationRequest { decision, probability_of } = self.request();
        let decision = VoxelDecision {
            paint_order: match self.output_kind() {
                OutputKind::Labels { .. } => None,
                OutputKind::Regions { paint_order } => Some(paint_order.clone()),
            },
            by_logits: decision == Decision::Logits,
            round_to_half,
            probability_of,
        };
        let (axes, clip) = weights_of(change);
        logits.decide(&axes, clip.as_ref(), &decision, |decided| {
            self.put(decided.slices, decided.labels, decided.probability);
        })
    }
}

/// The operators as the GPU takes them.
pub(super) fn weights_of(change: &GridChange) -> ([AxisWeights; 3], Option<ClipTo>) {
    let axes = change.operators.each_ref().map(|operator| {
        let rows = (0..operator.output_len()).map(|o| operator.row(o));
        AxisWeights {
            input_len: operator.input_len(),
            first: rows.clone().map(|(first, _)| first as u32).collect(),
            weights: rows.flat_map(|(_, weights)| weights.iter().copied()).collect(),
            is_identity: operator.is_identity(),
        }
    });
    let source =
        |operator: &AxisOperator| (0..operator.output_len()).map(|o| operator.source(o) as u32).collect();
    let clip = change.clips.then(|| ClipTo {
        axis: change.separate,
        source: change.separate.map_or(vec![], |axis| source(&change.operators[axis])),
    });
    (axes, clip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_become_rows_of_weights() {
        let change = GridChange {
            operators: [AxisOperator::identity(3), AxisOperator::linear(2, 4), AxisOperator::nearest(4, 2)],
            separate: Some(2),
            clips: true,
        };
        let ([z, y, x], clip) = weights_of(&change);
        assert!(z.is_identity && !y.is_identity && !x.is_identity);
        assert_eq!((y.input_len, y.output_len(), y.weights.len()), (2, 4, 8));
        assert_eq!(x.first, [1, 3]);
        assert_eq!(clip, Some(ClipTo { axis: Some(2), source: vec![1, 3] }));
    }
}
