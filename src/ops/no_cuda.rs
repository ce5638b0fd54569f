//! What stands for a GPU where the program is built without the feature `cuda`: nothing can be opened.

use super::gpu::{CudaOptions, CudaPrecision, Description};

/// An opened GPU, of which there is none.
#[derive(Debug, Clone, Copy)]
pub enum Cuda {}

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this program was built without the feature cuda")]
pub struct CudaUnavailable;

/// A failure of a GPU, of which there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {}

impl CudaError {
    /// Whether less memory would have helped.
    pub fn is_out_of_memory(&self) -> bool {
        match *self {}
    }
}

impl Cuda {
    /// Always an error.
    ///
    /// # Errors
    /// Always.
    pub fn open(_ordinal: usize, _options: CudaOptions) -> Result<Self, CudaUnavailable> {
        Err(CudaUnavailable)
    }

    /// The GPU, its driver and the libraries.
    pub fn description(self) -> &'static Description {
        match self {}
    }

    /// Precision of activations and weights.
    pub fn precision(self) -> CudaPrecision {
        match self {}
    }

    /// Waits until everything is computed.
    ///
    /// # Errors
    /// If any of it failed.
    pub fn synchronise(self) -> Result<(), CudaError> {
        match self {}
    }

    /// Bytes of memory that may still be taken from the GPU.
    ///
    /// # Errors
    /// If the driver does not tell.
    pub fn free_memory(self) -> Result<u64, CudaError> {
        match self {}
    }

    /// Most bytes that the engine held at once since [`Cuda::reset_peak_memory`].
    pub fn peak_memory(self) -> u64 {
        match self {}
    }

    /// Starts a new peak.
    pub fn reset_peak_memory(self) {
        match self {}
    }
}
