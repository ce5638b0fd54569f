//! Compares two output folders: `compare_outputs EXPECTED GOT`.
//!
//! Geometry must be equal, likelihoods and map values may differ by 1e-3; prints what it found.

use anyhow::{Context, ensure};
use pdac_cascade::challenge::PANORAMA;
use pdac_cascade::imaging::file::read_image;
use std::path::{Path, PathBuf};

const TOLERANCE: f64 = 1e-3;

fn only_image(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join(PANORAMA.output_image);
    let list = std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
    let images: Vec<PathBuf> = list.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    ensure!(images.len() == 1, "{}: holds {} files, expected one image", folder.display(), images.len());
    Ok(images[0].clone())
}

fn likelihood(folder: &Path) -> anyhow::Result<f64> {
    let file = folder.join(PANORAMA.output_number);
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}", file.display()))
}

fn main() -> anyhow::Result<()> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [expected, got] = folders.as_slice() else { anyhow::bail!("usage: compare_outputs EXPECTED GOT") };
    let [expected_file, got_file] = [only_image(expected)?, only_image(got)?];
    ensure!(expected_file.file_name() == got_file.file_name(), "images are named differently");
    let [a, b] = [read_image(&expected_file)?.into_f32_volume(), read_image(&got_file)?.into_f32_volume()];
    ensure!(a.geometry == b.geometry, "geometry differs: {:?} and {:?}", a.geometry, b.geometry);
    let map = a.data.iter().zip(&b.data).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let number = (likelihood(expected)? - likelihood(got)?).abs();
    println!("detection map differs by {map:.3e}, likelihood by {number:.3e}");
    ensure!(map <= TOLERANCE && number <= TOLERANCE, "more than {TOLERANCE}");
    Ok(())
}
