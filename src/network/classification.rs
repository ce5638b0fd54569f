//! A classification head on the last three stages of a U-Net's encoder: two class logits for a whole patch.
//!
//! The head of the PANORAMA report (Yu, Ma, Fu, Wang) has no activation between its projections and its pooling: each stage
//! goes through a 1×1×1 convolution; the deepest map is upsampled by a transposed convolution and added to the middle one, their
//! sum upsampled and added to the shallow one; the mean over all voxels goes through linear, ReLU, linear. A mean over voxels and
//! such layers can be exchanged: what is computed here is the mean of each stage's features, then the layers on vectors. The
//! mean of a transposed convolution whose kernel is its stride is the mean of its taps, applied to the mean of its input.

use super::plan::{PlanBuilder, ValueId};
use super::unet::UNetConfig;
use candle_core::{Result, Tensor, bail};

/// Stages of the encoder that the head reads: the last ones.
pub const STAGES: usize = 3;
/// Classes: no lesion, lesion.
pub const CLASSES: usize = 2;
/// Prefix of the head's parameters in the state dict.
pub const CLASSIFIER_PREFIX: &str = "classifier.";

/// Widths of a classification head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierConfig {
    /// Channels of the projections.
    pub width: usize,
    /// Channels between the two linear layers.
    pub hidden: usize,
}

impl ClassifierConfig {
    /// The widths of the head whose hidden layer's weight has this shape (hidden, width).
    pub fn of_hidden_weight(shape: &[usize]) -> Option<Self> {
        match *shape {
            [hidden, width] if hidden > 0 && width > 0 => Some(Self { width, hidden }),
            _ => None,
        }
    }

    /// Name of the tensor that tells the widths.
    pub const HIDDEN_WEIGHT: &'static str = "classifier.hidden.weight";

    /// Name and shape (PyTorch order) of every parameter of the head on top of this encoder.
    ///
    /// `projections.{0,1,2}` read the deepest, the middle and the shallow stage, `upsamplings.{0,1}` lead from the deepest to the
    /// middle grid and from there to the shallow one.
    pub(super) fn parameters(self, features: &[usize], strides: &[[usize; 3]]) -> Vec<(String, Vec<usize>)> {
        let Self { width, hidden } = self;
        let mut list = Vec::new();
        let mut layer = |name: String, weight: Vec<usize>, out: usize| {
            list.push((format!("{CLASSIFIER_PREFIX}{name}.weight"), weight));
            list.push((format!("{CLASSIFIER_PREFIX}{name}.bias"), vec![out]));
        };
        let stages = features.iter().zip(strides).rev().take(STAGES);
        for (i, (&features, &[z, y, x])) in stages.enumerate() {
            layer(format!("projections.{i}"), vec![width, features, 1, 1, 1], width);
            if i + 1 < STAGES {
                layer(format!("upsamplings.{i}"), vec![width, width, z, y, x], width);
            }
        }
        layer("hidden".to_owned(), vec![hidden, width], hidden);
        layer("output".to_owned(), vec![CLASSES, hidden], CLASSES);
        list
    }
}

/// Where a plan leaves the means that the head reads: of the deepest, the middle and the shallow stage, one voxel each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifierInputs {
    /// The means.
    pub means: [ValueId; STAGES],
    /// Widths of the head.
    pub config: ClassifierConfig,
    /// Name and shape of its parameters.
    pub(super) parameters: Vec<(String, Vec<usize>)>,
}

impl ClassifierInputs {
    /// Adds the steps that take the means of the encoder's last stages, whose outputs are `skips`.
    ///
    /// `None` if the encoder has fewer stages than the head reads.
    pub(super) fn plan(builder: &mut PlanBuilder, unet: &UNetConfig, skips: &[ValueId]) -> Option<Self> {
        let (config, &[.., shallow, middle, deepest]) = (unet.classifier?, skips) else { return None };
        let mut stage = 0..STAGES;
        let means = [deepest, middle, shallow].map(|value| {
            let name = format!("{CLASSIFIER_PREFIX}mean.{}", stage.next().unwrap_or_default());
            mean_over_voxels(builder, &name, value)
        });
        Some(Self { means, config, parameters: config.parameters(&unet.features, &unet.strides) })
    }
}

/// The mean of a value over its voxels, axis by axis, so that each step has many means to share among threads.
fn mean_over_voxels(builder: &mut PlanBuilder, name: &str, value: ValueId) -> ValueId {
    let [z, y, x] = builder.dims(value);
    let along_x = builder.pool(name.to_owned(), value, [1, 1, x]);
    let others = [[1, y, 1], [z, 1, 1]].into_iter().filter(|window| *window != [1; 3]);
    others.fold(along_x, |value, window| builder.pool(name.to_owned(), value, window))
}

/// A layer on a vector: weight (out, in) row by row, and bias.
struct Linear {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Linear {
    fn of(&self, input: &[f64]) -> Vec<f64> {
        let rows = self.weight.chunks(input.len().max(1));
        let sum = |(row, bias): (&[f64], &f64)| bias + row.iter().zip(input).map(|(w, v)| w * v).sum::<f64>();
        rows.zip(&self.bias).map(sum).collect()
    }
}

/// The head's parameters.
pub struct ClassificationHead {
    projections: Vec<Linear>,
    upsamplings: Vec<Linear>,
    hidden: Linear,
    output: Linear,
}

impl ClassificationHead {
    /// The head from its parameters, which `take` gives by name and shape (float32, PyTorch layout).
    ///
    /// # Errors
    /// If `take` fails, or the names are not those of [`ClassifierConfig`].
    pub(super) fn pack(
        parameters: &[(String, Vec<usize>)],
        mut take: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for layer in parameters.chunks(2) {
            let [(weight, shape), (bias, length)] = layer else { bail!("a layer needs a weight and a bias") };
            let is_upsampling = weight.contains(".upsamplings.");
            let weight = take(weight, shape)?.to_dtype(candle_core::DType::F64)?;
            let weight = if is_upsampling { mean_of_taps(&weight)? } else { weight };
            let weight = weight.flatten_all()?.to_vec1()?;
            let bias = take(bias, length)?.to_dtype(candle_core::DType::F64)?.to_vec1()?;
            layers.push((is_upsampling, Linear { weight, bias }));
        }
        let (Some((_, output)), Some((_, hidden))) = (layers.pop(), layers.pop()) else {
            bail!("a classification head needs an output and a hidden layer")
        };
        let (upsamplings, projections): (Vec<_>, Vec<_>) = layers.into_iter().partition(|(up, _)| *up);
        let layers = |all: Vec<(bool, Linear)>| all.into_iter().map(|(_, layer)| layer).collect();
        Ok(Self { projections: layers(projections), upsamplings: layers(upsamplings), hidden, output })
    }

    /// Class logits (no lesion, lesion) from the means over the voxels of the deepest, the middle and the shallow stage.
    pub fn logits(&self, means: &[Vec<f64>; STAGES]) -> [f64; CLASSES] {
        let mut pooled: Vec<f64> = Vec::new();
        for (i, (projection, mean)) in self.projections.iter().zip(means).enumerate() {
            let projected = projection.of(mean);
            pooled = match i {
                0 => projected,
                _ => self.upsamplings[i - 1].of(&pooled).iter().zip(&projected).map(|(a, b)| a + b).collect(),
            };
        }
        // Unlike `max`, this keeps what is not a number.
        let relu = |v: f64| if v < 0.0 { 0.0 } else { v };
        let hidden: Vec<f64> = self.hidden.of(&pooled).into_iter().map(relu).collect();
        let output = self.output.of(&hidden);
        std::array::from_fn(|class| output.get(class).copied().unwrap_or(f64::NAN))
    }
}

/// The mean over taps, (out, in), of a transposed convolution's weight (in, out, z, y, x).
fn mean_of_taps(weight: &Tensor) -> Result<Tensor> {
    weight.flatten_from(2)?.mean(2)?.t()?.contiguous()
}

/// Probability of the second class.
pub fn lesion_probability([none, lesion]: [f64; CLASSES]) -> f64 {
    1.0 / (1.0 + (none - lesion).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_stays_so() {
        let one = |weight: f64| Linear { weight: vec![weight], bias: vec![0.5] };
        let logits = |projection: f64| {
            let output = Linear { weight: vec![1.0, 2.0], bias: vec![0.0, 0.0] };
            let projections = [projection, 1.0, 1.0].map(one).into();
            let head = ClassificationHead {
                projections,
                upsamplings: vec![one(1.0), one(1.0)],
                hidden: one(1.0),
                output,
            };
            head.logits(&[vec![1.0], vec![1.0], vec![1.0]])
        };
        assert_eq!(logits(1.0), [6.0, 12.0]);
        assert_eq!(logits(-20.0), [0.0, 0.0]);
        assert!(logits(f64::NAN).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn the_probability_is_the_softmax() {
        assert_eq!(lesion_probability([0.3, 0.3]), 0.5);
        assert!((lesion_probability([1.0, 2.0]) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert_eq!([lesion_probability([900.0, -900.0]), lesion_probability([-900.0, 900.0])], [0.0, 1.0]);
    }
}
