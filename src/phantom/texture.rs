//! Smooth randomness in space: waves for outlines and marble for the inside of tissues.

use super::dice::{Dice, Subject};
use super::point::{Point, length, scale};
use std::f32::consts::SQRT_2;

/// A number whose addition rounds to a whole one; libm's rounding is a call.
const ROUNDING: f32 = 12_582_912.0;

/// Sine of an angle in turns, to 0.06: quick, and good enough for randomness.
fn sine(turns: f32) -> f32 {
    let t = turns - ((turns + ROUNDING) - ROUNDING);
    8.0 * t - 16.0 * t * t.abs()
}

const WAVES: usize = 4;

/// A sum of plane waves of random direction and phase; mean 0, deviation 1.
#[derive(Debug, Clone)]
pub struct Waves {
    /// Turns per mm along x, y and z.
    turns: [[f32; WAVES]; 3],
    phases: [f32; WAVES],
}

impl Waves {
    /// Waves about `length` mm long.
    pub fn new(dice: &mut Dice, length: f32) -> Self {
        let (mut turns, mut phases) = ([[0.0; WAVES]; 3], [0.0; WAVES]);
        for number in 0..WAVES {
            let wave = scale(dice.direction(), 1.0 / (length * dice.between(0.7, 1.4)));
            (0..3).for_each(|axis| turns[axis][number] = wave[axis]);
            phases[number] = dice.between(0.0, 1.0);
        }
        Self { turns, phases }
    }

    /// The value at a point.
    pub fn at(&self, p: Point) -> f32 {
        let [x, y, z] = &self.turns;
        let each: [f32; WAVES] =
            std::array::from_fn(|n| sine(x[n] * p[0] + y[n] * p[1] + z[n] * p[2] + self.phases[n]));
        each.iter().sum::<f32>() * (SQRT_2 / (WAVES as f32).sqrt())
    }

    /// More than the value can change per mm.
    pub fn steepness(&self) -> f32 {
        // 8 is the steepest slope of [`sine`].
        let lengths = (0..WAVES).map(|n| length(self.turns.map(|turns| turns[n])));
        lengths.sum::<f32>() * 8.0 * SQRT_2 / (WAVES as f32).sqrt()
    }

    /// No value is larger than this.
    pub const LARGEST: f32 = 2.9;
}

/// Cells along each side of the marble; a power of two.
const SIDE: usize = 64;
/// Cells from one coarse feature to the next.
const FEATURE: usize = 8;

/// A periodic block of smooth random numbers of mean 0 and deviation 1.
pub struct Marble(Vec<f32>);

impl Marble {
    /// The marble of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Subject::Marble);
        let mut cells = vec![0.0; SIDE * SIDE * SIDE];
        for (step, weight) in [(FEATURE, 1.0), (FEATURE / 2, 0.5), (FEATURE / 4, 0.25)] {
            add_octave(&mut cells, &mut dice, step, weight);
        }
        let mean = cells.iter().sum::<f32>() / cells.len() as f32;
        let variance = cells.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / cells.len() as f32;
        let deviation = variance.sqrt();
        cells.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
        Self(cells)
    }

    /// The number at a point of a texture whose features are `feature` mm apart.
    pub fn at(&self, p: Point, feature: f32) -> f32 {
        let cells_per_mm = FEATURE as f32 / feature;
        // Large enough an offset that casting cuts off downwards.
        let [x, y, z] = p.map(|v| (v * cells_per_mm + 65536.0) as usize & (SIDE - 1));
        self.0[(z * SIDE + y) * SIDE + x]
    }
}

/// Adds random numbers given every `step` cells, smoothly interpolated.
fn add_octave(cells: &mut [f32], dice: &mut Dice, step: usize, weight: f32) {
    let side = SIDE / step;
    let knots: Vec<f32> = (0..side * side * side).map(|_| dice.between(-weight, weight)).collect();
    let knot = |z: usize, y: usize, x: usize| knots[((z % side) * side + y % side) * side + x % side];
    let split = |i: usize| {
        let t = (i % step) as f32 / step as f32;
        (i / step, t * t * (3.0 - 2.0 * t))
    };
    for (index, cell) in cells.iter_mut().enumerate() {
        let ((z, tz), (y, ty), (x, tx)) =
            (split(index / SIDE / SIDE), split(index / SIDE % SIDE), split(index % SIDE));
        let row = |z, y| knot(z, y, x) * (1.0 - tx) + knot(z, y, x + 1) * tx;
        let sheet = |z| row(z, y) * (1.0 - ty) + row(z, y + 1) * ty;
        *cell += sheet(z) * (1.0 - tz) + sheet(z + 1) * tz;
    }
}
