//! Segmentations read as masks, and what is refused.

use super::grid::check_grid;
use super::{EvaluationError, Pair};
use crate::imaging::MemoryGauge;
use crate::imaging::file::element::{Element, with_array};
use crate::imaging::file::{Image, read_image_within};
use ndarray::Array3;
use std::path::Path;

/// Most values that a message lists.
const MOST_VALUES: usize = 5;

/// Truth and prediction on one grid, (z, y, x).
pub(super) struct Masks {
    pub(super) truth: Array3<bool>,
    pub(super) prediction: Array3<bool>,
    /// The truth's, mm (z, y, x).
    pub(super) spacing: [f64; 3],
}

impl Masks {
    /// Reads both images. Every voxel of the truth other than 0 is true; see [`foreground`] for the prediction. Position and
    /// direction are not compared.
    ///
    /// # Errors
    /// If an image cannot be read or is no mask, or shapes or spacings differ.
    pub(super) fn read(pair: &Pair, memory: MemoryGauge) -> Result<Self, EvaluationError> {
        let truth = read_image_within(&pair.truth, memory)?;
        let place = truth.geometry;
        let truth = any_label(&pair.truth, &truth)?;
        let prediction = read_image_within(&pair.prediction, memory)?;
        check_grid(pair, &place, &prediction.geometry)?;
        let prediction = foreground(&pair.prediction, &prediction)?;
        Ok(Self { truth, prediction, spacing: place.spacing })
    }
}

/// The voxels other than 0.
fn any_label(path: &Path, image: &Image) -> Result<Array3<bool>, EvaluationError> {
    let has_nan = with_array!(&image.voxels, array => array.iter().any(|v| v.to_number().is_nan()));
    if has_nan {
        let what = "expected labels, got voxels that are NaN".to_owned();
        return Err(EvaluationError::Values { path: path.to_owned(), what });
    }
    Ok(with_array!(&image.voxels, array => array.mapv(|v| v.to_number() != 0.0)))
}

/// The voxels above 0 of an image that holds 0, or 1, or 0 and one other value above it.
fn foreground(path: &Path, image: &Image) -> Result<Array3<bool>, EvaluationError> {
    let values = with_array!(&image.voxels, array => first_values(array.iter().map(|v| v.to_number())));
    let is_binary = match values[..] {
        [value] => value == 0.0 || value == 1.0,
        [a, b] => [a, b].contains(&0.0) && a.is_finite() && b.is_finite() && a.min(b) == 0.0,
        _ => false,
    };
    if !is_binary {
        let more = if values.len() == MOST_VALUES { ", …" } else { "" };
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let what = format!(
            "expected a binary mask (0 and 1, or 0 and one other value above 0), got the values {}{more}",
            values.join(", ")
        );
        return Err(EvaluationError::Values { path: path.to_owned(), what });
    }
    Ok(with_array!(&image.voxels, array => array.mapv(|v| v.to_number() > 0.0)))
}

/// The first different values, [`MOST_VALUES`] at most, in ascending order.
fn first_values(voxels: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = Vec::new();
    for voxel in voxels {
        if !values.iter().any(|&v| v == voxel || v.is_nan() && voxel.is_nan()) {
            values.push(voxel);
        }
        if values.len() == MOST_VALUES {
            break;
        }
    }
    values.sort_by(f64::total_cmp);
    values
}
