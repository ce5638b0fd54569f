//! A scan on its way to the network: cropped, then normalised and resampled.

use super::PredictError;
use crate::imaging::memory::{MemoryGauge, bytes};
use crate::imaging::resampling::check_size;
use crate::nnunet::model_folder::ModelFolder;
use crate::nnunet::plans::ChannelNormalization;
use crate::nnunet::preprocessing::{BoundingBox, nonzero_box, nonzero_mask, normalise, permute, transpose};
use crate::nnunet::resampling::{new_shape, resample_image};
use candle_core::{Device, Tensor};
use ndarray::Array3;

/// A scan as the network sees it, and how to get back.
#[derive(Debug, Clone)]
pub struct Preprocessed {
    /// Normalised, resampled channels in the network's axis order, each (z, y, x).
    pub channels: Vec<Array3<f32>>,
    /// Shape before cropping, network's axis order.
    pub full_shape: [usize; 3],
    /// Non-zero box, network's axis order.
    pub crop: BoundingBox,
    /// Spacing of the scan in mm, network's axis order.
    pub spacing: [f64; 3],
}

impl Preprocessed {
    /// Transposes, crops to non-zero, normalises and resamples a scan's channels, in this order.
    ///
    /// `channels` are (z, y, x) arrays of the stored values, `spacing` is (z, y, x) in mm.
    ///
    /// # Errors
    /// If the number of channels or their shapes are wrong, or the normalisation cannot take the intensities.
    pub fn new(
        model: &ModelFolder,
        channels: Vec<Array3<f32>>,
        spacing: [f64; 3],
    ) -> Result<Self, PredictError> {
        Self::within(model, channels, spacing, MemoryGauge::UNLIMITED)
    }

    /// As [`Preprocessed::new`], if there is the memory for the network's image.
    ///
    /// # Errors
    /// As [`Preprocessed::new`], and if there is not.
    pub fn within(
        model: &ModelFolder,
        channels: Vec<Array3<f32>>,
        spacing: [f64; 3],
        memory: MemoryGauge,
    ) -> Result<Self, PredictError> {
        Cropped::new(model, channels, spacing)?.preprocess(model, memory)
    }

    /// Where the network's image lies in the scan.
    pub fn grid(&self) -> ScanGrid {
        ScanGrid { full_shape: self.full_shape, crop: self.crop, spacing: self.spacing }
    }

    /// Shape of the network's image (z, y, x), before padding.
    pub fn shape(&self) -> [usize; 3] {
        let (z, y, x) = self.channels[0].dim();
        [z, y, x]
    }

    /// Takes the channels out, as one flat (channel, z, y, x) tensor; a single one is moved, not copied.
    pub(super) fn take_tensor(&mut self) -> candle_core::Result<Tensor> {
        let mut channels = std::mem::take(&mut self.channels).into_iter();
        let first = channels.next().unwrap_or_default();
        let first = if first.is_standard_layout() { first } else { first.as_standard_layout().into_owned() };
        let len = first.len();
        let (mut flat, offset) = first.into_raw_vec_and_offset();
        flat.drain(..offset.unwrap_or(0));
        flat.truncate(len);
        for channel in channels {
            flat.extend(channel.iter());
        }
        let len = flat.len();
        Tensor::from_vec(flat, len, &Device::Cpu)
    }
}

/// Where the part of a scan that the network sees lies, all in the network's axis order.
#[derive(Debug, Clone, Copy)]
pub struct ScanGrid {
    pub(in crate::nnunet) full_shape: [usize; 3],
    /// Non-zero box.
    pub(in crate::nnunet) crop: BoundingBox,
    /// In mm.
    pub(in crate::nnunet) spacing: [f64; 3],
}

/// Shape (z, y, x in the network's axis order) of what a model's network sees of a scan of one channel; `spacing` is (z, y, x) in mm.
///
/// # Errors
/// If there would be too many voxels at the network's spacing.
pub fn network_shape(
    model: &ModelFolder,
    scan: &Array3<f32>,
    spacing: [f64; 3],
) -> Result<[usize; 3], PredictError> {
    let crop = nonzero_box(&[scan.view().permuted_axes(model.transpose_forward)]);
    target(model, &crop, spacing)
}

/// Shape of a crop, given in the network's axis order, at the network's spacing; `spacing` is the scan's.
fn target(model: &ModelFolder, crop: &BoundingBox, spacing: [f64; 3]) -> Result<[usize; 3], PredictError> {
    let (spacing, network) = (permute(spacing, model.transpose_forward), model.configuration.spacing);
    let target = new_shape(crop.shape(), spacing, network).map(|n| n.max(1));
    check_size(target, spacing, network)?;
    Ok(target)
}

/// A scan cropped to its non-zero voxels, not yet normalised.
#[derive(Clone)]
pub(super) struct Cropped {
    /// In the network's axis order, each (z, y, x).
    pub channels: Vec<Array3<f32>>,
    /// Where some channel is not zero, if a normalisation asks for it.
    pub mask: Option<Array3<bool>>,
    pub full_shape: [usize; 3],
    pub crop: BoundingBox,
    pub spacing: [f64; 3],
    /// Shape at the network's spacing.
    pub target: [usize; 3],
}

impl Cropped {
    /// Transposes and crops a scan's channels.
    pub fn new(
        model: &ModelFolder,
        channels: Vec<Array3<f32>>,
        spacing: [f64; 3],
    ) -> Result<Self, PredictError> {
        let configuration = &model.configuration;
        let expected = configuration.normalization.len();
        let shapes: Vec<_> = channels.iter().map(|c| c.shape().to_vec()).collect();
        if channels.len() != expected || shapes.windows(2).any(|w| w[0] != w[1]) {
            let got = format!("{shapes:?}");
            return Err(PredictError::Channels { path: model.path.clone(), expected, got });
        }
        let channels: Vec<_> = channels.into_iter().map(|c| transpose(c, model.transpose_forward)).collect();
        let (z, y, x) = channels[0].dim();
        let full_shape = [z, y, x];
        let crop = nonzero_box(&channels.iter().map(|c| c.view()).collect::<Vec<_>>());
        let target = target(model, &crop, spacing)?;
        let spacing = permute(spacing, model.transpose_forward);
        let cropped: Vec<_> = channels.into_iter().map(|c| crop.cut(c)).collect();
        let masked = configuration.normalization.iter().any(ChannelNormalization::needs_mask);
        let mask = masked.then(|| nonzero_mask(&cropped.iter().map(|c| c.view()).collect::<Vec<_>>()));
        Ok(Self { channels: cropped, mask, full_shape, crop, spacing, target })
    }

    /// Where it lies in the scan.
    pub fn grid(&self) -> ScanGrid {
        ScanGrid { full_shape: self.full_shape, crop: self.crop, spacing: self.spacing }
    }

    /// Normalises and resamples the channels, if there is the memory for the network's image.
    pub fn preprocess(self, model: &ModelFolder, memory: MemoryGauge) -> Result<Preprocessed, PredictError> {
        let Self { channels, mask, full_shape, crop, spacing, target } = self;
        let configuration = &model.configuration;
        if target != crop.shape() {
            let asked = bytes(&target, size_of::<f32>()) * channels.len() as u128;
            memory.check("the scan's voxels at the network's spacing", asked)?;
        }
        let mut resampled = Vec::with_capacity(channels.len());
        for (mut channel, normalization) in channels.into_iter().zip(&configuration.normalization) {
            normalise(normalization, &mut channel, mask.as_ref())?;
            let resampling = &configuration.data_resampling;
            resampled.push(resample_image(channel, target, spacing, configuration.spacing, resampling));
        }
        Ok(Preprocessed { channels: resampled, full_shape, crop, spacing })
    }
}
