//! `phantom`: a synthetic CT with labels.

use super::args::{json_path, mha_path};
use super::{case, exit, interrupt, run};
use clap::{Args, ValueEnum};
use pdac_cascade::challenge::OutputError;
use pdac_cascade::imaging::ImageError;
use pdac_cascade::imaging::Volume;
use pdac_cascade::imaging::file::{
    Compression, Unpublished, element::Element, folder_of, publish, write_unpublished_image,
};
use pdac_cascade::phantom::{Details, LesionKind, Phantom, Request};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub const EXIT_CODES: &str = "Exit codes:
  0    image, labels and details written
  1    unexpected error
  2    wrong arguments
  4    a file cannot be written
  6    image and labels need more memory than there is
  130  interrupted";

#[derive(Debug, Args)]
pub struct PhantomArgs {
    /// Which patient: with the same number the anatomy is the same, whatever the lesion and the grid.
    #[arg(long, value_name = "N")]
    seed: u64,
    /// Whether there is a lesion.
    #[arg(long, value_enum, value_name = "LESION")]
    lesion: LesionArg,
    #[command(flatten)]
    files: Files,
    /// Voxels [default: as --spacing leaves of the same field of view, or else 512 × 512 and as many slices as the seed says].
    #[arg(long, value_name = "X,Y,Z", value_parser = triple::<usize>)]
    size: Option<[usize; 3]>,
    /// Spacing in mm [default: as --size makes of the same field of view, or else as the seed says].
    #[arg(long, value_name = "X,Y,Z", value_parser = triple::<f64>)]
    spacing: Option<[f64; 3]>,
    /// Also write into this file what was drawn: lesion, ducts, noise and the like.
    #[arg(long, value_name = "FILE.json", value_parser = json_path)]
    details: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Files {
    /// Write the CT, int16 HU, into this file.
    #[arg(long, value_name = "FILE.mha", value_parser = mha_path)]
    image: Option<PathBuf>,
    /// Write the labels, uint8, into this file: 1 lesion, 2 veins, 3 arteries, 4 parenchyma, 5 pancreatic duct, 6 common bile duct.
    #[arg(long, value_name = "FILE.mha", value_parser = mha_path)]
    labels: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LesionArg {
    /// 8 to 40 mm.
    Yes,
    /// None.
    No,
    /// 5 to 12 mm.
    Small,
}

/// Three positive numbers with commas between them.
fn triple<T: FromStr + PartialOrd + Default + Copy>(text: &str) -> Result<[T; 3], String> {
    let numbers: Option<Vec<T>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match numbers.and_then(|numbers| <[T; 3]>::try_from(numbers).ok()) {
        Some(numbers) if numbers.iter().all(|&n| n > T::default()) => Ok(numbers),
        _ => Err("expected three numbers above 0: X,Y,Z".to_owned()),
    }
}

/// Makes the phantom that the arguments describe.
pub fn phantom(args: &PhantomArgs) -> anyhow::Result<()> {
    interrupt::listen(exit::INTERRUPTED.into(), || {});
    let Files { image: image_file, labels: labels_file } = &args.files;
    for file in [image_file, labels_file, &args.details].into_iter().flatten() {
        run::check_writable(file)?;
    }
    if let (Some(image), Some(labels)) = (image_file, labels_file)
        && is_same(image, labels)
    {
        let source = io::Error::other("named for the image and for the labels, expected two files");
        return Err(OutputError::Io { path: image.clone(), source }.into());
    }
    let lesion = match args.lesion {
        LesionArg::No => None,
        LesionArg::Yes => Some(LesionKind::Any),
        LesionArg::Small => Some(LesionKind::Small),
    };
    let request = Request { seed: args.seed, lesion, size: args.size, spacing: args.spacing };
    let phantom = Phantom::new(request)?;
    let (image, labels) = phantom.scan(case::memory())?;
    let (image, labels) = rayon::join(
        || unpublished(image_file.as_deref(), &image),
        || unpublished(labels_file.as_deref(), &labels),
    );
    let details =
        args.details.as_deref().map(|file| unpublished_details(file, phantom.details())).transpose()?;
    let files = [image?, labels?, details].into_iter().flatten().collect();
    Ok(publish(files).map_err(|(path, source)| OutputError::Io { path, source })?)
}

/// Whether two names are of one file, which need not be there.
fn is_same(a: &Path, b: &Path) -> bool {
    let folders = [a, b].map(|file| folder_of(file).canonicalize().ok());
    a.file_name() == b.file_name() && folders[0] == folders[1]
}

fn unpublished<T: Element>(file: Option<&Path>, volume: &Volume<T>) -> anyhow::Result<Option<Unpublished>> {
    let Some(file) = file else { return Ok(None) };
    match write_unpublished_image(file, volume, Compression::Zlib) {
        Ok(written) => Ok(Some(written)),
        Err(ImageError::Io { path, source }) => Err(OutputError::Io { path, source }.into()),
        Err(error) => Err(error.into()),
    }
}

fn unpublished_details(file: &Path, details: &Details) -> Result<Unpublished, OutputError> {
    Unpublished::write(file, |out: &mut dyn Write| -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, details)?;
        writeln!(out)
    })
    .map_err(|source| OutputError::Io { path: file.to_owned(), source })
}
