//! A structure as it is painted: a solid, the tissue in it and the label it gets.

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

/// A structure of the patient.
pub struct Layer {
    solid: Solid,
    /// Its surface lies so many mm below the solid's.
    inset: f32,
    tissue: Tissue,
    edge: f32,
    /// The label of its voxels.
    pub label: u8,
    /// A box that holds all of it, the soft edge included.
    pub bounds: Bounds,
}

impl Layer {
    /// A solid of a tissue, without a label.
    pub fn new(solid: &Solid, tissue: Tissue) -> Self {
        let layer = Self {
            solid: Arc::clone(solid),
            inset: 0.0,
            tissue,
            edge: EDGE,
            label: label::BACKGROUND,
            bounds: solid.bounds(),
        };
        layer.bounded()
    }

    fn bounded(mut self) -> Self {
        self.bounds = self.solid.bounds().grown(self.edge / 2.0 + (-self.inset).max(0.0));
        self
    }

    /// The same with its surface so many mm further inside; outside if negative.
    pub fn inset(mut self, inset: f32) -> Self {
        self.inset = inset;
        self.bounded()
    }

    /// The same with this label.
    pub fn labelled(mut self, label: u8) -> Self {
        self.label = label;
        self
    }

    /// The same with an edge so many mm wide.
    pub fn soft(mut self, edge: f32) -> Self {
        self.edge = edge;
        self.bounded()
    }

    /// About the distance to the surface in mm, negative inside.
    pub fn distance(&self, p: Point) -> f32 {
        self.solid.distance(p) + self.inset
    }

    /// Width of the edge, mm.
    pub fn edge(&self) -> f32 {
        self.edge
    }

    /// HU at a point inside.
    pub fn hu(&self, p: Point, marble: &Marble) -> f32 {
        self.tissue.hu(p, marble)
    }
}
