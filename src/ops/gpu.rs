//! A GPU as it is described to people, and how it is to be used.

use std::fmt;
use std::path::PathBuf;

/// Precision of activations and weights on the GPU; sums are float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CudaPrecision {
    /// float16, as nnU-Net's own autocast.
    #[default]
    F16,
    /// float32 without TF32.
    F32,
}

/// How a GPU is to be used.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    /// Precision of activations and weights.
    pub precision: CudaPrecision,
    /// File that the choice of algorithms is remembered in, if any.
    pub remember: Option<PathBuf>,
}

impl fmt::Display for CudaPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

/// Which form of our kernels a GPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelCode {
    /// Machine code.
    MachineCode,
    /// PTX, compiled by the driver.
    Ptx,
}

/// A GPU with its driver and libraries.
#[derive(Debug, Clone)]
pub struct Description {
    /// Number, from 0.
    pub ordinal: usize,
    /// Name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// CUDA version of the driver, major and minor.
    pub driver: (i32, i32),
    /// cuDNN's version, as 91002 for 9.10.2.
    pub cudnn: usize,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// How the kernels were loaded.
    pub kernels: KernelCode,
}

impl fmt::Display for KernelCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MachineCode => "machine code",
            Self::Ptx => "PTX",
        })
    }
}

impl Description {
    /// cuDNN's version as text.
    pub fn cudnn_version(&self) -> String {
        version_of_cudnn(self.cudnn)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ordinal, name, capability: (major, minor), driver, memory, kernels, .. } = self;
        write!(
            f,
            "GPU {ordinal}: {name}, compute capability {major}.{minor}, {} MB; driver for CUDA {}.{}, cuDNN {}, kernels as {kernels}",
            memory / 1_000_000,
            driver.0,
            driver.1,
            self.cudnn_version()
        )
    }
}

/// cuDNN's version as text.
pub(super) fn version_of_cudnn(version: usize) -> String {
    // 8902 is 8.9.2, 91002 is 9.10.2.
    let major = if version >= 10_000 { 10_000 } else { 1000 };
    format!("{}.{}.{}", version / major, version % major / 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_cudnn_are_taken_apart() {
        assert_eq!([91002, 8902].map(version_of_cudnn), ["9.10.2", "8.9.2"]);
    }
}
