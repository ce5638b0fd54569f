//! Stomach, colon, small bowel and the vessels of the mesentery.

use super::super::dice::{Dice, Subject};
use super::super::layer::{Coat, Grain, Tissue};
use super::super::point::{Point, add, length, scale, sub, unit};
use super::super::shape::{Node, Solid, Tube, node, rough, spline, within};
use super::{SMOOTH, Sketch};
use std::sync::Arc;

/// Colon: x, y, z and radius.
const COLON: [[f32; 4]; 15] = [
    [-98.0, 22.0, -230.0, 23.0],
    [-102.0, 24.0, -150.0, 23.0],
    [-104.0, 20.0, -100.0, 22.0],
    [-100.0, 10.0, -62.0, 20.0],
    [-88.0, -22.0, -50.0, 19.0],
    [-70.0, -58.0, -66.0, 18.0],
    [-30.0, -72.0, -84.0, 17.0],
    [12.0, -74.0, -84.0, 17.0],
    [55.0, -70.0, -60.0, 17.0],
    [88.0, -48.0, -25.0, 17.0],
    [104.0, -8.0, 8.0, 17.0],
    [107.0, 22.0, -10.0, 15.0],
    [106.0, 32.0, -60.0, 14.0],
    [104.0, 32.0, -120.0, 14.0],
    [98.0, 28.0, -230.0, 14.0],
];

/// Stomach from fundus to pylorus.
const STOMACH: [[f32; 4]; 8] = [
    [52.0, 22.0, 88.0, 24.0],
    [60.0, 4.0, 78.0, 30.0],
    [62.0, -22.0, 58.0, 29.0],
    [52.0, -44.0, 34.0, 25.0],
    [32.0, -56.0, 16.0, 21.0],
    [8.0, -58.0, 12.0, 18.0],
    [-12.0, -52.0, 18.0, 13.0],
    [-26.0, -46.0, 22.0, 9.0],
];

/// Paints small bowel and colon.
pub fn draw(sketch: &mut Sketch<'_>, cavity: &Solid) {
    let mut dice = sketch.dice(Subject::Bowel);
    draw_mesentery(sketch, &mut dice);
    let crowd = dice.between(0.6, 1.6);
    for (count, centre, half) in [
        (12.0, [4.0, -44.0, -112.0], [84.0, 34.0, 62.0]),
        (5.0, [60.0, -36.0, -34.0], [32.0, 26.0, 34.0]),
        (5.0, [0.0, -58.0, -58.0], [72.0, 20.0, 34.0]),
    ] {
        for _ in 0..(crowd * count) as usize {
            draw_loop(sketch, cavity, &mut dice, centre, half);
        }
    }
    draw_colon(sketch, cavity, &mut dice);
}

/// Thin vessels that fan out from the root of the mesentery.
fn draw_mesentery(sketch: &mut Sketch<'_>, dice: &mut Dice) {
    let build = *sketch.build;
    let hu = Tissue::even(sketch.levels.vein - 30.0);
    let mut vessel = |dice: &mut Dice, root: Point, end: Point| {
        let bend = dice.near(scale(add(root, end), 0.5), 7.0);
        let thick = dice.between(0.9, 2.0);
        let nodes = [(root, thick), (bend, thick * 0.8), (end, 0.5)];
        let nodes = nodes.map(|(p, radius)| Node { at: build.at(p), radius });
        let vessel: Solid = Arc::new(Tube::smooth(&nodes));
        sketch.add(&vessel, Coat::new(hu));
    };
    for _ in 0..50 {
        let root = [dice.between(-10.0, 4.0), -18.0, dice.between(-110.0, -25.0)];
        let end = [dice.between(-75.0, 80.0), dice.between(-80.0, -30.0), root[2] + dice.normal(22.0)];
        vessel(dice, root, end);
    }
    // Of the omentum and about the stomach.
    for _ in 0..30 {
        let root = [dice.between(-50.0, 90.0), dice.between(-75.0, -10.0), dice.between(-60.0, 60.0)];
        let end = dice.near(root, 20.0);
        vessel(dice, root, end);
    }
}

/// A stretch of small bowel that wanders about in an ellipsoid.
fn draw_loop(sketch: &mut Sketch<'_>, cavity: &Solid, dice: &mut Dice, centre: Point, half: Point) {
    let radius = dice.between(8.5, 14.0);
    let somewhere = |dice: &mut Dice| -> Point {
        let direction = dice.direction();
        let far = dice.between(0.0, 1.0).cbrt();
        std::array::from_fn(|a| centre[a] + half[a] * direction[a] * far)
    };
    let mut at = somewhere(dice);
    let mut goal = somewhere(dice);
    let mut heading = dice.direction();
    let nodes: Vec<Node> = (0..9)
        .map(|_| {
            if length(sub(goal, at)) < 25.0 {
                goal = somewhere(dice);
            }
            heading = unit(add(add(heading, scale(dice.direction(), 0.5)), scale(unit(sub(goal, at)), 0.8)));
            at = add(at, scale(heading, 15.0));
            Node { at: sketch.build.at(at), radius: radius * dice.between(0.8, 1.12) }
        })
        .collect();
    let bowel = rough(Arc::new(Tube::new(&spline(&nodes, 4))), dice, 0.9, 16.0);
    let bowel = within(bowel, cavity, 3.0);
    let folds = Grain { deviation: 16.0, feature: 7.0 };
    let content = if dice.chance(0.2) {
        Tissue::Levelled {
            fluid: dice.between(8.0, 35.0),
            surface: nodes[4].at[1] - radius * 0.3,
            grain: folds,
        }
    } else {
        Tissue::Plain { hu: dice.between(8.0, 40.0), grain: folds }
    };
    sketch.add_gap(&bowel, 1.0);
    sketch.add_hollow(&bowel, dice.between(1.8, 3.2), content);
}

fn draw_colon(sketch: &mut Sketch<'_>, cavity: &Solid, dice: &mut Dice) {
    let (fullness, hanging) = (dice.between(0.75, 1.15), dice.between(-20.0, 38.0));
    let shifted: Vec<Node> = COLON
        .iter()
        .map(|&[x, y, z, radius]| {
            // The transverse colon hangs down more or less.
            let free = if y < -50.0 { hanging } else { 0.0 };
            let [x, y, z] = dice.near([x, y, z + free], 4.0);
            let [x, y, z] = sketch.build.at([x, y, z]);
            node(x, y, z, radius * fullness * dice.between(0.85, 1.1))
        })
        .collect();
    let mut curve = spline(&shifted, 8);
    // Haustra.
    for (number, n) in curve.iter_mut().enumerate() {
        n.radius *= if number % 4 < 2 { 1.06 } else { 0.92 };
    }
    for stretch in 0..7 {
        let from = stretch * 16;
        let piece = &curve[from..(from + 17).min(curve.len())];
        let bowel = rough(Arc::new(Tube::new(piece)), dice, 1.2, 18.0);
        let bowel = within(bowel, cavity, 2.5);
        let middle = piece[piece.len() / 2];
        let surface = middle.at[1] - middle.radius * dice.between(-0.4, 0.9);
        let faeces = Grain { deviation: if dice.chance(0.6) { 55.0 } else { 12.0 }, feature: 8.0 };
        let content = Tissue::Levelled { fluid: dice.between(-20.0, 45.0), surface, grain: faeces };
        sketch.add_gap(&bowel, 1.5);
        sketch.add_hollow(&bowel, dice.between(1.5, 2.6), content);
    }
}

/// Paints the stomach.
pub fn draw_stomach(sketch: &mut Sketch<'_>, cavity: &Solid) {
    let mut dice = sketch.dice(Subject::Bowel);
    let (fullness, hanging) = (dice.between(0.65, 1.1), dice.between(0.0, 30.0));
    let nodes: Vec<Node> = STOMACH
        .iter()
        .map(|&[x, y, z, radius]| {
            let free = if y < -50.0 && x > 0.0 { hanging } else { 0.0 };
            let [x, y, z] = sketch.build.at([x, y, z - free]);
            node(x, y, z, sketch.build.length(if radius > 15.0 { radius * fullness } else { radius }))
        })
        .collect();
    let tube: Solid = Arc::new(Tube::new(&spline(&nodes, 5)));
    let stomach = within(rough(tube, &mut dice, 1.6, 32.0), cavity, 3.0);
    let surface = sketch.build.at([0.0, -40.0, 0.0])[1] + dice.between(-22.0, 18.0);
    let fluid = if dice.chance(0.12) { dice.between(120.0, 220.0) } else { dice.between(5.0, 35.0) };
    let food = if dice.chance(0.3) { 18.0 } else { SMOOTH.deviation };
    let content = Tissue::Levelled { fluid, surface, grain: Grain { deviation: food, feature: 7.0 } };
    sketch.add_gap(&stomach, 1.5);
    sketch.add_hollow(&stomach, dice.between(3.0, 5.0), content);
}
