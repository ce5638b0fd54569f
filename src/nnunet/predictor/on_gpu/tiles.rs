//! The tiles of one image on a GPU: in batches, over all folds.

use super::super::patches::{ClassSums, Patch};
use super::super::sums::{Sums, Weighting, bands};
use super::super::{PredictError, TileObserver, TileProgress};
use super::OnGpu;
use super::receiver::Receiver;
use crate::network::{GpuRunner, Weights};
use crate::nnunet::sliding_window::Tiling;
use crate::ops::cuda::{Copies, DeviceImage, DeviceLogits, DeviceSums, Mark, Overflow, TileBatch, TileSums};
use crate::ops::{AccumulateTile, Mirroring, ValueShape};
use candle_core::{Device, Tensor};
use std::thread;

/// A run of the network: a tile, and which of its mirrored copies.
#[derive(Debug, Clone, Copy)]
struct Run {
    tile: usize,
    copy: usize,
}

/// The tiles of one image on the GPU.
pub(super) struct Tiles<'a, 'm> {
    pub on: &'a OnGpu<'a, 'm>,
    pub image: DeviceImage,
    pub tiling: Tiling,
    pub batch: TileBatch,
    pub sums: TileSums,
    pub runner: GpuRunner,
    /// Ends of the last batches: no more than two are under way.
    pub marks: [Option<Mark>; 2],
    /// Of what the classification head says, if the network has one.
    pub classes: Option<ClassSums>,
}

impl Tiles<'_, '_> {
    fn mirrorings(&self) -> &[Mirroring] {
        &self.on.predictor.mirrorings
    }

    /// All runs of a fold over these tiles, in batches.
    fn batches(&self, tiles: std::ops::Range<usize>) -> Vec<Vec<Run>> {
        let copies = self.mirrorings().len();
        let runs: Vec<Run> = tiles.flat_map(|tile| (0..copies).map(move |copy| Run { tile, copy })).collect();
        runs.chunks(self.runner.samples()).map(<[Run]>::to_vec).collect()
    }

    /// Runs the network on a batch. One that is not full is filled up with its last run: another size would have to be measured
    /// and recorded first.
    fn run(&mut self, runs: &[Run], fold: &Weights) -> Result<(), PredictError> {
        let mirrorings = &self.on.predictor.mirrorings;
        let of = |run: &Run| (self.tiling.starts[run.tile], mirrorings[run.copy]);
        let mut jobs: Vec<([isize; 3], Mirroring)> = runs.iter().map(of).collect();
        let last = jobs.last().copied().unwrap_or_default();
        jobs.resize(self.runner.samples(), last);
        self.batch.gather(&self.image, &jobs, self.runner.input()?)?;
        Ok(self.runner.run(fold)?)
    }

    /// Takes down what the classification head says of a batch that was just run.
    fn classify(&mut self, runs: &[Run], fold: &Weights) -> Result<(), PredictError> {
        let Some(classes) = &mut self.classes else { return Ok(()) };
        let logits = self.runner.class_logits(fold)?;
        for (run, &logits) in runs.iter().zip(logits.iter().flatten()) {
            classes.add(run.tile, logits, 1);
        }
        Ok(())
    }

    fn patches(&self) -> Vec<Patch> {
        self.on.predictor.patches(self.classes.as_ref(), &self.tiling)
    }

    /// Waits until the batch before the one that was just launched has ended.
    fn pace(&mut self) -> Result<(), PredictError> {
        let [before, last] = &mut self.marks;
        *before = last.replace(self.on.gpu.mark()?);
        match before {
            Some(mark) => Ok(mark.wait()?),
            None => Ok(()),
        }
    }

    /// Which runs of a batch belong to one tile, and whether it has others.
    fn copies(&self, runs: &[Run]) -> Vec<(usize, Copies)> {
        let predictions = self.mirrorings().len();
        let mut first = 0;
        let mut found = Vec::new();
        for of_tile in runs.chunk_by(|a, b| a.tile == b.tile) {
            let last = of_tile[of_tile.len() - 1].copy;
            let copies = Copies {
                first,
                count: of_tile.len(),
                predictions,
                continued: of_tile[0].copy > 0,
                unfinished: last + 1 < predictions,
            };
            found.push((of_tile[0].tile, copies));
            first += of_tile.len();
        }
        found
    }

    /// All folds over all tiles, with the sums on the GPU: mean logits, and what the classification head says.
    pub fn with_sums_on_gpu(
        mut self,
        observer: TileObserver<'_>,
    ) -> Result<(DeviceLogits, Vec<Patch>), PredictError> {
        let OnGpu { predictor, gpu, .. } = *self.on;
        let (folds, heads) = (predictor.folds(), predictor.heads());
        let dims = self.tiling.image;
        let sums = DeviceSums::new(gpu, dims, heads, folds, predictor.half())?;
        for &start in &self.tiling.starts {
            sums.count(&self.sums, start)?;
        }
        let batches = self.batches(0..self.tiling.starts.len());
        self.each_fold(observer, |this, fold, number, progress| {
            for runs in &batches {
                this.run(runs, fold)?;
                let (head, features) = (fold.head().on_gpu()?, this.runner.features()?);
                let mut finished = 0;
                for (_, copies) in this.copies(runs) {
                    sums.add(&this.sums, head, features, &this.batch, copies)?;
                    finished += usize::from(!copies.unfinished);
                }
                this.classify(runs, fold)?;
                this.pace()?;
                progress(finished)?;
            }
            Ok(sums.end_fold(number)?)
        })?;
        let patches = self.patches();
        // The activations go before the slabs come.
        drop(self);
        match sums.into_means()? {
            Ok(memory) => Ok((DeviceLogits { cuda: gpu, memory, dims, heads }, patches)),
            Err(Overflow) => Err(PredictError::HalfOverflow),
        }
    }

    /// All folds over all tiles, with the sums on the host as the CPU has them: what the classification head says.
    pub fn with_sums_on_host<R: Receiver>(
        mut self,
        weights: &[f32],
        receiver: &mut R,
        observer: TileObserver<'_>,
    ) -> Result<Vec<Patch>, PredictError> {
        let OnGpu { predictor, gpu, .. } = *self.on;
        let patch = predictor.model.configuration.patch_size;
        let (folds, heads) = (predictor.folds(), predictor.heads());
        let bands = bands(&self.tiling, patch[0], folds);
        let tiling = self.tiling.clone();
        let [_, height, width] = tiling.image;
        let kept = [Sums::planes(&bands, receiver), height, width];
        let asked = Sums::bytes(kept, heads, predictor.options.accumulate);
        predictor.memory.check("the sums over tiles", asked)?;
        let weights = Tensor::new(weights, &Device::Cpu)?;
        let weighting = Weighting { tiling: &tiling, patch, weights };
        let mut sums = Sums::new(weighting, kept, heads, folds, predictor.options.accumulate)?;
        let logits = self.runner.plan().logits();
        let mut values = vec![0.0; logits.data_len()];
        self.each_fold(observer, |this, fold, number, progress| {
            for band in &bands {
                for runs in this.batches(band.tiles.clone()) {
                    this.run(&runs, fold)?;
                    let (head, features) = (fold.head().on_gpu()?, this.runner.features()?);
                    for (tile, copies) in this.copies(&runs) {
                        this.sums.add(head, features, &this.batch, copies)?;
                        if copies.unfinished {
                            continue;
                        }
                        this.sums.read(gpu, &mut values)?;
                        let start = this.tiling.starts[tile];
                        add_on_host(&sums, logits, &values, start, copies.predictions)?;
                        progress(1)?;
                    }
                    this.classify(&runs, fold)?;
                }
                sums.end_fold(band.end)?;
                if number + 1 == folds {
                    sums.hand_over(band.end, receiver)?;
                }
            }
            Ok(())
        })?;
        Ok(self.patches())
    }

    /// Calls `run` with the weights of each fold and its number, the next fold's being loaded meanwhile; `progress` takes down
    /// how many tiles are done.
    fn each_fold(
        &mut self,
        observer: TileObserver<'_>,
        mut run: impl FnMut(
            &mut Self,
            &Weights,
            usize,
            &mut dyn FnMut(usize) -> Result<(), PredictError>,
        ) -> Result<(), PredictError>,
    ) -> Result<(), PredictError> {
        let OnGpu { predictor, gpu, .. } = *self.on;
        let folds = predictor.folds();
        let total = folds * self.tiling.starts.len();
        let mut done = 0;
        let mut progress = |tiles: usize| {
            done += tiles;
            let goes_on = tiles == 0 || observer(TileProgress { done, total });
            if goes_on { Ok(()) } else { Err(PredictError::Interrupted) }
        };
        let queue = predictor.fold_queue();
        thread::scope(|scope| {
            let mut loading = None;
            for number in 0..folds {
                let fold = queue.next(number, &mut loading, scope)?;
                self.runner.begin_weights();
                run(self, &fold, number, &mut progress)?;
                // The weights are given back when nothing uses them any more.
                gpu.synchronise()?;
                self.marks = [None, None];
            }
            Ok(())
        })
    }
}

/// Adds a tile's sum over mirrorings, as a weighted mean, to the host's sums.
fn add_on_host(
    sums: &Sums<'_>,
    tile: ValueShape,
    values: &[f32],
    start: [isize; 3],
    predictions: usize,
) -> Result<(), PredictError> {
    let values = Tensor::new(values, &Device::Cpu)?;
    let add = AccumulateTile { image_dims: sums.dims(), start: sums.place(start), tile, predictions };
    Ok(sums.logits().inplace_op3(&values, sums.weights(), &add)?)
}
