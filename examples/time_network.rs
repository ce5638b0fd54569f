//! Times a network of an nnU-Net model folder on patches of its own size: `time_network MODEL --runs 5 --layers`.
//!
//! Prints JSON: a line per run where `--on-line` is given, and a summary at the end. The patch is noise from `--seed`,
//! of mean 0 and deviation 1 as nnU-Net's normalisation leaves scans.

use anyhow::{Context, anyhow, bail};
use candle_core::{DType, Device, Tensor};
use clap::Parser;
use pdac_cascade::network::{Plan, Runner, StepKind, Weights};
use pdac_cascade::nnunet::dataset::Dataset;
use pdac_cascade::nnunet::model_folder::{Fold, ModelFolder};
use pdac_cascade::nnunet::plans::{Configuration, Plans};
use pdac_cascade::ops::{AddLogits, Arithmetic, GatherTile, Isa, Precision};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Times a network of an nnU-Net model folder on patches of its own size.
#[derive(Debug, Parser)]
struct Arguments {
    /// Model folder with plans.json, dataset.json and, without --random, fold_<K>/<NAME>.
    model: PathBuf,
    /// Fold whose weights are run.
    #[arg(long, value_name = "K", default_value_t = 0)]
    fold: u32,
    /// Its checkpoint.
    #[arg(long, value_name = "NAME", default_value = "checkpoint_final")]
    checkpoint: String,
    /// Configuration in plans.json that is run with --random.
    #[arg(long, value_name = "NAME", default_value = "3d_fullres")]
    configuration: String,
    /// Run weights made from this seed; no checkpoint is read.
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// Seed of the patch.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs that count.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Runs before them that do not.
    #[arg(long, value_name = "N", default_value_t = 1)]
    warm_up: u16,
    /// Run once for every line on standard input instead of --runs times, and print each run's seconds at once.
    #[arg(long)]
    on_line: bool,
    /// Instruction set: amx, avx512, avx2 or portable [default: the fastest there is].
    #[arg(long, value_name = "ISA", value_parser = isa)]
    cpu_isa: Option<Isa>,
    /// Precision of the products: f32 or bf16.
    #[arg(long, value_name = "TYPE", value_parser = precision, default_value_t = Precision::F32)]
    precision: Precision,
    /// Worker threads [default: as many as the process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Also time every step.
    #[arg(long)]
    layers: bool,
    /// Write `input` (channels, z, y, x) and `logits` (z, y, x, heads) into this safetensors file.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
}

fn isa(text: &str) -> Result<Isa, String> {
    let found = Isa::FASTEST_FIRST.into_iter().find(|isa| isa.name() == text);
    found.ok_or_else(|| format!("expected one of {}", Isa::FASTEST_FIRST.map(Isa::name).join(", ")))
}

fn precision(text: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::Bf16];
    all.into_iter().find(|p| p.to_string() == text).ok_or_else(|| "expected f32 or bf16".to_owned())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    let arithmetic = Arithmetic::new(arguments.cpu_isa, arguments.precision)?;
    if arithmetic.precision() != arguments.precision {
        bail!("{} has no products in {}", arithmetic.isa(), arguments.precision);
    }
    let (configuration, tensors) = network(&arguments)?;
    let plan = configuration.network.plan_in_parts(configuration.patch_size)?;
    let weights = Weights::pack(&plan, tensors, configuration.network.unet().norm_eps, arithmetic)?;
    let runner = Runner::new(plan)?;
    let patch = patch(runner.plan(), arguments.seed)?;
    let logits = Tensor::zeros(runner.plan().logits().data_len(), DType::F32, &Device::Cpu)?;
    let times = time(&runner, &weights, &patch, &logits, &arguments)?;
    if let Some(file) = &arguments.dump {
        dump(runner.plan(), &patch, &logits, file)?;
    }
    println!("{}", summary(runner.plan(), &times, arithmetic, arguments.layers)?);
    Ok(())
}

/// The network's configuration and its parameters by name, read or made.
fn network(arguments: &Arguments) -> anyhow::Result<(Configuration, HashMap<String, Tensor>)> {
    let Some(seed) = arguments.random else {
        let fold = Fold::Number(arguments.fold);
        let model = ModelFolder::open(&arguments.model, &[fold], &arguments.checkpoint)?;
        let tensors = model.load_fold(fold)?;
        return Ok((model.configuration, tensors));
    };
    let dataset = Dataset::read(&arguments.model.join("dataset.json"))?;
    let plans = Plans::read(&arguments.model.join("plans.json"))?;
    let configuration = plans.configuration(&arguments.configuration, &dataset)?;
    let made = configuration.network.parameters().into_iter().enumerate().map(|(i, (name, shape))| {
        let values = parameter(&name, &shape, seed.wrapping_add(i as u64));
        Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
    });
    let tensors = made.collect::<candle_core::Result<_>>()?;
    Ok((configuration, tensors))
}

/// Values for a parameter: norms start as the identity and biases at zero, and weights keep a leaky ReLU network's variance.
fn parameter(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    match name {
        _ if name.ends_with("norm.weight") => vec![1.0; len],
        _ if name.ends_with("bias") => vec![0.0; len],
        _ => {
            let deviation = (2.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
            noise(seed, len).into_iter().map(|v| v * deviation).collect()
        }
    }
}

/// Reproducible, nearly normal values of mean 0 and deviation 1: sums of twelve uniform ones.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..len).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// Noise, (channels, z, y, x).
fn patch(plan: &Plan, seed: u64) -> candle_core::Result<Tensor> {
    let tile = plan.operand(plan.input()).shape;
    let [z, y, x] = tile.dims;
    Tensor::from_vec(noise(seed, tile.data_len()), (tile.channels, z, y, x), &Device::Cpu)
}

/// Fills the input buffer, which a run uses for other values once the network has read it.
fn fill_input(runner: &Runner, patch: &Tensor) -> candle_core::Result<()> {
    let tile = runner.plan().operand(runner.plan().input()).shape;
    let gather = GatherTile { image_dims: tile.dims, start: [0; 3], tile, mirroring: [false; 3] };
    runner.input()?.inplace_op2(patch, &gather)
}

/// Seconds of every run that counts, and of every step in each of them.
struct Times {
    runs: Vec<f64>,
    steps: Vec<Vec<f64>>,
}

/// Fills `logits`, (z, y, x, heads) flattened.
fn fill_logits(runner: &Runner, weights: &Weights, logits: &Tensor) -> candle_core::Result<()> {
    let head = AddLogits { head: weights.head(), mirroring: [false; 3], first: true };
    logits.inplace_op2(&runner.features()?, &head)
}

fn time(
    runner: &Runner,
    weights: &Weights,
    patch: &Tensor,
    logits: &Tensor,
    arguments: &Arguments,
) -> anyhow::Result<Times> {
    for _ in 0..arguments.warm_up {
        fill_input(runner, patch)?;
        runner.run(weights)?;
        fill_logits(runner, weights, logits)?;
    }
    let mut times = Times { runs: Vec::new(), steps: vec![Vec::new(); runner.plan().steps().len()] };
    let mut run = || -> candle_core::Result<f64> {
        fill_input(runner, patch)?;
        let started = Instant::now();
        let mut before = started;
        runner.run_observed(weights, |step| {
            let now = Instant::now();
            times.steps[step].push((now - before).as_secs_f64());
            before = now;
        })?;
        fill_logits(runner, weights, logits)?;
        let seconds = started.elapsed().as_secs_f64();
        times.runs.push(seconds);
        Ok(seconds)
    };
    if arguments.on_line {
        println!("{}", json!({ "ready": true }));
        for line in std::io::stdin().lines() {
            line?;
            println!("{}", json!({ "seconds": run()? }));
        }
    } else {
        for _ in 0..arguments.runs {
            run()?;
        }
    }
    Ok(times)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn summary(
    plan: &Plan,
    times: &Times,
    arithmetic: Arithmetic,
    layers: bool,
) -> anyhow::Result<serde_json::Value> {
    if times.runs.is_empty() {
        bail!("nothing was run: standard input had no line");
    }
    let gflop = plan.steps().iter().map(|step| plan.flop(step)).sum::<u64>();
    let gflop = (gflop + plan.head_flop()) as f64 / 1e9;
    let seconds = median(&times.runs);
    let mut summary = json!({
        "seconds": seconds,
        "seconds_of_runs": times.runs,
        "gflop": gflop,
        "gflop_per_second": gflop / seconds,
        "isa": arithmetic.isa().name(),
        "precision": arithmetic.precision().to_string(),
        "threads": rayon::current_num_threads(),
        "peak_resident_bytes": peak_resident()?,
    });
    if layers {
        let lines = plan.steps().iter().zip(&times.steps).map(|(step, times)| {
            let (gflop, seconds) = (plan.flop(step) as f64 / 1e9, median(times));
            let kind = match &step.kind {
                StepKind::Conv { shape, .. } => format!("conv {:?} stride {:?}", shape.kernel, shape.stride),
                StepKind::Upsample { stride, .. } => format!("upsample {stride:?}"),
                StepKind::Pool { stride } => format!("average {stride:?}"),
                StepKind::Add { .. } => "add".to_owned(),
            };
            let channels: Vec<_> = step.sources.iter().map(|&s| plan.operand(s).shape.channels).collect();
            let output = plan.operand(step.output).shape;
            json!({
                "step": step.parameters, "kind": kind, "in_channels": channels, "out_channels": output.channels,
                "out_zyx": output.dims, "seconds": seconds, "gflop": gflop, "gflop_per_second": gflop / seconds,
            })
        });
        summary["layers"] = lines.collect();
    }
    Ok(summary)
}

/// Peak resident memory of this process in bytes, as Linux counts it.
fn peak_resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes =
        line.and_then(|text| text.trim().strip_suffix("kB")).map(|text| text.trim().parse::<u64>());
    Ok(1024 * kibibytes.ok_or_else(|| anyhow!("/proc/self/status: no VmHWM in kB"))??)
}

fn dump(plan: &Plan, patch: &Tensor, logits: &Tensor, file: &Path) -> anyhow::Result<()> {
    let shape = plan.logits();
    let [z, y, x] = shape.dims;
    let values = logits.reshape((z, y, x, shape.channels))?;
    let tensors = HashMap::from([("input", patch.clone()), ("logits", values)]);
    candle_core::safetensors::save(&tensors, file).with_context(|| format!("{}", file.display()))
}
