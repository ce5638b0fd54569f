//! `validate`: whether an output folder keeps the rules.

use super::args::ValidateArgs;
use super::exit::BrokenRules;
use anyhow::ensure;
use pdac_cascade::challenge::{
    Apart, Case, CaseError, OutputForm, compare, task_of, task_of_outputs, validate as check,
};
use pdac_cascade::imaging::file::read_image;
use std::io::{self, Write};

/// How far values and likelihood may be from the expected ones.
const TOLERANCE: f64 = 1e-3;

/// Prints what the outputs are, and every rule that they break.
pub fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let task = match (args.task, &args.input) {
        (Some(task), _) => task.into(),
        (None, Some(input)) => task_of(input)?,
        (None, None) => task_of_outputs(&args.output),
    };
    let scan = match &args.input {
        Some(input) => {
            let image = Case::find(input, &task)?.image;
            Some(read_image(&image).map_err(CaseError::from)?.geometry)
        }
        None => None,
    };
    let mut checked = check(&args.output, &task, scan.as_ref());
    let mut out = io::stdout().lock();
    if let Some((name, image)) = &checked.image {
        let (size, lesions) = (image.geometry.size_xyz(), checked.lesions);
        let what = match task.output {
            OutputForm::Detection { .. } => "detection map",
            OutputForm::Segmentation { .. } => "segmentation",
        };
        writeln!(out, "{what} {name}: {size:?} voxels (x, y, z), lesions: {lesions}")?;
    }
    if let Some(likelihood) = checked.likelihood {
        writeln!(out, "likelihood {likelihood}")?;
    }
    if let Some(folder) = &args.expected {
        let expected = check(folder, &task, None);
        ensure!(expected.findings.is_empty(), BrokenRules::new(&expected.findings));
        match compare(&args.output, &mut checked, &expected, TOLERANCE) {
            Some(Apart::Detection { map, likelihood }) => {
                writeln!(out, "apart from the expected: map {map:.3e}, likelihood {likelihood:.3e}")?;
            }
            Some(Apart::Segmentation { voxels }) => {
                writeln!(out, "apart from the expected: {voxels} voxels")?;
            }
            None => {}
        }
    }
    for finding in &checked.findings {
        writeln!(out, "broken: {finding}")?;
    }
    ensure!(checked.findings.is_empty(), BrokenRules::new(&checked.findings));
    writeln!(out, "valid")?;
    Ok(())
}
