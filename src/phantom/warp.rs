//! From the scanner's millimetres to those of the atlas in which the anatomy is laid out.

use super::dice::{Dice, Subject};
use super::point::{Point, add, scale, sub};
use super::texture::Waves;

/// Where a patient lies and how the whole anatomy is bent.
pub struct Warp {
    /// Scanner position of the atlas' origin.
    centre: Point,
    cos: f32,
    sin: f32,
    bends: [(Waves, f32); 3],
    /// Turn of the patient about the long axis, degrees.
    pub degrees: f32,
}

/// Rounds of finding the point that is bent to a given one; each gains more than half a digit.
const ROUNDS: usize = 24;

impl Warp {
    /// The position and bend of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Subject::Warp);
        let centre = [dice.normal(4.0), dice.between(-190.0, -150.0), dice.between(-400.0, 400.0)];
        let degrees = dice.between(-8.0, 8.0);
        let (sin, cos) = degrees.to_radians().sin_cos();
        let bends = [3.0, 3.0, 4.0].map(|height| (Waves::new(&mut dice, 230.0), height));
        Self { centre, cos, sin, bends, degrees }
    }

    /// The atlas' point at a scanner's.
    pub fn to_atlas(&self, p: Point) -> Point {
        let [x, y, z] = sub(p, self.centre);
        self.bend([self.cos * x + self.sin * y, self.cos * y - self.sin * x, z])
    }

    fn bend(&self, p: Point) -> Point {
        add(p, std::array::from_fn(|a| self.bends[a].1 * self.bends[a].0.at(p)))
    }

    /// The scanner's point at an atlas'.
    pub fn to_scanner(&self, q: Point) -> Point {
        let [x, y, z] = (0..ROUNDS).fold(q, |p, _| add(p, sub(q, self.bend(p))));
        add([self.cos * x - self.sin * y, self.cos * y + self.sin * x, z], self.centre)
    }

    /// How many atlas millimetres a scanner's is about a scanner's point, mean of all directions.
    pub fn stretch(&self, p: Point) -> f32 {
        let step = 2.0;
        let slope = |axis: usize| {
            let [mut ahead, mut behind] = [p; 2];
            ahead[axis] += step;
            behind[axis] -= step;
            scale(sub(self.to_atlas(ahead), self.to_atlas(behind)), 0.5 / step)
        };
        let [a, b, c] = [slope(0), slope(1), slope(2)];
        super::point::dot(a, super::point::cross(b, c)).abs().cbrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phantom::point::length;

    #[test]
    fn to_scanner_undoes_to_atlas() {
        let warp = Warp::new(7);
        for q in [[0.0, 0.0, 0.0], [90.0, 20.0, 30.0], [-60.0, -40.0, -110.0]] {
            let back = warp.to_atlas(warp.to_scanner(q));
            assert!(length(sub(back, q)) < 1e-2, "{q:?} came back as {back:?}");
        }
    }
}
