//! Arteries and veins.

use super::super::dice::{Dice, Subject};
use super::super::layer::{Coat, Tissue, label};
use super::super::point::add;
use super::super::shape::{Node, Solid, Tube, rough, spline};
use super::pancreas::Gland;
use super::{SMOOTH, Sketch};
use std::f32::consts::TAU;
use std::sync::Arc;

fn blood(hu: f32) -> Tissue {
    Tissue::Plain { hu, grain: SMOOTH }
}

fn vessel<const N: usize>(sketch: &Sketch<'_>, nodes: [[f32; 4]; N], wider: f32) -> Solid {
    let mut nodes = sketch.build.nodes(nodes);
    nodes.iter_mut().for_each(|n| n.radius *= wider);
    Arc::new(Tube::smooth(&nodes))
}

/// Paints the lower vena cava and the renal veins.
pub fn draw_cava(sketch: &mut Sketch<'_>) {
    let mut dice = sketch.dice(Subject::Vessels);
    let blood = blood(sketch.levels.cava);
    let cava = sketch.build.nodes([
        [-16.0, 30.0, -260.0, 10.0],
        [-20.0, 26.0, -90.0, 10.5],
        [-21.0, 24.0, 0.0, 11.5],
        [-22.0, 18.0, 60.0, 13.0],
        [-20.0, 10.0, 105.0, 13.5],
        [-14.0, -2.0, 140.0, 13.5],
    ]);
    let cava: Solid = Arc::new(Tube::flat(&spline(&cava, 5), dice.between(1.0, 1.5)));
    let cava = rough(cava, &mut dice, 0.6, 30.0);
    let left = vessel(
        sketch,
        [
            [-14.0, 20.0, -8.0, 5.0],
            [8.0, 6.0, -10.0, 4.5],
            [28.0, 22.0, -12.0, 5.0],
            [48.0, 36.0, -12.0, 5.0],
        ],
        1.0,
    );
    let right = vessel(
        sketch,
        [[-24.0, 26.0, -18.0, 5.0], [-36.0, 34.0, -20.0, 5.0], [-50.0, 38.0, -24.0, 4.5]],
        1.0,
    );
    for solid in [cava, left, right] {
        sketch.add(&solid, Coat::new(blood));
    }
}

/// Paints the vessels that are labelled.
pub fn draw_labelled(sketch: &mut Sketch<'_>, gland: &Gland) {
    let mut dice = sketch.dice(Subject::Vessels);
    draw_arteries(sketch, gland, &mut dice);
    draw_veins(sketch, gland, &mut dice);
}

fn draw_arteries(sketch: &mut Sketch<'_>, gland: &Gland, dice: &mut Dice) {
    let wide = dice.between(0.85, 1.2);
    let aorta = vessel(
        sketch,
        [
            [4.0, 24.0, -130.0, 8.5],
            [8.0, 21.0, -60.0, 9.0],
            [11.0, 19.0, 0.0, 10.0],
            [11.0, 18.0, 60.0, 11.0],
            [16.0, 26.0, 140.0, 12.0],
            [18.0, 30.0, 260.0, 12.5],
        ],
        wide,
    );
    let iliac = |side: f32| {
        [
            [4.0, 24.0, -128.0, 7.0],
            [4.0 + side * 16.0, 26.0, -165.0, 5.5],
            [4.0 + side * 34.0, 20.0, -260.0, 5.0],
        ]
    };
    let renal = |side: f32, z: f32| {
        [
            [10.0, 19.0, z, 3.0],
            [10.0 + side * 22.0, 32.0, z - 4.0, 2.8],
            [4.0 + side * 48.0, 38.0, z - 9.0, 2.5],
        ]
    };
    let hepatic = [
        [6.0, -6.0, 23.0, 2.6],
        [-12.0, -16.0, 20.0, 2.5],
        [-30.0, -20.0, 27.0, 2.4],
        [-48.0, -18.0, 44.0, 2.0],
    ];
    let mesenteric = [
        [10.0, 12.0, 10.0, 3.8],
        [8.0, 2.0, 3.0, 3.8],
        [6.0, -4.0, -14.0, 3.6],
        [4.0, -14.0, -52.0, 3.3],
        [0.0, -22.0, -90.0, 2.8],
        [-6.0, -26.0, -135.0, 2.2],
    ];
    let coeliac = [[11.0, 12.0, 22.0, 3.8], [9.0, 2.0, 24.0, 3.6], [6.0, -6.0, 24.0, 3.2]];
    let labelled = [
        vessel(sketch, coeliac, 1.0),
        vessel(sketch, hepatic, 1.0),
        vessel(sketch, mesenteric, 1.0),
        gland.splenic_artery(sketch.build, dice),
        aorta,
    ];
    let blood = blood(sketch.levels.aorta);
    for solid in [vessel(sketch, renal(1.0, -2.0), 1.0), vessel(sketch, renal(-1.0, -4.0), 1.0)] {
        sketch.add(&solid, Coat::new(blood));
    }
    for side in [-1.0, 1.0] {
        sketch.add(&vessel(sketch, iliac(side), wide), Coat::new(blood).labelled(label::ARTERY));
    }
    for solid in labelled {
        sketch.add(&solid, Coat::new(blood).labelled(label::ARTERY));
    }
    // Calcified plaques.
    if dice.chance(0.5) {
        let calcium = Tissue::grained(450.0, 120.0, 3.0);
        for _ in 0..1 + dice.below(8) {
            let (z, angle) = (dice.between(-120.0, 60.0), dice.between(0.0, TAU));
            let at = sketch.build.at([9.0 + 9.0 * angle.cos(), 20.5 + 9.0 * angle.sin(), z]);
            let plaque: Solid =
                Arc::new(super::super::shape::Ellipsoid::new(at, [2.2, 2.2, dice.between(2.0, 5.0)]));
            sketch.add(&plaque, Coat::new(calcium).labelled(label::ARTERY));
        }
    }
}

fn draw_veins(sketch: &mut Sketch<'_>, gland: &Gland, dice: &mut Dice) {
    let wide = dice.between(0.9, 1.15);
    let blood = blood(sketch.levels.vein);
    let portal = vessel(
        sketch,
        [
            [-9.0, -11.0, -2.0, 6.2],
            [-11.0, -10.0, 10.0, 6.6],
            [-24.0, -8.0, 26.0, 6.5],
            [-38.0, -9.0, 38.0, 6.5],
            [-50.0, -10.0, 46.0, 6.3],
        ],
        wide,
    );
    let mesenteric = vessel(
        sketch,
        [
            [-16.0, -28.0, -135.0, 4.0],
            [-13.0, -26.0, -90.0, 4.8],
            [-12.0, -20.0, -52.0, 5.4],
            [-10.0, -13.0, -18.0, 5.8],
            [-9.0, -11.0, -1.0, 6.0],
        ],
        wide,
    );
    let splenic = gland.splenic_vein(sketch.build, wide);
    for solid in [mesenteric, splenic, portal] {
        sketch.add(&solid, Coat::new(blood).labelled(label::VEIN));
    }
}

impl Gland {
    /// The vein along the back of body and tail.
    fn splenic_vein(&self, build: &super::Build, wide: f32) -> Solid {
        let start = build.nodes([[-10.0, -10.5, 6.0, 5.6]]);
        let along = self.axis.iter().skip(self.neck + 4).step_by(4).map(|n| {
            let behind = [1.0, n.radius / self.flatness + 1.6, -1.0];
            Node { at: add(n.at, behind), radius: build.length(4.4) * wide }
        });
        let end = build.nodes([[90.0, 32.0, 36.0, 3.0]]);
        let nodes: Vec<Node> = start.into_iter().chain(along).chain(end).collect();
        Arc::new(Tube::smooth(&nodes))
    }

    /// The winding artery along the upper edge of body and tail.
    fn splenic_artery(&self, build: &super::Build, dice: &mut Dice) -> Solid {
        let start = build.nodes([[6.0, -6.0, 24.0, 2.7]]);
        let winding = dice.between(1.0, 4.0);
        let along = self.axis.iter().skip(self.neck + 7).step_by(4).enumerate().map(|(number, n)| {
            let wave = if number % 2 == 0 { winding } else { -winding };
            let above = [0.0, n.radius / self.flatness * 0.8, n.radius + 1.5 + wave];
            Node { at: add(n.at, above), radius: build.length(2.5) }
        });
        let nodes: Vec<Node> = start.into_iter().chain(along).collect();
        Arc::new(Tube::smooth(&nodes))
    }
}
