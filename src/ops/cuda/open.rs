//! Opening a GPU, or saying why it cannot be used.
//!
//! The libraries are opened when they are first needed: a program that was built for GPUs runs without any of them.

use super::algorithms::Algorithms;
use super::cudnn::Dnn;
use super::layers::{CudaConv, Window};
use super::memory::Tally;
use super::value::DeviceValue;
use super::{Cuda, CudaError, Engine};
use crate::ops::ValueShape;
use crate::ops::gpu::{CudaOptions, CudaPrecision, Description, KernelCode, version_of_cudnn};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::{self as driver, CUdevice_attribute};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaFunction, DriverError};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::cudarc::{cublas, cudnn, curand};
use half::f16;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// Our kernels as they were compiled.
mod compiled {
    /// A file of kernels.
    pub struct Module {
        /// Name of the file.
        pub name: &'static str,
        /// Machine code for several GPUs, and PTX.
        pub fatbin: &'static [u8],
        /// PTX that older drivers take too.
        pub ptx: &'static str,
    }

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// The kernels' names, file by file.
const KERNELS: [(&str, &[&str]); 7] = [
    ("decide", &["decide_voxels"]),
    ("gather", &["gather_tiles_f16", "gather_tiles_f32"]),
    (
        "head",
        &[
            "accumulate_logits_f16_f32",
            "accumulate_logits_f16_f16",
            "accumulate_logits_f32_f32",
            "accumulate_logits_f32_f16",
            "count_weights_f32",
            "count_weights_f16",
            "mean_of_sums_f32",
            "end_fold_f16",
            "mean_of_logits_f16",
        ],
    ),
    (
        "norm",
        &[
            "norm_sums_f16",
            "norm_sums_f32",
            "norm_finish_f16",
            "norm_finish_f32",
            "norm_apply_f16",
            "norm_apply_f32",
            "residual_add_f16",
            "residual_add_f32",
            "add_bias_f16",
            "add_bias_f32",
        ],
    ),
    ("pool", &["average_pool_f16", "average_pool_f32"]),
    (
        "resample",
        &["resample_axis", "range_of_parts", "range_of_slices", "clip_to_ranges", "normalise_intensities"],
    ),
    ("upsample", &["spread_upsampled_f16", "spread_upsampled_f32"]),
];

/// Major version of cuDNN that the program is written for.
const CUDNN_MAJOR: usize = 9;

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaUnavailable {
    /// A library is missing, or only there in another version.
    #[error("{library} cannot be opened: {hint}")]
    Library {
        /// Its file's name.
        library: &'static str,
        /// Where it comes from.
        hint: &'static str,
    },
    /// cuDNN is of another major version.
    #[error("cuDNN is version {found}, expected {CUDNN_MAJOR}")]
    Cudnn {
        /// The version found.
        found: String,
    },
    /// The driver finds no GPU.
    #[error("the driver finds no GPU ({0})")]
    NoDevice(String),
    /// There are fewer GPUs.
    #[error("there is no GPU number {asked}, the driver finds {found}")]
    Ordinal {
        /// The number asked for, from 0.
        asked: usize,
        /// GPUs that there are.
        found: usize,
    },
    /// Another process has it for itself, or nobody may compute on it.
    #[error("GPU {0} is in use by another process alone, or closed to computing")]
    Busy(usize),
    /// Neither machine code nor PTX can be loaded.
    #[error(
        "the kernels cannot be loaded by the driver for CUDA {driver} on a GPU of compute capability {capability}: {error}"
    )]
    Kernels {
        /// CUDA version of the driver.
        driver: String,
        /// Major and minor.
        capability: String,
        /// The driver's word.
        error: CudaError,
    },
    /// Anything else that the driver or a library refused.
    #[error("{0}")]
    Failed(String),
}

impl Cuda {
    /// Opens GPU number `ordinal` and loads the kernels.
    ///
    /// # Errors
    /// If there is no such GPU, or it or its libraries cannot be used.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Self, CudaUnavailable> {
        // A library that lacks a function makes the binding panic.
        let opened = catch_unwind(AssertUnwindSafe(|| open(ordinal, options)));
        opened.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(CudaUnavailable::Failed(text.unwrap_or_else(|| "no reason given".to_owned())))
        })
    }
}

fn open(ordinal: usize, options: CudaOptions) -> Result<Cuda, CudaUnavailable> {
    check_libraries()?;
    let driver = check_devices(ordinal)?;
    let device = CudaDevice::new_with_stream(ordinal).map_err(|error| device_error(ordinal, &error))?;
    // Where opening fails later it is not closed: its libraries' handles panic on a device that is lost.
    let device = ManuallyDrop::new(device);
    // One stream computes; copies on another one wait for themselves.
    #[expect(unsafe_code, reason = "candle cannot know that one stream does everything")]
    // SAFETY: values are read and written on one stream only, but for parameters, which are complete before they are used
    // and given back when nothing computes.
    unsafe {
        device.disable_event_tracking();
    }
    let stream = device.cuda_stream();
    let failed = |error: CudaError| CudaUnavailable::Failed(error.to_string());
    let context = stream.context();
    let upload_stream =
        context.new_stream().map_err(CudaError::driver("opening a stream", 0)).map_err(failed)?;
    let (functions, kernels) = load_kernels(context, driver)?;
    context.bind_to_thread().map_err(CudaError::driver("opening the device", 0)).map_err(failed)?;
    let dnn = Dnn::new(stream.cu_stream().cast()).map_err(failed)?;
    let description =
        describe(context, ordinal, driver, kernels).map_err(CudaError::driver("describing the device", 0));
    let description = description.map_err(failed)?;
    let CudaOptions { precision, remember } = options;
    let algorithms = Algorithms::open(device_key(&description, precision), remember);
    let engine = Engine {
        device: ManuallyDrop::into_inner(device),
        stream,
        upload_stream,
        functions,
        dnn: Mutex::new(dnn),
        algorithms: Mutex::new(algorithms),
        scratch: Mutex::default(),
        tally: Tally::default(),
        description,
        precision,
    };
    let cuda = Cuda(Box::leak(Box::new(engine)));
    try_convolution(cuda).map_err(failed)?;
    Ok(cuda)
}

/// Convolves two sources of ones, one after the other, and looks at the result: cuDNN loads the libraries that convolutions are
/// in, and the driver the kernels, only when they are first used.
fn try_convolution(cuda: Cuda) -> Result<(), CudaError> {
    /// A filter of this value makes results that are exact in any precision.
    const WEIGHT: f32 = 1.0 / 64.0;
    let shape = ValueShape { dims: [3; 3], channels: 8 };
    let window = Window { kernel: [3; 3], stride: [1; 3] };
    let conv = CudaConv::new(cuda, &window, &[shape; 2], shape, &[0.0; 8], None, |_, _, _| WEIGHT)?;
    let ones = cuda.upload_elements(&vec![1.0; shape.data_len()])?;
    let out = cuda.uninitialised::<u8>("a first convolution", ones.len())?;
    let value = |address| DeviceValue { address, elements: shape.data_len() };
    conv.run(1, value(out.address()), &[value(ones.address()); 2])?;
    let mut bytes = vec![0; out.len()];
    cuda.read("a first convolution", &out, &mut bytes)?;
    let middle = &bytes[13 * bytes.len() / 27..];
    let found = match cuda.precision() {
        CudaPrecision::F16 => f16::from_le_bytes([middle[0], middle[1]]).to_f32(),
        CudaPrecision::F32 => f32::from_le_bytes([middle[0], middle[1], middle[2], middle[3]]),
    };
    let expected = 27.0 * 16.0 * WEIGHT;
    if found == expected {
        return Ok(());
    }
    Err(CudaError::Unsupported { what: format!("a first convolution gives {found}, expected {expected}") })
}

/// What remembered algorithms are for.
fn device_key(description: &Description, precision: CudaPrecision) -> String {
    let Description { name, capability: (major, minor), driver, cudnn, .. } = description;
    format!("{name} {major}.{minor} driver {}.{} cuDNN {cudnn} {precision}", driver.0, driver.1)
}

#[expect(unsafe_code, reason = "libraries run code when they are opened")]
fn check_libraries() -> Result<(), CudaUnavailable> {
    const WHEELS: &str = "install it for CUDA 12, or set LD_LIBRARY_PATH to its folder";
    let missing = |library, hint| Err(CudaUnavailable::Library { library, hint });
    // SAFETY: NVIDIA's libraries may be opened at any time.
    unsafe {
        if !driver::is_culib_present() {
            return missing("libcuda.so.1", "there is no NVIDIA driver (in a container: --gpus all)");
        }
        if !cublas::sys::is_culib_present() {
            return missing("libcublas.so.12", WHEELS);
        }
        if !curand::sys::is_culib_present() {
            return missing("libcurand.so.10", WHEELS);
        }
        if !cudnn::sys::is_culib_present() {
            return missing("libcudnn.so.9", WHEELS);
        }
    }
    let found = cudnn::result::get_version();
    let major = if found >= 10_000 { found / 10_000 } else { found / 1000 };
    if major != CUDNN_MAJOR {
        return Err(CudaUnavailable::Cudnn { found: version_of_cudnn(found) });
    }
    Ok(())
}

/// Checks that there is such a device; the CUDA version of the driver.
fn check_devices(ordinal: usize) -> Result<(i32, i32), CudaUnavailable> {
    let none = |error: DriverError| {
        CudaUnavailable::NoDevice(CudaError::driver("looking for devices", 0)(error).to_string())
    };
    let found = CudaContext::device_count().map_err(none)?;
    let found = usize::try_from(found).unwrap_or(0);
    if found == 0 {
        return Err(CudaUnavailable::NoDevice("it counts 0".to_owned()));
    }
    if ordinal >= found {
        return Err(CudaUnavailable::Ordinal { asked: ordinal, found });
    }
    let mut version = 0;
    #[expect(unsafe_code, reason = "the driver's function takes a pointer")]
    // SAFETY: the driver writes one number.
    let asked = unsafe { driver::cuDriverGetVersion(&raw mut version) };
    asked.result().map_err(none)?;
    Ok((version / 1000, version % 1000 / 10))
}

fn device_error(ordinal: usize, error: &candle_core::Error) -> CudaUnavailable {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    if text.contains("CUDA_ERROR_DEVICE_UNAVAILABLE") {
        return CudaUnavailable::Busy(ordinal);
    }
    CudaUnavailable::Failed(format!("GPU {ordinal} cannot be opened: {text}"))
}

fn describe(
    context: &CudaContext,
    ordinal: usize,
    driver: (i32, i32),
    kernels: KernelCode,
) -> Result<Description, DriverError> {
    let multiprocessors = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(Description {
        ordinal,
        name: context.name()?,
        capability: context.compute_capability()?,
        driver,
        cudnn: cudnn::result::get_version(),
        multiprocessors: usize::try_from(multiprocessors).unwrap_or(1).max(1),
        memory: context.total_mem()? as u64,
        kernels,
    })
}

type Functions = HashMap<&'static str, CudaFunction>;

/// Loads the kernels as machine code, or where the driver has no use for it as PTX.
fn load_kernels(
    context: &Arc<CudaContext>,
    driver: (i32, i32),
) -> Result<(Functions, KernelCode), CudaUnavailable> {
    let machine_code = match load_all(context, |module| Ptx::from_binary(module.fatbin.to_vec())) {
        Ok(functions) => return Ok((functions, KernelCode::MachineCode)),
        Err(error) => error,
    };
    let error = match load_all(context, |module| Ptx::from_src(module.ptx)) {
        Ok(functions) => {
            tracing::info!(
                "the GPU's driver does not take the machine code ({machine_code}): it compiles PTX"
            );
            return Ok((functions, KernelCode::Ptx));
        }
        Err(error) => error,
    };
    let (major, minor) = context.compute_capability().unwrap_or_default();
    Err(CudaUnavailable::Kernels {
        driver: format!("{}.{}", driver.0, driver.1),
        capability: format!("{major}.{minor}"),
        error,
    })
}

fn load_all(
    context: &Arc<CudaContext>,
    image: impl Fn(&compiled::Module) -> Ptx,
) -> Result<Functions, CudaError> {
    let mut functions = HashMap::new();
    for module in compiled::MODULES {
        let names = KERNELS.iter().find(|(name, _)| *name == module.name).map_or(&[][..], |(_, names)| names);
        let loaded = context.load_module(image(module)).map_err(CudaError::driver("loading kernels", 0))?;
        for name in names {
            let function = loaded.load_function(name).map_err(CudaError::driver(name, 0))?;
            functions.insert(*name, function);
        }
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kernel_that_was_compiled_has_its_name_here() {
        for module in compiled::MODULES {
            let of_ptx: HashSet<&str> = module
                .ptx
                .split(".visible .entry ")
                .skip(1)
                .filter_map(|text| text.split('(').next())
                .collect();
            let here = KERNELS.iter().find(|(name, _)| *name == module.name).map(|(_, names)| *names);
            assert_eq!(
                here.unwrap_or(&[]).iter().copied().collect::<HashSet<_>>(),
                of_ptx,
                "{}",
                module.name
            );
        }
        assert_eq!(compiled::MODULES.len(), KERNELS.len());
    }
}
