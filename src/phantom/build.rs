//! How large a patient is, and how fat.

use super::dice::{Dice, Subject};
use super::point::Point;
use super::shape::{Node, node};

/// Size of a patient relative to the atlas, and the fat under the skin.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// Scale from side to side.
    pub side: f32,
    /// Scale from front to back.
    pub depth: f32,
    /// Scale from foot to head.
    pub long: f32,
    /// Fat under the skin at the flanks, mm.
    pub flank_fat: f32,
    /// Fat under the skin in front, mm.
    pub front_fat: f32,
}

/// Half the width of the atlas' trunk without its fat, mm.
pub const TRUNK_HALF_WIDTH: f32 = 141.0;

impl Build {
    /// The build of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, Subject::Build);
        let size = dice.between(0.92, 1.1);
        let fat = dice.between(0.0, 1.0).powi(2);
        Self {
            side: size * dice.between(0.96, 1.05),
            depth: size * dice.between(0.94, 1.06) * (1.0 + 0.12 * fat),
            long: size * dice.between(0.95, 1.05),
            flank_fat: 7.0 + 22.0 * fat * dice.between(0.7, 1.1) + dice.between(0.0, 5.0),
            front_fat: 7.0 + 22.0 * fat * dice.between(0.6, 1.2) + dice.between(0.0, 5.0),
        }
    }

    /// Width of the trunk, mm.
    pub fn width(&self) -> f32 {
        2.0 * (TRUNK_HALF_WIDTH * self.side + self.flank_fat)
    }

    /// A point of the atlas, or an organ's measures along (x, y, z), in this patient.
    pub fn at(&self, [x, y, z]: Point) -> Point {
        [x * self.side, y * self.depth, z * self.long]
    }

    /// A length in any direction.
    pub fn length(&self, mm: f32) -> f32 {
        mm * (self.side * self.depth * self.long).cbrt()
    }

    /// Nodes of a tube given as x, y, z and radius.
    pub fn nodes<const N: usize>(&self, nodes: [[f32; 4]; N]) -> [Node; N] {
        nodes.map(|[x, y, z, radius]| {
            let [x, y, z] = self.at([x, y, z]);
            node(x, y, z, self.length(radius))
        })
    }
}
