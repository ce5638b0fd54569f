//! A PyTorch checkpoint: a zip of one pickle and one file per storage.
//!
//! Layout: `torch/serialization.py: _save` and `torch/_utils.py: _rebuild_tensor_v2`.

use super::pickle::{Id, Pickle, Value};
use super::{Metadata, mirroring_axes};
use crate::nnunet::error::ModelError;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// Largest pickle read, in bytes; nnU-Net's have about 100 kB.
const MAX_PICKLE: u64 = 256 << 20;

/// A checkpoint whose pickle has been read, and none of its storages.
#[derive(Debug)]
pub(super) struct PthFile {
    path: PathBuf,
    /// Folder inside the zip.
    stem: String,
    pickle: Pickle,
    /// The tensors of `network_weights`.
    pub(super) tensors: HashMap<String, StoredTensor>,
}

/// Where a tensor lies; strides and offset count elements.
#[derive(Debug, Clone)]
pub(super) struct StoredTensor {
    pub(super) shape: Vec<usize>,
    stride: Vec<usize>,
    offset: usize,
    storage_type: String,
    storage: String,
}

impl PthFile {
    /// Reads everything but the storages.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let mut zip = open_zip(path)?;
        let stem = pickle_stem(path, &zip)?;
        let byte_order = format!("{stem}/byteorder");
        if zip.index_for_name(&byte_order).is_some()
            && read_entry(path, &mut zip, &byte_order, 16)?.trim_ascii() != b"little"
        {
            return Err(ModelError::unsupported(path, "byte order is not little-endian"));
        }
        let bytes = read_entry(path, &mut zip, &format!("{stem}/data.pkl"), MAX_PICKLE)?;
        let pickle = Pickle::parse(&bytes).map_err(|what| ModelError::malformed(path, what))?;
        let weights = pickle.lookup(pickle.root(), "network_weights").ok_or_else(|| {
            ModelError::malformed(path, "\"network_weights\" is missing; not an nnU-Net checkpoint")
        })?;
        let tensors = stored_tensors(path, &pickle, weights)?;
        Ok(Self { path: path.to_owned(), stem, pickle, tensors })
    }

    /// What nnU-Net takes from the first fold's checkpoint besides the weights.
    pub(super) fn metadata(&self) -> Result<Metadata, ModelError> {
        let root = self.pickle.root();
        let malformed = |what: &str| ModelError::malformed(&self.path, what);
        let text = |dict: Option<Id>, key: &str| {
            dict.and_then(|dict| self.pickle.lookup(dict, key)).and_then(|id| self.pickle.text(id))
        };
        let trainer_name = text(Some(root), "trainer_name");
        let configuration = text(self.pickle.lookup(root, "init_args"), "configuration");
        let axes = match self.pickle.lookup(root, "inference_allowed_mirroring_axes") {
            None => Some(Vec::new()),
            Some(id) if matches!(self.pickle.get(id), Value::None) => Some(Vec::new()),
            Some(id) => self.pickle.sizes(id),
        };
        Ok(Metadata {
            trainer_name: trainer_name.ok_or_else(|| malformed("\"trainer_name\" is missing"))?.to_owned(),
            configuration: configuration
                .ok_or_else(|| malformed("\"init_args.configuration\" is missing"))?
                .to_owned(),
            mirroring_axes: mirroring_axes(&self.path, axes)?,
        })
    }

    /// Values (C order) of the tensors with these stored names, in their order.
    pub(super) fn read(&self, names: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut zip = open_zip(&self.path)?;
        names.iter().map(|name| self.read_tensor(&mut zip, name)).collect()
    }

    fn read_tensor(&self, zip: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Vec<f32>, ModelError> {
        let malformed = |what: String| ModelError::malformed(&self.path, format!("{name}: {what}"));
        let tensor = self.tensors.get(name).ok_or_else(|| malformed("is missing".to_owned()))?;
        let (width, decode): (usize, fn(&[u8]) -> f32) = match tensor.storage_type.as_str() {
            "FloatStorage" => (4, super::f32_from_le),
            "HalfStorage" => (2, super::f16_from_le),
            "BFloat16Storage" => (2, super::bf16_from_le),
            "DoubleStorage" => (8, super::f64_from_le),
            other => {
                let what = format!("{name}: {other} is not supported, only float, half, bfloat16 and double");
                return Err(ModelError::unsupported(&self.path, what));
            }
        };
        let entry = format!("{}/data/{}", self.stem, tensor.storage);
        let bytes = read_entry(&self.path, zip, &entry, u64::MAX)?;
        let elements = tensor.elements(bytes.len() / width).ok_or_else(|| {
            malformed(format!("reaches beyond its storage of {} values", bytes.len() / width))
        })?;
        Ok(elements.into_iter().map(|at| decode(&bytes[at * width..(at + 1) * width])).collect())
    }
}

impl StoredTensor {
    /// Position in the storage of every element in C order; `None` where one is not below `available`.
    fn elements(&self, available: usize) -> Option<Vec<usize>> {
        let count = self.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d))?;
        if count == 0 {
            return Some(Vec::new());
        }
        // Without this, strides of 0 would let a few bytes stand for any number of elements.
        if count > available {
            return None;
        }
        let last = self
            .shape
            .iter()
            .zip(&self.stride)
            .try_fold(self.offset, |at, (size, stride)| at.checked_add(stride.checked_mul(size - 1)?))?;
        if last >= available {
            return None;
        }
        let mut positions = vec![self.offset];
        for (&size, &stride) in self.shape.iter().zip(&self.stride) {
            positions = positions.iter().flat_map(|at| (0..size).map(move |i| at + i * stride)).collect();
        }
        Some(positions)
    }
}

fn open_zip(path: &Path) -> Result<ZipArchive<BufReader<File>>, ModelError> {
    let file = File::open(path).map_err(|source| ModelError::io(path, source))?;
    ZipArchive::new(BufReader::new(file)).map_err(|e| {
        let what = format!("not a whole zip, as PyTorch writes since version 1.6 ({e})");
        ModelError::malformed(path, what)
    })
}

/// The folder inside the zip that holds `data.pkl`.
fn pickle_stem(path: &Path, zip: &ZipArchive<BufReader<File>>) -> Result<String, ModelError> {
    let mut stems = Vec::new();
    for name in zip.file_names() {
        let name = name.map_err(|e| ModelError::malformed(path, e.to_string()))?;
        if let Some(stem) = name.strip_suffix("/data.pkl") {
            stems.push(stem.to_owned());
        }
    }
    match <[String; 1]>::try_from(stems) {
        Ok([stem]) => Ok(stem),
        Err(stems) => {
            Err(ModelError::malformed(path, format!("expected one data.pkl in the zip, got {}", stems.len())))
        }
    }
}

fn read_entry(
    path: &Path,
    zip: &mut ZipArchive<BufReader<File>>,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, ModelError> {
    let damaged = |e: &dyn std::fmt::Display| ModelError::malformed(path, format!("{name} in the zip: {e}"));
    let entry = zip.by_name(name).map_err(|e| damaged(&e))?;
    if entry.size() > limit {
        return Err(damaged(&format!("{} bytes, at most {limit} are read", entry.size())));
    }
    let expected = entry.size();
    let mut bytes = Vec::new();
    // To the end, so that the zip's checksum is compared; never beyond the declared size.
    entry.take(expected.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    if bytes.len() as u64 == expected {
        Ok(bytes)
    } else {
        Err(damaged(&format!("expected {expected} bytes, got {}", bytes.len())))
    }
}

/// Names and places of the tensors in a state dict; other entries are passed over.
fn stored_tensors(
    path: &Path,
    pickle: &Pickle,
    weights: Id,
) -> Result<HashMap<String, StoredTensor>, ModelError> {
    let Value::Dict(entries) = pickle.get(weights) else {
        return Err(ModelError::malformed(path, "\"network_weights\": expected a dict of tensors"));
    };
    let mut tensors = HashMap::with_capacity(entries.len());
    for (key, value) in entries {
        let (Some(name), Some(arguments)) = (pickle.text(*key), tensor_arguments(pickle, *value)) else {
            continue;
        };
        let tensor = stored_tensor(pickle, arguments).ok_or_else(|| {
            ModelError::malformed(
                path,
                format!("network_weights: {name} is not stored as PyTorch stores tensors"),
            )
        })?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Arguments of the `_rebuild_tensor_v2` call that a value is, or that a parameter wraps.
fn tensor_arguments(pickle: &Pickle, value: Id) -> Option<Id> {
    let mut value = value;
    for _ in 0..2 {
        let Value::Call { function, arguments } = pickle.get(value) else { return None };
        let Value::Global(module, name) = pickle.get(*function) else { return None };
        match (module.as_str(), name.as_str()) {
            ("torch._utils", "_rebuild_tensor_v2") => return Some(*arguments),
            ("torch._utils", "_rebuild_parameter") => value = *pickle.sequence(*arguments)?.first()?,
            _ => return None,
        }
    }
    None
}

/// Dimensions of a tensor, at most; a 3-D convolution's weight has five.
const MAX_RANK: usize = 8;

/// `(storage, offset, size, stride, …)`, storage being `('storage', type, key, location, numel)`.
fn stored_tensor(pickle: &Pickle, arguments: Id) -> Option<StoredTensor> {
    let [storage, offset, shape, stride, ..] = pickle.sequence(arguments)? else { return None };
    let Value::Persistent(storage) = pickle.get(*storage) else { return None };
    let [_, storage_type, key, ..] = pickle.sequence(*storage)? else { return None };
    let Value::Global(_, storage_type) = pickle.get(*storage_type) else { return None };
    // Tuples may be shared: copying a long one for every tensor would take more memory than the file has bytes.
    (pickle.sequence(*shape)?.len() <= MAX_RANK && pickle.sequence(*stride)?.len() <= MAX_RANK)
        .then_some(())?;
    let (shape, stride) = (pickle.sizes(*shape)?, pickle.sizes(*stride)?);
    (shape.len() == stride.len()).then_some(())?;
    Some(StoredTensor {
        shape,
        stride,
        offset: pickle.size(*offset)?,
        storage_type: storage_type.clone(),
        storage: pickle.text(*key)?.to_owned(),
    })
}
