//! Liver, gallbladder, spleen, kidneys and adrenal glands.

use super::super::dice::{Dice, Subject};
use super::super::layer::{Coat, Tissue};
use super::super::point::Point;
use super::super::shape::{Ellipsoid, Node, Solid, Tube, joined, rough, within, without};
use super::{SMOOTH, Sketch};
use std::sync::Arc;

/// Paints the organs within the cavity.
pub fn draw(sketch: &mut Sketch<'_>, cavity: &Solid) {
    let mut dice = sketch.dice(Subject::Organs);
    draw_kidneys(sketch, &mut dice);
    draw_spleen(sketch, cavity, &mut dice);
    draw_liver(sketch, cavity, &mut dice);
    draw_gallbladder(sketch, &mut dice);
    draw_adrenals(sketch);
}

fn ellipsoid(sketch: &Sketch<'_>, centre: Point, semi: Point) -> Ellipsoid {
    Ellipsoid::new(sketch.build.at(centre), sketch.build.at(semi))
}

fn tube(sketch: &Sketch<'_>, nodes: &[[f32; 4]]) -> Solid {
    let nodes: Vec<Node> = nodes.iter().flat_map(|&n| sketch.build.nodes([n])).collect();
    Arc::new(Tube::smooth(&nodes))
}

fn draw_liver(sketch: &mut Sketch<'_>, cavity: &Solid, dice: &mut Dice) {
    let reach = dice.normal(8.0);
    let right = ellipsoid(sketch, [-72.0, 2.0, 42.0], [64.0, 78.0, 78.0 + reach / 2.0]);
    let tongue = ellipsoid(sketch, [-98.0, 5.0, -5.0 - reach], [28.0, 48.0, 62.0]);
    let left_size = dice.between(0.8, 1.2);
    let left =
        ellipsoid(sketch, [4.0, -52.0, 62.0], [66.0 * left_size, 30.0, 42.0]).turned([0.0, 1.0, 0.0], -12.0);
    let below = ellipsoid(sketch, [-28.0, 24.0, -38.0], [60.0, 62.0, 68.0]);
    let fissure = ellipsoid(sketch, [-18.0, -72.0, 30.0], [5.0, 26.0, 34.0]);
    let lobes = joined(vec![Arc::new(right), Arc::new(tongue), Arc::new(left)], 22.0);
    let lobes = without(without(lobes, Arc::new(below)), Arc::new(fissure));
    let caudate = ellipsoid(sketch, [-14.0, 4.0, 52.0], [17.0, 18.0, 30.0]);
    let lobes = joined(vec![lobes, Arc::new(caudate)], 6.0);
    let liver = within(rough(lobes, dice, 2.0, 60.0), cavity, 0.8);
    let levels = *sketch.levels;
    sketch.add(&liver, Coat::new(Tissue::grained(levels.liver, 3.0, 8.0)));
    let brighter = levels.vein.min(levels.liver + 55.0);
    for nodes in [
        [
            [-20.0, 12.0, 100.0, 6.0],
            [-50.0, 10.0, 92.0, 4.5],
            [-85.0, 20.0, 72.0, 3.0],
            [-105.0, 25.0, 45.0, 1.5],
        ],
        [
            [-20.0, 10.0, 100.0, 5.0],
            [-40.0, -12.0, 88.0, 4.0],
            [-58.0, -32.0, 68.0, 3.0],
            [-70.0, -45.0, 45.0, 1.5],
        ],
        [
            [-18.0, 8.0, 100.0, 5.0],
            [-10.0, -22.0, 90.0, 3.5],
            [5.0, -42.0, 80.0, 2.5],
            [25.0, -55.0, 70.0, 1.5],
        ],
        [
            [-48.0, -10.0, 45.0, 6.5],
            [-68.0, 0.0, 48.0, 5.5],
            [-90.0, 15.0, 50.0, 3.5],
            [-112.0, 30.0, 58.0, 1.5],
        ],
        [
            [-68.0, 0.0, 48.0, 5.0],
            [-84.0, -18.0, 42.0, 3.5],
            [-100.0, -35.0, 30.0, 2.5],
            [-112.0, -42.0, 12.0, 1.2],
        ],
        [
            [-70.0, 0.0, 48.0, 4.5],
            [-88.0, 12.0, 28.0, 3.5],
            [-100.0, 15.0, 5.0, 2.5],
            [-104.0, 18.0, -25.0, 1.2],
        ],
        [
            [-46.0, -12.0, 46.0, 5.0],
            [-28.0, -32.0, 54.0, 4.0],
            [-8.0, -50.0, 60.0, 3.0],
            [22.0, -60.0, 66.0, 1.5],
        ],
    ] {
        let nodes = nodes.map(|[x, y, z, radius]| {
            let [x, y, z] = dice.near([x, y, z], 3.0);
            [x, y, z, radius]
        });
        let branch = within(tube(sketch, &nodes), &liver, 3.0);
        sketch.add(&branch, Coat::new(Tissue::grained(brighter, SMOOTH.deviation, SMOOTH.feature)));
    }
}

fn draw_gallbladder(sketch: &mut Sketch<'_>, dice: &mut Dice) {
    // Some have had it taken out.
    if dice.chance(0.12) {
        return;
    }
    let width = dice.between(9.0, 17.0);
    let bladder = tube(
        sketch,
        &[
            [-50.0, -22.0, 26.0, 3.5],
            [-54.0, -34.0, 14.0, width * 0.8],
            [-58.0, -50.0, -2.0, width],
            [-60.0, -58.0, -14.0, width * 0.85],
        ],
    );
    let bladder = rough(bladder, dice, 0.8, 25.0);
    let levels = *sketch.levels;
    sketch.add(&bladder, Coat::new(Tissue::even(levels.muscle + 10.0)));
    sketch.add(&bladder, Coat::new(Tissue::grained(levels.bile, 2.0, 10.0)).inset(1.6));
}

fn draw_spleen(sketch: &mut Sketch<'_>, cavity: &Solid, dice: &mut Dice) {
    let size = dice.between(0.85, 1.15);
    let body = ellipsoid(sketch, [104.0, 36.0, 42.0], [36.0 * size, 50.0 * size, 54.0 * size])
        .turned([1.0, 0.0, 0.0], -25.0);
    let hilum = ellipsoid(sketch, [66.0, 14.0, 36.0], [25.0, 32.0, 52.0]);
    let spleen = without(rough(Arc::new(body), dice, 2.0, 40.0), Arc::new(hilum));
    let spleen = within(spleen, cavity, 1.0);
    sketch.add(&spleen, Coat::new(Tissue::grained(sketch.levels.spleen, 3.0, 8.0)));
}

fn draw_kidneys(sketch: &mut Sketch<'_>, dice: &mut Dice) {
    for (side, z) in [(-1.0_f32, -26.0), (1.0, -10.0)] {
        let size = dice.between(0.9, 1.08);
        let centre = [side * 62.0, 40.0, z + dice.normal(6.0)];
        let lean =
            |e: Ellipsoid| e.turned([0.0, 1.0, 0.0], -side * 14.0).turned([0.0, 0.0, 1.0], side * 28.0);
        let kidney = lean(ellipsoid(sketch, centre, [23.0 * size, 29.0 * size, 53.0 * size]));
        let kidney = rough(Arc::new(kidney), dice, 1.2, 26.0);
        let inner = [centre[0] - side * 12.0, centre[1] - 5.0, centre[2]];
        let sinus: Solid = Arc::new(lean(ellipsoid(sketch, inner, [13.0, 9.0, 26.0])));
        let sinus = rough(sinus, dice, 2.0, 14.0);
        let levels = *sketch.levels;
        sketch.add_gap(&kidney, 5.0);
        sketch.add(&kidney, Coat::new(Tissue::grained(levels.kidney, 5.0, 6.0)));
        sketch.add(&kidney, Coat::new(Tissue::grained(levels.kidney - 10.0, 14.0, 14.0)).inset(6.0));
        sketch.add(&sinus, Coat::new(sketch.fat()));
        let pelvis = [inner[0] - side * 4.0, inner[1] - 2.0, inner[2] - 3.0];
        let pelvis: Solid = Arc::new(lean(ellipsoid(sketch, pelvis, [9.0, 5.0, 11.0])));
        sketch.add(&pelvis, Coat::new(Tissue::even(15.0)));
        if dice.chance(0.25) {
            let at = dice.near(centre, 12.0);
            let radius = dice.between(4.0, 13.0);
            let cyst: Solid = Arc::new(ellipsoid(sketch, [at[0] + side * 14.0, at[1], at[2]], [radius; 3]));
            sketch.add(&cyst, Coat::new(Tissue::even(6.0)));
        }
    }
}

fn draw_adrenals(sketch: &mut Sketch<'_>) {
    for side in [-1.0, 1.0] {
        let (x, y, z) = (side * 31.0, if side > 0.0 { 24.0 } else { 34.0 }, 44.0);
        for nodes in [
            [
                [x, y, z - 12.0, 2.2],
                [x + side * 3.0, y + 10.0, z - 14.0, 1.8],
                [x + side * 5.0, y + 18.0, z - 18.0, 1.5],
            ],
            [
                [x, y, z - 12.0, 2.2],
                [x - side * 2.0, y + 10.0, z - 8.0, 1.8],
                [x - side * 4.0, y + 16.0, z - 2.0, 1.4],
            ],
        ] {
            let limb = tube(sketch, &nodes);
            sketch.add(&limb, Coat::new(Tissue::even(sketch.levels.muscle + 18.0)));
        }
    }
}
