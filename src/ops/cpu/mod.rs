//! CPU kernels, chosen at run time from what the processor offers.

#![expect(unsafe_code, reason = "vector instructions and the pointers they read and write")]

pub(super) mod activation;
pub(super) mod conv3d;
mod kernel;
mod lanes;

pub(super) use kernel::PackedWeights;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 512-bit vectors (AVX-512 F and VL).
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// Plain Rust, any processor.
    Portable,
}

impl Isa {
    const FASTEST_FIRST: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The fastest instruction set of this processor.
    pub fn detect() -> Self {
        Self::FASTEST_FIRST.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match self {
                Self::Avx512 => {
                    avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl")
                }
                Self::Avx2 => avx2,
                Self::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// Every instruction set that this processor has, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::FASTEST_FIRST.into_iter().filter(|isa| isa.is_available())
    }
}
