//! `validate`: whether an output folder keeps the rules.

use super::args::ValidateArgs;
use super::exit::BrokenRules;
use anyhow::ensure;
use pdac_cascade::challenge::{Case, CaseError, PANORAMA, compare, validate as check};
use pdac_cascade::imaging::file::read_image;
use std::io::{self, Write};

/// How far values and likelihood may be from the expected ones.
const TOLERANCE: f64 = 1e-3;

/// Prints what the outputs are, and every rule that they break.
pub fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let scan = match &args.input {
        Some(input) => {
            let image = Case::find(input, &PANORAMA)?.image;
            Some(read_image(&image).map_err(CaseError::from)?.geometry)
        }
        None => None,
    };
    let mut checked = check(&args.output, &PANORAMA, scan.as_ref());
    let mut out = io::stdout().lock();
    if let Some((name, map)) = &checked.map {
        let (size, lesions) = (map.geometry.size_xyz(), checked.lesions);
        writeln!(out, "detection map {name}: {size:?} voxels (x, y, z), lesions: {lesions}")?;
    }
    if let Some(likelihood) = checked.likelihood {
        writeln!(out, "likelihood {likelihood}")?;
    }
    if let Some(folder) = &args.expected {
        let expected = check(folder, &PANORAMA, None);
        ensure!(expected.findings.is_empty(), BrokenRules::new(&expected.findings));
        if let Some([map, likelihood]) = compare(&args.output, &mut checked, &expected, TOLERANCE) {
            writeln!(out, "apart from the expected: map {map:.3e}, likelihood {likelihood:.3e}")?;
        }
    }
    for finding in &checked.findings {
        writeln!(out, "broken: {finding}")?;
    }
    ensure!(checked.findings.is_empty(), BrokenRules::new(&checked.findings));
    writeln!(out, "valid")?;
    Ok(())
}
