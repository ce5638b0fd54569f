//! Why a phantom cannot be made.

use crate::imaging::NotEnoughMemory;

/// What is wrong with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhantomError {
    /// There is no such grid: what, expected and got.
    #[error("{0}")]
    Grid(String),
    /// Image and labels need more memory than there is.
    #[error(transparent)]
    Memory(#[from] NotEnoughMemory),
}
