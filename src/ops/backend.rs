//! What an operator is packed for: the processor or a GPU.

use super::cpu::Arithmetic;
use super::cuda::Cuda;

/// What computes.
#[derive(Debug, Clone, Copy)]
pub enum Backend {
    /// The processor, with these instructions.
    Cpu(Arithmetic),
    /// A GPU. Without the feature `cuda` there is no value of it.
    Cuda(Cuda),
}

impl From<Arithmetic> for Backend {
    fn from(arithmetic: Arithmetic) -> Self {
        Self::Cpu(arithmetic)
    }
}

impl From<Cuda> for Backend {
    fn from(cuda: Cuda) -> Self {
        Self::Cuda(cuda)
    }
}
