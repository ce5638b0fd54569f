//! The same weights as a safetensors file, with the checkpoint's few other values in its string map.

use super::{Metadata, mirroring_axes};
use crate::nnunet::error::ModelError;
use safetensors::tensor::{Dtype, Metadata as Header, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Largest header read, in bytes: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// A file whose header has been read and checked against the file's length.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    path: PathBuf,
    header: Header,
    /// Where the tensors begin, in bytes.
    start: u64,
}

impl SafetensorsFile {
    /// Reads the header.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::io(path, source);
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size)
            .map_err(|_| ModelError::malformed(path, format!("too short for safetensors: {length} bytes")))?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size + 8 > length {
            let what = format!("not safetensors: a header of {size} bytes in a file of {length}");
            return Err(ModelError::malformed(path, what));
        }
        let mut text = Vec::new();
        file.take(size).read_to_end(&mut text).map_err(io)?;
        let header: Header = serde_json::from_slice(&text)
            .map_err(|e| ModelError::malformed(path, format!("safetensors header: {e}")))?;
        let expected = 8 + size + header.data_len() as u64;
        if expected != length {
            let what = format!("expected {expected} bytes by the safetensors header, got {length}");
            return Err(ModelError::malformed(path, what));
        }
        Ok(Self { path: path.to_owned(), header, start: 8 + size })
    }

    /// Name and place of every tensor.
    pub(super) fn tensors(&self) -> HashMap<String, &TensorInfo> {
        self.header.tensors()
    }

    /// The values in the string map that a `.pth` holds beside its weights.
    pub(super) fn metadata(&self) -> Result<Metadata, ModelError> {
        let text = |key: &str| self.header.metadata().as_ref().and_then(|map| map.get(key)).cloned();
        let missing =
            |key: &str| ModelError::malformed(&self.path, format!("__metadata__: \"{key}\" is missing"));
        let axes = match text("inference_allowed_mirroring_axes") {
            None => Some(Vec::new()),
            Some(json) => {
                serde_json::from_str::<Option<Vec<usize>>>(&json).ok().map(Option::unwrap_or_default)
            }
        };
        Ok(Metadata {
            trainer_name: text("trainer_name").ok_or_else(|| missing("trainer_name"))?,
            configuration: text("configuration").ok_or_else(|| missing("configuration"))?,
            mirroring_axes: mirroring_axes(&self.path, axes)?,
        })
    }

    /// Values (C order) of the tensors of these names, in their order.
    pub(super) fn read(&self, names: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut file = File::open(&self.path).map_err(|source| ModelError::io(&self.path, source))?;
        names.iter().map(|name| self.read_tensor(&mut file, name)).collect()
    }

    fn read_tensor(&self, file: &mut File, name: &str) -> Result<Vec<f32>, ModelError> {
        let info = self
            .header
            .info(name)
            .ok_or_else(|| ModelError::malformed(&self.path, format!("{name}: is missing")))?;
        let (width, decode): (usize, fn(&[u8]) -> f32) = match info.dtype {
            Dtype::F32 => (4, super::f32_from_le),
            Dtype::F16 => (2, super::f16_from_le),
            Dtype::BF16 => (2, super::bf16_from_le),
            Dtype::F64 => (8, super::f64_from_le),
            other => {
                let what = format!("{name}: {other:?} is not supported, only F32, F16, BF16 and F64");
                return Err(ModelError::unsupported(&self.path, what));
            }
        };
        let io = |source| ModelError::io(&self.path, source);
        let (start, end) = info.data_offsets;
        file.seek(SeekFrom::Start(self.start + start as u64)).map_err(io)?;
        let mut bytes = vec![0; end - start];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes.chunks_exact(width).map(decode).collect())
    }
}
