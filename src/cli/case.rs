//! One case, from the input folder to the output folder, and what it takes to run any.

use super::args::{CaseArgs, ComputeArgs, PrecisionArg};
use super::device::{self, Device};
use super::interrupt;
use super::progress::Progress;
use super::system::HERE;
use anyhow::Context;
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Case, CaseError, Interface, OutputError, Outputs, Results, task_of};
use pdac_cascade::imaging::file::write_whole;
use pdac_cascade::imaging::{MemoryGauge, Volume};
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::ops::{Arithmetic, Precision};
use pdac_cascade::pipeline::{
    Answer, Detection, ExecutionOptions, Observer, PipelineError, SystemRun, TumourSegmentation,
};
use pdac_cascade::report::overlay::{Window, draw_overlay};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

/// How this processor and, if there is one, the GPU are used.
pub fn execution_options(args: &ComputeArgs) -> anyhow::Result<ExecutionOptions> {
    execution_options_on(args, &device::open(args)?)
}

/// How a device is used; the reason for using no GPU is logged in one line.
pub fn execution_options_on(args: &ComputeArgs, device: &Device) -> anyhow::Result<ExecutionOptions> {
    let gpu = match device {
        Device::Gpu(gpu) => Some(*gpu),
        Device::Cpu(reason) => {
            if let Some(reason) = reason.as_ref().filter(|_| cfg!(feature = "cuda")) {
                tracing::info!("no GPU is used: {reason}");
            }
            None
        }
    };
    let arithmetic = arithmetic(args, gpu.is_some())?;
    match gpu {
        Some(gpu) => tracing::info!(precision = %gpu.precision(), "computing on {}", gpu.description()),
        None => tracing::info!(%arithmetic, "computing on the CPU"),
    }
    Ok(ExecutionOptions { accumulate: args.accumulate.into(), arithmetic, memory: memory(), gpu })
}

/// Tells how much memory there is.
pub fn memory() -> MemoryGauge {
    MemoryGauge::new(|| HERE.available_memory())
}

/// Starts the worker threads: as many as asked for, or the half, or the half of that, since a container may limit them.
///
/// To be called before anything that works on several threads.
pub fn start_threads(args: &ComputeArgs) -> anyhow::Result<()> {
    let mut threads = args.threads.map_or_else(|| HERE.threads(), usize::from);
    loop {
        match rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
            Ok(()) => {
                let available_mb = HERE.available_memory().map(|bytes| bytes / 1_000_000);
                tracing::info!(threads, available_mb, "worker threads started");
                return Ok(());
            }
            Err(error) if threads > 1 => {
                tracing::warn!("{threads} threads cannot be started ({error}): trying with half as many");
                threads /= 2;
            }
            Err(error) => return Err(error).context("no thread can be started"),
        }
    }
}

/// The arithmetic asked for, if this processor has it.
fn arithmetic(args: &ComputeArgs, has_gpu: bool) -> anyhow::Result<Arithmetic> {
    let asked = args.precision.map_or(Precision::F32, Precision::from);
    if args.precision == Some(PrecisionArg::F16) && !has_gpu {
        tracing::warn!("--precision f16: for GPUs, computing in float32");
    }
    let arithmetic = Arithmetic::new(args.cpu_isa.map(Into::into), asked).context("--cpu-isa")?;
    if arithmetic.precision() != asked && !has_gpu {
        tracing::warn!(
            "--precision {asked}: {} has no such products, computing in float32",
            arithmetic.isa()
        );
    }
    Ok(arithmetic)
}

/// A scan on its way from its file.
pub struct Reading<'scope, 'c> {
    case: &'c Case,
    /// Reads it; none where no thread could be started, or none was asked for.
    thread: Option<ScopedJoinHandle<'scope, Result<Volume<f32>, CaseError>>>,
}

impl<'scope, 'c> Reading<'scope, 'c> {
    /// It is read when it is needed.
    pub fn later(case: &'c Case) -> Self {
        Self { case, thread: None }
    }

    /// It is read from now on, while something else is done.
    pub fn ahead(case: &'c Case, scope: &'scope Scope<'scope, 'c>) -> Self {
        let thread = thread::Builder::new().spawn_scoped(scope, || case.read_within(memory()));
        Self { case, thread: thread.ok() }
    }

    fn finish(self) -> Result<Volume<f32>, CaseError> {
        match self.thread {
            Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            None => self.case.read_within(memory()),
        }
    }
}

/// Runs a system on a scan.
pub fn run_case(
    system: &SystemRun<'_>,
    options: ExecutionOptions,
    scan: Reading<'_, '_>,
    outputs: &Outputs,
    overlay: Option<&Path>,
    progress: &Progress<'_>,
) -> anyhow::Result<()> {
    progress.stage("read");
    let case = scan.case;
    if let Some(gpu) = options.gpu {
        gpu.reset_peak_memory();
    }
    let image = thread::scope(|scope| {
        // Where no thread can be started the weights are loaded when they are needed.
        let _started = thread::Builder::new().spawn_scoped(scope, || system.load_first_weights());
        scan.finish()
    })?;
    stop_if_requested()?;
    tracing::info!(image = %case.image.display(), size_xyz = ?image.geometry.size_xyz(), spacing_mm_xyz = ?image.geometry.spacing_xyz());
    let image = Arc::new(image);
    let for_overlay = overlay.map(|file| (file, Arc::clone(&image)));
    let answer = match system.run(image, progress) {
        // The pipeline does not know where the scan came from.
        Err(error @ PipelineError::Scan(_)) => {
            return Err(anyhow::Error::from(error).context(case.image.display().to_string()));
        }
        answer => answer?,
    };
    stop_if_requested()?;
    progress.stage("write");
    let report = progress.report(&answer)?;
    outputs.write(&case.stem, results_of(&answer), report.as_ref())?;
    if let Some((file, image)) = &for_overlay {
        write_overlay(file, image, &answer)?;
    }
    progress.summarise();
    log_done(&answer, options);
    Ok(())
}

fn results_of(answer: &Answer) -> Results<'_> {
    match answer {
        Answer::Detection(found) => Results::Detection { map: &found.map, likelihood: found.likelihood },
        Answer::Segmentation(found) => Results::Segmentation(&found.mask),
    }
}

fn log_done(answer: &Answer, options: ExecutionOptions) {
    let threads = rayon::current_num_threads();
    let arithmetic = match options.gpu {
        Some(gpu) => format!("cuda {}", gpu.precision()),
        None => options.arithmetic.to_string(),
    };
    let gpu_peak_mb = options.gpu.map(|gpu| gpu.peak_memory() / 1_000_000);
    match answer {
        Answer::Detection(Detection { likelihood, candidates, joined, .. }) => {
            let (head, map) = (joined.map(|joined| joined.head), joined.map(|joined| joined.map));
            tracing::info!(likelihood, head, map, candidates, threads, arithmetic, gpu_peak_mb, "done");
        }
        Answer::Segmentation(TumourSegmentation { volume_mm3, components, .. }) => {
            let components = components.kept;
            tracing::info!(volume_mm3, components, threads, arithmetic, gpu_peak_mb, "done");
        }
    }
}

/// Finds the case and makes room for its outputs: everything that can fail cheaply, before the work starts.
pub fn find_case(args: &CaseArgs) -> anyhow::Result<(Interface, Case, Outputs)> {
    let task = args.task.map_or_else(|| task_of(&args.input), |task| Ok(task.into()));
    // Outputs of an earlier case must not be taken for those of one that fails.
    let interface = task.inspect_err(|_| {
        let _refused = Outputs::clear(&args.output);
    })?;
    tracing::info!(task = interface.name, "{}", interface.task);
    let outputs = Outputs::prepare(&args.output, &interface)?;
    let case = Case::find(&args.input, &interface)?;
    Ok((interface, case, outputs))
}

/// A view of the progress of a case that begins now, whose first stage has begun.
pub fn begin<'a>(args: &CaseArgs, bars: &'a MultiProgress) -> Progress<'a> {
    let progress = Progress::new(bars, args.time_budget);
    progress.stage("prepare");
    progress
}

fn stop_if_requested() -> Result<(), PipelineError> {
    if interrupt::requested() { Err(PredictError::Interrupted.into()) } else { Ok(()) }
}

fn write_overlay(file: &Path, image: &Volume<f32>, answer: &Answer) -> anyhow::Result<()> {
    let png = match answer {
        Answer::Detection(found) => draw_overlay(image, &found.map, Window::default()),
        Answer::Segmentation(found) => {
            let mask = Volume::new(found.mask.data.mapv(f32::from), found.mask.geometry);
            draw_overlay(image, &mask, Window::of_most(&image.data))
        }
    }?
    .encode_png()?;
    let written = write_whole(file, |to| to.write_all(&png));
    Ok(written.map_err(|source| OutputError::Io { path: file.to_owned(), source })?)
}
