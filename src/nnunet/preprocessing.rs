//! From an image to what the network reads, but for resampling: transpose, crop, normalise.
//!
//! nnU-Net: `default_preprocessor.py: run_case_npy`, `cropping.py`, `default_normalization_schemes.py`.

use super::plans::{ChannelNormalization, NormalizationScheme};
use crate::imaging::morphology::fill_holes;
use ndarray::parallel::prelude::*;
use ndarray::{Array3, ArrayView2, ArrayView3, Axis, Zip, s};

/// nnU-Net's lower bound of what it divides by.
const EPSILON: f32 = 1e-8;

/// Why an image cannot be normalised.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NormalizationError {
    /// `RGBTo01Normalization` got something that is no 8-bit image.
    #[error("RGBTo01Normalization: expected intensities from 0 to 255, got {min} to {max}")]
    NotRgb {
        /// Smallest intensity.
        min: f32,
        /// Largest intensity.
        max: f32,
    },
    /// The scheme counts voxels in the non-zero mask only, and there is none of the image's shape.
    #[error("normalisation in the non-zero mask needs a mask of shape {expected:?}, got {got:?}")]
    Mask {
        /// Shape of the image.
        expected: Vec<usize>,
        /// Shape of the mask, if there is one.
        got: Option<Vec<usize>>,
    },
}

/// A box of voxels, (z, y, x); `stop` is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundingBox {
    /// First voxel.
    pub start: [usize; 3],
    /// One past the last voxel.
    pub stop: [usize; 3],
}

impl BoundingBox {
    /// Voxels along each axis.
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.stop[axis] - self.start[axis])
    }

    /// The part of `array` inside the box.
    ///
    /// # Panics
    /// If the box reaches beyond the array, which is a programming error.
    pub fn crop<'a, T>(&self, array: &'a Array3<T>) -> ArrayView3<'a, T> {
        let ([z0, y0, x0], [z1, y1, x1]) = (self.start, self.stop);
        array.slice(s![z0..z1, y0..y1, x0..x1])
    }

    /// A copy of the part of `array` inside the box.
    ///
    /// # Panics
    /// As [`BoundingBox::crop`].
    pub fn copy<T: Clone>(&self, array: &Array3<T>) -> Array3<T> {
        self.crop(array).as_standard_layout().into_owned()
    }

    /// The part of `array` inside the box; the array itself where the box is all of it.
    ///
    /// # Panics
    /// As [`BoundingBox::crop`].
    pub fn cut<T: Clone>(&self, array: Array3<T>) -> Array3<T> {
        if array.shape() == self.shape() { array } else { self.copy(&array) }
    }
}

/// `values` in transposed axis order: entry `a` is that of image axis `forward[a]`.
///
/// # Panics
/// If `forward` is not a permutation of 0, 1, 2, which [`super::plans::Plans`] rules out.
pub fn permute<T: Copy>(values: [T; 3], forward: [usize; 3]) -> [T; 3] {
    forward.map(|axis| values[axis])
}

/// `data` with its axes in transposed order and C layout; axis `a` is image axis `forward[a]` (`numpy.transpose`).
///
/// # Panics
/// As [`permute`].
pub fn transpose<T: Clone>(data: Array3<T>, forward: [usize; 3]) -> Array3<T> {
    let transposed = data.permuted_axes(forward);
    if transposed.is_standard_layout() { transposed } else { transposed.as_standard_layout().into_owned() }
}

/// The smallest box around every voxel that is not zero in some channel; the whole image where all are zero.
///
/// nnU-Net fills holes first (`cropping.py: crop_to_nonzero`), which cannot change the box. NaN is not zero.
///
/// # Panics
/// If there is no channel or they differ in shape, which is a programming error.
pub fn nonzero_box(channels: &[ArrayView3<'_, f32>]) -> BoundingBox {
    let shape: [usize; 3] = channels[0].dim().into();
    let plane_boxes: Vec<Option<[usize; 4]>> =
        (0..shape[0]).into_par_iter().map(|z| nonzero_rectangle(channels, z)).collect();
    let mut found: Option<BoundingBox> = None;
    for (z, plane) in plane_boxes.iter().enumerate() {
        if let Some([y0, y1, x0, x1]) = *plane {
            let before = found.unwrap_or(BoundingBox { start: [z, y0, x0], stop: [z + 1, y1, x1] });
            let [start, stop] = [before.start, before.stop];
            found = Some(BoundingBox {
                start: [start[0], start[1].min(y0), start[2].min(x0)],
                stop: [z + 1, stop[1].max(y1), stop[2].max(x1)],
            });
        }
    }
    found.unwrap_or(BoundingBox { start: [0; 3], stop: shape })
}

/// Rows and columns `[y0, y1, x0, x1]` (ends excluded) of the non-zero voxels in plane `z`.
fn nonzero_rectangle(channels: &[ArrayView3<'_, f32>], z: usize) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for channel in channels {
        for (y, row) in channel.index_axis(Axis(0), z).outer_iter().enumerate() {
            let Some(first) = row.iter().position(|v| *v != 0.0) else { continue };
            let last = row.iter().rposition(|v| *v != 0.0).unwrap_or(first);
            let [y0, y1, x0, x1] = found.unwrap_or([y, y, first, last]);
            found = Some([y0.min(y), y1.max(y), x0.min(first), x1.max(last)]);
        }
    }
    found.map(|[y0, y1, x0, x1]| [y0, y1 + 1, x0, x1 + 1])
}

/// Where some channel is not zero, holes filled; the same inside a cropped image as in the whole one.
///
/// # Panics
/// As [`nonzero_box`].
pub fn nonzero_mask(channels: &[ArrayView3<'_, f32>]) -> Array3<bool> {
    let mut mask = Array3::from_elem(channels[0].raw_dim(), false);
    for channel in channels {
        Zip::from(&mut mask).and(channel).par_for_each(|m, v| *m |= *v != 0.0);
    }
    fill_holes(&mask)
}

impl ChannelNormalization {
    /// Whether [`normalise`] needs the non-zero mask: only z-score heeds `use_mask_for_norm`.
    pub fn needs_mask(&self) -> bool {
        self.use_mask && self.scheme == NormalizationScheme::ZScore
    }

    /// Whether every image becomes the same under `other`: planned intensities count for CT only.
    pub fn normalises_as(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.needs_mask() == other.needs_mask()
            && (self.scheme != NormalizationScheme::Ct || self.intensity == other.intensity)
    }
}

/// What normalisation makes of an intensity `v`: `(clip(v) − mean) / std`, in float32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntensityMap {
    /// Lower and upper bound.
    pub clip: Option<[f32; 2]>,
    /// What is subtracted.
    pub mean: f32,
    /// What is divided by.
    pub std: f32,
    /// Voxels outside the non-zero mask keep their value.
    pub masked: bool,
}

impl IntensityMap {
    #[inline]
    fn apply(&self, v: f32) -> f32 {
        let v = self.clip.map_or(v, |[lower, upper]| clip(v, lower, upper));
        (v - self.mean) / self.std
    }
}

/// Normalises one (cropped) channel in place, in float32; the result does not depend on the number of threads.
///
/// # Errors
/// As [`intensity_map`].
pub fn normalise(
    normalization: &ChannelNormalization,
    data: &mut Array3<f32>,
    mask: Option<&Array3<bool>>,
) -> Result<(), NormalizationError> {
    let Some(map) = intensity_map(normalization, data, mask)? else { return Ok(()) };
    match mask.filter(|_| map.masked) {
        Some(mask) => Zip::from(data).and(mask).par_for_each(|v, inside| {
            if *inside {
                *v = map.apply(*v);
            }
        }),
        None => data.par_mapv_inplace(|v| map.apply(v)),
    }
    Ok(())
}

/// What normalisation makes of the intensities of one (cropped) channel; `None`: nothing. It does not depend on the number
/// of threads.
///
/// `mask` is [`nonzero_mask`] of the cropped image, and needed only where [`ChannelNormalization::needs_mask`]; voxels
/// outside it keep their value. Deviation: z-score's mean and standard deviation are summed in float64, where numpy
/// sums pairwise in float32. They agree to about 1e-6, except that an image of a single intensity becomes 0 here and
/// can become ±1 there, when rounding puts numpy's mean beside that intensity.
///
/// # Errors
/// If the mask is missing or of another shape, or intensities for `RGBTo01Normalization` are not from 0 to 255.
pub fn intensity_map(
    normalization: &ChannelNormalization,
    data: &Array3<f32>,
    mask: Option<&Array3<bool>>,
) -> Result<Option<IntensityMap>, NormalizationError> {
    let intensity = &normalization.intensity;
    let all = |mean: f32, std: f32| IntensityMap { clip: None, mean, std, masked: false };
    Ok(Some(match normalization.scheme {
        NormalizationScheme::None => return Ok(None),
        NormalizationScheme::Ct => {
            let [lower, upper] = [intensity.percentile_00_5 as f32, intensity.percentile_99_5 as f32];
            let [mean, std] = [intensity.mean as f32, intensity.std.max(f64::from(EPSILON)) as f32];
            IntensityMap { clip: Some([lower, upper]), ..all(mean, std) }
        }
        NormalizationScheme::ZScore if normalization.use_mask => {
            let mask =
                mask.filter(|m| m.shape() == data.shape()).ok_or_else(|| NormalizationError::Mask {
                    expected: data.shape().to_vec(),
                    got: mask.map(|m| m.shape().to_vec()),
                })?;
            let (mean, std) = mean_and_std(data, Some(mask));
            IntensityMap { masked: true, ..all(mean, std) }
        }
        NormalizationScheme::ZScore => {
            let (mean, std) = mean_and_std(data, None);
            all(mean, std)
        }
        NormalizationScheme::RescaleTo01 => {
            let (min, max) = range(&data.view());
            all(min, (max - min).max(EPSILON))
        }
        NormalizationScheme::RgbTo01 => {
            let (min, max) = range(&data.view());
            if min < 0.0 || max > 255.0 {
                return Err(NormalizationError::NotRgb { min, max });
            }
            all(0.0, 255.0)
        }
    }))
}

/// `numpy.clip`: NaN stays, and the upper bound wins over a lower one above it.
fn clip(value: f32, lower: f32, upper: f32) -> f32 {
    let raised = if value < lower { lower } else { value };
    if raised > upper { upper } else { raised }
}

/// Mean and population standard deviation (at least [`EPSILON`]) of the voxels, or of those in the mask.
fn mean_and_std(data: &Array3<f32>, mask: Option<&Array3<bool>>) -> (f32, f32) {
    let (count, sum) = fold_voxels(data, mask, |v| v);
    let mean = sum / count;
    let (_, squares) = fold_voxels(data, mask, |v| (v - mean) * (v - mean));
    (mean as f32, ((squares / count).sqrt() as f32).max(EPSILON))
}

/// Number of voxels and the sum of `value` over them; planes are summed apart and added in order.
fn fold_voxels(
    data: &Array3<f32>,
    mask: Option<&Array3<bool>>,
    value: impl Fn(f64) -> f64 + Sync,
) -> (f64, f64) {
    let plane_sum = |z: usize, plane: ArrayView2<'_, f32>| match mask {
        None => (plane.len() as f64, plane.iter().map(|v| value(f64::from(*v))).sum::<f64>()),
        Some(mask) => {
            let inside = mask.index_axis(Axis(0), z);
            let voxels = plane.iter().zip(inside.iter()).filter(|(_, inside)| **inside);
            voxels.fold((0.0, 0.0), |(n, sum), (v, _)| (n + 1.0, sum + value(f64::from(*v))))
        }
    };
    let planes: Vec<(f64, f64)> =
        data.axis_iter(Axis(0)).into_par_iter().enumerate().map(|(z, plane)| plane_sum(z, plane)).collect();
    planes.iter().fold((0.0, 0.0), |(n, sum), plane| (n + plane.0, sum + plane.1))
}

/// Smallest and largest value; NaN is passed over.
pub(crate) fn range(data: &ArrayView3<'_, f32>) -> (f32, f32) {
    let wider = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
    let empty = (f32::INFINITY, f32::NEG_INFINITY);
    let planes = data.axis_iter(Axis(0)).into_par_iter();
    planes.map(|plane| plane.iter().fold(empty, |r, v| wider(r, (*v, *v)))).reduce(|| empty, wider)
}
