//! How dense the tissues of a patient are in the venous phase.

use super::dice::{Dice, Subject};
use super::point::mix;

/// Mean HU of tissues.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the tissues' names say all")]
pub struct Levels {
    pub parenchyma: f32,
    pub liver: f32,
    pub spleen: f32,
    pub kidney: f32,
    pub vein: f32,
    pub aorta: f32,
    pub cava: f32,
    pub muscle: f32,
    pub fat: f32,
    pub bile: f32,
    pub bowel_wall: f32,
    pub disc: f32,
    pub spongy: f32,
    pub cortical: f32,
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
            noise: dice.between(8.0, 22.0),
        }
    }
}
