//! The arguments.

use clap::{Args, Parser, Subcommand, ValueEnum};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::{Isa, Precision};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes:
  0    outputs written
  1    unexpected error
  2    wrong arguments
  3    the input image is missing, ambiguous, unreadable or not a scalar 3-D image of finite values
  4    the outputs cannot be written
  5    the weights or their recipe are missing, malformed or do not fit each other
  6    the scan or the networks need more memory than there is
  130  interrupted";

/// Finds pancreatic ductal adenocarcinoma in contrast-enhanced CT with a cascade of 3-D U-Nets.
///
/// Without a command, `run`. The weights shipped with the program are demonstration weights trained on synthetic
/// phantoms: unfit for patients.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read the scan under the input folder and write detection map and likelihood.
    #[command(after_long_help = EXIT_CODES)]
    Run(RunArgs),
    /// Show the models of a weights folder and their networks, step by step.
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Folder with images/venous-ct/<scan>.mha (or .mhd, .nii, .nii.gz, .hdr).
    #[arg(long, value_name = "DIR", default_value = "/input")]
    pub input: PathBuf,
    /// Folder for images/pdac-detection-map/<scan>.mha and pdac-likelihood.json.
    #[arg(long, value_name = "DIR", default_value = "/output")]
    pub output: PathBuf,
    #[command(flatten)]
    pub weights: WeightsArg,
    /// Worker threads [default: the container's CPU quota, rounded up, or as many as the process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Precision of the sums over tiles and folds; float16 reproduces nnU-Net's own rounding.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = AccumulateArg::Float32)]
    pub accumulate: AccumulateArg,
    /// Instruction set of the networks' arithmetic [default: the fastest of this processor].
    #[arg(long, value_enum, value_name = "SET")]
    pub cpu_isa: Option<IsaArg>,
    /// Precision of the networks' products; bf16 is faster, inexact, and float32 where the instruction set is not amx.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = PrecisionArg::F32)]
    pub precision: PrecisionArg,
    /// Also draw the detection map over the CT into this PNG file.
    #[arg(long, value_name = "FILE.png", value_parser = png_path)]
    pub overlay: Option<PathBuf>,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

#[derive(Debug, Args)]
pub struct WeightsArg {
    /// Folder with panorama/pipeline.json [default: the first of /opt/ml/model, weights beside the program, ./weights].
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// Say nothing but warnings and errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// Form of the log lines on standard error.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogForm::Text)]
    pub log: LogForm,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub weights: WeightsArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Lines for people, with progress bars on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccumulateArg {
    Float32,
    Float16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsaArg {
    /// Matrix tiles of bfloat16, beside AVX-512.
    Amx,
    /// 512-bit vectors.
    Avx512,
    /// 256-bit vectors.
    Avx2,
    /// Plain code for any processor.
    Portable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    F32,
    Bf16,
}

/// A path that ends in `.png`, so that no scan or output is overwritten by a slip.
fn png_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
        Ok(path)
    } else {
        Err("the name must end in .png".to_owned())
    }
}

impl From<AccumulateArg> for Accumulate {
    fn from(arg: AccumulateArg) -> Self {
        match arg {
            AccumulateArg::Float32 => Self::Float32,
            AccumulateArg::Float16 => Self::Float16,
        }
    }
}

impl From<IsaArg> for Isa {
    fn from(arg: IsaArg) -> Self {
        match arg {
            IsaArg::Amx => Self::Amx,
            IsaArg::Avx512 => Self::Avx512,
            IsaArg::Avx2 => Self::Avx2,
            IsaArg::Portable => Self::Portable,
        }
    }
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

impl Command {
    /// Form of the log lines.
    pub fn log(&self) -> LogForm {
        match self {
            Self::Run(args) => args.logging.log,
            Self::Inspect(_) => LogForm::Text,
        }
    }

    /// Whether only warnings and errors are logged.
    pub fn quiet(&self) -> bool {
        matches!(self, Self::Run(args) if args.logging.quiet)
    }
}
