//! One scan for several models that prepare scans alike.

use super::PredictError;
use super::scan::{Cropped, ScanGrid};
use crate::imaging::memory::MemoryGauge;
use crate::nnunet::model_folder::ModelFolder;
use candle_core::Tensor;
use ndarray::Array3;
use std::sync::{Mutex, PoisonError};

/// A scan cropped for models that prepare scans alike ([`ModelFolder::prepares_as`]); on the CPU it is normalised and resampled
/// once for all of them.
pub struct SharedScan {
    cropped: Cropped,
    /// (channel, z, y, x) flattened, as the networks see it; made when the first model asks for it.
    image: Mutex<Option<Tensor>>,
}

impl SharedScan {
    /// Transposes and crops a scan's channels, (z, y, x) arrays of the stored values; `spacing` is (z, y, x) in mm.
    ///
    /// # Errors
    /// If the number of channels or their shapes are wrong, or there would be too many voxels at the networks' spacing.
    pub fn new(
        model: &ModelFolder,
        channels: Vec<Array3<f32>>,
        spacing: [f64; 3],
    ) -> Result<Self, PredictError> {
        Ok(Self { cropped: Cropped::new(model, channels, spacing)?, image: Mutex::new(None) })
    }

    /// Shape of the networks' image, (z, y, x) in their axis order.
    pub fn shape(&self) -> [usize; 3] {
        self.cropped.target
    }

    /// Where the networks' image lies in the scan.
    pub fn grid(&self) -> ScanGrid {
        self.cropped.grid()
    }

    #[cfg(feature = "cuda")]
    pub(super) fn cropped(&self) -> &Cropped {
        &self.cropped
    }

    pub(super) fn into_cropped(self) -> Cropped {
        self.cropped
    }

    /// The image as `model` sees it.
    pub(super) fn image(&self, model: &ModelFolder, memory: MemoryGauge) -> Result<Tensor, PredictError> {
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*image {
            return Ok(image.clone());
        }
        let made = self.cropped.clone().preprocess(model, memory)?.take_tensor()?;
        tracing::info!("preprocessed");
        Ok(image.insert(made).clone())
    }
}
