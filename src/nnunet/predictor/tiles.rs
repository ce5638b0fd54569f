//! One image's tiles, predicted and accumulated one after the other.

use super::constant_tiles::{TileInput, TiledImage};
use super::patches::ClassSums;
use super::sums::Sums;
use crate::network::{CLASSES, Runner, Weights};
use crate::nnunet::sliding_window::Tiling;
use crate::ops::{AccumulateLogits, AccumulateTile, AddLogits, GatherTile, Mirroring};
use candle_core::{DType, Device, Result, Storage, Tensor, WithDType, bail};

/// The tiles of one image, and what they share. Nothing is allocated while they run.
pub(super) struct Tiles<'a> {
    runner: &'a Runner,
    mirrorings: &'a [Mirroring],
    tiling: &'a Tiling,
    /// (channel, z, y, x), flattened.
    image: Tensor,
    inputs: Vec<TileInput>,
    /// Sum of one tile's logits over all mirrorings but the last, (z, y, x, heads) flattened; reused tile after tile.
    sum: Option<Tensor>,
    /// What is shared by tiles that hold the same constant.
    kept: Vec<Kept>,
    /// Of what the classification head says, if the network has one.
    classes: Option<ClassSums>,
}

/// What the current fold makes of tiles that hold the same constant.
struct Kept {
    /// Sum over all mirrorings.
    sum: Tensor,
    class_logits: Option<[f64; CLASSES]>,
    /// Whether the current fold has filled both.
    filled: bool,
}

impl<'a> Tiles<'a> {
    /// Looks for tiles that hold one constant and allocates the sums.
    pub fn new(
        runner: &'a Runner,
        mirrorings: &'a [Mirroring],
        image: Tensor,
        tiling: &'a Tiling,
        classes: Option<ClassSums>,
    ) -> Result<Self> {
        let tile = runner.plan().logits();
        let (inputs, kept) = with_values(&image, |values| {
            TiledImage { values, dims: tiling.image, tile: tile.dims }.classify(&tiling.starts)
        })?;
        let new_sum = || Tensor::zeros(tile.data_len(), DType::F32, &Device::Cpu);
        let sum = (mirrorings.len() > 1).then(new_sum).transpose()?;
        let kept = (0..kept)
            .map(|_| Ok(Kept { sum: new_sum()?, class_logits: None, filled: false }))
            .collect::<Result<Vec<_>>>()?;
        let constant = inputs.iter().filter(|i| **i != TileInput::Varied).count();
        tracing::debug!(tiles = inputs.len(), constant, kept = kept.len(), "tiles");
        Ok(Self { runner, mirrorings, tiling, image, inputs, sum, kept, classes })
    }

    /// From now on other weights are used: what was kept is void.
    pub fn begin_fold(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.filled = false);
    }

    /// What the classification head said, if the network has one.
    pub fn classes(&self) -> Option<&ClassSums> {
        self.classes.as_ref()
    }

    /// Adds one tile's mean over mirrorings to the sums.
    pub fn predict(&mut self, tile: usize, fold: &Weights, sums: &Sums<'_>) -> Result<()> {
        let start = self.tiling.starts[tile];
        match self.inputs[tile] {
            TileInput::Varied => self.accumulate(tile, fold, sums, true),
            TileInput::Constant => self.accumulate(tile, fold, sums, false),
            TileInput::Shared(number) => {
                if !self.kept[number].filled {
                    self.keep(number, start, fold)?;
                }
                let Kept { sum, class_logits, .. } = &self.kept[number];
                if let (Some(classes), Some(logits)) = (&mut self.classes, *class_logits) {
                    classes.add(tile, logits, self.mirrorings.len());
                }
                let (tile, predictions) = (self.runner.plan().logits(), self.mirrorings.len());
                let (image_dims, start) = (sums.dims(), sums.place(start));
                let add = AccumulateTile { image_dims, start, tile, predictions };
                sums.logits().inplace_op3(sum, sums.weights(), &add)
            }
        }
    }

    /// Predicts a tile and adds it to the sums; the network runs for every mirroring, or only once where all
    /// mirrored copies are the tile itself.
    fn accumulate(
        &mut self,
        tile: usize,
        fold: &Weights,
        sums: &Sums<'_>,
        every_mirroring: bool,
    ) -> Result<()> {
        let start = self.tiling.starts[tile];
        let (head, features) = (fold.head(), &self.runner.features()?);
        for (i, &mirroring) in self.mirrorings.iter().enumerate() {
            if i == 0 || every_mirroring {
                run_network(self.runner, fold, &self.image, self.tiling.image, start, mirroring)?;
                let runs = if every_mirroring { 1 } else { self.mirrorings.len() };
                if let (Some(classes), Some(logits)) = (&mut self.classes, self.runner.class_logits(fold)?) {
                    classes.add(tile, logits, runs);
                }
            }
            match &self.sum {
                Some(sum) if i + 1 < self.mirrorings.len() => {
                    sum.inplace_op2(features, &AddLogits { head, mirroring, first: i == 0 })?;
                }
                sum => {
                    let (others, predictions) = (sum.as_ref(), self.mirrorings.len());
                    let (image_dims, start) = (sums.dims(), sums.place(start));
                    let add = AccumulateLogits { head, mirroring, others, image_dims, start, predictions };
                    sums.logits().inplace_op3(features, sums.weights(), &add)?;
                }
            }
        }
        Ok(())
    }

    /// Computes the sum over mirrorings that all tiles of a constant share.
    fn keep(&mut self, number: usize, start: [isize; 3], fold: &Weights) -> Result<()> {
        run_network(self.runner, fold, &self.image, self.tiling.image, start, [false; 3])?;
        let Kept { sum, class_logits, filled } = &mut self.kept[number];
        for (i, &mirroring) in self.mirrorings.iter().enumerate() {
            let add = AddLogits { head: fold.head(), mirroring, first: i == 0 };
            sum.inplace_op2(&self.runner.features()?, &add)?;
        }
        *class_logits = self.runner.class_logits(fold)?;
        *filled = true;
        Ok(())
    }
}

/// Runs the network, up to its head, on one mirrored tile.
pub(super) fn run_network(
    runner: &Runner,
    fold: &Weights,
    image: &Tensor,
    image_dims: [usize; 3],
    start: [isize; 3],
    mirroring: Mirroring,
) -> Result<()> {
    let plan = runner.plan();
    let tile = plan.operand(plan.input()).shape;
    runner.input()?.inplace_op2(image, &GatherTile { image_dims, start, tile, mirroring })?;
    runner.run(fold)
}

/// Calls `read` with the elements of a flat tensor.
pub(super) fn with_values<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(read(&storage.as_slice::<T>()?[start..end])),
        _ => bail!("expected contiguous values on the CPU, got {tensor:?}"),
    }
}
