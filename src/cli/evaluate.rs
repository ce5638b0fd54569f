//! `evaluate`: predictions scored as a challenge scores them.

mod panorama;
mod panther;
mod phantoms;

use super::args::LoggingArgs;
use clap::{Args, Subcommand};
use panorama::PanoramaArgs;
use panther::PantherArgs;
use pdac_cascade::challenge::OutputError;
use pdac_cascade::imaging::file::write_whole;
use phantoms::PhantomsArgs;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

const EXIT_CODES: &str = "Exit codes:
  0    all cases scored
  1    unexpected error
  2    wrong arguments
  3    a file or folder is missing, ambiguous, unreadable or holds something else than it should, or truth and prediction do not fit
  4    the JSON file cannot be written
  6    a case needs more memory than there is";

const PHANTOMS_EXIT_CODES: &str = "Exit codes:
  0    all phantoms scored
  1    unexpected error
  2    wrong arguments
  4    the JSON file cannot be written
  5    the weights or their recipe are missing, malformed or do not fit each other
  6    a phantom or the networks need more memory than there is
  8    the GPU demanded with --device cannot be used, or failed
  130  interrupted";

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(subcommand)]
    challenge: Challenge,
}

#[derive(Debug, Subcommand)]
enum Challenge {
    /// Score segmentations with PANTHER's metrics: Dice, surface Dice at 5 mm, HD95, mean surface distance, volumes.
    ///
    /// Images (.mha, .mhd, .nii, .nii.gz, .hdr) of one name belong together, whatever their endings. Every image of the truth
    /// needs a prediction; predictions without truth are named and not counted. Voxels of the truth other than 0 are tumour.
    #[command(after_long_help = EXIT_CODES)]
    Panther(PantherArgs),
    /// Score detection maps with PANORAMA's metrics: AUROC of the patients, average precision and FROC of the lesions.
    ///
    /// A truth is an image <case> or <case>_label (.mha, .mhd, .nii, .nii.gz, .hdr). A prediction is an image <case> or
    /// <case>_detection_map, with the patient's likelihood in <case>.json or without, or a folder <case> as `run` leaves it. A case
    /// is ranked by its likelihood, or by the maximum of its map where no case has a likelihood. Every truth, or every
    /// case that --cases names, needs a prediction; predictions without truth are named and not counted.
    #[command(after_long_help = EXIT_CODES)]
    Panorama(PanoramaArgs),
    /// Score the detection of lesions on synthetic CTs, made here from seeds, with PANORAMA's metrics.
    ///
    /// Beside the table: how well the best threshold on the intensities inside the true pancreas would do.
    #[command(after_long_help = PHANTOMS_EXIT_CODES)]
    Phantoms(PhantomsArgs),
}

impl EvaluateArgs {
    /// How to log, where that can be chosen.
    pub fn logging(&self) -> Option<&LoggingArgs> {
        match &self.challenge {
            Challenge::Phantoms(args) => Some(&args.compute.logging),
            Challenge::Panther(_) | Challenge::Panorama(_) => None,
        }
    }
}

/// Scores what the arguments name.
pub fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    match &args.challenge {
        Challenge::Panther(args) => panther::evaluate(args),
        Challenge::Panorama(args) => panorama::evaluate(args),
        Challenge::Phantoms(args) => phantoms::evaluate(args),
    }
}

fn write_json(file: &Path, evaluation: &impl Serialize) -> Result<(), OutputError> {
    let write = |out: &mut dyn Write| {
        serde_json::to_writer_pretty(&mut *out, evaluation)?;
        writeln!(out)
    };
    write_whole(file, write).map_err(|source| OutputError::Io { path: file.to_owned(), source })
}
