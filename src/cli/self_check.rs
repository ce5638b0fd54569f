//! `self-check`: the built-in case on the CPU and on the GPU, compared.

use super::args::SelfCheckArgs;
use super::case;
use super::device::{self, Device};
use super::weights::WeightsFolder;
use anyhow::bail;
use pdac_cascade::challenge::PANORAMA;
use pdac_cascade::imaging::Volume;
use pdac_cascade::imaging::metaimage::decode;
use pdac_cascade::nnunet::export::Segmentation;
use pdac_cascade::ops::{Cuda, CudaPrecision, Description};
use pdac_cascade::pipeline::{Detection, ExecutionOptions, Panorama, System, Unobserved};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A synthetic CT.
const PHANTOM: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/test_input/images/venous-ct/phantom-venous-ct.mha"));

/// What may differ between CPU and GPU.
struct Allowed {
    likelihood: f64,
    /// Labels of 10,000.
    labels: f64,
}

/// float16 on the GPU against float32 on the CPU; float32 on both.
const HALF: Allowed = Allowed { likelihood: 5e-3, labels: 5.0 };
const SINGLE: Allowed = Allowed { likelihood: 1e-3, labels: 1.0 };

/// The GPU's results are not the CPU's.
#[derive(Debug, thiserror::Error)]
#[error("the GPU's results differ from the CPU's by more than is allowed")]
pub struct Failed;

/// Prints what there is, both times and the deviation.
pub fn self_check(args: &SelfCheckArgs) -> anyhow::Result<()> {
    case::start_threads(&args.compute)?;
    let device = device::open(&args.compute)?;
    let options = case::execution_options_on(&args.compute, &device)?;
    let System::Panorama(cascade) = WeightsFolder::find(&args.compute.weights)?.open(&PANORAMA)? else {
        bail!("the recipe is of another system than the built-in case's");
    };
    let ct = Arc::new(phantom()?);
    let mut out = io::stdout().lock();
    writeln!(out, "program     pdac-cascade {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "case        synthetic CT, {:?} voxels (x, y, z)", ct.geometry.size_xyz())?;
    let on_cpu = ExecutionOptions { gpu: None, ..options };
    let cpu = Outcome::of(&cascade, &ct, on_cpu)?;
    let threads = rayon::current_num_threads();
    writeln!(out, "CPU         {}, {threads} threads: {cpu}", options.arithmetic)?;
    let gpu = match device {
        Device::Gpu(gpu) => gpu,
        Device::Cpu(reason) => {
            let reason = reason.map_or_else(|| "it is not asked for".to_owned(), |r| r.to_string());
            writeln!(out, "GPU         none is used: {reason}\npassed      on the CPU alone")?;
            return Ok(());
        }
    };
    let Description { name, capability, driver, memory, kernels, .. } = gpu.description();
    writeln!(out, "device      {name}, compute capability {}.{}", capability.0, capability.1)?;
    writeln!(out, "memory      {} MB", memory / 1_000_000)?;
    writeln!(out, "driver      for CUDA {}.{}", driver.0, driver.1)?;
    writeln!(out, "libraries   cuDNN {}; kernels as {kernels}", gpu.description().cudnn_version())?;
    // The first run chooses algorithms and is not what a run costs later.
    let first = Outcome::of(&cascade, &ct, options)?;
    let later = Outcome::of(&cascade, &ct, options)?;
    writeln!(out, "GPU         {}, first run: {first}", gpu.precision())?;
    writeln!(out, "GPU         {}, later run: {later}", gpu.precision())?;
    let passed = compare(&mut out, &cpu, &later, &allowed(gpu))?;
    writeln!(out, "{}", if passed { "passed" } else { "FAILED" })?;
    if passed { Ok(()) } else { Err(Failed.into()) }
}

/// The phantom as any other scan is read.
fn phantom() -> anyhow::Result<Volume<f32>> {
    Ok(decode(Path::new("the built-in case"), PHANTOM)?.into_f32_volume())
}

fn allowed(gpu: Cuda) -> Allowed {
    match gpu.precision() {
        CudaPrecision::F16 => HALF,
        CudaPrecision::F32 => SINGLE,
    }
}

/// What a device makes of the case.
struct Outcome {
    detection: Detection,
    time: Duration,
    lesion: Option<Segmentation>,
}

impl Outcome {
    fn of(cascade: &Panorama, ct: &Arc<Volume<f32>>, options: ExecutionOptions) -> anyhow::Result<Self> {
        let began = Instant::now();
        let detection = cascade.run(Arc::clone(ct), options, &Unobserved)?;
        let time = began.elapsed();
        let lesion = match &detection.roi {
            Some(roi) => Some(cascade.segment_lesion(ct, roi, options, &Unobserved)?),
            None => None,
        };
        Ok(Self { detection, time, lesion })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detection { likelihood, candidates, .. } = &self.detection;
        let seconds = self.time.as_secs_f64();
        write!(f, "{seconds:.3} s, likelihood {likelihood:.6}, lesion candidates: {candidates}")
    }
}

/// Prints how far apart the results are: whether that is allowed.
fn compare(out: &mut impl Write, cpu: &Outcome, gpu: &Outcome, allowed: &Allowed) -> io::Result<bool> {
    let likelihood = (cpu.detection.likelihood - gpu.detection.likelihood).abs();
    let candidates = [cpu, gpu].map(|o| o.detection.candidates);
    let same_region = cpu.detection.roi == gpu.detection.roi;
    let labels = match (&cpu.lesion, &gpu.lesion) {
        (Some(a), Some(b)) if same_region => {
            let differing = a.labels.iter().zip(&b.labels).filter(|(a, b)| a != b).count();
            1e4 * differing as f64 / a.labels.len().max(1) as f64
        }
        (None, None) => 0.0,
        _ => 1e4,
    };
    writeln!(out, "deviation   likelihood {likelihood:.1e} (allowed {:.1e})", allowed.likelihood)?;
    writeln!(out, "            lesion labels {labels:.2} in 10,000 (allowed {})", allowed.labels)?;
    writeln!(out, "            lesion candidates {} and {}, regions {}", candidates[0], candidates[1], {
        if same_region { "the same" } else { "different" }
    })?;
    let close = likelihood <= allowed.likelihood && labels <= allowed.labels;
    Ok(close && candidates[0] == candidates[1] && same_region)
}
