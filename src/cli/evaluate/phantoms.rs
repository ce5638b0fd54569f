//! `evaluate phantoms`: the detection of lesions scored on synthetic CTs that it makes itself.

use super::panorama::{Table, overlap, samples};
use super::write_json;
use crate::cli::args::{ComputeArgs, json_path};
use crate::cli::weights::WeightsFolder;
use crate::cli::{case, exit, interrupt, run};
use clap::Args;
use pdac_cascade::challenge::PANORAMA;
use pdac_cascade::evaluation::Bootstrap;
use pdac_cascade::evaluation::detection::Candidates;
use pdac_cascade::evaluation::intensity::{BestThreshold, IntensityBaseline};
use pdac_cascade::evaluation::panorama::{Evaluation, Options, ScoredCase};
use pdac_cascade::imaging::Volume;
use pdac_cascade::imaging::components::{Components, Connectivity};
use pdac_cascade::nnunet::predictor::{PredictError, TileProgress};
use pdac_cascade::phantom::{LesionKind, Phantom, PhantomError, Request, label};
use pdac_cascade::pipeline::{Answer, Detection, Observer, PipelineError, SystemRun};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The demonstration weights were trained on phantoms of lower seeds.
const HELD_OUT: u64 = 500_000;
/// What a threshold on intensity looks at.
const PANCREAS: [u8; 3] = [label::LESION, label::PARENCHYMA, label::DUCT];

#[derive(Debug, Args)]
pub struct PhantomsArgs {
    /// Number of phantoms: every second one has a lesion, every tenth of these a small one (5 to 12 mm).
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Seed of the first phantom; the others' follow. The demonstration weights were trained on seeds below 500000.
    #[arg(long, value_name = "SEED", default_value_t = HELD_OUT, value_parser = clap::value_parser!(u64).range(..=u64::MAX - 1_000_000))]
    first_seed: u64,
    /// Intersection over union, 0 to 1, from which a candidate finds a lesion.
    #[arg(long, value_name = "IOU", default_value_t = 0.15, value_parser = overlap)]
    min_overlap: f64,
    /// Samples of patients for the 95 % confidence intervals; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = samples)]
    bootstrap: usize,
    /// Also write the numbers into this file, under picai_eval's names.
    #[arg(long, value_name = "FILE.json", value_parser = json_path)]
    output: Option<PathBuf>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// All numbers.
#[derive(Debug, Serialize)]
struct Report {
    first_seed: u64,
    #[serde(flatten)]
    evaluation: Evaluation,
    /// The best threshold on the intensities inside the true pancreas.
    intensity_baseline: Option<BestThreshold>,
}

/// Stops where the user asks for it.
struct Watch;

impl Observer for Watch {
    fn stage(&self, _: &'static str) {}

    fn tile(&self, _: TileProgress) -> bool {
        !interrupt::requested()
    }
}

/// Makes phantoms, runs the cascade on each, and scores what it says.
pub fn evaluate(args: &PhantomsArgs) -> anyhow::Result<()> {
    interrupt::listen(exit::INTERRUPTED.into(), || {});
    if let Some(file) = &args.output {
        run::check_writable(file)?;
    }
    case::start_threads(&args.compute)?;
    if args.first_seed < HELD_OUT {
        tracing::warn!(
            "seeds below {HELD_OUT}: the demonstration weights may have been trained on these phantoms"
        );
    }
    let system = WeightsFolder::find(&args.compute.weights)?.open(&PANORAMA)?;
    let execution = case::execution_options(&args.compute)?;
    let system = system.begin(execution);
    let options = Options {
        min_overlap: args.min_overlap,
        lesion_label: label::LESION.into(),
        bootstrap: Bootstrap { samples: args.bootstrap, seed: 0 },
    };
    let (mut cases, mut baseline, mut time) = (Vec::new(), IntensityBaseline::default(), Duration::ZERO);
    thread::scope(|scope| {
        // One phantom is made while the one before it is scored.
        let (made, phantoms) = mpsc::sync_channel(0);
        scope.spawn(move || {
            let seeds = (0..args.count).map(|number| (args.first_seed + number, lesion_of(number)));
            let mut scans = seeds.map(|(seed, lesion)| Scan::make(seed, lesion));
            // Nobody takes them any more where scoring has failed.
            while scans.next().is_some_and(|scan| made.send(scan).is_ok()) {}
        });
        for scan in phantoms {
            let scan = scan?;
            let lesions = Components::find(&scan.labels.data, Connectivity::Corners, |&l| l == label::LESION);
            baseline.add(&scan.ct.data, &scan.labels.data, &PANCREAS, lesions.count() > 0);
            let (case, took) = score(&system, scan, &lesions, &options)?;
            cases.push(case);
            time += took;
        }
        anyhow::Ok(())
    })?;
    let seconds = time.as_secs_f64() / cases.len() as f64;
    tracing::info!("the cascade took {seconds:.2} s a phantom");
    let evaluation = Evaluation::of(&cases, &options);
    let report = Report { first_seed: args.first_seed, evaluation, intensity_baseline: baseline.best() };
    let mut out = io::stdout().lock();
    write!(out, "{}", Table(&report.evaluation))?;
    if let Some(BestThreshold { threshold_hu, auroc }) = report.intensity_baseline {
        writeln!(
            out,
            "share of the true pancreas below {threshold_hu} HU, the best threshold: AUROC {auroc:.4}"
        )?;
    }
    if let Some(file) = &args.output {
        write_json(file, &report)?;
    }
    Ok(())
}

/// The lesion of a phantom by its place in the list.
fn lesion_of(number: u64) -> Option<LesionKind> {
    match (number % 2, number % 20) {
        (0, _) => None,
        (_, 19) => Some(LesionKind::Small),
        _ => Some(LesionKind::Any),
    }
}

/// A phantom and what is true of it.
struct Scan {
    seed: u64,
    ct: Volume<i16>,
    labels: Volume<u8>,
    /// The lesion's diameter, if there is one.
    lesion_mm: Option<f32>,
}

impl Scan {
    fn make(seed: u64, lesion: Option<LesionKind>) -> Result<Self, PhantomError> {
        let phantom = Phantom::new(Request { seed, lesion, size: None, spacing: None })?;
        let (ct, labels) = phantom.scan(case::memory())?;
        let lesion_mm = phantom.details().findings.lesion.as_ref().map(|lesion| lesion.diameter_mm);
        Ok(Self { seed, ct, labels, lesion_mm })
    }
}

/// What the cascade says of a phantom, and how long it took.
fn score(
    system: &SystemRun<'_>,
    scan: Scan,
    lesions: &Components,
    options: &Options,
) -> anyhow::Result<(ScoredCase, Duration)> {
    let Scan { seed, ct, labels, lesion_mm } = scan;
    drop(labels);
    let ct = Volume::new(ct.data.mapv(f32::from), ct.geometry);
    let began = Instant::now();
    let Answer::Detection(Detection { map, likelihood, joined, .. }) = system.run(Arc::new(ct), &Watch)?
    else {
        anyhow::bail!("the recipe segments, expected one that detects");
    };
    let took = began.elapsed();
    let (head, of_map) = (joined.map(|l| l.head), joined.map(|l| l.map));
    let seconds = took.as_secs_f64();
    tracing::info!(seed, lesion_mm, likelihood, head, map = of_map, seconds, "scored");
    let (name, likelihood) = (format!("phantom-{seed}"), Some(likelihood));
    let candidates = Candidates::of(&map.data)?;
    let case = ScoredCase::new(name, lesions, &candidates, likelihood, joined, options, case::memory());
    Ok((case.map_err(PredictError::from).map_err(PipelineError::from)?, took))
}
