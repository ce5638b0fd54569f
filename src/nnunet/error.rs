//! What can be wrong with a model folder, sorted by whose fault it is.

use std::path::{Path, PathBuf};

/// Why a trained-model folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or folder that the model needs is not there.
    #[error("{path}: {what}", path = path.display())]
    NotFound {
        /// The file or folder looked for.
        path: PathBuf,
        /// What was expected there, and what is there instead.
        what: String,
    },
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
        /// Where, expected, got.
        what: String,
    },
    /// The file is sound, but asks for something that this version does not do.
    #[error("{path}: {what}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for, and what would be accepted.
        what: String,
    },
    /// The weights do not belong to the network that the plans describe.
    #[error("{path}: {count} of its tensors do not fit the plans' network:\n  {list}",
        path = path.display(), count = lines.len(), list = lines.join("\n  "))]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// One line for every missing, mis-shaped or unknown tensor.
        lines: Vec<String>,
    },
}

impl ModelError {
    /// An [`ModelError::Io`] about `path`, or [`ModelError::NotFound`] where that is what the system says.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            Self::NotFound { path: path.to_owned(), what: "no such file".to_owned() }
        } else {
            Self::Io { path: path.to_owned(), source }
        }
    }

    /// A [`ModelError::Malformed`] about `path`.
    pub fn malformed(path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), what: what.into() }
    }

    /// A [`ModelError::Unsupported`] about `path`.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }
}
