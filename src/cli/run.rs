//! `run`: one case, then the end.

use super::args::RunArgs;
use super::case::Reading;
use super::weights::WeightsFolder;
use super::{case, exit, interrupt};
use indicatif::MultiProgress;
use pdac_cascade::challenge::OutputError;
use pdac_cascade::imaging::file::folder_of;
use std::path::Path;
use std::{fs, io, thread};

/// Runs the task of the input; everything that can fail cheaply is tried before the work starts.
pub fn run(args: &RunArgs, bars: &MultiProgress) -> anyhow::Result<()> {
    interrupt::listen(exit::INTERRUPTED.into(), || {});
    case::start_threads(&args.case.compute)?;
    let progress = case::begin(&args.case, bars);
    let (task, case, outputs) = case::find_case(&args.case)?;
    if let Some(file) = &args.overlay {
        check_writable(file)?;
    }
    let system = WeightsFolder::find(&args.case.compute.weights)?.open(&task)?;
    thread::scope(|scope| {
        // A GPU takes its time to open.
        let scan = Reading::ahead(&case, scope);
        let options = case::execution_options(&args.case.compute)?;
        case::run_case(&system.begin(options), options, scan, &outputs, args.overlay.as_deref(), &progress)
    })
}

/// Checks that `file` can be written: an existing one must be a regular file, and its folder writable.
pub fn check_writable(file: &Path) -> Result<(), OutputError> {
    if fs::symlink_metadata(file).is_ok_and(|m| !m.is_file()) {
        let source = io::Error::other("exists and is not a regular file");
        return Err(OutputError::Io { path: file.to_owned(), source });
    }
    tempfile::tempfile_in(folder_of(file))
        .map_err(|source| OutputError::Io { path: file.to_owned(), source })?;
    Ok(())
}
