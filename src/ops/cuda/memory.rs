//! Memory of the GPU.

use super::{Cuda, CudaError, Mark};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, result,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the engine holds, and the most that it has held.
#[derive(Debug, Default)]
pub(super) struct Tally {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Tally {
    pub fn take(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Starts a new peak.
    pub fn reset(&self) {
        self.peak.store(self.held.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// An address on the GPU, as kernels take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Address(pub(super) u64);

// SAFETY: a device pointer is what a kernel's pointer argument is made of.
#[expect(unsafe_code, reason = "kernels take arguments by their bytes")]
unsafe impl DeviceRepr for Address {}

impl Address {
    /// Where no memory is.
    pub const NULL: Self = Self(0);

    /// The address so many bytes further on.
    pub(super) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }

    pub(super) fn as_ptr(self) -> *mut std::ffi::c_void {
        self.0 as *mut std::ffi::c_void
    }
}

/// So many elements in the memory of a GPU.
///
/// Parameters are uploaded on a stream of their own, while the GPU computes; their memory is given back only when nothing
/// computes any more.
pub struct DeviceMemory<T> {
    slice: Option<CudaSlice<T>>,
    held: Option<Held>,
    address: Address,
    len: usize,
    cuda: Cuda,
    parameters: bool,
}

/// Bytes that count as held as long as this lives.
pub(crate) struct Held {
    cuda: Cuda,
    bytes: u64,
}

impl Held {
    fn new(cuda: Cuda, bytes: u64) -> Self {
        cuda.engine().tally.take(bytes);
        Self { cuda, bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.cuda.engine().tally.give_back(self.bytes);
    }
}

impl<T> DeviceMemory<T> {
    /// Where it begins.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The slice for candle, and what keeps it counted.
    pub(super) fn into_parts(mut self) -> Option<(CudaSlice<T>, Held)> {
        self.slice.take().zip(self.held.take())
    }
}

impl<T> Drop for DeviceMemory<T> {
    fn drop(&mut self) {
        if self.parameters {
            // An error shows at the next call that can report it.
            let _failed = self.cuda.synchronise();
        }
    }
}

impl Cuda {
    fn allocate<T: DeviceRepr>(
        self,
        what: &'static str,
        stream: &Arc<CudaStream>,
        len: usize,
        parameters: bool,
    ) -> Result<DeviceMemory<T>, CudaError> {
        let bytes = (len * size_of::<T>()) as u64;
        // An allocation of nothing is an error for the driver.
        #[expect(unsafe_code, reason = "fresh memory of the device is not initialised")]
        // SAFETY: every element is written by a copy or a kernel before it is read.
        let slice = unsafe { stream.alloc::<T>(len.max(1)) };
        let slice = slice.map_err(CudaError::driver(what, bytes))?;
        let held = Some(Held::new(self, bytes));
        let address = Address(slice.device_ptr(stream).0);
        Ok(DeviceMemory { slice: Some(slice), held, address, len, cuda: self, parameters })
    }

    /// Memory that is not initialised.
    pub(crate) fn uninitialised<T: DeviceRepr>(
        self,
        what: &'static str,
        len: usize,
    ) -> Result<DeviceMemory<T>, CudaError> {
        self.allocate(what, &self.engine().stream, len, false)
    }

    /// Memory of zeros.
    pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        self,
        what: &'static str,
        len: usize,
    ) -> Result<DeviceMemory<T>, CudaError> {
        let mut memory = self.uninitialised(what, len)?;
        if let Some(slice) = &mut memory.slice {
            self.engine().stream.memset_zeros(slice).map_err(CudaError::driver(what, 0))?;
        }
        Ok(memory)
    }

    /// A copy of `values`, in order with what the GPU is told to compute.
    pub(crate) fn upload<T: DeviceRepr>(
        self,
        what: &'static str,
        values: &[T],
    ) -> Result<DeviceMemory<T>, CudaError> {
        let mut memory = self.uninitialised(what, values.len())?;
        self.write(what, &mut memory, values)?;
        Ok(memory)
    }

    /// A copy of parameters, while the GPU may compute something else; complete on return.
    pub(crate) fn upload_parameters<T: DeviceRepr>(self, values: &[T]) -> Result<DeviceMemory<T>, CudaError> {
        let what = "the network's weights";
        let stream = &self.engine().upload_stream;
        let mut memory = self.allocate(what, stream, values.len(), true)?;
        if let Some(slice) = memory.slice.as_mut().filter(|_| !values.is_empty()) {
            stream.memcpy_htod(values, slice).map_err(CudaError::driver(what, 0))?;
            stream.synchronize().map_err(CudaError::driver(what, 0))?;
        }
        Ok(memory)
    }

    /// Overwrites the beginning of `memory`.
    pub(crate) fn write<T: DeviceRepr>(
        self,
        what: &'static str,
        memory: &mut DeviceMemory<T>,
        values: &[T],
    ) -> Result<(), CudaError> {
        match &mut memory.slice {
            Some(slice) if values.len() <= memory.len && !values.is_empty() => {
                self.engine().stream.memcpy_htod(values, slice).map_err(CudaError::driver(what, 0))
            }
            _ if values.is_empty() => Ok(()),
            _ => Err(CudaError::Unsupported {
                what: format!("{what}: {} elements for {}", values.len(), memory.len),
            }),
        }
    }

    /// Copies the beginning of `memory` to the host, and waits for it.
    pub(crate) fn read<T: DeviceRepr>(
        self,
        what: &'static str,
        memory: &DeviceMemory<T>,
        to: &mut [T],
    ) -> Result<(), CudaError> {
        match &memory.slice {
            Some(slice) if to.len() <= memory.len => {
                if !to.is_empty() {
                    let stream = &self.engine().stream;
                    let part = slice.slice(..to.len());
                    stream.memcpy_dtoh(&part, to).map_err(CudaError::driver(what, 0))?;
                }
                self.synchronise()
            }
            _ => Err(CudaError::Unsupported {
                what: format!("{what}: {} elements of {}", to.len(), memory.len),
            }),
        }
    }

    /// Copies all of `from` to the elements of `to` from `first` on.
    pub(crate) fn copy<T: DeviceRepr>(
        self,
        what: &'static str,
        from: &DeviceMemory<T>,
        to: &DeviceMemory<T>,
        first: usize,
    ) -> Result<(), CudaError> {
        if first + from.len > to.len {
            let what = format!("{what}: {} elements from {first} on of {}", from.len, to.len);
            return Err(CudaError::Unsupported { what });
        }
        let bytes = from.len * size_of::<T>();
        self.bind()?;
        let to = to.address.plus(first * size_of::<T>());
        #[expect(unsafe_code, reason = "both memories are held by shared references")]
        // SAFETY: both ranges lie in live memory, as was just checked, and copies are in order with everything else.
        let copied = unsafe {
            result::memcpy_dtod_async(to.0, from.address.0, bytes, self.engine().stream.cu_stream())
        };
        copied.map_err(CudaError::driver(what, 0))
    }

    /// Waits until everything is computed.
    ///
    /// # Errors
    /// If any of it failed.
    pub fn synchronise(self) -> Result<(), CudaError> {
        self.engine().stream.synchronize().map_err(CudaError::driver("computing", 0))
    }

    /// Bytes of memory that may still be taken from the GPU.
    ///
    /// # Errors
    /// If the driver does not tell.
    pub fn free_memory(self) -> Result<u64, CudaError> {
        // What was freed goes back when everything is computed.
        self.synchronise()?;
        let copied = self.engine().upload_stream.synchronize();
        copied.map_err(CudaError::driver("free memory", 0))?;
        let (free, _) =
            self.engine().stream.context().mem_get_info().map_err(CudaError::driver("free memory", 0))?;
        Ok(free as u64)
    }

    /// Most bytes that the engine held at once since [`Cuda::reset_peak_memory`], without what driver and libraries take for
    /// themselves.
    pub fn peak_memory(self) -> u64 {
        self.engine().tally.peak()
    }

    /// Starts a new peak.
    pub fn reset_peak_memory(self) {
        self.engine().tally.reset();
    }
}

/// Pinned memory of the host, which copies can be made to while both sides do something else.
pub(crate) struct Staging<T> {
    slice: PinnedHostSlice<T>,
    cuda: Cuda,
    /// Behind the last copy. The slice itself would not wait: events are not tracked.
    copied: Option<Mark>,
}

const STAGING: &str = "a copy to the host";

impl<T: DeviceRepr + ValidAsZeroBits> Staging<T> {
    /// So many elements.
    pub fn new(cuda: Cuda, len: usize) -> Result<Self, CudaError> {
        // Not write-combined, which the host reads slowly.
        #[expect(unsafe_code, reason = "fresh memory is not initialised")]
        // SAFETY: it is read only after a copy from the device has filled it.
        let slice = unsafe { cuda.stream().context().alloc_pinned_with_flags::<T>(len.max(1), 0) };
        Ok(Self { slice: slice.map_err(CudaError::driver(STAGING, 0))?, cuda, copied: None })
    }

    /// Begins a copy of the first `len` elements of `memory`.
    pub fn fetch(&mut self, memory: &DeviceMemory<T>, len: usize) -> Result<(), CudaError> {
        let Some(slice) = &memory.slice else { return Ok(()) };
        let part = slice.slice(..len);
        let begun = self.cuda.stream().memcpy_dtoh(&part, &mut self.slice);
        begun.map_err(CudaError::driver(STAGING, 0))?;
        self.copied = Some(self.cuda.mark()?);
        Ok(())
    }

    /// The elements, once the copy has ended.
    pub fn values(&self) -> Result<&[T], CudaError> {
        if let Some(copied) = &self.copied {
            copied.wait()?;
        }
        self.slice.as_slice().map_err(CudaError::driver(STAGING, 0))
    }
}

impl<T> Drop for Staging<T> {
    fn drop(&mut self) {
        // A copy that is under way must not find the memory gone; its error shows elsewhere.
        if let Some(copied) = &self.copied {
            let _failed = copied.wait();
        }
    }
}
