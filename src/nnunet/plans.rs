//! `plans.json`: how a scan is prepared, and which network reads it.

mod architecture;

use super::dataset::Dataset;
use super::error::ModelError;
use super::json::{self, Node};
use super::resampling::Resampling;
use crate::network::Architecture;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Largest patch along an axis, in voxels; more is a mistake, not a model.
const MAX_PATCH: usize = 4096;

/// Largest patch, in voxels.
const MAX_PATCH_VOXELS: usize = 512 * 512 * 512;

/// Image readers whose arrays are as SimpleITK's: voxels as stored, spacing from the header.
const READERS: &str = "\"SimpleITKIO\" or \"NibabelIO\"";

/// A validated `plans.json`, whose configurations are resolved when asked for.
#[derive(Debug, Clone)]
pub struct Plans {
    file: PathBuf,
    value: Value,
    /// Axis of the image that becomes axis `a` of the network's world, for `a` = 0, 1, 2.
    pub transpose_forward: [usize; 3],
    /// The inverse of `transpose_forward`.
    pub transpose_backward: [usize; 3],
}

/// One configuration (`3d_fullres`, …) with everything that it inherits.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Its name in the plans.
    pub name: String,
    /// Voxel spacing in mm that the network works at, in transposed axis order.
    pub spacing: [f64; 3],
    /// Tile size in voxels, in transposed axis order.
    pub patch_size: [usize; 3],
    /// One entry per input channel.
    pub normalization: Vec<ChannelNormalization>,
    /// How images are resampled to `spacing`.
    pub data_resampling: Resampling,
    /// How logits are resampled back.
    pub probability_resampling: Resampling,
    /// The network's layers.
    pub network: Architecture,
}

/// How the intensities of one channel are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelNormalization {
    /// The formula.
    pub scheme: NormalizationScheme,
    /// Whether only voxels in the filled non-zero mask count (and change); of the schemes, z-score heeds it.
    pub use_mask: bool,
    /// What planning measured in the foreground of this channel.
    pub intensity: IntensityProperties,
}

/// nnU-Net's normalisation classes (`default_normalization_schemes.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormalizationScheme {
    /// `CTNormalization`: clip to the percentiles, subtract the mean, divide by the standard deviation, all planned.
    Ct,
    /// `ZScoreNormalization`: mean and standard deviation of the image itself.
    ZScore,
    /// `NoNormalization`.
    None,
    /// `RescaleTo01Normalization`: minimum to 0, maximum to 1.
    RescaleTo01,
    /// `RGBTo01Normalization`: divide by 255.
    RgbTo01,
}

/// Foreground intensities of the training set, in the image's units (HU for CT).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntensityProperties {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// 0.5th percentile.
    pub percentile_00_5: f64,
    /// 99.5th percentile.
    pub percentile_99_5: f64,
}

/// A configuration's keys, its own and inherited ones, each knowing where it stands.
struct Section<'a> {
    node: Node<'a>,
    fields: HashMap<&'a str, Node<'a>>,
}

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.fields.get(key)
    }

    fn field(&self, key: &str) -> Result<Node<'a>, ModelError> {
        self.get(key).map_or_else(|| self.node.field(key), |node| Ok(node.clone()))
    }
}

impl Plans {
    /// The plans in the file; configurations are not looked into yet.
    ///
    /// # Errors
    /// If the file cannot be read, breaks nnU-Net's rules, or asks for another label manager or image reader.
    pub fn read(file: &Path) -> Result<Self, ModelError> {
        Self::from_value(file, json::read(file)?)
    }

    /// The plans in `text`; `file` is named in errors.
    ///
    /// # Errors
    /// As [`Plans::read`].
    pub fn from_json(file: &Path, text: &str) -> Result<Self, ModelError> {
        Self::from_value(file, json::parse(file, text.as_bytes())?)
    }

    fn from_value(file: &Path, value: Value) -> Result<Self, ModelError> {
        let root = Node::root(file, &value);
        root.field("configurations")?.members()?;
        expect_name(root.get("label_manager")?, &["LabelManager"], "\"LabelManager\"")?;
        expect_name(root.get("image_reader_writer")?, &["SimpleITKIO", "NibabelIO"], READERS)?;
        let transpose_forward = permutation(&root.field("transpose_forward")?)?;
        let backward = root.field("transpose_backward")?;
        let transpose_backward = permutation(&backward)?;
        if transpose_forward.map(|axis| transpose_backward[axis]) != [0, 1, 2] {
            return Err(
                backward.malformed(&format!("the inverse of transpose_forward {transpose_forward:?}"))
            );
        }
        Ok(Self { file: file.to_owned(), value, transpose_forward, transpose_backward })
    }

    /// The configuration `name` for images and labels of `dataset`, with inheritance resolved.
    ///
    /// Follows `plans_handler.py: PlansManager.get_configuration` and `ConfigurationManager.__init__`.
    ///
    /// # Errors
    /// If there is no such configuration, it breaks nnU-Net's rules, or it asks for something not supported
    /// (2-D, a cascade's second stage, another network).
    pub fn configuration(&self, name: &str, dataset: &Dataset) -> Result<Configuration, ModelError> {
        let root = Node::root(&self.file, &self.value);
        let section = resolve(&root.field("configurations")?, name)?;
        refuse_unsupported(&section)?;
        let patch_size = section.field("patch_size")?.triple(|n| n.integer(1..=MAX_PATCH))?;
        if patch_size.iter().product::<usize>() > MAX_PATCH_VOXELS {
            return Err(section.field("patch_size")?.unsupported("at most 512 × 512 × 512 voxels"));
        }
        let network = architecture::network(&section, dataset.input_channels(), dataset.output.heads())?;
        check_patch(&section, patch_size, &network)?;
        Ok(Configuration {
            name: name.to_owned(),
            spacing: section.field("spacing")?.triple(positive)?,
            patch_size,
            normalization: normalization(&root, &section, dataset.input_channels())?,
            data_resampling: resampling(&section, "resampling_fn_data")?,
            probability_resampling: resampling(&section, "resampling_fn_probabilities")?,
            network,
        })
    }
}

/// Follows `inherits_from`; the child's keys win.
fn resolve<'a>(configurations: &Node<'a>, name: &str) -> Result<Section<'a>, ModelError> {
    let known: HashMap<&str, Node<'a>> = configurations.members()?.into_iter().collect();
    let find = |name: &str| {
        known.get(name).cloned().ok_or_else(|| {
            let mut names: Vec<String> = known.keys().map(|n| format!("\"{n}\"")).collect();
            names.sort_unstable();
            let what = format!("configurations: there is no \"{name}\", only {}", names.join(", "));
            ModelError::malformed(configurations.file(), what)
        })
    };
    let node = find(name)?;
    let mut fields = HashMap::new();
    let mut visited = vec![name.to_owned()];
    let mut next = Some(node.clone());
    while let Some(current) = next.take() {
        for (key, value) in current.members()? {
            fields.entry(key).or_insert(value);
        }
        if let Some(parent) = current.get("inherits_from")? {
            let parent_name = parent.text()?;
            if visited.iter().any(|v| v == parent_name) {
                return Err(parent.malformed(&format!("no cycle (after {})", visited.join(", "))));
            }
            visited.push(parent_name.to_owned());
            next = Some(find(parent_name)?);
        }
    }
    Ok(Section { node, fields })
}

fn refuse_unsupported(section: &Section<'_>) -> Result<(), ModelError> {
    if let Some(previous) = section.get("previous_stage").filter(|n| !n.is_null()) {
        return Err(previous.unsupported("configurations without a previous stage"));
    }
    let patch = section.field("patch_size")?;
    if patch.items()?.len() == 2 {
        return Err(patch.unsupported("three-dimensional configurations"));
    }
    let preprocessor = section.get("preprocessor_name").cloned();
    expect_name(preprocessor, &["DefaultPreprocessor"], "\"DefaultPreprocessor\"")
}

/// The decoder's upsampled maps meet the encoder's only where every stride divides what it is applied to.
fn check_patch(section: &Section<'_>, patch: [usize; 3], network: &Architecture) -> Result<(), ModelError> {
    let mut rest = patch;
    let strides = &network.unet().strides;
    for stride in strides {
        for (size, step) in rest.iter_mut().zip(stride) {
            if *size % step != 0 {
                let what = format!("a size that the strides {strides:?} divide");
                return Err(section.field("patch_size")?.malformed(&what));
            }
            *size /= step;
        }
    }
    Ok(())
}

fn expect_name(node: Option<Node<'_>>, accepted: &[&str], listed: &str) -> Result<(), ModelError> {
    match node {
        Some(node) if !accepted.contains(&node.text()?) => Err(node.unsupported(listed)),
        _ => Ok(()),
    }
}

fn permutation(node: &Node<'_>) -> Result<[usize; 3], ModelError> {
    let axes = node.triple(|n| n.integer(0..=2))?;
    if (0..3).all(|axis| axes.contains(&axis)) {
        Ok(axes)
    } else {
        Err(node.malformed("0, 1 and 2, each once"))
    }
}

fn positive(node: &Node<'_>) -> Result<f64, ModelError> {
    let value = node.number()?;
    if value > 0.0 { Ok(value) } else { Err(node.malformed("a number above 0")) }
}

fn normalization(
    root: &Node<'_>,
    section: &Section<'_>,
    channels: usize,
) -> Result<Vec<ChannelNormalization>, ModelError> {
    let properties = match root.get("foreground_intensity_properties_per_channel")? {
        Some(node) => node,
        None => match root.get("foreground_intensity_properties_by_modality")? {
            Some(node) => node,
            None => root.field("foreground_intensity_properties_per_channel")?,
        },
    };
    let per_channel = |key: &str| {
        let node = section.field(key)?;
        let items = node.items()?;
        if items.len() == channels {
            Ok(items)
        } else {
            Err(node.malformed(&format!("{channels} entries, one for each channel of the dataset")))
        }
    };
    let schemes = per_channel("normalization_schemes")?;
    let masks = per_channel("use_mask_for_norm")?;
    let entries = schemes.iter().zip(&masks).enumerate();
    entries
        .map(|(channel, (scheme_node, mask))| {
            Ok(ChannelNormalization {
                scheme: scheme(scheme_node)?,
                use_mask: mask.boolean()?,
                intensity: intensity(&properties.field(&channel.to_string())?)?,
            })
        })
        .collect()
}

fn scheme(node: &Node<'_>) -> Result<NormalizationScheme, ModelError> {
    match node.text()? {
        "CTNormalization" => Ok(NormalizationScheme::Ct),
        "ZScoreNormalization" => Ok(NormalizationScheme::ZScore),
        "NoNormalization" => Ok(NormalizationScheme::None),
        "RescaleTo01Normalization" => Ok(NormalizationScheme::RescaleTo01),
        "RGBTo01Normalization" => Ok(NormalizationScheme::RgbTo01),
        _ => Err(node.unsupported(
            "CTNormalization, ZScoreNormalization, NoNormalization, RescaleTo01Normalization, RGBTo01Normalization",
        )),
    }
}

fn intensity(node: &Node<'_>) -> Result<IntensityProperties, ModelError> {
    let number = |key: &str| node.field(key)?.number();
    Ok(IntensityProperties {
        mean: number("mean")?,
        std: number("std")?,
        percentile_00_5: number("percentile_00_5")?,
        percentile_99_5: number("percentile_99_5")?,
    })
}

/// The function named under `key` with the arguments under `{key}_kwargs`; absent arguments take the
/// defaults of nnU-Net's `default_resampling.py` and `resample_torch.py`.
fn resampling(section: &Section<'_>, key: &str) -> Result<Resampling, ModelError> {
    let function = section.field(key)?;
    let kwargs = section.field(&format!("{key}_kwargs"))?;
    let is_torch = match function.text()? {
        "resample_data_or_seg_to_shape" => false,
        "resample_torch_fornnunet" => true,
        _ => return Err(function.unsupported("resample_data_or_seg_to_shape, resample_torch_fornnunet")),
    };
    let mut order = 3;
    let mut force_separate_z = if is_torch { None } else { Some(false) };
    for (name, value) in kwargs.members()? {
        match name {
            "is_seg" if value.boolean()? => return Err(value.unsupported("false")),
            "is_seg" => {}
            "force_separate_z" => {
                force_separate_z = if value.is_null() { None } else { Some(value.boolean()?) };
            }
            "separate_z_anisotropy_threshold" if value.number()? == 3.0 => {}
            "separate_z_anisotropy_threshold" => return Err(value.unsupported("3")),
            "order" if !is_torch => match value.integer(0..=5)? {
                it @ (0 | 1 | 3) => order = it as u8,
                _ => return Err(value.unsupported("0, 1 or 3")),
            },
            "order_z" if !is_torch => match value.integer(0..=5)? {
                0 => {}
                _ => return Err(value.unsupported("0")),
            },
            "mode" if is_torch => expect_name(Some(value), &["linear"], "\"linear\"")?,
            "aniso_axis_mode" if is_torch => {
                expect_name(Some(value), &["nearest-exact"], "\"nearest-exact\"")?;
            }
            "num_threads" | "device" | "memefficient_seg_resampling" if is_torch => {}
            _ => return Err(value.unsupported("known arguments of the function")),
        }
    }
    Ok(if is_torch {
        Resampling::Torch { force_separate_z }
    } else {
        Resampling::from_orders(order, 0, force_separate_z)
            .map_err(|error| ModelError::unsupported(function.file(), error.to_string()))?
    })
}
