//! Skin, fat, muscles, the abdominal cavity, lungs and heart.

use super::super::build::TRUNK_HALF_WIDTH;
use super::super::dice::Subject;
use super::super::layer::{Coat, Tissue};
use super::super::point::{Bounds, Point};
use super::super::shape::{Column, Ellipsoid, Shape, Solid, Tube, joined, rough};
use super::Sketch;
use std::sync::Arc;

/// Height below and above which nobody is scanned.
const SPAN: [f32; 2] = [-400.0, 400.0];

/// The chest above the diaphragm.
struct Lungs {
    chest: Solid,
    diaphragm: Solid,
    /// Lowest z at the height of the atlas' origin, and how much lower it is per mm further back.
    recess: [f32; 2],
}

impl Shape for Lungs {
    fn bounds(&self) -> Bounds {
        let mut bounds = self.chest.bounds();
        bounds.low[2] = 20.0;
        bounds
    }

    fn slope(&self) -> f32 {
        self.chest.slope().max(self.diaphragm.slope())
    }

    fn distance(&self, p: Point) -> f32 {
        let floor = self.recess[0] - self.recess[1] * p[1] - p[2];
        self.chest.distance(p).max(-self.diaphragm.distance(p)).max(floor)
    }
}

fn column(centre: [f32; 2], semi: [f32; 2]) -> Solid {
    Arc::new(Column { centre, semi, span: SPAN, waist: 1.0 })
}

/// Paints the trunk and returns the cavity that the organs lie in.
pub fn draw(sketch: &mut Sketch<'_>) -> Solid {
    let (build, levels) = (sketch.build, sketch.levels);
    let mut dice = sketch.dice(Subject::Trunk);
    let (side, depth) = (build.side, build.depth);
    let wall = [TRUNK_HALF_WIDTH * side, 103.0 * depth];
    let skin_semi = [wall[0] + build.flank_fat, wall[1] + build.front_fat * 0.8];
    let skin = column([0.0, -2.0 - 0.2 * build.front_fat], skin_semi);
    let muscles = column([0.0, -2.0], wall);
    let cavity = column([0.0, -8.0 * depth], [127.0 * side, 88.0 * depth]);
    let skin = rough(skin, &mut dice, 1.5, 140.0);
    let muscles = rough(muscles, &mut dice, 1.0, 70.0);
    let cavity = rough(cavity, &mut dice, 1.5, 60.0);
    draw_table(sketch);
    sketch.add(&skin, Coat::new(Tissue::even(10.0)));
    sketch.add(&skin, Coat::new(Tissue::grained(levels.fat - 3.0, 5.0, 14.0)).inset(1.6));
    let meat = Tissue::grained(levels.muscle, 8.0, 14.0);
    sketch.add(&muscles, Coat::new(meat));
    // A seam of fat between the layers of the wall.
    sketch.add(&cavity, Coat::new(Tissue::grained(levels.fat + 70.0, 40.0, 30.0)).inset(-3.0));
    sketch.add(&cavity, Coat::new(meat).inset(-2.0));
    sketch.add(&cavity, Coat::new(sketch.fat()));
    draw_back(sketch, meat);
    draw_lungs(sketch, &cavity);
    cavity
}

/// The top of the scanner's table, hollow towards the patient.
struct Table {
    /// Where it lies in the middle, mm behind the atlas' origin.
    back: f32,
}

impl Shape for Table {
    fn bounds(&self) -> Bounds {
        Bounds { low: [-215.0, self.back - 60.0, SPAN[0]], high: [215.0, self.back + 15.0, SPAN[1]] }
    }

    fn slope(&self) -> f32 {
        1.2
    }

    fn distance(&self, p: Point) -> f32 {
        let below = p[1] - (self.back - p[0] * p[0] / 1100.0);
        (below - 7.0).abs().max(p[0].abs() - 200.0) - 8.0
    }
}

/// Paints the table: a shell of carbon about foam.
fn draw_table(sketch: &mut Sketch<'_>) {
    let back =
        -2.0 - 0.2 * sketch.build.front_fat + 103.0 * sketch.build.depth + 0.8 * sketch.build.front_fat;
    let table: Solid = Arc::new(Table { back: back + 10.0 });
    sketch.add(&table, Coat::new(Tissue::even(30.0)));
    sketch.add(&table, Coat::new(Tissue::even(-960.0)).inset(1.6));
}

/// The muscles beside and in front of the spine.
fn draw_back(sketch: &mut Sketch<'_>, meat: Tissue) {
    let mut dice = sketch.dice(Subject::Trunk);
    let build = sketch.build;
    let fat = sketch.levels.fat;
    for side in [-1.0, 1.0] {
        let crus = build.nodes([
            [12.0, 30.0, -50.0, 2.5],
            [16.0, 24.0, 0.0, 4.5],
            [22.0, 18.0, 50.0, 5.0],
            [26.0, 12.0, 90.0, 4.0],
        ]);
        let erector =
            build.nodes([[36.0, 84.0, -250.0, 17.0], [36.0, 82.0, 0.0, 19.0], [34.0, 84.0, 250.0, 16.0]]);
        let quadratus =
            build.nodes([[62.0, 64.0, 20.0, 6.0], [68.0, 60.0, -60.0, 11.0], [78.0, 56.0, -140.0, 13.0]]);
        let psoas = build.nodes([
            [26.0, 50.0, 30.0, 5.0],
            [34.0, 46.0, -30.0, 13.0],
            [44.0, 42.0, -100.0, 21.0],
            [60.0, 30.0, -200.0, 23.0],
        ]);
        for (nodes, seam) in [(&erector[..], 2.0), (&quadratus[..], 1.5), (&psoas[..], 1.0), (&crus[..], 0.5)]
        {
            let nodes: Vec<_> = nodes
                .iter()
                .map(|&n| super::super::shape::Node { at: [side * n.at[0], n.at[1], n.at[2]], ..n })
                .collect();
            let muscle = rough(Arc::new(Tube::smooth(&nodes)), &mut dice, 1.2, 40.0);
            sketch.add(&muscle, Coat::new(Tissue::grained(fat + 30.0, 20.0, 12.0)).inset(-seam));
            sketch.add(&muscle, Coat::new(meat));
        }
    }
}

fn draw_lungs(sketch: &mut Sketch<'_>, cavity: &Solid) {
    let mut dice = sketch.dice(Subject::Trunk);
    let build = sketch.build;
    let mut dome = |x: f32, top: f32| -> Solid {
        let centre = build.at([x, 0.0, 10.0]);
        let semi = build.at([72.0, 84.0, top - 10.0 + dice.normal(6.0)]);
        Arc::new(Ellipsoid::new(centre, semi))
    };
    let domes = joined(vec![dome(-58.0, 122.0), dome(58.0, 108.0)], 25.0);
    let diaphragm = rough(domes, &mut dice, 2.0, 70.0);
    let recess = [75.0 + dice.normal(6.0), 0.55];
    let lungs: Solid = Arc::new(Lungs { chest: Arc::clone(cavity), diaphragm, recess });
    sketch.add(&lungs, Coat::new(Tissue::grained(sketch.levels.muscle, 5.0, 8.0)).inset(-3.0));
    sketch.add(&lungs, Coat::new(Tissue::grained(sketch.levels.lung, 45.0, 16.0)));
    let heart = Ellipsoid::new(build.at([18.0, -34.0, 145.0]), build.at([58.0, 42.0, 46.0]))
        .turned([0.0, 0.0, 1.0], 25.0);
    let heart = rough(Arc::new(heart), &mut dice, 2.0, 50.0);
    sketch.add_gap(&heart, 4.0);
    sketch.add(&heart, Coat::new(Tissue::grained(sketch.levels.muscle + 50.0, 6.0, 20.0)));
    sketch.add(&heart, Coat::new(Tissue::grained(sketch.levels.vein - 10.0, 6.0, 30.0)).inset(9.0));
    let mediastinum =
        build.nodes([[5.0, 22.0, 70.0, 10.0], [2.0, 22.0, 110.0, 24.0], [0.0, 22.0, 250.0, 30.0]]);
    let mediastinum: Solid = Arc::new(Tube::new(&mediastinum));
    sketch.add(&mediastinum, Coat::new(sketch.fat()));
    let oesophagus = build.nodes([[22.0, 5.0, 92.0, 8.0], [12.0, 14.0, 115.0, 8.0], [6.0, 16.0, 250.0, 8.0]]);
    let oesophagus: Solid = Arc::new(Tube::smooth(&oesophagus));
    sketch.add(&oesophagus, Coat::new(Tissue::even(sketch.levels.muscle + 10.0)));
}
