//! What can be wrong with an image file, sorted by whose fault it is.

use super::memory::NotEnoughMemory;
use std::path::{Path, PathBuf};

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// The file does not follow its format; `what` says where, expected and got.
    #[error("{path}: {what}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What, where, expected, got.
        what: String,
    },
    /// The file is sound, but not something this program works on (2-D, vector pixels, another format, …).
    #[error("{path}: {what}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is, and what would be accepted.
        what: String,
    },
    /// The file asks for more memory than it could possibly fill or than is sensible.
    #[error("{path}: {what}", path = path.display())]
    Limits {
        /// The file.
        path: PathBuf,
        /// The amount asked for and the limit.
        what: String,
    },
    /// The voxels need more memory than there is.
    #[error("{path}: {source}", path = path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// How much, and how much there is.
        source: NotEnoughMemory,
    },
}

impl ImageError {
    /// An [`ImageError::Io`] about `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// An [`ImageError::Malformed`] about `path`.
    pub fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), what: what.into() }
    }

    /// An [`ImageError::Unsupported`] about `path`.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }

    /// An [`ImageError::Limits`] about `path`.
    pub fn limits(path: &Path, what: impl Into<String>) -> Self {
        Self::Limits { path: path.to_owned(), what: what.into() }
    }
}
