//! The lesion, and what it does to ducts and gland.

use super::super::build::Build;
use super::super::dice::{Dice, Subject};
use super::super::layer::{Coat, Tissue, label};
use super::super::levels::Levels;
use super::super::point::{Point, add, mix, scale};
use super::super::shape::{Ellipsoid, Solid, rough};
use super::super::warp::Warp;
use super::Sketch;
use super::pancreas::Gland;
use serde::Serialize;
use std::sync::Arc;

/// Which lesions are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LesionKind {
    /// 8 to 40 mm.
    Any,
    /// 5 to 12 mm.
    Small,
}

/// A part of the pancreas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Beside the duodenum.
    Head,
    /// In front of the portal vein.
    Neck,
    /// Over the aorta.
    Body,
    /// Towards the spleen.
    Tail,
}

/// A lesion as it was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Finding {
    /// Diameter of the ball of the same volume, mm.
    pub diameter_mm: f32,
    /// HU above those of the parenchyma.
    pub contrast_hu: f32,
    /// Whether it can hardly be told from the parenchyma by its HU.
    pub isoattenuating: bool,
    /// Where in the pancreas.
    pub part: Part,
    /// LPS position (x, y, z) of its centre, mm.
    pub centre_mm: [f32; 3],
}

/// What is to be known of a patient's pancreas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Findings {
    /// The lesion, if there is one.
    pub lesion: Option<Finding>,
    /// Width of the pancreatic duct at its widest, mm.
    pub duct_mm: f32,
    /// Whether a lesion makes the duct's widest place a quarter wider, or more.
    pub duct_dilated: bool,
    /// Whether a lesion dilates the common bile duct.
    pub bile_duct_dilated: bool,
    /// Number of cysts.
    pub cysts: usize,
    /// Share of fat between the pancreas' lobules where there is most.
    pub fat_share: f32,
    /// Whether there is a spot of fat in the head.
    pub focal_fat: bool,
}

struct Lesion {
    along: f32,
    part: Part,
    centre: Point,
    diameter: f32,
    contrast: f32,
    solid: Solid,
}

/// What is wrong with a pancreas.
pub struct Pathology {
    lesion: Option<Lesion>,
    /// Radius of the dilated duct, mm.
    dilated_duct: Option<f32>,
    /// Radius of the dilated bile duct, mm.
    dilated_bile_duct: Option<f32>,
    /// What is left of the gland's thickness beyond the lesion.
    thinned: f32,
    parenchyma: f32,
}

/// How many times wider than without the lesion a duct counts as dilated.
const DILATED: f32 = 1.25;

/// Largest contrast in HU of a lesion that counts as iso-attenuating.
const ISOATTENUATING: f32 = 5.0;

/// HU of the darkest lesion: no lesion is a cyst.
const DARKEST: f32 = 25.0;

impl Pathology {
    /// The pathology of a seed.
    pub fn new(seed: u64, gland: &Gland, levels: &Levels, warp: &Warp, kind: Option<LesionKind>) -> Self {
        let mut dice = Dice::new(seed, Subject::Lesion);
        let Some(kind) = kind else {
            return Self::healthy(levels);
        };
        let size = dice.between(0.0, 1.0);
        let (low, high): (f32, f32) = match kind {
            LesionKind::Any => (8.0, 40.0),
            LesionKind::Small => (5.0, 12.0),
        };
        let diameter = mix(low, high, size);
        let lesion = Lesion::new(gland, levels, warp, diameter, &mut dice);
        // One that is neither seen itself nor by what it does would not be found in a patient.
        let obstructs = dice.chance(0.75) || lesion.isoattenuating();
        let duct = dice.between(2.0, 4.0);
        let thinned = dice.between(0.6, 0.9);
        let icteric = dice.chance(0.6) && lesion.part == Part::Head;
        let bile_duct = dice.between(4.5, 7.5);
        Self {
            lesion: Some(lesion),
            dilated_duct: obstructs.then_some(duct),
            dilated_bile_duct: icteric.then_some(bile_duct),
            thinned: if obstructs { thinned } else { 1.0 },
            ..Self::healthy(levels)
        }
    }

    fn healthy(levels: &Levels) -> Self {
        Self {
            lesion: None,
            dilated_duct: None,
            dilated_bile_duct: None,
            thinned: 1.0,
            parenchyma: levels.parenchyma,
        }
    }

    /// How far beyond the lesion a position is: 0 before it and 1 well beyond.
    fn beyond(&self, along: f32) -> f32 {
        self.lesion.as_ref().map_or(0.0, |lesion| ((along - lesion.along) / 0.04).clamp(0.0, 1.0))
    }

    /// What is left of the gland's thickness at a position along it.
    pub fn thickness(&self, along: f32) -> f32 {
        mix(1.0, self.thinned, self.beyond(along))
    }

    /// Radius of the duct, mm, where it would be `healthy`.
    pub fn duct_radius(&self, along: f32, healthy: f32) -> f32 {
        self.dilated_duct.map_or(healthy, |wide| mix(healthy, wide.max(healthy), self.beyond(along)))
    }

    /// Radius of the bile duct, mm, where it would be `healthy`.
    pub fn bile_duct_radius(&self, healthy: f32) -> f32 {
        self.dilated_bile_duct.unwrap_or(healthy)
    }

    /// Paints the lesion, if there is one.
    pub fn draw_lesion(&self, sketch: &mut Sketch<'_>) {
        if let Some(lesion) = &self.lesion {
            let tissue = Tissue::grained(self.parenchyma + lesion.contrast, 5.0, 7.0);
            let edge = (0.3 * lesion.diameter).clamp(1.5, 4.0);
            sketch.add(&lesion.solid, Coat::new(tissue).soft(edge).labelled(label::LESION));
        }
    }

    /// What is to be known of it.
    pub fn findings(&self, gland: &Gland, build: &Build, levels: &Levels, warp: &Warp) -> Findings {
        let lesion = self.lesion.as_ref().map(|lesion| Finding {
            diameter_mm: lesion.diameter,
            contrast_hu: lesion.contrast,
            isoattenuating: lesion.isoattenuating(),
            part: lesion.part,
            centre_mm: warp.to_scanner(lesion.centre),
        });
        let duct_mm = gland.widest_duct(build, self);
        let healthy_mm = gland.widest_duct(build, &Self::healthy(levels));
        Findings {
            lesion,
            duct_mm,
            duct_dilated: duct_mm > DILATED * healthy_mm,
            bile_duct_dilated: self.dilated_bile_duct.is_some(),
            cysts: gland.cysts.len(),
            fat_share: gland.fat_share,
            focal_fat: gland.focal_fat.is_some(),
        }
    }
}

impl Lesion {
    /// A lesion of a diameter in the scanner's mm.
    fn new(gland: &Gland, levels: &Levels, warp: &Warp, diameter: f32, dice: &mut Dice) -> Self {
        let (part, from, to) = match dice.between(0.0, 1.0) {
            u if u < 0.6 => (Part::Head, 0.08, 0.36),
            u if u < 0.68 => (Part::Neck, 0.42, 0.5),
            u if u < 0.86 => (Part::Body, 0.54, 0.76),
            _ => (Part::Tail, 0.8, 0.96),
        };
        let along = dice.between(from, to);
        let node = gland.node_at(along);
        let aside = dice.between(0.0, 0.55) * node.radius / gland.flatness;
        let centre = add(node.at, scale(dice.direction(), aside));
        let contrast = if dice.chance(0.09) {
            dice.between(-ISOATTENUATING, ISOATTENUATING)
        } else {
            dice.between(-60.0, -20.0)
        };
        let contrast = contrast.max(DARKEST - levels.parenchyma);
        let stretched: [f32; 3] = std::array::from_fn(|_| dice.between(0.8, 1.25));
        let mean = stretched.iter().product::<f32>().cbrt();
        let radius = diameter / 2.0 * warp.stretch(warp.to_scanner(centre));
        let semi = stretched.map(|s| s / mean * radius);
        let ellipsoid = Ellipsoid::new(centre, semi).turned(dice.direction(), dice.between(0.0, 90.0));
        let solid = rough(Arc::new(ellipsoid), dice, 0.05 * diameter, 0.8 * diameter);
        Self { along, part, centre, diameter, contrast, solid }
    }

    /// Whether it can hardly be told from the parenchyma by its HU.
    fn isoattenuating(&self) -> bool {
        self.contrast.abs() <= ISOATTENUATING
    }
}
