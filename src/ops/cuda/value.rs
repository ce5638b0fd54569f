//! Values of a network on the GPU.

use super::memory::{Address, Held};
use super::{Cuda, CudaError};
use crate::ops::CudaPrecision;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{Layout, Result, Storage, Tensor, bail};
use half::f16;
use std::sync::Arc;

/// Channels are padded to a multiple of this.
const EIGHT: usize = 8;

/// Channels of a value on the GPU.
pub(crate) fn padded_channels(channels: usize) -> usize {
    channels.next_multiple_of(EIGHT)
}

/// A value in the memory of a GPU: (sample, voxel, padded channel).
#[derive(Debug, Clone, Copy)]
pub struct DeviceValue {
    pub(super) address: Address,
    /// Elements that may be read or written from there on.
    pub(super) elements: usize,
}

impl DeviceValue {
    /// The address, if the value has at least so many elements.
    pub(super) fn with(self, elements: usize, op: &str) -> std::result::Result<Address, CudaError> {
        if elements <= self.elements {
            return Ok(self.address);
        }
        let what = format!("{op}: a value of {} elements, needs {elements}", self.elements);
        Err(CudaError::Unsupported { what })
    }
}

/// The buffer of a network's values as a candle operator is given it.
pub(crate) struct CudaBuffer {
    base: Address,
    len: usize,
    precision: CudaPrecision,
}

impl CudaBuffer {
    /// Takes a contiguous tensor of float16 or float32 elements.
    pub fn new(storage: &CudaStorage, layout: &Layout, op: &str) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{op}: needs a contiguous tensor, got {layout:?}")
        };
        let stream = storage.device.cuda_stream();
        let (base, precision) = match &storage.slice {
            CudaStorageSlice::F16(slice) => (slice.device_ptr(&stream).0, CudaPrecision::F16),
            CudaStorageSlice::F32(slice) => (slice.device_ptr(&stream).0, CudaPrecision::F32),
            _ => bail!("{op}: needs float16 or float32 values on the GPU"),
        };
        let base = Address(base).plus(start * precision.bytes());
        Ok(Self { base, len: end - start, precision })
    }

    /// A copy of the elements in `place` of the buffer on the host, after everything that writes them.
    pub fn read(storage: &CudaStorage, place: &std::ops::Range<usize>, op: &'static str) -> Result<Vec<f32>> {
        fn copy<T: candle_core::cuda_backend::cudarc::driver::DeviceRepr + Clone + Default>(
            slice: &CudaSlice<T>,
            stream: &Arc<CudaStream>,
            place: &std::ops::Range<usize>,
            op: &'static str,
        ) -> Result<Vec<T>> {
            let Some(part) = slice.try_slice(place.clone()) else {
                bail!("{op}: {place:?} of a buffer of {} elements", slice.len())
            };
            let mut values = vec![T::default(); place.len()];
            let copied = stream.memcpy_dtoh(&part, &mut values).and_then(|()| stream.synchronize());
            copied.map_err(CudaError::driver(op, 0))?;
            Ok(values)
        }
        let stream = storage.device.cuda_stream();
        match &storage.slice {
            CudaStorageSlice::F16(slice) => {
                Ok(copy(slice, &stream, place, op)?.into_iter().map(f16::to_f32).collect())
            }
            CudaStorageSlice::F32(slice) => copy(slice, &stream, place, op),
            _ => bail!("{op}: needs float16 or float32 values on the GPU"),
        }
    }

    /// The elements in `place`.
    pub fn value(&self, place: &std::ops::Range<usize>, op: &str) -> Result<DeviceValue> {
        if place.start > place.end || place.end > self.len {
            bail!("{op}: {place:?} of a buffer of {} elements", self.len);
        }
        let address = self.base.plus(place.start * self.precision.bytes());
        Ok(DeviceValue { address, elements: place.len() })
    }
}

impl Cuda {
    /// A flat tensor of so many elements of the engine's precision, not initialised.
    pub(crate) fn activations(self, len: usize) -> std::result::Result<(Tensor, Held), CudaError> {
        fn wrap<
            T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr,
        >(
            cuda: Cuda,
            len: usize,
        ) -> std::result::Result<(CudaStorage, Held), CudaError> {
            let memory = cuda.uninitialised::<T>("the network's activations", len)?;
            let what = || CudaError::Unsupported { what: "no activations".to_owned() };
            let (slice, held) = memory.into_parts().ok_or_else(what)?;
            Ok((CudaStorage::wrap_cuda_slice(slice, cuda.device().clone()), held))
        }
        let (storage, held) = match self.precision() {
            CudaPrecision::F16 => wrap::<f16>(self, len)?,
            CudaPrecision::F32 => wrap::<f32>(self, len)?,
        };
        Ok((Tensor::from_storage(Storage::Cuda(storage), len, BackpropOp::none(), false), held))
    }
}
