//! Which device the networks run on.

use super::args::{ComputeArgs, PrecisionArg};
use super::system;
use pdac_cascade::ops::{Cuda, CudaOptions, CudaPrecision, CudaUnavailable};
use std::str::FromStr;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// The first GPU if it can be used, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, and nothing else.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().map(Self::Cuda);
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(number),
        }
        .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

/// The GPU that was demanded cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--device cuda: {0}")]
pub struct Demanded(CudaUnavailable);

/// What the networks run on.
pub enum Device {
    /// The CPU, and why no GPU if one would have been used.
    Cpu(Option<CudaUnavailable>),
    /// A GPU.
    Gpu(Cuda),
}

/// Opens the device that was asked for.
pub fn open(args: &ComputeArgs) -> Result<Device, Demanded> {
    let (ordinal, demanded) = match args.device {
        DeviceArg::Cpu => return Ok(Device::Cpu(None)),
        DeviceArg::Auto => (0, false),
        DeviceArg::Cuda(ordinal) => (ordinal, true),
    };
    match Cuda::open(ordinal, options(args.precision)) {
        Ok(gpu) => {
            if args.precision == Some(PrecisionArg::Bf16) {
                let used = gpu.precision();
                tracing::warn!(
                    "--precision bf16: the GPU's networks are float16 or float32, computing in {used}"
                );
            }
            Ok(Device::Gpu(gpu))
        }
        Err(reason) if demanded => Err(Demanded(reason)),
        Err(reason) => Ok(Device::Cpu(Some(reason))),
    }
}

fn options(precision: Option<PrecisionArg>) -> CudaOptions {
    let precision = match precision {
        None | Some(PrecisionArg::F16 | PrecisionArg::Bf16) => CudaPrecision::F16,
        Some(PrecisionArg::F32) => CudaPrecision::F32,
    };
    let remember = system::cache_folder().map(|folder| folder.join("convolution-algorithms.json"));
    CudaOptions { precision, remember }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        let parsed = ["auto", "cpu", "cuda", "cuda:3"].map(|text| text.parse::<DeviceArg>().unwrap());
        assert_eq!(parsed, [DeviceArg::Auto, DeviceArg::Cpu, DeviceArg::Cuda(0), DeviceArg::Cuda(3)]);
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA"] {
            assert_eq!(DeviceArg::from_str(wrong).unwrap_err(), "expected auto, cpu, cuda or cuda:N");
        }
    }
}
