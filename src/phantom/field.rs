//! The grid that the scanner reconstructs.

use super::build::Build;
use super::dice::{Dice, Subject};
use super::error::PhantomError;
use super::warp::Warp;
use crate::imaging::file::MAX_BYTES;
use crate::imaging::geometry::{Geometry, IDENTITY};
use crate::imaging::memory;
use std::ops::RangeInclusive;

/// Voxels along x and y unless told otherwise.
const MATRIX: usize = 512;
/// Range of the scanner's own pixels in mm.
const PIXEL: [f64; 2] = [0.6, 0.9];
/// Slice distances in mm that scanners are set to.
const SLICES: [f64; 9] = [1.0, 1.25, 1.5, 2.0, 2.5, 2.5, 3.0, 4.0, 5.0];

/// Where and how finely a patient is scanned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// The grid.
    pub geometry: Geometry,
    /// Thickness of a slice, mm.
    pub thickness: f64,
}

impl Field {
    /// The grid of a seed: its own size and spacing, or those given, both in file order (x, y, z).
    ///
    /// What is covered does not depend on `size` or `spacing` alone: each follows from the other. Slices coarser than
    /// the seed's own leave gaps.
    ///
    /// # Errors
    /// [`PhantomError::Grid`] if there is no such grid.
    pub fn new(
        seed: u64,
        build: &Build,
        warp: &Warp,
        size: Option<[usize; 3]>,
        spacing: Option<[f64; 3]>,
    ) -> Result<Self, PhantomError> {
        let mut dice = Dice::new(seed, Subject::Field);
        let wide = f64::from(build.width() * dice.between(1.03, 1.16));
        let pixel = (wide / MATRIX as f64).clamp(PIXEL[0], PIXEL[1]);
        let slice = SLICES[dice.below(SLICES.len())];
        let (below, above) = (dice.between(80.0, 140.0), dice.between(80.0, 160.0));
        let slices = (f64::from(below + above) / slice).round();
        let own = [pixel, pixel, slice].map(|s| (s * 1000.0).round() / 1000.0);
        let covered = [own[0] * MATRIX as f64, own[1] * MATRIX as f64, own[2] * slices];
        let atlas = [dice.normal(6.0), dice.normal(5.0), 0.0];
        let mut centre = warp.to_scanner(atlas).map(f64::from);
        centre[2] += f64::from(above - below) / 2.0;
        let (size, spacing) = match (size, spacing) {
            (None, None) => ([MATRIX, MATRIX, slices as usize], own),
            (Some(size), None) => (size, std::array::from_fn(|a| covered[a] / size[a] as f64)),
            (None, Some(spacing)) => (std::array::from_fn(|a| voxels(covered[a], spacing[a])), spacing),
            (Some(size), Some(spacing)) => (size, spacing),
        };
        check(size, spacing)?;
        let origin = std::array::from_fn(|a| {
            let first = centre[a] - spacing[a] * (size[a] as f64 - 1.0) / 2.0;
            (first * 1000.0).round() / 1000.0
        });
        let [x, y, z] = size;
        let geometry = Geometry {
            shape: [z, y, x],
            spacing: [spacing[2], spacing[1], spacing[0]],
            origin,
            direction: IDENTITY,
        };
        Ok(Self { geometry, thickness: own[2].min(spacing[2]) })
    }
}

/// Spacings that a grid can have, mm, generously.
const SPACINGS: RangeInclusive<f64> = 0.001..=1000.0;

/// As many voxels as cover a length, at least one.
fn voxels(covered: f64, spacing: f64) -> usize {
    (covered / spacing).round().max(1.0) as usize
}

fn check(size: [usize; 3], spacing: [f64; 3]) -> Result<(), PhantomError> {
    if size.contains(&0) {
        return Err(PhantomError::Grid(format!("size (x, y, z) is {size:?}, must be positive")));
    }
    if !spacing.iter().all(|s| SPACINGS.contains(s)) {
        let (least, most) = (SPACINGS.start(), SPACINGS.end());
        let what = format!("spacing (x, y, z) is {spacing:?} mm, needs three numbers from {least} to {most}");
        return Err(PhantomError::Grid(what));
    }
    // The limit of files that can be read back.
    if memory::bytes(&size, size_of::<f32>()) > u128::from(MAX_BYTES) {
        let most = MAX_BYTES / size_of::<f32>() as u64;
        return Err(PhantomError::Grid(format!("size (x, y, z) is {size:?}, more than {most} voxels")));
    }
    Ok(())
}
