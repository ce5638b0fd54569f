//! `ResidualEncoderUNet` of dynamic-network-architectures, as nnU-Net v2 uses it at inference.
//!
//! Source: `architectures/unet.py`, `building_blocks/residual_encoders.py: ResidualEncoder`,
//! `building_blocks/residual.py: StackedResidualBlocks, BasicBlockD, BottleneckD`.

use super::Steps;
use super::plan::{Plan, PlanBuilder, PlanError, ValueId};
use super::unet::{ParameterList, UNetConfig};
use crate::ops::ConvShape;

/// Slope of what is normalised but not activated.
const NOT_ACTIVATED: Option<f32> = Some(1.0);

/// What the residual blocks consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResidualBlock {
    /// `BasicBlockD`: two convolutions, the first with the block's stride.
    Basic,
    /// `BottleneckD`: 1×1×1 to fewer channels, the stage's kernel with the block's stride, 1×1×1 back.
    Bottleneck {
        /// Channels between the 1×1×1 convolutions, per stage.
        channels: Vec<usize>,
    },
}

/// Shape of a `ResidualEncoderUNet`: everything that decides its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualEncoderUNetConfig {
    /// Stages, decoder and operators.
    pub unet: UNetConfig,
    /// Channels of the stem, one convolution block before the first stage.
    pub stem_channels: usize,
    /// Residual blocks per encoder stage; the first has the stage's stride.
    pub blocks: Vec<usize>,
    /// What they consist of.
    pub block: ResidualBlock,
}

/// One convolution of a block.
struct BlockConv {
    shape: ConvShape,
    activated: bool,
}

/// One residual block.
struct Block {
    /// Prefix of its parameters.
    prefix: String,
    input: usize,
    features: usize,
    stride: [usize; 3],
    /// `conv1`, `conv2`, …
    convs: Vec<BlockConv>,
}

impl Block {
    /// Prefix of the parameters of a convolution, counted from 0.
    fn conv_prefix(&self, index: usize) -> String {
        format!("{}.conv{}", self.prefix, index + 1)
    }

    fn is_strided(&self) -> bool {
        self.stride != [1; 3]
    }

    /// Prefix of the parameters of the 1×1×1 convolution on the skip connection, where channels change.
    fn projection_prefix(&self) -> Option<String> {
        let index = usize::from(self.is_strided());
        (self.input != self.features).then(|| format!("{}.skip.{index}", self.prefix))
    }
}

impl ResidualEncoderUNetConfig {
    /// The blocks of all stages, each with its stage.
    fn blocks(&self) -> impl Iterator<Item = (usize, Block)> {
        let features = &self.unet.features;
        (0..features.len()).flat_map(move |s| {
            let before = if s == 0 { self.stem_channels } else { features[s - 1] };
            (0..self.blocks[s]).map(move |b| {
                let (input, stride) =
                    if b == 0 { (before, self.unet.strides[s]) } else { (features[s], [1; 3]) };
                let prefix = format!("encoder.stages.{s}.blocks.{b}");
                let convs = self.convs(s, stride);
                (s, Block { prefix, input, features: features[s], stride, convs })
            })
        })
    }

    /// The convolutions of a block with this stride in stage `s`.
    fn convs(&self, s: usize, stride: [usize; 3]) -> Vec<BlockConv> {
        let (features, kernel) = (self.unet.features[s], self.unet.kernels[s]);
        let conv = |out_channels, kernel, stride, activated| BlockConv {
            shape: ConvShape { out_channels, kernel, stride },
            activated,
        };
        match &self.block {
            ResidualBlock::Basic => {
                vec![conv(features, kernel, stride, true), conv(features, kernel, [1; 3], false)]
            }
            ResidualBlock::Bottleneck { channels } => vec![
                conv(channels[s], [1; 3], [1; 3], true),
                conv(channels[s], kernel, stride, true),
                conv(features, [1; 3], [1; 3], false),
            ],
        }
    }

    /// Name and shape (PyTorch order) of every parameter that inference reads, in network order.
    ///
    /// Names as in an nnU-Net state dict: `encoder.stem.convs.0.conv.weight` (out, in, z, y, x), `….norm.weight`,
    /// `encoder.stages.{s}.blocks.{b}.conv1.…` and further ones, `….skip.{0|1}.…` (1 behind a pooling), and those of the decoder.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut list = ParameterList::new(&self.unet);
        list.conv_block(
            "encoder.stem.convs.0",
            self.stem_channels,
            self.unet.input_channels,
            self.unet.kernels[0],
        );
        for (_, block) in self.blocks() {
            let mut input = block.input;
            for (i, BlockConv { shape, .. }) in block.convs.iter().enumerate() {
                list.conv_block(&block.conv_prefix(i), shape.out_channels, input, shape.kernel);
                input = shape.out_channels;
            }
            if let Some(prefix) = block.projection_prefix() {
                list.projection(&prefix, block.features, block.input);
            }
        }
        list.finish()
    }

    /// The network as steps for one patch (z, y, x).
    pub(super) fn plan(&self, patch: [usize; 3], steps: Steps) -> Result<Plan, PlanError> {
        let mut builder = self.unet.builder(patch);
        let mut x = self.plan_stem(&mut builder);
        let mut skips = vec![x; self.unet.features.len()];
        for (stage, block) in self.blocks() {
            x = self.plan_block(&mut builder, x, &block, steps)?;
            skips[stage] = x;
        }
        self.unet.plan_decoder(builder, &skips, steps)
    }

    fn plan_stem(&self, builder: &mut PlanBuilder) -> ValueId {
        let kernel = self.unet.kernels[0];
        let shape = ConvShape { out_channels: self.stem_channels, kernel, stride: [1; 3] };
        let input = builder.input();
        builder.conv("encoder.stem.convs.0".to_owned(), &[input], shape, self.unet.slope())
    }

    /// Whether a block is the only one that reads the stem, as it is.
    fn only_reads_stem(&self, block: &Block) -> bool {
        let first = block.prefix == "encoder.stages.0.blocks.0";
        first && self.blocks[0] == 1 && !block.is_strided() && block.projection_prefix().is_none()
    }

    /// A residual block: its convolutions, then the sum with the skip connection.
    fn plan_block(
        &self,
        builder: &mut PlanBuilder,
        input: ValueId,
        block: &Block,
        steps: Steps,
    ) -> Result<ValueId, PlanError> {
        let mut x = input;
        for (i, BlockConv { shape, activated }) in block.convs.iter().enumerate() {
            let slope = if *activated { self.unet.slope() } else { NOT_ACTIVATED };
            x = builder.conv(block.conv_prefix(i), &[x], *shape, slope);
        }
        let mut skip = input;
        if block.is_strided() {
            let layer = format!("{}.skip.0", block.prefix);
            skip = builder.pool(layer.clone(), skip, block.stride);
            let (pooled, convolved) = (builder.dims(skip), builder.dims(x));
            if pooled != convolved {
                let patch = builder.dims(builder.input());
                return Err(PlanError::UnevenPool { patch, layer, pooled, convolved });
            }
        }
        if let Some(prefix) = block.projection_prefix() {
            let shape = ConvShape { out_channels: block.features, kernel: [1; 3], stride: [1; 3] };
            skip = builder.conv(prefix, &[skip], shape, NOT_ACTIVATED);
        }
        let (name, slope) = (block.prefix.clone(), self.unet.negative_slope as f32);
        if steps == Steps::Whole {
            return Ok(builder.add(name, [x, skip], slope));
        }
        if self.only_reads_stem(block) {
            skip = self.plan_stem(builder);
        }
        builder.add_in_place(name, x, skip, slope);
        Ok(x)
    }
}
