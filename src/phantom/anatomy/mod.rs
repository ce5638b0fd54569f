//! The patient's structures, laid out in millimetres about the pancreas, the later ones over the earlier.

mod bowel;
mod duodenum;
mod organs;
mod pancreas;
mod pathology;
mod skeleton;
mod trunk;
mod vessels;

pub use pathology::{Finding, Findings, LesionKind, Part};

use super::build::Build;
use super::dice::{Dice, Subject};
use super::layer::{Coat, Grain, Structure, Tissue};
use super::levels::Levels;
use super::shape::Solid;
use super::warp::Warp;
use pancreas::Gland;
use pathology::Pathology;

/// A patient that is being put together.
pub struct Sketch<'a> {
    seed: u64,
    build: &'a Build,
    levels: &'a Levels,
    structures: Vec<Structure>,
}

impl Sketch<'_> {
    fn dice(&self, subject: Subject) -> Dice {
        Dice::new(self.seed, subject)
    }

    /// Paints a solid over what is there; coats of one solid, one after the other, share its distances.
    fn add(&mut self, solid: &Solid, coat: Coat) {
        match self.structures.last_mut() {
            Some(last) if last.is_of(solid) => last.add(coat),
            _ => self.structures.push(Structure::new(solid, coat)),
        }
    }

    /// Fat between the organs, with its strands.
    fn fat(&self) -> Tissue {
        Tissue::grained(self.levels.fat, 7.0, 9.0)
    }

    /// A thin layer of fat that keeps an organ apart from what lies behind it.
    fn add_gap(&mut self, solid: &Solid, mm: f32) {
        let fat = self.fat();
        self.add(solid, Coat::new(fat).inset(-mm));
    }

    /// A hollow organ: wall and what is in it.
    fn add_hollow(&mut self, solid: &Solid, wall: f32, content: Tissue) {
        let hu = self.levels.bowel_wall;
        self.add(solid, Coat::new(Tissue::grained(hu, 6.0, 6.0)));
        self.add(solid, Coat::new(content).inset(wall));
    }
}

/// Texture of fluids and of whatever else is nearly even.
const SMOOTH: Grain = Grain { deviation: 2.0, feature: 10.0 };

/// All structures of a seed's patient, and what is to be known of the pancreas.
pub fn structures(
    seed: u64,
    build: &Build,
    levels: &Levels,
    warp: &Warp,
    lesion: Option<LesionKind>,
) -> (Vec<Structure>, Findings) {
    let mut sketch = Sketch { seed, build, levels, structures: Vec::new() };
    let gland = Gland::new(seed, build);
    let pathology = Pathology::new(seed, &gland, levels, warp, lesion);
    let cavity = trunk::draw(&mut sketch);
    bowel::draw(&mut sketch, &cavity);
    organs::draw(&mut sketch, &cavity);
    skeleton::draw(&mut sketch);
    vessels::draw_cava(&mut sketch);
    bowel::draw_stomach(&mut sketch, &cavity);
    duodenum::draw(&mut sketch);
    pancreas::draw(&mut sketch, &gland, &pathology);
    vessels::draw_labelled(&mut sketch, &gland);
    let findings = pathology.findings(&gland, build, levels, warp);
    (sketch.structures, findings)
}
