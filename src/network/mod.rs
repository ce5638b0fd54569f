//! Architectures as planned lists of steps over values in one buffer.
//!
//! An [`Architecture`] is turned into a [`Plan`] for one patch size; [`Weights`] are one set of parameters packed for
//! that plan; a [`Runner`] owns the buffer and runs any number of tiles and weights.

mod classification;
#[cfg(feature = "cuda")]
mod gpu_runner;
mod placement;
mod plain_conv_unet;
mod plan;
mod residual_encoder_unet;
mod runner;
mod unet;

pub use classification::{
    CLASSES, CLASSIFIER_PREFIX, ClassificationHead, ClassifierConfig, ClassifierInputs,
    STAGES as CLASSIFIER_STAGES, lesion_probability,
};
#[cfg(feature = "cuda")]
pub(crate) use gpu_runner::{GpuRunner, sample_needs};
pub use plain_conv_unet::PlainConvUNetConfig;
pub use plan::{ConvPart, Head, Plan, PlanError, Step, StepKind, ValueId};
pub use residual_encoder_unet::{ResidualBlock, ResidualEncoderUNetConfig};
pub use runner::{Runner, Weights};
pub use unet::UNetConfig;

/// A network by its class, with everything that decides its layers.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// An encoder of plain convolutions.
    PlainConvUNet(PlainConvUNetConfig),
    /// An encoder of residual blocks.
    ResidualEncoderUNet(ResidualEncoderUNetConfig),
}

impl Architecture {
    /// What all of them have: stages, decoder and operators.
    pub fn unet(&self) -> &UNetConfig {
        match self {
            Self::PlainConvUNet(config) => &config.unet,
            Self::ResidualEncoderUNet(config) => &config.unet,
        }
    }

    /// The same network with a classification head, or without one.
    ///
    /// # Errors
    /// If the encoder has fewer stages than the head reads: how many it has.
    pub fn with_classifier(mut self, classifier: Option<ClassifierConfig>) -> Result<Self, usize> {
        let unet = match &mut self {
            Self::PlainConvUNet(config) => &mut config.unet,
            Self::ResidualEncoderUNet(config) => &mut config.unet,
        };
        let stages = unet.features.len();
        if classifier.is_some() && stages < classification::STAGES {
            return Err(stages);
        }
        unet.classifier = classifier;
        Ok(self)
    }

    /// Name and shape (PyTorch order) of every parameter that inference reads, in network order.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::PlainConvUNet(config) => config.parameters(),
            Self::ResidualEncoderUNet(config) => config.parameters(),
        }
    }

    /// The network as steps for one patch (z, y, x).
    ///
    /// # Errors
    /// If the patch is not divisible by the network's strides, or an activation would be larger than memory can be.
    pub fn plan(&self, patch: [usize; 3]) -> Result<Plan, PlanError> {
        self.plan_steps(patch, Steps::Whole)
    }

    /// The same network as steps that need less memory, on the CPU: at full resolution two maps of features are alive at a time
    /// instead of three, beside coarser ones.
    ///
    /// # Errors
    /// As [`Architecture::plan`].
    pub fn plan_in_parts(&self, patch: [usize; 3]) -> Result<Plan, PlanError> {
        self.plan_steps(patch, Steps::InParts)
    }

    fn plan_steps(&self, patch: [usize; 3], steps: Steps) -> Result<Plan, PlanError> {
        match self {
            Self::PlainConvUNet(config) => config.plan(patch, steps),
            Self::ResidualEncoderUNet(config) => config.plan(patch, steps),
        }
    }
}

/// How a network is cut into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// Layer by layer.
    Whole,
    /// For the CPU: the decoder's convolution at full resolution adds up the parts of its concatenated input, of which one is alive
    /// at a time; sums of residual blocks are in place; the stem, which costs next to nothing, is computed again where its block
    /// ends.
    InParts,
}
