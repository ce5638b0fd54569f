//! `run`: one case, from the input folder to the output folder.

use super::args::RunArgs;
use super::progress::Progress;
use super::{interrupt, weights};
use indicatif::MultiProgress;
use pdac_cascade::challenge::{Case, OutputError, Outputs, PANORAMA};
use pdac_cascade::imaging::Volume;
use pdac_cascade::imaging::file::write_whole;
use pdac_cascade::nnunet::predictor::PredictError;
use pdac_cascade::pipeline::panorama::ExecutionOptions;
use pdac_cascade::pipeline::{Detection, Observer, Panorama, PipelineError};
use pdac_cascade::report::overlay::{Window, draw_overlay};
use std::path::Path;

/// Runs the cascade; everything that can fail cheaply is tried before the work starts.
pub fn run(args: &RunArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    interrupt::listen();
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
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
    let ct = case.read()?;
    tracing::info!(image = %case.image.display(), size_xyz = ?ct.geometry.size_xyz(), spacing_mm_xyz = ?ct.geometry.spacing_xyz());
    let options = ExecutionOptions { accumulate: args.accumulate.into(), ..ExecutionOptions::default() };
    let detection = cascade.run(&ct, options, &progress)?;
    if interrupt::requested() {
        return Err(PipelineError::from(PredictError::Interrupted).into());
    }
    progress.stage("write");
    outputs.write(&detection.map, detection.likelihood)?;
    if let Some(file) = &args.overlay {
        write_overlay(file, &ct, &detection)?;
    }
    progress.summarise();
    tracing::info!(likelihood = detection.likelihood, candidates = detection.candidates, "done");
    Ok(())
}

/// Tries to write beside `file`, which is to be written at the end.
fn check_writable(file: &Path) -> Result<(), OutputError> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map_err(|source| OutputError::Io { path: file.to_owned(), source })?;
    Ok(())
}

fn write_overlay(file: &Path, ct: &Volume<f32>, detection: &Detection) -> anyhow::Result<()> {
    let png = draw_overlay(ct, &detection.map, Window::default())?.encode_png()?;
    let written = write_whole(file, |to| to.write_all(&png));
    Ok(written.map_err(|source| OutputError::Io { path: file.to_owned(), source })?)
}
