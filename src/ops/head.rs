//! The segmentation head: a 1×1×1 convolution whose logits go straight into the sums over mirrorings and tiles.
//!
//! Logits exist one row at a time, in a buffer of the thread that computes them. [`AddLogits`] adds them to a tile's sum;
//! [`AccumulateLogits`] finishes the tile with the last (or only) mirroring: its logits join the sum, and the mean goes,
//! weighted, into the accumulator of the whole image.

use super::backend::Backend;
use super::cpu::PackedWeights;
use super::cpu::head::LogitRows;
#[cfg(feature = "cuda")]
use super::cuda::CudaHead;
use super::tile::{Mirroring, Placement, Sum, add_weighted, check_accumulator};
use super::value::{Operand, ValueShape, floats, floats_mut};
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Rows that a thread takes at least at a time.
const ROWS: usize = 4;

/// The 1×1×1 convolution from features to classes, packed.
pub struct SegmentationHead {
    features: Operand,
    classes: usize,
    side: Side,
}

/// What the head is packed for.
enum Side {
    Cpu(PackedWeights),
    #[cfg(feature = "cuda")]
    Cuda(CudaHead),
}

impl SegmentationHead {
    /// Packs a head that reads `features`.
    ///
    /// `weight` is (classes, channels, 1, 1, 1) as in PyTorch, `bias` is (classes).
    ///
    /// # Errors
    /// If the weight's shape does not fit the features.
    pub fn new(
        features: Operand,
        weight: &Tensor,
        bias: Option<&Tensor>,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let (classes, channels, z, y, x) = weight.dims5()?;
        if channels != features.shape.channels || [z, y, x] != [1; 3] {
            let expected = features.shape.channels;
            bail!(
                "segmentation head: weight has shape {:?}, expected [classes, {expected}, 1, 1, 1]",
                weight.dims()
            );
        }
        let values = weight.flatten_all()?.to_vec1::<f32>()?;
        let bias = match bias {
            Some(bias) => bias.to_vec1::<f32>()?,
            None => vec![0.0; classes],
        };
        if bias.len() != classes {
            bail!("segmentation head: bias has {} elements, expected {classes}", bias.len());
        }
        let side = match backend.into() {
            Backend::Cpu(arithmetic) => {
                let weight = |_, _, c, o| values[o * channels + c];
                Side::Cpu(PackedWeights::pack(arithmetic, 1, &bias, 1, &[channels], weight))
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => Side::Cuda(CudaHead::new(cuda, features.shape, &values, &bias)?),
            #[cfg(not(feature = "cuda"))]
            Backend::Cuda(none) => match none {},
        };
        Ok(Self { features, classes, side })
    }

    /// The weights, packed for the CPU.
    fn on_cpu(&self) -> Result<&PackedWeights> {
        match &self.side {
            Side::Cpu(weights) => Ok(weights),
            #[cfg(feature = "cuda")]
            Side::Cuda(_) => bail!("segmentation head: packed for a GPU"),
        }
    }

    /// The head on the GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_gpu(&self) -> Result<&CudaHead> {
        match &self.side {
            Side::Cuda(head) => Ok(head),
            Side::Cpu(_) => bail!("segmentation head: packed for the CPU"),
        }
    }

    /// Grid of the tile and number of classes.
    pub fn logits(&self) -> ValueShape {
        ValueShape { dims: self.features.shape.dims, channels: self.classes }
    }
}

/// Adds the logits of a mirrored tile, mirrored back, to the tile's sum: `sum.inplace_op2(&features, &op)`.
///
/// The sum is a flat (D, H, W, classes) float32 tensor, the features are a stored value.
pub struct AddLogits<'a> {
    /// The head.
    pub head: &'a SegmentationHead,
    /// Axes that were mirrored.
    pub mirroring: Mirroring,
    /// Overwrite the sum instead of adding to it.
    pub first: bool,
}

impl InplaceOp2 for AddLogits<'_> {
    fn name(&self) -> &'static str {
        "add_logits"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        features: &CpuStorage,
        features_layout: &Layout,
    ) -> Result<()> {
        let op = "add_logits";
        let features = self.head.features.view(floats(features, features_layout, op)?, op)?;
        let sum = floats_mut(dst, layout, op)?;
        let tile = self.head.logits();
        if sum.len() != tile.data_len() {
            bail!("{op}: sum holds {} floats, expected {}", sum.len(), tile.data_len());
        }
        let [_, height, width] = tile.dims;
        let logits = LogitRows::new(self.head.on_cpu()?, features, self.mirroring);
        sum.par_chunks_mut(width * tile.channels).enumerate().with_min_len(ROWS).for_each(|(i, row)| {
            logits.with_row(i / height, i % height, |logits| {
                if self.first {
                    row.copy_from_slice(logits);
                } else {
                    row.iter_mut().zip(logits).for_each(|(s, v)| *s += *v);
                }
            });
        });
        Ok(())
    }
}

/// Adds a tile's mean prediction, weighted, to the accumulator of the whole image, where the last mirroring's logits
/// are computed on the way: `accumulator.inplace_op3(&features, &weights, &op)`.
///
/// The accumulator is as in [`AccumulateTile`](super::AccumulateTile), the features are a stored value, the weights are
/// (D, H, W) of the tile.
pub struct AccumulateLogits<'a> {
    /// The head.
    pub head: &'a SegmentationHead,
    /// Axes that were mirrored.
    pub mirroring: Mirroring,
    /// Sum of the logits of the other mirrorings, (D, H, W, classes) flattened; `None` if there are none.
    pub others: Option<&'a Tensor>,
    /// Grid of the image.
    pub image_dims: [usize; 3],
    /// First voxel of the tile in the image; may be negative.
    pub start: [isize; 3],
    /// Number of predictions that the mean is over.
    pub predictions: usize,
}

impl AccumulateLogits<'_> {
    fn add<T: Sum>(&self, total: &mut [T], logits: &LogitRows<'_>, others: Option<&[f32]>, weights: &[f32]) {
        let tile = self.head.logits();
        let ValueShape { dims: [_, height, width], channels } = tile;
        let place = Placement { image_dims: self.image_dims, start: self.start, tile };
        place.for_each_row(total, |z, y, columns, row| {
            logits.with_row(z, y, |logits| {
                let line = z * height + y;
                if let Some(others) = others {
                    let others = &others[line * width * channels..][..width * channels];
                    logits.iter_mut().zip(others).for_each(|(v, s)| *v += s);
                }
                let weights = &weights[line * width..][..width];
                add_weighted(row, logits, weights, columns, self.predictions);
            });
        });
    }
}

impl InplaceOp3 for AccumulateLogits<'_> {
    fn name(&self) -> &'static str {
        "accumulate_logits"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        layout: &Layout,
        features: &CpuStorage,
        features_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let op = "accumulate_logits";
        let tile = self.head.logits();
        let features = self.head.features.view(floats(features, features_layout, op)?, op)?;
        let weights = floats(weights, weights_layout, op)?;
        let others = self.others.map(Tensor::storage_and_layout);
        let others = match &others {
            Some((storage, layout)) => match &**storage {
                Storage::Cpu(storage) => Some(floats(storage, layout, op)?),
                _ => bail!("{op}: the other mirrorings' sum is not on the CPU"),
            },
            None => None,
        };
        check_accumulator(layout, self.image_dims, tile.channels, op)?;
        if weights.len() != tile.voxels() || others.is_some_and(|o| o.len() != tile.data_len()) {
            let others = others.map(<[f32]>::len);
            bail!("{op}: {} weights and a sum of {others:?} floats given, expected {tile:?}", weights.len());
        }
        let logits = LogitRows::new(self.head.on_cpu()?, features, self.mirroring);
        match dst {
            CpuStorage::F32(total) => self.add(total, &logits, others, weights),
            CpuStorage::F16(total) => self.add(total, &logits, others, weights),
            _ => bail!("{op}: accumulator must be float32 or float16"),
        }
        Ok(())
    }
}
