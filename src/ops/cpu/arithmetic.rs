//! Which instructions the kernels use, and in which precision they multiply.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Matrix tiles of bfloat16 (AMX-BF16), beside AVX-512.
    Amx,
    /// 512-bit vectors (AVX-512 F, VL, BW and DQ).
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// Plain Rust, any processor.
    Portable,
}

/// Precision of the products of a convolution; sums are always float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// float32; on AMX each operand is split in two bfloat16 halves and three of the four products are summed.
    #[default]
    F32,
    /// bfloat16 where the instruction set multiplies it (AMX), otherwise float32.
    Bf16,
}

/// How the CPU kernels compute: what was chosen is what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    isa: Isa,
    precision: Precision,
}

/// An instruction set was asked for that this processor does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this processor has no {isa} instructions (it has {})", available.join(", "))]
pub struct UnavailableIsa {
    /// What was asked for.
    pub isa: Isa,
    /// Names of what there is, fastest first.
    pub available: Vec<&'static str>,
}

/// Set by [`Isa::assume_amx`].
static AMX_ASSUMED: AtomicBool = AtomicBool::new(false);

impl Isa {
    /// All of them, fastest first.
    pub const FASTEST_FIRST: [Self; 4] = [Self::Amx, Self::Avx512, Self::Avx2, Self::Portable];

    /// The fastest instruction set of this processor.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// Every instruction set that this processor has, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::FASTEST_FIRST.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this processor has it and the operating system lets it be used.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            match self {
                Self::Amx => avx512 && (AMX_ASSUMED.load(Ordering::Relaxed) || super::amx::is_permitted()),
                Self::Avx512 => avx512,
                Self::Avx2 => avx2,
                Self::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Treats AMX as available from now on, for tests that emulate its instructions on a processor without them.
    ///
    /// # Safety
    /// The process must handle the invalid-opcode signal of every AMX instruction by doing what it would have done.
    #[doc(hidden)]
    pub unsafe fn assume_amx() {
        AMX_ASSUMED.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl Arithmetic {
    /// The given instruction set, or the fastest; `precision` as far as that instruction set has it.
    ///
    /// # Errors
    /// If the processor lacks the instruction set.
    pub fn new(isa: Option<Isa>, precision: Precision) -> Result<Self, UnavailableIsa> {
        let isa = isa.unwrap_or_else(Isa::detect);
        if !isa.is_available() {
            return Err(UnavailableIsa { isa, available: Isa::available().map(Isa::name).collect() });
        }
        let precision = if isa == Isa::Amx { precision } else { Precision::F32 };
        Ok(Self { isa, precision })
    }

    /// float32 on the fastest instruction set of this processor.
    pub fn detect() -> Self {
        Self { isa: Isa::detect(), precision: Precision::F32 }
    }

    /// float32 on every instruction set of this processor, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Isa::available().map(|isa| Self { isa, precision: Precision::F32 })
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The same instruction set with products in float32.
    pub(super) fn in_float32(self) -> Self {
        Self { precision: Precision::F32, ..self }
    }

    /// The precision that is computed in, which is float32 wherever there is no bfloat16.
    pub fn precision(self) -> Precision {
        self.precision
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.isa, self.precision)
    }
}
