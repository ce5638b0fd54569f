//! Synthetic venous-phase CTs of the abdomen with labels: shapes from formulas and seeded random numbers.
//!
//! No patient's data went into them. A seed is a patient: with the same seed the anatomy in mm is the same whatever the
//! grid, and with or without a lesion but for the pancreas. The same options give the same voxels on any number of threads.

mod anatomy;
mod build;
mod dice;
mod error;
mod field;
mod layer;
mod levels;
mod noise;
mod point;
mod render;
mod shape;
mod texture;
mod warp;

pub use anatomy::{Finding, Findings, LesionKind, Part};
pub use error::PhantomError;
pub use layer::label;

use crate::imaging::{Geometry, MemoryGauge, Volume, memory};
use build::Build;
use dice::{Dice, Subject};
use field::Field;
use levels::Levels;
use render::Scene;
use serde::Serialize;
use texture::Marble;
use warp::Warp;

/// What phantom is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Which patient.
    pub seed: u64,
    /// With which lesion.
    pub lesion: Option<LesionKind>,
    /// Voxels in file order (x, y, z); without it what `spacing` leaves of the field of view, or the seed's own.
    pub size: Option<[usize; 3]>,
    /// Spacing in mm in file order (x, y, z); without it what `size` makes of the field of view, or the seed's own.
    pub spacing: Option<[f64; 3]>,
}

/// What is to be known of a phantom beside its voxels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Details {
    /// The seed.
    pub seed: u64,
    /// Voxels in file order (x, y, z).
    pub size: [usize; 3],
    /// Spacing in file order (x, y, z), mm.
    pub spacing: [f64; 3],
    /// Thickness of the slices, mm; thinner than their distance where the grid is coarser than the scanner's.
    pub slice_thickness_mm: f64,
    /// Deviation of the noise, HU.
    pub noise_hu: f32,
    /// Mean HU of the parenchyma without its fat.
    pub parenchyma_hu: f32,
    /// Turn of the patient about the long axis, degrees.
    pub rotation_degrees: f32,
    /// Width of the trunk, mm.
    pub body_width_mm: f32,
    /// Lesion, ducts and the gland's fat.
    #[serde(flatten)]
    pub findings: Findings,
}

/// A patient on the scanner's table, not scanned yet.
pub struct Phantom {
    scene: Scene,
    geometry: Geometry,
    details: Details,
}

impl Phantom {
    /// The phantom that is asked for.
    ///
    /// # Errors
    /// [`PhantomError::Grid`] if there is no grid of this size and spacing.
    pub fn new(request: Request) -> Result<Self, PhantomError> {
        let Request { seed, lesion, size, spacing } = request;
        let (build, levels, warp) = (Build::new(seed), Levels::new(seed), Warp::new(seed));
        let Field { geometry, thickness } = Field::new(seed, &build, &warp, size, spacing)?;
        let (structures, findings) = anatomy::structures(seed, &build, &levels, &warp, lesion);
        let details = Details {
            seed,
            size: geometry.size_xyz(),
            spacing: geometry.spacing_xyz(),
            slice_thickness_mm: thickness,
            noise_hu: levels.noise,
            parenchyma_hu: levels.parenchyma,
            rotation_degrees: warp.degrees,
            body_width_mm: build.width(),
            findings,
        };
        let noise_seed = Dice::new(seed, Subject::Noise).bits();
        let marble = Marble::new(seed);
        let scene = Scene { structures, marble, warp, noise_hu: levels.noise, noise_seed, thickness };
        Ok(Self { scene, geometry, details })
    }

    /// What is to be known of it.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// The CT in HU and the labels (see [`label`]).
    ///
    /// # Errors
    /// [`PhantomError::Memory`] if there is not the memory for both and for compressing them.
    pub fn scan(&self, memory: MemoryGauge) -> Result<(Volume<i16>, Volume<u8>), PhantomError> {
        let voxel = size_of::<i16>() + size_of::<u8>();
        // Compressed they are hardly larger, and the vectors that they are compressed into grow by doubling.
        memory.check("image and labels", memory::bytes(&self.geometry.shape, 3 * voxel))?;
        Ok(self.scene.render(&self.geometry))
    }
}
