//! Single runs of a network: on a tile of a scan, to look at what comes out; on zeros, to get ready or to see how long it takes.

#[cfg(feature = "cuda")]
use super::on_gpu;
use super::tiles::run_network;
use super::{PredictError, Predictor, Preprocessed};
use crate::ops::AddLogits;
use candle_core::{DType, Device, Tensor};
use std::time::Duration;

/// Runs that are timed at most, of which the shortest counts, and how long they may take together but for the last.
const MOST_TIMED: u32 = 5;
const TIMED_AGAIN: Duration = Duration::from_millis(200);

impl Predictor<'_> {
    /// Runs the first fold's network once on a tile of zeros: what happens at the first tile only then has happened.
    ///
    /// # Errors
    /// If the weights cannot be loaded, or the network cannot run.
    pub fn warm_up(&self) -> Result<(), PredictError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            return on_gpu::warm_up(self, gpu);
        }
        let tile = self.plan.operand(self.plan.input()).shape;
        let zeros = Tensor::zeros(tile.data_len(), DType::F32, &Device::Cpu)?;
        let fold = self.fold_queue().first()?;
        run_network(self.runner()?, &fold, &zeros, tile.dims, [0; 3], [false; 3])?;
        Ok(())
    }

    /// What one run of the network on a tile takes, by `clock`; on a GPU, one of as many as it runs at once.
    ///
    /// # Errors
    /// If the weights cannot be loaded, or the network cannot run.
    pub fn time_run(&self, clock: &dyn Fn() -> Duration) -> Result<Duration, PredictError> {
        let queue = self.fold_queue();
        let fold = queue.first()?;
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            let time = on_gpu::time_run(self, gpu, &fold, clock);
            queue.folds.give_back(fold);
            return match time {
                Err(error) if error.is_out_of_gpu_memory() => {
                    tracing::warn!("{error}: timing the CPU");
                    self.on_cpu()?.time_run(clock)
                }
                time => time,
            };
        }
        let tile = self.plan.operand(self.plan.input()).shape;
        let zeros = Tensor::zeros(tile.data_len(), DType::F32, &Device::Cpu)?;
        self.runner()?.touch()?;
        let began = clock();
        let mut shortest = Duration::MAX;
        for run in 0..MOST_TIMED {
            let start = clock();
            if run > 0 && start.saturating_sub(began) > TIMED_AGAIN {
                break;
            }
            run_network(self.runner()?, &fold, &zeros, tile.dims, [0; 3], [false; 3])?;
            shortest = shortest.min(clock().saturating_sub(start));
        }
        queue.folds.give_back(fold);
        Ok(shortest)
    }

    /// The network's raw output on one tile, no mirroring, (z, y, x, heads) flattened.
    ///
    /// # Errors
    /// See [`PredictError`].
    pub fn raw_tile(&self, mut scan: Preprocessed, start: [isize; 3]) -> Result<Vec<f32>, PredictError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.options.gpu {
            return on_gpu::raw_tile(self, gpu, &scan, start);
        }
        let runner = self.runner()?;
        let fold = self.fold_queue().first()?;
        let (image_dims, mirroring) = (scan.shape(), [false; 3]);
        run_network(runner, &fold, &scan.take_tensor()?, image_dims, start, mirroring)?;
        let logits = Tensor::zeros(self.plan.logits().data_len(), DType::F32, &Device::Cpu)?;
        let add = AddLogits { head: fold.head(), mirroring, first: true };
        logits.inplace_op2(&runner.features()?, &add)?;
        Ok(logits.to_vec1()?)
    }
}
