//! The pancreas at low resolution, and the region of the scan around it: how every cascade begins.

use super::execution::Stage;
use super::nifti_passage::after_nifti;
use super::recipe::{PancreasStage, Roi};
use super::roi::{corners, region_of_interest};
use super::{Observer, PipelineError};
use crate::imaging::resampling::itk_resample_to_spacing;
use crate::imaging::{Geometry, Volume};
use crate::nnunet::export::{Decision, SegmentationRequest};
use crate::nnunet::predictor::PredictError;
use crate::nnunet::preprocessing::BoundingBox;
use ndarray::Array3;

/// What the first stage found.
#[derive(Debug, Clone)]
pub struct Located {
    /// Labels of the pancreas on the low-resolution grid, 0 elsewhere.
    pub labels: Volume<u16>,
    /// Region for the second stage, (z, y, x) on the scan's grid; `None` if there is no pancreas, or none is asked for.
    pub roi: Option<BoundingBox>,
}

impl Located {
    /// Where the pancreas is on the grid of `scan`: each voxel is that of the low-resolution one that is nearest, at the border
    /// of the outermost.
    ///
    /// Both grids have one origin and one direction. Source: the baseline container of PANTHER's first task, `upsample_mask`,
    /// which zooms by the ratio of the spacings and may miss the scan's shape by a voxel; this does not.
    pub fn on_grid_of(&self, scan: &Geometry) -> Array3<bool> {
        let low = &self.labels.geometry;
        let nearest: [Vec<usize>; 3] = std::array::from_fn(|a| {
            let ratio = scan.spacing[a] / low.spacing[a];
            let last = low.shape[a].saturating_sub(1);
            (0..scan.shape[a]).map(|i| ((i as f64 * ratio).round() as usize).min(last)).collect()
        });
        let [z, y, x] = nearest;
        Array3::from_shape_fn(scan.shape, |(k, j, i)| self.labels.data[(z[k], y[j], x[i])] != 0)
    }
}

/// Finds the pancreas of a scan at low resolution and, if asked for one, a region around it; the first weights of `after` are
/// loaded at the end.
///
/// # Errors
/// If the network cannot run or the observer stops it.
pub(super) fn locate_pancreas(
    stage: &Stage<'_>,
    recipe: &PancreasStage,
    roi: Option<&Roi>,
    scan: &Volume<f32>,
    after: Option<&Stage<'_>>,
    observer: &dyn Observer,
) -> Result<Located, PipelineError> {
    observer.stage("low resolution");
    let [x, y, z] = recipe.spacing_mm_xyz;
    let low = itk_resample_to_spacing(scan, [z, y, x], recipe.outside_value).map_err(PredictError::from)?;
    let read = after_nifti(&low.geometry);
    observer.stage("pancreas");
    let request = SegmentationRequest { decision: Decision::Probabilities, probability_of: None };
    let predictor = stage.predictor(stage.whole_share(), after)?;
    let tile = &|progress| observer.tile(progress);
    let mut labels = predictor.segment(vec![low.data], read.spacing, request, tile)?.labels;
    if let Some(pancreas) = &recipe.labels {
        labels.mapv_inplace(|label| if pancreas.contains(&label) { label } else { 0 });
    }
    let geometry = after_nifti(&read); // nnU-Net writes its mask with what it read
    let around = |roi: &Roi| {
        corners(&labels).map(|c| region_of_interest(&scan.geometry, &geometry, c, roi.margin_mm_xyz))
    };
    let roi = roi.and_then(around);
    Ok(Located { labels: Volume::new(labels, geometry), roi })
}

/// Geometry of a region of a scan, but for the origin: the second stage only asks for the spacing.
pub(super) fn geometry_of(region: &BoundingBox, scan: &Geometry) -> Geometry {
    Geometry { shape: region.shape(), ..*scan }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_low_resolution_voxel_counts_up_to_the_border() {
        let mut labels = Array3::zeros((2, 1, 3));
        labels[(1, 0, 2)] = 7;
        let low = Geometry::axis_aligned([2, 1, 3], [6.0, 3.0, 3.0]);
        let located = Located { labels: Volume::new(labels, low), roi: None };
        let mask = located.on_grid_of(&Geometry::axis_aligned([5, 2, 9], [2.0, 3.0, 1.0]));
        let inside: Vec<_> = mask.indexed_iter().filter(|(_, m)| **m).map(|(at, _)| at).collect();
        // z: 2 mm slices 2 to 4 are nearest to the slice at 6 mm (4 mm is 2/3 of it); x: 1 mm voxels from 5 on.
        let expected: Vec<_> =
            (2..5).flat_map(|z| (0..2).flat_map(move |y| (5..9).map(move |x| (z, y, x)))).collect();
        assert_eq!(inside, expected);
    }
}
