//! `evaluate panther`: segmentations scored.

use super::write_json;
use crate::cli::args::json_path;
use crate::cli::{case, run};
use clap::Args;
use pdac_cascade::evaluation::Pairs;
use pdac_cascade::evaluation::panther::{self, AxisOrder, Evaluation};
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct PantherArgs {
    /// Folder with the right segmentations.
    #[arg(long, value_name = "DIR")]
    truth: PathBuf,
    /// Folder with the segmentations to be scored.
    #[arg(long, value_name = "DIR")]
    prediction: PathBuf,
    /// Also write the numbers into this file, in the form of the challenge's script.
    #[arg(long, value_name = "FILE.json", value_parser = json_path)]
    output: Option<PathBuf>,
    /// Exchange the spacings along x and z, as the challenge's public script does, for comparison with its numbers.
    #[arg(long)]
    challenge_axis_order: bool,
}

/// Scores the segmentations of a folder.
pub fn evaluate(args: &PantherArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.output {
        run::check_writable(file)?;
    }
    let Pairs { pairs, without_truth } = Pairs::find(&args.truth, &args.prediction)?;
    for prediction in without_truth {
        tracing::warn!("{}: not counted, there is no truth of this name", prediction.display());
    }
    let order = if args.challenge_axis_order { AxisOrder::Challenge } else { AxisOrder::Right };
    let evaluation = panther::evaluate(&pairs, order, case::memory())?;
    write!(io::stdout().lock(), "{}", Table(&evaluation))?;
    if let Some(file) = &args.output {
        write_json(file, &evaluation)?;
    }
    Ok(())
}

/// The numbers for people: a line for each case, then the means.
struct Table<'a>(&'a Evaluation);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evaluation { per_subject, aggregates } = self.0;
        let names = per_subject.iter().map(|case| case.subject.chars().count());
        let width = names.max().unwrap_or(0).max("case".len());
        let columns = ["Dice", "surface Dice", "HD95 mm", "MASD mm", "truth mm³", "prediction mm³"];
        let [dice, surface, hd95, masd, truth, prediction] = columns;
        writeln!(
            f,
            "{:width$}  {dice:>6}  {surface}  {hd95:>8}  {masd:>8}  {truth:>12}  {prediction}",
            "case"
        )?;
        for case in per_subject {
            let s = &case.scores;
            write_scores(
                f,
                &case.subject,
                width,
                [s.volumetric_dice, s.surface_dice, s.hausdorff95, s.masd],
            )?;
            writeln!(f, "  {:12.2}  {:14.2}", s.gt_volume, s.pred_volume)?;
        }
        let a = aggregates;
        let means = [a.mean_volumetric_dice, a.mean_surface_dice, a.mean_hausdorff95, a.mean_masd];
        write_scores(f, "mean", width, means)?;
        writeln!(f, "\ntumour burden RMSE {:.2} mm³", a.tumor_burden_rmse)
    }
}

fn write_scores(f: &mut fmt::Formatter<'_>, name: &str, width: usize, scores: [f64; 4]) -> fmt::Result {
    let [dice, surface, hd95, masd] = scores;
    write!(f, "{name:width$}  {dice:6.4}  {surface:12.4}  {hd95:8.3}  {masd:8.3}")
}
