//! A structure as it is painted: a solid, the tissues in it and the labels they get.

use super::point::{Bounds, Point, mix};
use super::shape::Solid;
use super::texture::Marble;
use std::sync::Arc;

/// Labels as in the PANORAMA challenge's training set.
pub mod label {
    /// Everything else.
    pub const BACKGROUND: u8 = 0;
    /// The lesion.
    pub const LESION: u8 = 1;
    /// Portal, splenic and superior mesenteric vein.
    pub const VEIN: u8 = 2;
    /// Aorta, coeliac trunk, superior mesenteric, splenic and hepatic artery.
    pub const ARTERY: u8 = 3;
    /// The pancreas but for lesion and duct.
    pub const PARENCHYMA: u8 = 4;
    /// The pancreatic duct.
    pub const DUCT: u8 = 5;
    /// The common bile duct.
    pub const BILE_DUCT: u8 = 6;
    /// How many there are.
    pub const COUNT: usize = 7;
}

/// Width of the edge between two tissues in mm: the scanner's point spread and a voxel.
const EDGE: f32 = 1.2;

/// Random texture of a tissue.
#[derive(Debug, Clone, Copy)]
pub struct Grain {
    /// Deviation, HU.
    pub deviation: f32,
    /// Distance of its features, mm.
    pub feature: f32,
}

/// What fills a solid.
#[derive(Debug, Clone, Copy)]
pub enum Tissue {
    /// One mean HU.
    Plain {
        /// HU.
        hu: f32,
        /// Texture.
        grain: Grain,
    },
    /// Fluid below gas, the patient lying on the back.
    Levelled {
        /// HU of the fluid.
        fluid: f32,
        /// The surface's y in mm; gas is in front of it.
        surface: f32,
        /// Texture of the fluid.
        grain: Grain,
    },
    /// Lobules with fat between them.
    Lobular {
        /// HU of the lobules.
        hu: f32,
        /// HU of fat.
        fat: f32,
        /// Share of fat where there is most of it.
        share: f32,
        /// Distance of the lobules, mm.
        lobule: f32,
    },
}

const GAS: f32 = -980.0;

impl Tissue {
    /// A tissue without texture.
    pub fn even(hu: f32) -> Self {
        Self::grained(hu, 0.0, 1.0)
    }

    /// A tissue with texture of this deviation (HU) and distance of features (mm).
    pub fn grained(hu: f32, deviation: f32, feature: f32) -> Self {
        Self::Plain { hu, grain: Grain { deviation, feature } }
    }

    /// HU at a point.
    #[inline]
    pub fn hu(&self, p: Point, marble: &Marble) -> f32 {
        let textured = |hu: f32, grain: Grain| {
            if grain.deviation == 0.0 { hu } else { hu + grain.deviation * marble.at(p, grain.feature) }
        };
        match *self {
            Self::Plain { hu, grain } => textured(hu, grain),
            Self::Levelled { surface, .. } if p[1] < surface => GAS,
            Self::Levelled { fluid, grain, .. } => textured(fluid, grain),
            Self::Lobular { hu, fat, share, lobule } => {
                let between = (marble.at(p, lobule) + 0.25 * marble.at(p, 40.0)) * 0.9 - 0.2;
                mix(hu, fat, share * between.clamp(0.0, 1.0)) + 3.0 * marble.at(p, 2.0 * lobule)
            }
        }
    }
}

/// One painting of a solid.
#[derive(Debug, Clone, Copy)]
pub struct Coat {
    /// Its surface lies so many mm below the solid's.
    inset: f32,
    tissue: Tissue,
    edge: f32,
    label: u8,
}

impl Coat {
    /// A tissue up to the solid's surface, without a label.
    pub fn new(tissue: Tissue) -> Self {
        Self { inset: 0.0, tissue, edge: EDGE, label: label::BACKGROUND }
    }

    /// The same with its surface so many mm further inside; outside if negative.
    pub fn inset(self, inset: f32) -> Self {
        Self { inset, ..self }
    }

    /// The same with this label.
    pub fn labelled(self, label: u8) -> Self {
        Self { label, ..self }
    }

    /// The same with an edge so many mm wide.
    pub fn soft(self, edge: f32) -> Self {
        Self { edge, ..self }
    }

    /// How far out of the solid it reaches, mm; negative if it does not.
    fn reach(&self) -> f32 {
        self.edge / 2.0 - self.inset
    }

    /// Whether it leaves nothing of what is below it at this distance.
    fn hides(&self, distance: f32) -> bool {
        distance + self.inset <= -self.edge / 2.0
    }

    /// Paints a pixel at `distance` from the solid's surface.
    #[inline]
    fn paint(&self, p: Point, distance: f32, marble: &Marble, hu: &mut f32, label: &mut u8) {
        let cover = 0.5 - (distance + self.inset) / self.edge;
        if cover > 0.0 {
            *hu = mix(*hu, self.tissue.hu(p, marble), cover.min(1.0));
            if cover > 0.5 {
                *label = self.label;
            }
        }
    }
}

/// A solid with its coats, the later ones over the earlier.
pub struct Structure {
    solid: Solid,
    coats: Vec<Coat>,
    /// A box that holds all coats, soft edges included.
    pub bounds: Bounds,
    reach: f32,
    slope: f32,
}

/// What there is to do in a region.
pub enum Task<'a> {
    /// The distance of each pixel matters.
    Edges(&'a [Coat]),
    /// All pixels are deep inside.
    Inside(&'a Coat),
}

impl Structure {
    /// A solid with its first coat.
    pub fn new(solid: &Solid, coat: Coat) -> Self {
        let bounds = solid.bounds();
        let (solid, slope) = (Arc::clone(solid), solid.slope());
        let mut new = Self { solid, coats: Vec::new(), bounds, reach: f32::NEG_INFINITY, slope };
        new.add(coat);
        new
    }

    /// Whether it is this very solid.
    pub fn is_of(&self, solid: &Solid) -> bool {
        Arc::ptr_eq(&self.solid, solid)
    }

    /// Adds a coat over the others.
    pub fn add(&mut self, coat: Coat) {
        self.reach = self.reach.max(coat.reach());
        // Distances outside are smaller than they should be, the more the further away.
        self.bounds = self.solid.bounds().grown(1.5 * self.reach.max(0.0));
        self.coats.push(coat);
    }

    /// What there is to paint up to `radius` mm from a point; nothing if it is out of reach.
    pub fn task(&self, centre: Point, radius: f32) -> Option<Task<'_>> {
        let distance = self.solid.distance(centre);
        let radius = radius * self.slope;
        if distance - radius > self.reach {
            return None;
        }
        let hiding = self.coats.iter().rposition(|coat| coat.hides(distance + radius)).unwrap_or(0);
        match &self.coats[hiding..] {
            [coat] if coat.hides(distance + radius) => Some(Task::Inside(coat)),
            coats => Some(Task::Edges(coats)),
        }
    }

    /// Paints a pixel with some of its coats.
    #[inline]
    pub fn paint(&self, task: &Task<'_>, p: Point, marble: &Marble, hu: &mut f32, label: &mut u8) {
        match task {
            Task::Inside(coat) => {
                *hu = coat.tissue.hu(p, marble);
                *label = coat.label;
            }
            Task::Edges(coats) => {
                let distance = self.solid.distance(p);
                for coat in *coats {
                    coat.paint(p, distance, marble, hu, label);
                }
            }
        }
    }
}
