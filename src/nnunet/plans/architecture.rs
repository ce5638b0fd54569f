//! The network that a configuration describes, in today's form and in that of nnU-Net before 2.4.

mod residual;

use super::Section;
use crate::network::{Architecture, PlainConvUNetConfig, UNetConfig};
use crate::nnunet::error::ModelError;
use crate::nnunet::json::Node;

// Far above any real network; they keep a damaged file from asking for one of astronomical size.
const MAX_STAGES: usize = 16;
const MAX_FEATURES: usize = 1 << 16;
const MAX_CONVS: usize = 64;
/// What the convolution operator takes.
const MAX_KERNEL: usize = 7;
const MAX_STRIDE: usize = 64;

const PLAIN_CONV_UNET: &str = "dynamic_network_architectures.architectures.unet.PlainConvUNet";
const RESIDUAL_ENCODER_UNET: &str = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet";

/// The layers of the configuration's network.
///
/// # Errors
/// If a key is missing or malformed, or asks for another class or operator than the ones implemented.
pub(super) fn network(
    section: &Section<'_>,
    input_channels: usize,
    classes: usize,
) -> Result<Architecture, ModelError> {
    match section.get("architecture") {
        Some(node) => current(node, input_channels, classes),
        None => legacy(section, input_channels, classes),
    }
}

/// `architecture: {network_class_name, arch_kwargs}`.
fn current(node: &Node<'_>, input_channels: usize, classes: usize) -> Result<Architecture, ModelError> {
    let class = node.field("network_class_name")?;
    let check_argument = match class.text()? {
        PLAIN_CONV_UNET => check_plain_argument,
        RESIDUAL_ENCODER_UNET => residual::check_argument,
        _ => return Err(class.unsupported(&format!("{PLAIN_CONV_UNET} and {RESIDUAL_ENCODER_UNET}"))),
    };
    let kwargs = node.field("arch_kwargs")?;
    check_arguments(&kwargs, check_argument)?;
    let stages = kwargs.field("n_stages")?.integer(2..=MAX_STAGES)?;
    let (norm_eps, norm_affine) = norm(&kwargs)?;
    let unet = UNetConfig {
        input_channels,
        classes,
        features: per_stage(&kwargs.field("features_per_stage")?, stages, MAX_FEATURES)?,
        kernels: kernels(&kwargs.field("kernel_sizes")?, stages)?,
        strides: strides(&kwargs.field("strides")?, stages)?,
        convs_decoder: per_stage(&kwargs.field("n_conv_per_stage_decoder")?, stages - 1, MAX_CONVS)?,
        conv_bias: flag(&kwargs, "conv_bias", false)?,
        norm_eps,
        norm_affine,
        negative_slope: negative_slope(&kwargs)?,
        classifier: None,
    };
    if class.text()? == RESIDUAL_ENCODER_UNET {
        return residual::current(&kwargs, unet);
    }
    let convs_encoder = per_stage(&kwargs.field("n_conv_per_stage")?, stages, MAX_CONVS)?;
    Ok(Architecture::PlainConvUNet(PlainConvUNetConfig { unet, convs_encoder }))
}

/// `UNet_class_name` and its companions, completed as `ConfigurationManager.__init__` does.
fn legacy(section: &Section<'_>, input_channels: usize, classes: usize) -> Result<Architecture, ModelError> {
    let Some(class) = section.get("UNet_class_name") else {
        return Err(section.node.malformed("\"architecture\" or \"UNet_class_name\""));
    };
    let is_residual = match class.text()? {
        "PlainConvUNet" => false,
        "ResidualEncoderUNet" => true,
        _ => return Err(class.unsupported("PlainConvUNet and ResidualEncoderUNet")),
    };
    let encoder = section.field("n_conv_per_stage_encoder")?;
    let stages = encoder.items()?.len();
    if !(2..=MAX_STAGES).contains(&stages) {
        return Err(encoder.malformed(&format!("2 to {MAX_STAGES} stages")));
    }
    let base = section.field("UNet_base_num_features")?.integer(1..=MAX_FEATURES)?;
    let most = section.field("unet_max_num_features")?.integer(1..=MAX_FEATURES)?;
    let unet = UNetConfig {
        input_channels,
        classes,
        features: (0..stages).map(|s| (base << s).min(most)).collect(),
        kernels: kernels(&section.field("conv_kernel_sizes")?, stages)?,
        strides: strides(&section.field("pool_op_kernel_sizes")?, stages)?,
        convs_decoder: per_stage(&section.field("n_conv_per_stage_decoder")?, stages - 1, MAX_CONVS)?,
        conv_bias: true,
        norm_eps: 1e-5,
        norm_affine: true,
        negative_slope: 0.01,
        classifier: None,
    };
    let per_stage = per_stage(&encoder, stages, MAX_CONVS)?;
    Ok(if is_residual {
        residual::basic(unet, per_stage)
    } else {
        Architecture::PlainConvUNet(PlainConvUNetConfig { unet, convs_encoder: per_stage })
    })
}

/// Refuses every operator but the ones implemented; arguments that only some networks take are left to `check_other`.
fn check_arguments(
    kwargs: &Node<'_>,
    check_other: fn(&str, &Node<'_>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    for (key, value) in kwargs.members()? {
        let accepted: &[&str] = match key {
            "conv_op" => &["torch.nn.modules.conv.Conv3d", "torch.nn.Conv3d"],
            "norm_op" => &["torch.nn.modules.instancenorm.InstanceNorm3d", "torch.nn.InstanceNorm3d"],
            "nonlin" => &["torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"],
            "dropout_op" if value.is_null() => continue,
            "dropout_op" => return Err(value.unsupported("null")),
            "n_stages"
            | "features_per_stage"
            | "kernel_sizes"
            | "strides"
            | "n_conv_per_stage_decoder"
            | "conv_bias"
            | "norm_op_kwargs"
            | "nonlin_kwargs"
            | "dropout_op_kwargs"
            | "deep_supervision" => continue,
            _ => {
                check_other(key, &value)?;
                continue;
            }
        };
        if value.is_null() || !accepted.contains(&value.text()?) {
            return Err(value.unsupported(accepted[0]));
        }
    }
    for key in ["conv_op", "norm_op", "nonlin"] {
        kwargs.field(key)?;
    }
    Ok(())
}

/// Refuses what a `PlainConvUNet` does not take.
fn check_plain_argument(key: &str, value: &Node<'_>) -> Result<(), ModelError> {
    match key {
        "n_conv_per_stage" => Ok(()),
        "nonlin_first" if value.boolean()? => Err(value.unsupported("false")),
        "nonlin_first" => Ok(()),
        _ => Err(value.unsupported("arguments of PlainConvUNet")),
    }
}

/// Epsilon and affine of the instance norm; PyTorch's defaults where absent.
fn norm(kwargs: &Node<'_>) -> Result<(f64, bool), ModelError> {
    let (mut eps, mut affine) = (1e-5, false);
    for (key, value) in members_or_none(kwargs, "norm_op_kwargs")? {
        match key {
            "eps" => {
                eps = value.number()?;
                if eps <= 0.0 {
                    return Err(value.malformed("a number above 0"));
                }
            }
            "affine" => affine = value.boolean()?,
            "momentum" => {}
            "track_running_stats" if !value.boolean()? => {}
            "track_running_stats" => return Err(value.unsupported("false")),
            _ => return Err(value.unsupported("eps and affine")),
        }
    }
    Ok((eps, affine))
}

/// Slope of the leaky ReLU; PyTorch's default where absent.
fn negative_slope(kwargs: &Node<'_>) -> Result<f64, ModelError> {
    let mut slope = 0.01;
    for (key, value) in members_or_none(kwargs, "nonlin_kwargs")? {
        match key {
            "negative_slope" => slope = value.number()?,
            "inplace" => {}
            _ => return Err(value.unsupported("negative_slope and inplace")),
        }
    }
    Ok(slope)
}

/// Members of the object under `key`; none where it is absent or `null`.
fn members_or_none<'a>(kwargs: &Node<'a>, key: &str) -> Result<Vec<(&'a str, Node<'a>)>, ModelError> {
    match kwargs.get(key)? {
        Some(node) if !node.is_null() => node.members(),
        _ => Ok(Vec::new()),
    }
}

fn flag(kwargs: &Node<'_>, key: &str, default: bool) -> Result<bool, ModelError> {
    kwargs.get(key)?.map_or(Ok(default), |node| node.boolean())
}

/// One number from 1 to `max` per stage, or one for all.
fn per_stage(node: &Node<'_>, stages: usize, max: usize) -> Result<Vec<usize>, ModelError> {
    if !node.is_list() {
        return Ok(vec![node.integer(1..=max)?; stages]);
    }
    stage_items(node, stages)?.iter().map(|n| n.integer(1..=max)).collect()
}

/// Three numbers from 1 to `max` per stage; a number stands for all three axes or for all stages.
fn triples(node: &Node<'_>, stages: usize, max: usize) -> Result<Vec<[usize; 3]>, ModelError> {
    let triple = |n: &Node<'_>| {
        if n.is_list() { n.triple(|m| m.integer(1..=max)) } else { Ok([n.integer(1..=max)?; 3]) }
    };
    if !node.is_list() {
        return Ok(vec![triple(node)?; stages]);
    }
    stage_items(node, stages)?.iter().map(triple).collect()
}

fn stage_items<'a>(node: &Node<'a>, stages: usize) -> Result<Vec<Node<'a>>, ModelError> {
    let items = node.items()?;
    if items.len() == stages {
        Ok(items)
    } else {
        Err(node.malformed(&format!("{stages} entries, one for each stage")))
    }
}

fn kernels(node: &Node<'_>, stages: usize) -> Result<Vec<[usize; 3]>, ModelError> {
    let kernels = triples(node, stages, MAX_KERNEL)?;
    if kernels.iter().flatten().any(|k| k % 2 == 0) {
        return Err(node.unsupported("odd kernel sizes"));
    }
    Ok(kernels)
}

fn strides(node: &Node<'_>, stages: usize) -> Result<Vec<[usize; 3]>, ModelError> {
    let strides = triples(node, stages, MAX_STRIDE)?;
    if strides[0] != [1, 1, 1] {
        return Err(node.unsupported("strides whose first stage is [1, 1, 1]"));
    }
    Ok(strides)
}
