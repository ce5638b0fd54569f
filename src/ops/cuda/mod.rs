//! The GPU's side of the operators, through CUDA and cuDNN.
//!
//! A [`Cuda`] is an opened GPU: candle's device with a stream of its own, a cuDNN handle and our kernels (`kernels/*.cu`,
//! shipped as machine code, and as PTX for GPUs that it does not fit). Values of a network lie in one candle tensor as on the
//! CPU, but for a batch of samples, in float16 or float32, activated and without scales and shifts, and with channels padded to a
//! multiple of eight, which padded weights keep zero. Everything is computed on one stream, in order.

mod algorithms;
mod cudnn;
mod error;
mod export;
mod graph;
mod head;
mod launch;
mod layers;
mod memory;
mod open;
mod pool;
mod scan;
mod sums;
mod value;

pub(crate) use cudnn::MOST_ELEMENTS;
pub use error::CudaError;
pub(crate) use error::cuda_error;
pub(crate) use export::{DeviceLogits, VoxelDecision};
pub(crate) use graph::{Mark, Recording};
pub(crate) use head::CudaHead;
pub(super) use layers::{CudaConv, CudaResidualAdd, CudaUpsample, Window};
pub(crate) use memory::{DeviceMemory, Held};
pub use open::CudaUnavailable;
pub(super) use pool::CudaAveragePool;
pub(crate) use scan::{AxisWeights, ClipTo, DeviceImage, IntensityTransform};
pub(crate) use sums::{Copies, DeviceSums, Overflow, TileBatch, TileSums};
pub use value::DeviceValue;
pub(crate) use value::{CudaBuffer, padded_channels};

use super::gpu::{CudaPrecision, Description};
use algorithms::Algorithms;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaStream};
use cudnn::Dnn;
use memory::{Address, Tally};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An opened GPU. It stays open as long as the process lives: a device that was lost cannot be closed either.
#[derive(Clone, Copy)]
pub struct Cuda(&'static Engine);

pub(super) struct Engine {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// For parameters, which are copied while the GPU computes.
    upload_stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
    dnn: Mutex<Dnn>,
    algorithms: Mutex<Algorithms>,
    scratch: Mutex<Scratch>,
    tally: Tally,
    description: Description,
    precision: CudaPrecision,
}

/// Memory that operators use one after the other.
#[derive(Default)]
struct Scratch {
    memory: Option<DeviceMemory<u8>>,
    /// How often it has moved.
    moves: usize,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cuda").field(&self.0.description).finish()
    }
}

impl CudaPrecision {
    /// Bytes of an element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl Cuda {
    fn engine(self) -> &'static Engine {
        self.0
    }

    /// The GPU, its driver and the libraries.
    pub fn description(self) -> &'static Description {
        &self.0.description
    }

    /// Precision of activations and weights.
    pub fn precision(self) -> CudaPrecision {
        self.0.precision
    }

    /// The stream that everything is computed on.
    pub(crate) fn stream(self) -> &'static Arc<CudaStream> {
        &self.0.stream
    }

    /// Candle's device.
    pub fn device(self) -> &'static CudaDevice {
        &self.0.device
    }

    /// At least so many bytes that hold nothing that is still wanted; they stay in place while no larger ones are asked for.
    fn scratch(self, bytes: usize) -> Result<Address, CudaError> {
        let mut scratch = lock(&self.0.scratch);
        if let Some(memory) = scratch.memory.as_ref().filter(|m| m.len() >= bytes) {
            return Ok(memory.address());
        }
        // What computes may still use it.
        self.synchronise()?;
        scratch.memory = None;
        let memory = self.uninitialised("working memory of the network's layers", bytes)?;
        let address = memory.address();
        scratch.memory = Some(memory);
        scratch.moves += 1;
        Ok(address)
    }

    /// How often the memory that operators share has moved: a recorded graph is void afterwards.
    pub(crate) fn scratch_moves(self) -> usize {
        lock(&self.0.scratch).moves
    }

    /// Gives the memory that operators share back.
    pub(crate) fn release_scratch(self) -> Result<(), CudaError> {
        self.synchronise()?;
        let mut scratch = lock(&self.0.scratch);
        scratch.moves += 1;
        scratch.memory = None;
        Ok(())
    }

    /// Writes the choice of algorithms to the file that was given, if it has changed; a failure is logged.
    pub(crate) fn remember_algorithms(self) {
        lock(&self.0.algorithms).save();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
