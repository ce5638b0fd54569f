//! The duodenum: a C about the head of the pancreas, into which both ducts open.

use super::super::dice::Subject;
use super::super::layer::{Grain, Tissue};
use super::super::shape::{Solid, Tube, rough, spline};
use super::Sketch;
use std::sync::Arc;

/// From the pylorus to the jejunum.
const COURSE: [[f32; 4]; 10] = [
    [-26.0, -45.0, 22.0, 9.5],
    [-40.0, -34.0, 24.0, 11.5],
    [-51.0, -16.0, 16.0, 11.0],
    [-54.0, 2.0, -6.0, 11.0],
    [-53.0, 6.0, -32.0, 11.0],
    [-44.0, 8.0, -54.0, 10.5],
    [-20.0, 4.0, -63.0, 9.5],
    [8.0, 0.0, -62.0, 8.0],
    [30.0, 2.0, -46.0, 9.5],
    [38.0, -14.0, -22.0, 10.5],
];

/// Paints the duodenum.
pub fn draw(sketch: &mut Sketch<'_>) {
    let mut dice = sketch.dice(Subject::Bowel);
    let collapse = dice.between(0.85, 1.1);
    let mut nodes = sketch.build.nodes(COURSE);
    nodes.iter_mut().for_each(|n| n.radius *= collapse);
    let tube: Solid = Arc::new(Tube::new(&spline(&nodes, 4)));
    let duodenum = rough(tube, &mut dice, 0.8, 15.0);
    let grain = Grain { deviation: 16.0, feature: 6.0 };
    let fluid = dice.between(10.0, 45.0);
    let content = if dice.chance(0.35) {
        Tissue::Levelled { fluid, surface: nodes[1].at[1] - 2.0, grain }
    } else {
        Tissue::Plain { hu: fluid, grain }
    };
    sketch.add_gap(&duodenum, 1.0);
    sketch.add_hollow(&duodenum, 2.6, content);
}
