//! Which components of a segmented tumour are believed.

use crate::imaging::components::{Components, Connectivity, Run};
use ndarray::{Array3, s};
use serde::Deserialize;

/// Which components of a tumour stay, as a recipe writes it. Every key may be left out; without any, all of them stay.
///
/// The baseline of PANTHER's first task keeps components (6 neighbours) of at least 10 voxels of which at least 15 % lie inside
/// the pancreas.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComponentRules {
    /// Whether voxels that share a corner are neighbours (26), or only those that share a face (6).
    pub connectivity: Neighbours,
    /// Components of fewer voxels are removed.
    pub min_voxels: usize,
    /// Components of a smaller volume in mm³ are removed.
    pub min_volume_mm3: f64,
    /// Components of which a smaller part, from 0 to 1, lies inside the pancreas are removed.
    pub min_pancreas_overlap: f64,
    /// Of what is left only the largest component stays, the first one of equals.
    pub largest_component_only: bool,
}

impl Default for ComponentRules {
    fn default() -> Self {
        Self {
            connectivity: Neighbours(Connectivity::Corners),
            min_voxels: 0,
            min_volume_mm3: 0.0,
            min_pancreas_overlap: 0.0,
            largest_component_only: false,
        }
    }
}

/// Neighbours of a voxel: 6 or 26 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Neighbours(pub Connectivity);

impl TryFrom<u8> for Neighbours {
    type Error = String;

    fn try_from(count: u8) -> Result<Self, String> {
        match count {
            6 => Ok(Self(Connectivity::Faces)),
            26 => Ok(Self(Connectivity::Corners)),
            _ => Err(format!("connectivity is {count}, expected 6 or 26")),
        }
    }
}

/// How many components there were, and how many of them stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// All components.
    pub found: usize,
    /// Those that stay.
    pub kept: usize,
}

impl ComponentRules {
    /// What is wrong with the numbers: the key, what is needed and what it is.
    pub fn check(&self) -> Result<(), String> {
        let (volume, overlap) = (self.min_volume_mm3, self.min_pancreas_overlap);
        if !(volume.is_finite() && volume >= 0.0) {
            return Err(format!("min_volume_mm3 is {volume}, needs a number of at least 0"));
        }
        if !(0.0..=1.0).contains(&overlap) {
            return Err(format!("min_pancreas_overlap is {overlap}, needs a number from 0 to 1"));
        }
        Ok(())
    }

    /// Removes from a tumour's mask (z, y, x; 0 and 1) the components that are not believed.
    ///
    /// `voxel_mm3` is a voxel's volume. `pancreas` is a mask of the tumour's shape; without it components overlap with nothing.
    pub fn apply(
        &self,
        tumour: &mut Array3<u8>,
        voxel_mm3: f64,
        pancreas: Option<&Array3<bool>>,
    ) -> Believed {
        let components = Components::find(tumour, self.connectivity.0, |&v| v != 0);
        let mut inside = vec![0usize; components.count()];
        for run in &components.runs {
            inside[run.label as usize - 1] += pancreas.map_or(0, |mask| voxels_of(mask, run));
        }
        let mut keep: Vec<bool> = components
            .sizes
            .iter()
            .zip(&inside)
            .map(|(&voxels, &inside)| self.believes(voxels, voxel_mm3, inside))
            .collect();
        if self.largest_component_only {
            let largest = (0..keep.len()).filter(|&c| keep[c]).rev().max_by_key(|&c| components.sizes[c]);
            keep.iter_mut().enumerate().for_each(|(c, keep)| *keep = Some(c) == largest);
        }
        for run in components.runs.iter().filter(|run| !keep[run.label as usize - 1]) {
            tumour.slice_mut(s![run.z, run.y, run.start..run.stop]).fill(0);
        }
        Believed { found: keep.len(), kept: keep.iter().filter(|keep| **keep).count() }
    }

    fn believes(&self, voxels: usize, voxel_mm3: f64, inside: usize) -> bool {
        voxels >= self.min_voxels
            && voxels as f64 * voxel_mm3 >= self.min_volume_mm3
            && inside as f64 >= self.min_pancreas_overlap * voxels as f64
    }
}

fn voxels_of(mask: &Array3<bool>, run: &Run) -> usize {
    mask.slice(s![run.z, run.y, run.start..run.stop]).iter().filter(|inside| **inside).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Components of 3, 2 and 3 voxels in a row, and one more voxel that touches the second by a corner.
    fn tumour() -> Array3<u8> {
        let mut mask = Array3::zeros((1, 2, 12));
        for x in [0, 1, 2, 4, 5, 8, 9, 10] {
            mask[(0, 0, x)] = 1;
        }
        mask[(0, 1, 6)] = 1;
        mask
    }

    fn left(rules: ComponentRules, pancreas: Option<&Array3<bool>>) -> (Vec<usize>, Believed) {
        let mut mask = tumour();
        let believed = rules.apply(&mut mask, 2.0, pancreas);
        (mask.indexed_iter().filter(|(_, v)| **v == 1).map(|((_, y, x), _)| 100 * y + x).collect(), believed)
    }

    #[test]
    fn without_rules_everything_stays() {
        let (voxels, believed) = left(ComponentRules::default(), None);
        assert_eq!((voxels.len(), believed), (9, Believed { found: 3, kept: 3 }));
    }

    #[test]
    fn small_components_go_and_of_equals_the_first_stays() {
        let faces = Neighbours(Connectivity::Faces);
        let rules = ComponentRules { connectivity: faces, min_voxels: 3, ..Default::default() };
        assert_eq!(left(rules, None).0, [0, 1, 2, 8, 9, 10]);
        let rules = ComponentRules { connectivity: faces, min_volume_mm3: 4.0, ..Default::default() };
        assert_eq!(left(rules, None).0, [0, 1, 2, 4, 5, 8, 9, 10]);
        let rules = ComponentRules { largest_component_only: true, ..Default::default() };
        assert_eq!(left(rules, None), (vec![0, 1, 2], Believed { found: 3, kept: 1 }));
    }

    #[test]
    fn components_outside_the_pancreas_go_first() {
        let pancreas = Array3::from_shape_fn((1, 2, 12), |(_, _, x)| (2..5).contains(&x) || x == 10);
        let third = 1.0 / 3.0;
        let rules = ComponentRules { min_pancreas_overlap: third, ..Default::default() };
        assert_eq!(left(rules, Some(&pancreas)).1, Believed { found: 3, kept: 3 });
        let rules = ComponentRules { min_pancreas_overlap: 0.34, ..rules };
        assert_eq!(left(rules, Some(&pancreas)).0, [0; 0]);
        let rules = ComponentRules { min_pancreas_overlap: 0.1, largest_component_only: true, ..rules };
        let only_last = pancreas.mapv(|_| false);
        let mut only_last = only_last;
        only_last[(0, 0, 9)] = true;
        assert_eq!(left(rules, Some(&only_last)).0, [8, 9, 10]);
        assert_eq!(left(rules, None).1, Believed { found: 3, kept: 0 });
    }

    #[test]
    fn rules_are_read_and_checked() {
        let read = |text| serde_json::from_str::<ComponentRules>(text);
        let rules = read(r#"{"connectivity": 6, "min_voxels": 10, "min_pancreas_overlap": 0.15}"#).unwrap();
        let faces = Neighbours(Connectivity::Faces);
        let expected = ComponentRules {
            connectivity: faces,
            min_voxels: 10,
            min_pancreas_overlap: 0.15,
            ..Default::default()
        };
        assert_eq!(rules, expected);
        assert!(
            read(r#"{"connectivity": 18}"#)
                .unwrap_err()
                .to_string()
                .starts_with("connectivity is 18, expected 6 or 26")
        );
        let rules = ComponentRules { min_pancreas_overlap: 15.0, ..rules };
        assert_eq!(rules.check().unwrap_err(), "min_pancreas_overlap is 15, needs a number from 0 to 1");
        let rules = ComponentRules { min_volume_mm3: -1.0, ..rules };
        assert_eq!(rules.check().unwrap_err(), "min_volume_mm3 is -1, needs a number of at least 0");
    }
}
