//! `run`: one case, from the input folder to the output folder.

use super::args::RunArgs;
use super::progress::Progress;
use super::system::HERE;
use super::{interrupt, weights};
use anyhow::Context;
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Case, OutputError, Outputs, PANORAMA};
use pdac_cascade::imaging::file::{folder_of, write_whole};
use pdac_cascade::imaging::{MemoryGauge, Volume};
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::ops::{Arithmetic, Precision};
use pdac_cascade::pipeline::panorama::ExecutionOptions;
use pdac_cascade::pipeline::{Detection, Observer, Panorama, PipelineError};
use pdac_cascade::report::overlay::{Window, draw_overlay};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io, thread};

/// Runs the cascade; everything that can fail cheaply is tried before the work starts.
pub fn run(args: &RunArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    interrupt::listen();
    let arithmetic = arithmetic(args)?;
    let threads = args.threads.map_or_else(|| HERE.threads(), usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let available_mb = HERE.available_memory().map(|bytes| bytes / 1_000_000);
    tracing::info!(threads, %arithmetic, available_mb, "computing on the CPU");
    let progress = Progress::new(bars);
    progress.stage("prepare");
    let case = Case::find(&args.input, &PANORAMA)?;
    let outputs = Outputs::prepare(&args.output, &PANORAMA, &case)?;
    if let Some(file) = &args.overlay {
        check_writable(file)?;
    }
    let cascade = Panorama::open(&weights::find_recipe(&args.weights)?)?;
    if let Some(note) = cascade.note() {
        tracing::warn!("{note}");
    }
    progress.stage("read");
    let memory = MemoryGauge::new(|| HERE.available_memory());
    let options = ExecutionOptions { accumulate: args.accumulate.into(), arithmetic, memory };
    let cascade = cascade.begin(options);
    let ct = thread::scope(|scope| {
        scope.spawn(|| cascade.load_first_weights());
        case.read_within(memory)
    })?;
    stop_if_requested()?;
    tracing::info!(image = %case.image.display(), size_xyz = ?ct.geometry.size_xyz(), spacing_mm_xyz = ?ct.geometry.spacing_xyz());
    let ct = Arc::new(ct);
    let for_overlay = args.overlay.as_ref().map(|file| (file, Arc::clone(&ct)));
    let detection = cascade.run(ct, &progress)?;
    stop_if_requested()?;
    progress.stage("write");
    interrupt::writing();
    outputs.write(&detection.map, detection.likelihood)?;
    if let Some((file, ct)) = &for_overlay {
        write_overlay(file, ct, &detection)?;
    }
    progress.summarise();
    let Detection { likelihood, candidates, .. } = detection;
    tracing::info!(likelihood, candidates, threads, %arithmetic, "done");
    Ok(())
}

/// The arithmetic asked for, if this processor has it.
fn arithmetic(args: &RunArgs) -> anyhow::Result<Arithmetic> {
    let asked = Precision::from(args.precision);
    let arithmetic = Arithmetic::new(args.cpu_isa.map(Into::into), asked).context("--cpu-isa")?;
    if arithmetic.precision() != asked {
        tracing::warn!(
            "--precision {asked}: {} has no such products, computing in float32",
            arithmetic.isa()
        );
    }
    Ok(arithmetic)
}

fn stop_if_requested() -> Result<(), PipelineError> {
    if interrupt::requested() { Err(PredictError::Interrupted.into()) } else { Ok(()) }
}

/// Checks that `file` can become a picture: an existing one must be a regular file, and its folder writable.
fn check_writable(file: &Path) -> Result<(), OutputError> {
    if fs::symlink_metadata(file).is_ok_and(|m| !m.is_file()) {
        let source = io::Error::other("exists and is not a regular file");
        return Err(OutputError::Io { path: file.to_owned(), source });
    }
    tempfile::tempfile_in(folder_of(file))
        .map_err(|source| OutputError::Io { path: file.to_owned(), source })?;
    Ok(())
}

fn write_overlay(file: &Path, ct: &Volume<f32>, detection: &Detection) -> anyhow::Result<()> {
    let png = draw_overlay(ct, &detection.map, Window::default())?.encode_png()?;
    let written = write_whole(file, |to| to.write_all(&png));
    Ok(written.map_err(|source| OutputError::Io { path: file.to_owned(), source })?)
}
