//! How dense the tissues of a patient are in the venous phase.

use super::dice::{Dice, Subject};
use super::point::mix;

/// Mean HU of tissues.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    /// Parenchyma of the pancreas, without its fat.
    pub parenchyma: f32,
    /// Liver.
    pub liver: f32,
    /// Spleen.
    pub spleen: f32,
    /// Cortex of the kidneys.
    pub kidney: f32,
    /// Portal vein and its tributaries.
    pub vein: f32,
    /// Arteries.
    pub aorta: f32,
    /// Lower vena cava and renal veins.
    pub cava: f32,
    /// Muscles.
    pub muscle: f32,
    /// Fat.
    pub fat: f32,
    /// Bile and the fluid of the pancreatic duct.
    pub bile: f32,
    /// Walls of stomach and bowels.
    pub bowel_wall: f32,
    /// Discs of the spine.
    pub disc: f32,
    /// The inside of bones.
    pub spongy: f32,
    /// The shell of bones.
    pub cortical: f32,
    /// Lungs.
    pub lung: f32,
    /// Deviation of the scanner's noise.
    pub noise: f32,
}

impl Levels {
    /// The levels of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Subject::Levels);
        // Timing and dose of the contrast agent move all enhanced tissues alike.
        let contrast = dice.between(0.0, 1.0);
        let mut enhanced = |low, high| mix(low, high, 0.55 * contrast + 0.45 * dice.between(0.0, 1.0));
        let parenchyma = enhanced(75.0, 120.0);
        let liver = enhanced(95.0, 125.0);
        let spleen = enhanced(110.0, 140.0);
        let kidney = enhanced(150.0, 200.0);
        let vein = enhanced(140.0, 190.0);
        let aorta = enhanced(130.0, 180.0);
        let cava = enhanced(110.0, 165.0);
        let bowel_wall = enhanced(75.0, 115.0);
        Self {
            parenchyma,
            liver,
            spleen,
            kidney,
            vein,
            aorta,
            cava,
            bowel_wall,
            muscle: dice.between(50.0, 65.0),
            fat: dice.between(-110.0, -90.0),
            bile: dice.between(5.0, 20.0),
            disc: dice.between(75.0, 100.0),
            spongy: dice.between(120.0, 240.0),
            cortical: dice.between(350.0, 600.0),
            lung: dice.between(-870.0, -790.0),
            noise: dice.between(8.0, 18.0),
        }
    }
}
