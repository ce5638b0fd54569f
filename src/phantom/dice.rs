//! The seeded random draws of which a patient consists.

use super::point::{Point, unit};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is drawn; each subject has draws of its own, so that a change to one leaves the others as they are.
#[derive(Debug, Clone, Copy)]
pub enum Subject {
    /// Grid and position of the patient.
    Field,
    /// Size and fat.
    Build,
    /// HU of the tissues.
    Levels,
    /// The smooth deformation of everything.
    Warp,
    /// Trunk, muscles, lungs.
    Trunk,
    /// Bones.
    Skeleton,
    /// Liver, spleen, kidneys and the like.
    Organs,
    /// Stomach and bowels.
    Bowel,
    /// Arteries and veins.
    Vessels,
    /// Pancreas and ducts.
    Pancreas,
    /// The lesion and what it does to the ducts.
    Lesion,
    /// Texture inside tissues.
    Marble,
    /// Noise of the scanner.
    Noise,
}

/// Random numbers of one subject of one seed.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The draws of a subject.
    pub fn new(seed: u64, subject: Subject) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(subject as u64);
        Self(rng)
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// True in this share of draws.
    pub fn chance(&mut self, share: f32) -> bool {
        self.0.random::<f32>() < share
    }

    /// A number below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }

    /// Nearly Gaussian about 0, never beyond 3.5 deviations.
    pub fn normal(&mut self, deviation: f32) -> f32 {
        let sum: f32 = (0..4).map(|_| self.between(-1.0, 1.0)).sum();
        deviation * sum * 0.75_f32.sqrt()
    }

    /// A point near another, `deviation` mm along each axis.
    pub fn near(&mut self, p: Point, deviation: f32) -> Point {
        p.map(|v| v + self.normal(deviation))
    }

    /// Any direction.
    pub fn direction(&mut self) -> Point {
        unit([self.normal(1.0), self.normal(1.0), self.normal(1.0)])
    }
}
