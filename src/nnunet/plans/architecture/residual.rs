//! What a `ResidualEncoderUNet` takes beside the arguments of every U-Net.

use super::{MAX_CONVS, MAX_FEATURES, per_stage};
use crate::network::{Architecture, ResidualBlock, ResidualEncoderUNetConfig, UNetConfig};
use crate::nnunet::error::ModelError;
use crate::nnunet::json::Node;

const BASIC_BLOCK: &str = "dynamic_network_architectures.building_blocks.residual.BasicBlockD";
const BOTTLENECK: &str = "dynamic_network_architectures.building_blocks.residual.BottleneckD";

/// Refuses what is not implemented, and what a `ResidualEncoderUNet` does not take. Options of its encoder are accepted where
/// their value is the one that changes nothing.
pub(super) fn check_argument(key: &str, value: &Node<'_>) -> Result<(), ModelError> {
    let neutral = match key {
        // Of no effect without squeeze_excitation.
        "n_blocks_per_stage"
        | "block"
        | "bottleneck_channels"
        | "stem_channels"
        | "squeeze_excitation_reduction_ratio" => return Ok(()),
        "squeeze_excitation" | "disable_default_stem" if !value.boolean()? => return Ok(()),
        "squeeze_excitation" | "disable_default_stem" => "false",
        "stochastic_depth_p" if value.number()? == 0.0 => return Ok(()),
        "stochastic_depth_p" => "0",
        "pool_type" if value.text()? == "conv" => return Ok(()),
        "pool_type" => "\"conv\"",
        _ => "arguments of ResidualEncoderUNet",
    };
    Err(value.unsupported(neutral))
}

/// The network with these stages, its encoder from `arch_kwargs`.
pub(super) fn current(kwargs: &Node<'_>, unet: UNetConfig) -> Result<Architecture, ModelError> {
    let stages = unet.features.len();
    let blocks = per_stage(&kwargs.field("n_blocks_per_stage")?, stages, MAX_CONVS)?;
    let stem_channels = match given(kwargs, "stem_channels")? {
        Some(node) => node.integer(1..=MAX_FEATURES)?,
        None => unet.features[0],
    };
    let bottleneck = given(kwargs, "bottleneck_channels")?;
    let bottleneck = bottleneck.map(|node| per_stage(&node, stages, MAX_FEATURES)).transpose()?;
    let block = match given(kwargs, "block")? {
        None => ResidualBlock::Basic,
        Some(node) => match (node.text()?, bottleneck) {
            (BASIC_BLOCK, _) => ResidualBlock::Basic,
            (BOTTLENECK, Some(channels)) => ResidualBlock::Bottleneck { channels },
            (BOTTLENECK, None) => return Err(needs_bottleneck_channels(kwargs)),
            _ => return Err(node.unsupported(&format!("{BASIC_BLOCK} and {BOTTLENECK}"))),
        },
    };
    Ok(Architecture::ResidualEncoderUNet(ResidualEncoderUNetConfig { unet, stem_channels, blocks, block }))
}

/// The network with these stages, so many basic blocks per stage, and a stem as wide as the first stage.
pub(super) fn basic(unet: UNetConfig, blocks: Vec<usize>) -> Architecture {
    let stem_channels = unet.features[0];
    let block = ResidualBlock::Basic;
    Architecture::ResidualEncoderUNet(ResidualEncoderUNetConfig { unet, stem_channels, blocks, block })
}

/// The value under `key`, unless it is absent or `null`.
fn given<'a>(kwargs: &Node<'a>, key: &str) -> Result<Option<Node<'a>>, ModelError> {
    Ok(kwargs.get(key)?.filter(|node| !node.is_null()))
}

fn needs_bottleneck_channels(kwargs: &Node<'_>) -> ModelError {
    match kwargs.field("bottleneck_channels") {
        Ok(null) => null.malformed("channels, as the block is BottleneckD"),
        Err(missing) => missing,
    }
}
