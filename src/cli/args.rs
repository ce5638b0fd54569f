//! The arguments.

use super::device::DeviceArg;
use super::evaluate::EvaluateArgs;
use super::phantom::{self, PhantomArgs};
use clap::{Args, Parser, Subcommand, ValueEnum};
use pdac_cascade::challenge::{Interface, PANORAMA, PANTHER_T1, PANTHER_T2};
use pdac_cascade::nnunet::sliding_window::Accumulate;
use pdac_cascade::ops::{Isa, Precision};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Environment variable that says how the platform calls the container.
pub const API_METHOD: &str = "PDAC_CASCADE_API_METHOD";
/// Where the platform asks.
const PLATFORM_PORT: u16 = 4743;
const ANY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const EXIT_CODES: &str = "Exit codes:
  0    outputs written; the server was told to end; the outputs keep the rules
  1    unexpected error
  2    wrong arguments
  3    the input image is missing, ambiguous, unreadable, not a scalar 3-D image of finite values, or no MRI where one is expected
  4    the outputs cannot be written
  5    the weights or their recipe are missing, malformed or do not fit each other
  6    the scan or the networks need more memory than there is
  7    the outputs break a rule (validate)
  8    the GPU demanded with --device cannot be used, or failed, or computes something else than the CPU (self-check)
  130  interrupted";

/// Finds pancreatic ductal adenocarcinoma in contrast-enhanced CT and segments pancreatic tumours in MRI with 3-D U-Nets.
///
/// Which of these is to be done is read from the input folder.
///
/// Without a command, `run`, or `serve` where the environment variable PDAC_CASCADE_API_METHOD is `invoke`. The log goes to
/// standard error; where that variable is set, lines that are no warnings go to standard output.
///
/// The weights shipped with the program are demonstration weights trained on synthetic phantoms: unfit for patients.
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
    /// Read the scan under the input folder and write detection map and likelihood, or the tumour's segmentation.
    #[command(after_long_help = EXIT_CODES)]
    Run(RunArgs),
    /// Answer the platform's HTTP requests: GET /health, and POST /invoke for each case.
    #[command(after_long_help = EXIT_CODES)]
    Serve(ServeArgs),
    /// Check an output folder by the rules of the platform and the evaluator.
    #[command(after_long_help = EXIT_CODES)]
    Validate(ValidateArgs),
    /// Run a built-in synthetic case on the CPU and on the GPU, and compare.
    #[command(after_long_help = EXIT_CODES)]
    SelfCheck(SelfCheckArgs),
    /// Show the models of a weights folder and their networks, step by step.
    Inspect(InspectArgs),
    /// Score predictions as a challenge does.
    Evaluate(EvaluateArgs),
    /// Make a synthetic abdominal CT with labels.
    ///
    /// No patient's data went into it. The same options give the same files, on any number of threads.
    #[command(after_long_help = phantom::EXIT_CODES)]
    Phantom(PhantomArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub case: CaseArgs,
    /// Also draw the detection map or the segmentation over the scan into this PNG file.
    #[arg(long, value_name = "FILE.png", value_parser = png_path)]
    pub overlay: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub case: CaseArgs,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = ANY_ADDRESS)]
    pub host: IpAddr,
    /// Port to listen on.
    #[arg(long, value_name = "N", default_value_t = PLATFORM_PORT)]
    pub port: u16,
}

/// What it takes to run cases.
#[derive(Debug, Args)]
pub struct CaseArgs {
    /// Folder with images/venous-ct/<scan>.mha, images/abdominal-t1-mri/… or images/abdominal-t2-mri/… (or .mhd, .nii, .nii.gz, .hdr).
    #[arg(long, value_name = "DIR", default_value = "/input")]
    pub input: PathBuf,
    /// Folder for images/pdac-detection-map/<scan>.mha and pdac-likelihood.json, or images/pancreatic-tumor-segmentation/<scan>.mha.
    #[arg(long, value_name = "DIR", default_value = "/output")]
    pub output: PathBuf,
    /// The task, where the input folder holds the images of several [default: the one whose image it holds].
    #[arg(long, value_enum, value_name = "TASK")]
    pub task: Option<TaskArg>,
    /// Seconds that a case may take: the first tile is timed, then mirroring, overlap of tiles, folds and members are given up, in
    /// this order and as far as needed, and run-report.json tells which [default: nothing is left out].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub time_budget: Option<Duration>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Args)]
pub struct SelfCheckArgs {
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// What computes, and with which weights.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    #[command(flatten)]
    pub weights: WeightsArg,
    /// Where the networks run: auto (the first GPU if it can be used, otherwise the CPU), cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceArg,
    /// Worker threads [default: the container's CPU quota, rounded up, or as many as the process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Precision of the sums over tiles and folds; float16 reproduces nnU-Net's own rounding.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = AccumulateArg::Float32)]
    pub accumulate: AccumulateArg,
    /// Instruction set of the networks' arithmetic on the CPU [default: the fastest of this processor].
    #[arg(long, value_enum, value_name = "SET")]
    pub cpu_isa: Option<IsaArg>,
    /// Precision of the networks' products [default: f16 on a GPU, f32 on the CPU]; bf16 is for the CPU: faster, inexact, and
    /// float32 where the instruction set is not amx.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub precision: Option<PrecisionArg>,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

#[derive(Debug, Args)]
pub struct WeightsArg {
    /// Folder with panorama/pipeline.json, panther-t1/pipeline.json or panther-t2/pipeline.json [default: the first of /opt/ml/model, weights beside the program, ./weights].
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// Say nothing but warnings and errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// Form of the log lines.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogForm::Text)]
    pub log: LogForm,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Folder with images/pdac-detection-map/<scan>.mha and pdac-likelihood.json, or images/pancreatic-tumor-segmentation/<scan>.mha.
    #[arg(long, value_name = "DIR", default_value = "/output")]
    pub output: PathBuf,
    /// The task [default: that of the input folder, or else the one whose outputs are there].
    #[arg(long, value_enum, value_name = "TASK")]
    pub task: Option<TaskArg>,
    /// Also check that the image lies on the grid of the scan in this input folder.
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// Also check that the outputs are those in this folder: values to 0.001, segmentations but for 1 in 100 of the tumour's voxels.
    #[arg(long, value_name = "DIR")]
    pub expected: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub weights: WeightsArg,
}

/// Names as the weights' folders have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskArg {
    /// Detection in a CT of the venous phase.
    Panorama,
    /// Segmentation in a T1-weighted MRI.
    PantherT1,
    /// Segmentation in a T2-weighted MRI.
    PantherT2,
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
    F16,
    Bf16,
}

/// A path that ends in `.` and `ending`, so that nothing else is overwritten by a slip.
fn path_ending(text: &str, ending: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending)) {
        Ok(path)
    } else {
        Err(format!("the name must end in .{ending}"))
    }
}

fn png_path(text: &str) -> Result<PathBuf, String> {
    path_ending(text, "png")
}

pub fn json_path(text: &str) -> Result<PathBuf, String> {
    path_ending(text, "json")
}

pub fn mha_path(text: &str) -> Result<PathBuf, String> {
    path_ending(text, "mha")
}

/// A number of seconds above 0.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a number of seconds above 0".to_owned()),
    }
}

impl From<TaskArg> for Interface {
    fn from(arg: TaskArg) -> Self {
        match arg {
            TaskArg::Panorama => PANORAMA,
            TaskArg::PantherT1 => PANTHER_T1,
            TaskArg::PantherT2 => PANTHER_T2,
        }
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

/// Of the CPU.
impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 | PrecisionArg::F16 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

impl Cli {
    /// The command to run; without one, what the platform's way of calling (`exec` or `invoke`) asks for.
    pub fn into_command(self, api_method: Option<&str>) -> Result<Command, String> {
        match (self.command, api_method) {
            (Some(command), _) => Ok(command),
            (None, None | Some("" | "exec")) => Ok(Command::Run(self.run)),
            (None, Some("invoke")) if self.run.overlay.is_some() => {
                Err("--overlay is for one case; name the command run".to_owned())
            }
            (None, Some("invoke")) => {
                Ok(Command::Serve(ServeArgs { case: self.run.case, host: ANY_ADDRESS, port: PLATFORM_PORT }))
            }
            (None, Some(other)) => Err(format!("{API_METHOD} is {other:?}, expected \"exec\" or \"invoke\"")),
        }
    }
}

impl Command {
    fn logging(&self) -> Option<&LoggingArgs> {
        match self {
            Self::Run(args) => Some(&args.case.compute.logging),
            Self::Serve(args) => Some(&args.case.compute.logging),
            Self::SelfCheck(args) => Some(&args.compute.logging),
            Self::Evaluate(args) => args.logging(),
            Self::Validate(_) | Self::Inspect(_) | Self::Phantom(_) => None,
        }
    }

    /// Whether the platform calls it; its standard output then is a log and nothing else.
    pub fn is_for_platform(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Serve(_))
    }

    /// Form of the log lines.
    pub fn log(&self) -> LogForm {
        self.logging().map_or(LogForm::Text, |logging| logging.log)
    }

    /// Whether only warnings and errors are logged.
    pub fn quiet(&self) -> bool {
        self.logging().is_some_and(|logging| logging.quiet)
    }
}
