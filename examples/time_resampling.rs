//! Times the work around the network on a synthetic scan and prints it as one line of JSON.
//!
//!     time_resampling image  --shape 200,512,512 --spacing 1,0.8,0.8 --model-spacing 1.5,0.75,0.75 --runs 3
//!     time_resampling export --shape 200,512,512 --spacing 1,0.8,0.8 --model-spacing 1.5,0.75,0.75 --heads 7
//!
//! `image` resamples the scan to the model's spacing by cubic splines; `export` takes logits on the model's grid back to labels
//! and one head's probability on the scan's. `scripts/reference/bench_resampling.py` does the same with nnU-Net.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use half::f16;
use ndarray::{Array3, Array4, Axis};
use pdac_cascade::nnunet::dataset::OutputKind;
use pdac_cascade::nnunet::export::{SegmentationRequest, segment_resampled};
use pdac_cascade::nnunet::preprocessing::BoundingBox;
use pdac_cascade::nnunet::resampling::{Resampling, SlabResampler, new_shape, resample_image};
use serde_json::json;
use std::time::Instant;

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    Image,
    Export,
}

#[derive(Parser)]
struct Arguments {
    work: Work,
    /// Voxels of the scan (z,y,x).
    #[arg(long, value_delimiter = ',', default_value = "200,512,512")]
    shape: Vec<usize>,
    /// Spacing of the scan in mm (z,y,x).
    #[arg(long, value_delimiter = ',', default_value = "1,0.8,0.8")]
    spacing: Vec<f64>,
    /// Spacing of the model in mm (z,y,x).
    #[arg(long, value_delimiter = ',', default_value = "1.5,0.75,0.75")]
    model_spacing: Vec<f64>,
    /// Segmentation heads of the exported logits.
    #[arg(long, default_value_t = 7)]
    heads: usize,
    /// How often the work is done and timed.
    #[arg(long, default_value_t = 1)]
    runs: usize,
}

/// Size and spacing of the scan, and spacing of the model, (z, y, x).
struct Task {
    shape: [usize; 3],
    spacing: [f64; 3],
    model_spacing: [f64; 3],
}

/// A product of one wave per axis, of amplitude 1.
fn wave([depth, height, width]: [usize; 3], phase: f64) -> Array3<f32> {
    let table =
        |n: usize, step: f64| (0..n).map(move |i| (step * i as f64 + phase).sin()).collect::<Vec<_>>();
    let (z, y, x) = (table(depth, 0.11), table(height, 0.07), table(width, 0.05));
    Array3::from_shape_fn((depth, height, width), |(k, j, i)| (z[k] * y[j] * x[i]) as f32)
}

/// What a run took, and numbers by which results can be compared with the original's.
struct Timing {
    seconds: f64,
    sums: Vec<f64>,
}

impl Task {
    fn model_shape(&self) -> [usize; 3] {
        new_shape(self.shape, self.spacing, self.model_spacing)
    }

    /// Resamples the scan; the sum of the result and that of its absolute values.
    fn image(&self, scan: Array3<f32>, cubic: &Resampling) -> Timing {
        let start = Instant::now();
        let got = resample_image(scan, self.model_shape(), self.spacing, self.model_spacing, cubic);
        let seconds = start.elapsed().as_secs_f64();
        let sum = |f: fn(f64) -> f64| got.iter().map(|&v| f(f64::from(v))).sum();
        Timing { seconds, sums: vec![sum(|v| v), sum(f64::abs)] }
    }

    /// Exports logits; the number of voxels of each label, and the sum of the last head's probability.
    fn export(&self, logits: &Array4<f32>, linear: &Resampling) -> Timing {
        let heads = logits.len_of(Axis(3));
        let start = Instant::now();
        let resampler =
            SlabResampler::new(logits.view(), self.shape, self.model_spacing, self.spacing, linear);
        let resampler = resampler.round_to_half(true);
        let crop = BoundingBox { start: [0; 3], stop: self.shape };
        let request = SegmentationRequest { probability_of: Some(heads - 1), ..Default::default() };
        let got =
            segment_resampled(&resampler, &OutputKind::Labels { classes: heads }, self.shape, &crop, request);
        let seconds = start.elapsed().as_secs_f64();
        let mut sums = vec![0.0; heads];
        got.labels.iter().for_each(|&label| sums[usize::from(label)] += 1.0);
        sums.push(got.probability.iter().flatten().map(|&p| f64::from(p)).sum());
        Timing { seconds, sums }
    }
}

/// Logits (z, y, x, heads) of float16 values: one wave per head.
fn logits(shape: [usize; 3], heads: usize) -> Array4<f32> {
    let mut logits = Array4::zeros((shape[0], shape[1], shape[2], heads));
    for (head, mut channel) in logits.axis_iter_mut(Axis(3)).enumerate() {
        channel.assign(&wave(shape, head as f64).mapv(|v| f16::from_f32(10.0 * v).to_f32()));
    }
    logits
}

fn triple<T: Copy>(values: &[T]) -> anyhow::Result<[T; 3]> {
    values.try_into().with_context(|| format!("expected three values (z,y,x), got {}", values.len()))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let task = Task {
        shape: triple(&arguments.shape)?,
        spacing: triple(&arguments.spacing)?,
        model_spacing: triple(&arguments.model_spacing)?,
    };
    let timings: Vec<Timing> = match arguments.work {
        Work::Image => {
            let cubic = Resampling::from_orders(3, 0, None)?;
            let scan = wave(task.shape, 0.0).mapv(|v| 1000.0 * v);
            (0..arguments.runs).map(|_| task.image(scan.clone(), &cubic)).collect()
        }
        Work::Export => {
            let linear = Resampling::from_orders(1, 0, None)?;
            let logits = logits(task.model_shape(), arguments.heads);
            (0..arguments.runs).map(|_| task.export(&logits, &linear)).collect()
        }
    };
    let seconds: Vec<f64> = timings.iter().map(|t| t.seconds).collect();
    let sums = timings.last().map(|t| t.sums.clone());
    println!("{}", json!({ "seconds": seconds, "sums": sums }));
    Ok(())
}
