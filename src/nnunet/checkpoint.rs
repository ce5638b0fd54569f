//! The weights of one fold, and the few other values that nnU-Net keeps beside them.

mod pickle;
mod pth;
mod safetensors;

use self::pth::PthFile;
use self::safetensors::SafetensorsFile;
use super::error::ModelError;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A checkpoint file whose header has been read; tensors are read when asked for.
///
/// Two formats: `NAME.pth` as nnU-Net's trainer writes it, and `NAME.safetensors` with tensors in f16, bf16, f32 or
/// f64 and the string map `trainer_name`, `configuration`, `inference_allowed_mirroring_axes` (a JSON list, or
/// `null`). Prefixes `module.` and `_orig_mod.` of tensor names are dropped, as nnU-Net does.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    store: Store,
    /// Stored name of each tensor by its name without prefix.
    stored_names: HashMap<String, String>,
}

#[derive(Debug)]
enum Store {
    Pth(PthFile),
    Safetensors(SafetensorsFile),
}

/// What nnU-Net takes from the first fold's checkpoint besides the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Python class that trained the network.
    pub trainer_name: String,
    /// Configuration of the plans that it was trained with (`init_args.configuration`).
    pub configuration: String,
    /// Axes (of the transposed volume) that may be flipped at inference; empty where the file says `None` or nothing.
    pub mirroring_axes: Vec<usize>,
}

impl Checkpoint {
    /// The checkpoint `name` (without extension) in `folder`: `NAME.safetensors` if it exists, else `NAME.pth`.
    ///
    /// Reads names, shapes and metadata; no tensor.
    ///
    /// # Errors
    /// If neither exists, or the file found is not what its extension says.
    pub fn find(folder: &Path, name: &str) -> Result<Self, ModelError> {
        let candidates = ["safetensors", "pth"].map(|extension| folder.join(format!("{name}.{extension}")));
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Self::open(path),
            None => Err(ModelError::NotFound { path: folder.join(name), what: absence(folder) }),
        }
    }

    /// The checkpoint at `path`; the extension `safetensors` decides its format.
    ///
    /// Reads names, shapes and metadata; no tensor.
    ///
    /// # Errors
    /// If the file cannot be read or is not a checkpoint.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let store = if path.extension().is_some_and(|e| e == "safetensors") {
            Store::Safetensors(SafetensorsFile::open(path)?)
        } else {
            Store::Pth(PthFile::open(path)?)
        };
        let names: Vec<String> = match &store {
            Store::Pth(file) => file.tensors.keys().cloned().collect(),
            Store::Safetensors(file) => file.tensors().into_keys().collect(),
        };
        let mut stored_names = HashMap::with_capacity(names.len());
        for name in names {
            let plain = without_prefixes(&name).to_owned();
            if let Some(other) = stored_names.insert(plain, name.clone()) {
                let what = format!("{name} and {other} are the same tensor but for their prefix");
                return Err(ModelError::malformed(path, what));
            }
        }
        Ok(Self { path: path.to_owned(), store, stored_names })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Trainer, configuration and mirroring axes.
    ///
    /// # Errors
    /// If one is missing or of the wrong kind.
    pub fn metadata(&self) -> Result<Metadata, ModelError> {
        match &self.store {
            Store::Pth(file) => file.metadata(),
            Store::Safetensors(file) => file.metadata(),
        }
    }

    /// Shape of every tensor by name, aliases and unused heads included.
    pub fn shapes(&self) -> HashMap<String, Vec<usize>> {
        let named = |shape_of: &dyn Fn(&str) -> Option<Vec<usize>>| {
            let pairs = self.stored_names.iter();
            pairs.filter_map(|(name, stored)| Some((name.clone(), shape_of(stored)?))).collect()
        };
        match &self.store {
            Store::Pth(file) => named(&|name| file.tensors.get(name).map(|t| t.shape.clone())),
            Store::Safetensors(file) => {
                let tensors = file.tensors();
                named(&|name| tensors.get(name).map(|t| t.shape.clone()))
            }
        }
    }

    /// Checks that the network's parameters are all there in their shapes, and that nothing else is.
    ///
    /// # Errors
    /// As [`check_parameters`].
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<(), ModelError> {
        check_parameters(&self.path, expected, &self.shapes())
    }

    /// The tensors that `expected` names, as f32 on the CPU.
    ///
    /// Optimizer state, deep-supervision heads and aliases are not read.
    ///
    /// # Errors
    /// If they do not fit ([`check_parameters`]), the file is damaged, an element type is not a float, or a number is not finite.
    pub fn load(&self, expected: &[(String, Vec<usize>)]) -> Result<HashMap<String, Tensor>, ModelError> {
        self.check(expected)?;
        let stored = expected.iter().map(|(name, _)| self.stored_names.get(name).unwrap_or(name).as_str());
        let names: Vec<&str> = stored.collect();
        let values = match &self.store {
            Store::Pth(file) => file.read(&names)?,
            Store::Safetensors(file) => file.read(&names)?,
        };
        let tensors = expected.iter().zip(values).map(|((name, shape), values)| {
            if let Some(wrong) = values.iter().position(|v: &f32| !v.is_finite()) {
                let what =
                    format!("{name}: element {wrong}: expected a finite number, got {}", values[wrong]);
                return Err(ModelError::malformed(&self.path, what));
            }
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)
                .map_err(|e| ModelError::malformed(&self.path, format!("{name}: {e}")))?;
            Ok((name.clone(), tensor))
        });
        tensors.collect()
    }
}

/// Trainer, configuration and mirroring axes of the checkpoint at `path`; reads no tensor.
///
/// # Errors
/// If the file cannot be read, is not a checkpoint, or lacks one of them.
pub fn read_metadata(path: &Path) -> Result<Metadata, ModelError> {
    Checkpoint::open(path)?.metadata()
}

/// Compares the tensors' shapes with those that the network expects.
///
/// Passed over: nnU-Net's aliases (`decoder.encoder.*`, `*.all_modules.*`) and the deep-supervision heads of the
/// decoder stages below the last.
///
/// # Errors
/// One [`ModelError::Mismatch`] with a line for every missing, mis-shaped or unknown tensor.
pub fn check_parameters(
    path: &Path,
    expected: &[(String, Vec<usize>)],
    shapes: &HashMap<String, Vec<usize>>,
) -> Result<(), ModelError> {
    let mut lines = Vec::new();
    for (name, shape) in expected {
        match shapes.get(name) {
            None => lines.push(format!("{name}: missing, expected {shape:?}")),
            Some(got) if got != shape => lines.push(format!("{name}: expected {shape:?}, got {got:?}")),
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let last_head = expected.iter().filter_map(|(name, _)| head_stage(name)).max().unwrap_or(0);
    let is_spare = |name: &str| {
        name.starts_with("decoder.encoder.")
            || name.contains(".all_modules.")
            || head_stage(name).is_some_and(|stage| stage < last_head)
    };
    let unknown = shapes.iter().filter(|(name, _)| !known.contains(name.as_str()) && !is_spare(name));
    let mut unknown: Vec<String> =
        unknown.map(|(name, shape)| format!("{name}: not part of the network, got {shape:?}")).collect();
    unknown.sort_unstable();
    lines.append(&mut unknown);
    if lines.is_empty() { Ok(()) } else { Err(ModelError::Mismatch { path: path.to_owned(), lines }) }
}

/// Decoder stage of a segmentation head's tensor.
fn head_stage(name: &str) -> Option<usize> {
    name.strip_prefix("decoder.seg_layers.")?.split('.').next()?.parse().ok()
}

fn without_prefixes(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("_orig_mod.")) {
        name = rest;
    }
    name
}

/// What is in `folder` instead of the checkpoint looked for.
fn absence(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "no such checkpoint: the folder of the fold is not there".to_owned();
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".pth") || name.ends_with(".safetensors")).collect();
    names.sort_unstable();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("no such checkpoint (.safetensors or .pth), there: {there}")
}

/// Distinct spatial axes, or an error that says so; `None` stands for a value of the wrong kind.
fn mirroring_axes(path: &Path, axes: Option<Vec<usize>>) -> Result<Vec<usize>, ModelError> {
    let is_valid = |axes: &Vec<usize>| {
        axes.iter().all(|axis| *axis < 3) && axes.iter().collect::<HashSet<_>>().len() == axes.len()
    };
    axes.filter(is_valid).ok_or_else(|| {
        let what = "inference_allowed_mirroring_axes: expected none, or distinct axes from 0, 1, 2";
        ModelError::malformed(path, what)
    })
}

// The decoders take exactly one element's bytes; fewer read as 0, which their callers' checks rule out.
fn f32_from_le(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap_or_default())
}

fn f16_from_le(bytes: &[u8]) -> f32 {
    f16::from_le_bytes(bytes.try_into().unwrap_or_default()).to_f32()
}

fn bf16_from_le(bytes: &[u8]) -> f32 {
    bf16::from_le_bytes(bytes.try_into().unwrap_or_default()).to_f32()
}

fn f64_from_le(bytes: &[u8]) -> f32 {
    f64::from_le_bytes(bytes.try_into().unwrap_or_default()) as f32
}
