//! Tiles of one value everywhere, as in the air around a patient.
//!
//! What a network makes of such a tile depends on the position in the tile only, and a mirrored copy is the tile itself.
//! So the network runs once for all mirrorings; and where several tiles hold the same constant, the sum over mirrorings is
//! computed once per fold and kept. The same numbers are added in the same order: the result is the same to the bit.

use std::collections::HashMap;
use std::ops::Range;

/// Most constants whose sums are kept: each takes as much memory as one tile's logits.
const MOST_KEPT: usize = 2;

/// What a tile's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TileInput {
    /// Values that differ.
    Varied,
    /// One value per channel, like no other tile's, or rarer than what is kept.
    Constant,
    /// One value per channel, that of other tiles too; the number of what is kept for them.
    Shared(usize),
}

/// An image, (channel, z, y, x) flattened, that tiles are cut from.
#[derive(Clone, Copy)]
pub(super) struct TiledImage<'a> {
    pub values: &'a [f32],
    pub dims: [usize; 3],
    /// Grid of every tile.
    pub tile: [usize; 3],
}

impl TiledImage<'_> {
    /// The bits of each channel's value in the tile at `start` if it has only one; zeros outside the image take part.
    fn constant(&self, start: [isize; 3]) -> Option<Vec<u32>> {
        let [depth, height, width] = self.dims;
        let covered: [Range<usize>; 3] = std::array::from_fn(|a| {
            let end = (start[a] + self.tile[a] as isize).clamp(0, self.dims[a] as isize) as usize;
            start[a].clamp(0, end as isize) as usize..end
        });
        let [planes, lines, columns] = covered.clone();
        let padded = (0..3).any(|a| covered[a].len() < self.tile[a]);
        let of_channel = |channel: &[f32]| {
            let first = channel.get((planes.start * height + lines.start) * width + columns.start)?.to_bits();
            let expected = if padded { 0 } else { first };
            let is_constant = planes.clone().all(|z| {
                lines.clone().all(|y| {
                    let row = &channel[(z * height + y) * width..][columns.clone()];
                    row.iter().all(|v| v.to_bits() == expected)
                })
            });
            is_constant.then_some(expected)
        };
        self.values.chunks(depth * height * width).map(of_channel).collect()
    }

    /// What each tile's input is, and how many constants are to be kept.
    pub fn classify(&self, starts: &[[isize; 3]]) -> (Vec<TileInput>, usize) {
        let constants: Vec<Option<Vec<u32>>> = starts.iter().map(|&start| self.constant(start)).collect();
        let mut tiles_of: HashMap<&[u32], usize> = HashMap::new();
        for constant in constants.iter().flatten() {
            *tiles_of.entry(constant).or_default() += 1;
        }
        let mut shared: Vec<(&[u32], usize)> = tiles_of.into_iter().filter(|(_, tiles)| *tiles > 1).collect();
        shared.sort_by_key(|&(constant, tiles)| (usize::MAX - tiles, constant));
        shared.truncate(MOST_KEPT);
        let input = |constant: &Option<Vec<u32>>| match constant {
            None => TileInput::Varied,
            Some(constant) => {
                let kept = shared.iter().position(|(kept, _)| kept == constant);
                kept.map_or(TileInput::Constant, TileInput::Shared)
            }
        };
        (constants.iter().map(input).collect(), shared.len())
    }
}

#[cfg(test)]
mod tests {
    use super::TileInput::{Constant, Shared, Varied};
    use super::*;

    /// Tiles of two columns of a one-row image.
    fn classify(values: &[f32], starts: &[isize]) -> (Vec<TileInput>, usize) {
        let image = TiledImage { values, dims: [1, 1, values.len()], tile: [1, 1, 2] };
        image.classify(&starts.iter().map(|&x| [0, 0, x]).collect::<Vec<_>>())
    }

    #[test]
    fn the_most_frequent_constants_are_kept() {
        let image = [1.0, 1.0, 1.0, 5.0, 5.0, 7.0, 7.0, 7.0, 7.0, 9.0, 9.0, 9.0];
        let starts = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10];
        let (inputs, kept) = classify(&image, &starts);
        assert_eq!(kept, 2);
        // 7 covers three tiles; 1 and 9 two each, of which 1 has the smaller bits; 5 only one.
        let expected = [
            Shared(1),
            Shared(1),
            Varied,
            Constant,
            Varied,
            Shared(0),
            Shared(0),
            Shared(0),
            Constant,
            Constant,
        ];
        assert_eq!(inputs, expected);
    }

    #[test]
    fn zeros_outside_the_image_take_part() {
        assert_eq!(classify(&[0.0, 0.0, 3.0], &[-1, 0, 2]).0, [Shared(0), Shared(0), Varied]);
        assert_eq!(classify(&[3.0], &[0, -1]), (vec![Varied, Varied], 0));
        assert_eq!(classify(&[-0.0], &[0]).0, [Varied], "its bits are not those of the padding");
    }

    #[test]
    fn zeros_of_either_sign_are_two_values() {
        assert_eq!(classify(&[0.0, -0.0, -0.0], &[0, 1]).0, [Varied, Constant]);
    }

    #[test]
    fn every_channel_must_be_constant() {
        let values = [1.0, 1.0, 1.0, 2.0, 2.0, 3.0];
        let image = TiledImage { values: &values, dims: [1, 1, 3], tile: [1, 1, 2] };
        assert_eq!(image.classify(&[[0, 0, 0], [0, 0, 1]]).0, [Constant, Varied]);
    }
}
