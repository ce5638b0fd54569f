//! What can go wrong on a GPU: memory that it does not have, which callers can act on, and everything else.

use super::Cuda;
use candle_core::cuda_backend::cudarc::cudnn::result::CudnnError;
use candle_core::cuda_backend::cudarc::cudnn::sys::cudnnStatus_t;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;

/// A failure on the GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The GPU has not the memory that was asked for.
    #[error("GPU: {what}: out of device memory ({asked} bytes asked for)")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// Bytes asked for; 0 where the driver or cuDNN asked.
        asked: u64,
    },
    /// The driver refused or failed.
    #[error("GPU: {what}: {name} ({text})")]
    Driver {
        /// What was done.
        what: &'static str,
        /// The driver's name of the error.
        name: String,
        /// Its explanation.
        text: String,
    },
    /// cuDNN refused or failed.
    #[error("GPU: {what}: {status}")]
    Cudnn {
        /// What was done.
        what: &'static str,
        /// cuDNN's name of the error.
        status: String,
    },
    /// What was asked for is beyond this engine.
    #[error("GPU: {what}")]
    Unsupported {
        /// What, expected, got.
        what: String,
    },
}

impl CudaError {
    /// Whether less memory would have helped.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. })
    }

    /// An error of the driver while it did `what`.
    pub(super) fn driver(what: &'static str, asked: u64) -> impl FnOnce(DriverError) -> Self {
        move |error| {
            if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return Self::OutOfMemory { what, asked };
            }
            let text = |found: Result<&std::ffi::CStr, DriverError>| {
                found.map_or_else(|_| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
            };
            Self::Driver { what, name: text(error.error_name()), text: text(error.error_string()) }
        }
    }

    /// An error of cuDNN while it did `what`.
    pub(super) fn cudnn(what: &'static str) -> impl FnOnce(CudnnError) -> Self {
        move |CudnnError(status)| match status {
            cudnnStatus_t::CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED => {
                Self::OutOfMemory { what, asked: 0 }
            }
            status => Self::Cudnn { what, status: format!("{status:?}") },
        }
    }
}

/// Bytes of free memory below which cuDNN may fail for want of it without saying so: it loads its kernels when it first needs them.
const SCARCE: u64 = 128 << 20;

impl Cuda {
    /// An error of cuDNN while it did `what`: want of memory too where cuDNN only says that something inside it failed, the GPU
    /// still works, and hardly any memory is free.
    pub(super) fn cudnn_error(self, what: &'static str) -> impl FnOnce(CudnnError) -> CudaError {
        move |error| {
            let vague = matches!(
                error.0,
                cudnnStatus_t::CUDNN_STATUS_INTERNAL_ERROR
                    | cudnnStatus_t::CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED
                    | cudnnStatus_t::CUDNN_STATUS_EXECUTION_FAILED
                    | cudnnStatus_t::CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER
                    | cudnnStatus_t::CUDNN_STATUS_EXECUTION_FAILED_CUDART
                    | cudnnStatus_t::CUDNN_STATUS_EXECUTION_FAILED_CUBLAS
            );
            if vague && self.free_memory().is_ok_and(|free| free < SCARCE) {
                return CudaError::OutOfMemory { what, asked: 0 };
            }
            CudaError::cudnn(what)(error)
        }
    }
}

impl From<CudaError> for candle_core::Error {
    fn from(error: CudaError) -> Self {
        Self::Cuda(Box::new(error))
    }
}

/// The GPU's error in one of candle's, if there is one.
pub fn cuda_error(error: &candle_core::Error) -> Option<&CudaError> {
    match error {
        candle_core::Error::Cuda(inner) => inner.downcast_ref(),
        candle_core::Error::WithBacktrace { inner, .. } => cuda_error(inner),
        _ => None,
    }
}
