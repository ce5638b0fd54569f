//! `inspect`: the models of a weights folder and the plan of their networks.

use super::args::InspectArgs;
use super::weights;
use anyhow::Context;
use pdac_cascade::pipeline::Panorama;
use std::io::{self, Write};

/// Prints what the recipe runs.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let recipe = weights::find_recipe(&args.weights)?;
    let cascade = Panorama::open(&recipe)?;
    let mut out = io::stdout().lock();
    writeln!(out, "recipe   {}", recipe.display())?;
    if let Some(note) = cascade.note() {
        writeln!(out, "note     {note}")?;
    }
    for (stage, model) in cascade.models() {
        let configuration = &model.configuration;
        let folds: Vec<_> = model.folds.iter().map(ToString::to_string).collect();
        let plan = configuration
            .network
            .plan(configuration.patch_size)
            .with_context(|| format!("{}", model.path.display()))?;
        writeln!(out, "\n{stage}: {}", model.path.display())?;
        writeln!(out, "  trainer        {}", model.trainer_name)?;
        writeln!(out, "  configuration  {}", configuration.name)?;
        writeln!(out, "  checkpoint     {}, folds {}", model.checkpoint_name, folds.join(" "))?;
        writeln!(out, "  spacing (mm)   {:?} (z, y, x)", configuration.spacing)?;
        writeln!(out, "  patch          {:?} (z, y, x)", configuration.patch_size)?;
        writeln!(out, "  mirroring      axes {:?}", model.mirroring_axes)?;
        for line in plan.to_string().lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
