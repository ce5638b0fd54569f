//! cuDNN's convolution of channels-last volumes.
//!
//! Through the N-d descriptors: tensors (n, c, d, h, w) with strides of memory order (n, d, h, w, c), filters (k, c, d, h, w) in
//! the format NHWC, sums in float32 whatever the elements are.

use super::algorithms::Choice;
use super::memory::Address;
use super::value::padded_channels;
use super::{Cuda, CudaError, lock};
use crate::ops::CudaPrecision;
use crate::ops::ValueShape;
use candle_core::cuda_backend::cudarc::cudnn::result as dnn;
use candle_core::cuda_backend::cudarc::cudnn::sys::{self, cudnnMathType_t as Math};
use std::ffi::{c_int, c_void};

/// The library's handle.
pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
}

// SAFETY: the handle is used by one thread at a time, under the engine's mutex.
#[expect(unsafe_code, reason = "the handle is a raw pointer")]
unsafe impl Send for Dnn {}

#[expect(unsafe_code, reason = "cuDNN's functions take raw pointers")]
impl Dnn {
    /// A handle that works on `stream`, of the current context.
    pub fn new(stream: *mut c_void) -> Result<Self, CudaError> {
        let handle = dnn::create_handle().map_err(CudaError::cudnn("opening cuDNN"))?;
        // SAFETY: the handle is fresh, the stream lives as long as the process.
        unsafe { dnn::set_stream(handle, stream.cast()) }.map_err(CudaError::cudnn("opening cuDNN"))?;
        Ok(Self { handle })
    }
}

/// A convolution over one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConvGeometry {
    pub input: ValueShape,
    pub output: ValueShape,
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
}

impl ConvGeometry {
    /// Names it, for a batch of so many samples.
    pub fn key(&self, samples: usize) -> String {
        let Self { input, output, kernel, stride } = self;
        let (i, o) = (padded_channels(input.channels), padded_channels(output.channels));
        format!("n{samples} {:?}x{i} -> {:?}x{o} k{kernel:?} s{stride:?}", input.dims, output.dims)
    }

    /// Bytes of the filter.
    pub fn filter_len(&self) -> usize {
        padded_channels(self.output.channels)
            * padded_channels(self.input.channels)
            * self.kernel.iter().product::<usize>()
    }
}

/// cuDNN's descriptors of a convolution for a batch.
pub(super) struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    precision: CudaPrecision,
}

// SAFETY: they are not changed once they are made but for the math type, under the engine's mutex.
#[expect(unsafe_code, reason = "descriptors are raw pointers")]
unsafe impl Send for Descriptors {}

/// What a convolution reads and writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvMemory {
    pub x: Address,
    pub filter: Address,
    pub y: Address,
    pub workspace: Address,
    pub workspace_bytes: usize,
}

fn int(value: usize) -> Result<c_int, CudaError> {
    let what = || CudaError::Unsupported { what: format!("a convolution over {value} elements at once") };
    c_int::try_from(value).map_err(|_| what())
}

/// Elements that cuDNN can tell apart: its strides are of 32 bits.
pub(crate) const MOST_ELEMENTS: usize = c_int::MAX as usize;

impl CudaPrecision {
    fn data_type(self) -> sys::cudnnDataType_t {
        match self {
            Self::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Self::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        }
    }

    /// Tensor cores for float16; for float32 none, which would round the factors.
    fn math(self) -> Math {
        match self {
            Self::F16 => Math::CUDNN_TENSOR_OP_MATH,
            Self::F32 => Math::CUDNN_FMA_MATH,
        }
    }
}

#[expect(unsafe_code, reason = "cuDNN's functions take raw pointers")]
impl Descriptors {
    /// Describes `geometry` for so many samples.
    pub fn new(geometry: &ConvGeometry, samples: usize, precision: CudaPrecision) -> Result<Self, CudaError> {
        const WHAT: &str = "describing a convolution";
        let failed = || CudaError::cudnn(WHAT);
        let mut this = Self {
            x: std::ptr::null_mut(),
            y: std::ptr::null_mut(),
            filter: std::ptr::null_mut(),
            conv: std::ptr::null_mut(),
            precision,
        };
        this.x = dnn::create_tensor_descriptor().map_err(failed())?;
        this.y = dnn::create_tensor_descriptor().map_err(failed())?;
        this.filter = dnn::create_filter_descriptor().map_err(failed())?;
        this.conv = dnn::create_convolution_descriptor().map_err(failed())?;
        for (descriptor, shape) in [(this.x, geometry.input), (this.y, geometry.output)] {
            let (dims, strides) = channels_last(shape, samples)?;
            // SAFETY: the descriptor was just made, the arrays have five elements.
            let set = unsafe {
                dnn::set_tensornd_descriptor(
                    descriptor,
                    precision.data_type(),
                    5,
                    dims.as_ptr(),
                    strides.as_ptr(),
                )
            };
            set.map_err(failed())?;
        }
        let [kz, ky, kx] = geometry.kernel;
        let channels = [geometry.output, geometry.input].map(|s| padded_channels(s.channels));
        let filter = to_ints([channels[0], channels[1], kz, ky, kx])?;
        let pads = to_ints(geometry.kernel.map(|k| (k - 1) / 2))?;
        let strides = to_ints(geometry.stride)?;
        // SAFETY: the descriptors were just made, the arrays have as many elements as is said.
        unsafe {
            dnn::set_filternd_descriptor(
                this.filter,
                precision.data_type(),
                sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
                5,
                filter.as_ptr(),
            )
            .map_err(failed())?;
            dnn::set_convolutionnd_descriptor(
                this.conv,
                3,
                pads.as_ptr(),
                strides.as_ptr(),
                [1; 3].as_ptr(),
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )
            .map_err(failed())?;
            dnn::set_convolution_math_type(this.conv, precision.math()).map_err(failed())?;
        }
        Ok(this)
    }

    /// Bytes of workspace that an algorithm needs; `None` if it cannot do this convolution.
    pub fn workspace(&self, cuda: Cuda, choice: &Choice) -> Option<usize> {
        let dnn = lock(&cuda.engine().dnn);
        let algorithm = choice.algorithm()?;
        // SAFETY: handle and descriptors are alive.
        let bytes = unsafe {
            self.set_math(choice).ok()?;
            dnn::get_convolution_forward_workspace_size(
                dnn.handle,
                self.x,
                self.filter,
                self.conv,
                self.y,
                algorithm,
            )
        };
        bytes.ok()
    }

    /// Times all algorithms on this memory; what was in `y` is lost. The fastest comes first.
    pub fn measure(&self, cuda: Cuda, memory: ConvMemory) -> Result<Vec<Choice>, CudaError> {
        const MOST: usize = 16;
        const WHAT: &str = "choosing a convolution algorithm";
        let dnn = lock(&cuda.engine().dnn);
        cuda.bind()?;
        let mut found: c_int = 0;
        // SAFETY: results of zeros are valid; cuDNN fills as many as it says.
        let mut results: [sys::cudnnConvolutionFwdAlgoPerf_t; MOST] = unsafe { std::mem::zeroed() };
        // SAFETY: handle and descriptors are alive; the memory is of the size that the descriptors say.
        let status = unsafe {
            sys::cudnnFindConvolutionForwardAlgorithmEx(
                dnn.handle,
                self.x,
                memory.x.as_ptr(),
                self.filter,
                memory.filter.as_ptr(),
                self.conv,
                self.y,
                memory.y.as_ptr(),
                MOST as c_int,
                &raw mut found,
                results.as_mut_ptr(),
                memory.workspace.as_ptr(),
                memory.workspace_bytes,
            )
        };
        status.result().map_err(cuda.cudnn_error(WHAT))?;
        let choices = self.usable(&results[..(found as usize).min(MOST)]);
        Ok(choices.filter(|c| c.workspace <= memory.workspace_bytes).collect())
    }

    /// The algorithms that can do this convolution as exactly as its elements are.
    fn usable<'a>(
        &'a self,
        results: &'a [sys::cudnnConvolutionFwdAlgoPerf_t],
    ) -> impl Iterator<Item = Choice> + 'a {
        let done = results.iter().filter(|r| r.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS);
        let choices = done.map(|r| Choice::new(r.algo, r.mathType, r.memory));
        choices.filter(|c| c.is_precise(self.precision))
    }

    /// What cuDNN would choose without measuring, best first.
    pub fn recommended(&self, cuda: Cuda) -> Result<Vec<Choice>, CudaError> {
        const MOST: usize = 16;
        let dnn = lock(&cuda.engine().dnn);
        cuda.bind()?;
        let mut found: c_int = 0;
        // SAFETY: results of zeros are valid; cuDNN fills as many as it says.
        let mut results: [sys::cudnnConvolutionFwdAlgoPerf_t; MOST] = unsafe { std::mem::zeroed() };
        // SAFETY: handle and descriptors are alive.
        let asked = unsafe {
            dnn::get_convolution_forward_algorithm(
                dnn.handle,
                self.x,
                self.filter,
                self.conv,
                self.y,
                MOST as c_int,
                &raw mut found,
                results.as_mut_ptr(),
            )
        };
        asked.map_err(CudaError::cudnn("choosing a convolution algorithm"))?;
        Ok(self.usable(&results[..(found as usize).min(MOST)]).collect())
    }

    /// y = x ∗ filter, or y + x ∗ filter.
    pub fn run(
        &self,
        cuda: Cuda,
        choice: &Choice,
        memory: ConvMemory,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let dnn = lock(&cuda.engine().dnn);
        cuda.bind()?;
        let Some(algorithm) = choice.algorithm() else {
            let what = format!("convolution algorithm {choice:?} is not known");
            return Err(CudaError::Unsupported { what });
        };
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: handle and descriptors are alive; the memory is of the size that the descriptors say.
        unsafe {
            self.set_math(choice)?;
            dnn::convolution_forward(
                dnn.handle,
                (&raw const alpha).cast(),
                self.x,
                memory.x.as_ptr(),
                self.filter,
                memory.filter.as_ptr(),
                self.conv,
                algorithm,
                memory.workspace.as_ptr(),
                memory.workspace_bytes,
                (&raw const beta).cast(),
                self.y,
                memory.y.as_ptr(),
            )
        }
        .map_err(cuda.cudnn_error("a convolution"))
    }

    /// Tensor cores as the measurement had them; float32 is never rounded.
    ///
    /// # Safety
    /// The descriptor must be alive.
    unsafe fn set_math(&self, choice: &Choice) -> Result<(), CudaError> {
        let math = match self.precision {
            CudaPrecision::F16 => choice.math(),
            CudaPrecision::F32 => Math::CUDNN_FMA_MATH,
        };
        // SAFETY: as the function's own.
        unsafe { dnn::set_convolution_math_type(self.conv, math) }
            .map_err(CudaError::cudnn("describing a convolution"))
    }
}

#[expect(unsafe_code, reason = "cuDNN's functions take raw pointers")]
impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: each was made and is destroyed once; errors leave nothing to do.
        unsafe {
            if !self.x.is_null() {
                let _failed = dnn::destroy_tensor_descriptor(self.x);
            }
            if !self.y.is_null() {
                let _failed = dnn::destroy_tensor_descriptor(self.y);
            }
            if !self.filter.is_null() {
                let _failed = dnn::destroy_filter_descriptor(self.filter);
            }
            if !self.conv.is_null() {
                let _failed = dnn::destroy_convolution_descriptor(self.conv);
            }
        }
    }
}

impl Cuda {
    /// Makes the GPU's context the calling thread's, for libraries that work on the current one.
    pub(super) fn bind(self) -> Result<(), CudaError> {
        self.stream().context().bind_to_thread().map_err(CudaError::driver("using the device", 0))
    }
}

fn to_ints<const N: usize>(values: [usize; N]) -> Result<[c_int; N], CudaError> {
    let mut ints = [0; N];
    for (to, from) in ints.iter_mut().zip(values) {
        *to = int(from)?;
    }
    Ok(ints)
}

/// Dimensions (n, c, d, h, w) and the strides of (n, d, h, w, c).
fn channels_last(shape: ValueShape, samples: usize) -> Result<([c_int; 5], [c_int; 5]), CudaError> {
    let ([d, h, w], c) = (shape.dims, padded_channels(shape.channels));
    int(samples * d * h * w * c)?;
    Ok((to_ints([samples, c, d, h, w])?, to_ints([d * h * w * c, 1, h * w * c, w * c, c])?))
}
