//! `inspect`: the models of a weights folder and the plans of their networks.

use super::args::InspectArgs;
use super::weights::WeightsFolder;
use anyhow::Context;
use pdac_cascade::nnunet::model_folder::ModelFolder;
use std::io::{self, Write};

/// Prints what each recipe runs.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for (number, (task, recipe, system)) in
        WeightsFolder::find(&args.weights)?.open_all()?.into_iter().enumerate()
    {
        if number > 0 {
            writeln!(out)?;
        }
        writeln!(out, "task     {}", task.task)?;
        writeln!(out, "recipe   {}", recipe.display())?;
        if let Some(note) = system.note() {
            writeln!(out, "note     {note}")?;
        }
        for (stage, model) in system.models() {
            print_model(&mut out, &stage, model)?;
        }
    }
    Ok(())
}

fn print_model(out: &mut impl Write, stage: &str, model: &ModelFolder) -> anyhow::Result<()> {
    let configuration = &model.configuration;
    let folds: Vec<_> = model.folds.iter().map(ToString::to_string).collect();
    let plan = configuration
        .network
        .plan_in_parts(configuration.patch_size)
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
    Ok(())
}
