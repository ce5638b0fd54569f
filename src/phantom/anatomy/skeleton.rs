//! Spine and ribs.

use super::super::dice::Subject;
use super::super::layer::{Coat, Tissue};
use super::super::shape::{Column, Node, Solid, Tube, node};
use super::Sketch;
use std::sync::Arc;

/// Distance of vertebrae in the atlas, mm.
const PITCH: f32 = 34.0;
/// Height of a vertebral body, mm.
const BODY: f32 = 27.0;
/// Where the vertebral bodies' centres lie from front to back.
const SPINE_Y: f32 = 48.0;

/// Paints spine and ribs.
pub fn draw(sketch: &mut Sketch<'_>) {
    let mut dice = sketch.dice(Subject::Skeleton);
    let shift = dice.between(-12.0, 12.0);
    let tube = sketch.build.nodes([[0.0, SPINE_Y + 26.0, -300.0, 13.0], [0.0, SPINE_Y + 26.0, 300.0, 12.0]]);
    let ligaments: Solid = Arc::new(Tube::new(&tube));
    sketch.add(&ligaments, Coat::new(Tissue::grained(40.0, 30.0, 6.0)));
    for number in -7..=7 {
        draw_vertebra(sketch, shift + PITCH * number as f32);
    }
    for number in 0..8 {
        draw_rib(sketch, shift + PITCH * number as f32 + 8.0, number);
    }
    let canal: Solid = Arc::new(Tube::new(&tube));
    sketch.add(&canal, Coat::new(Tissue::grained(-30.0, 15.0, 6.0)).inset(3.5));
    sketch.add(&canal, Coat::new(Tissue::even(28.0)).inset(5.0));
}

/// A bone: its dense shell, and the sponge in it.
fn add_bone(sketch: &mut Sketch<'_>, solid: &Solid, shell: f32) {
    let levels = sketch.levels;
    sketch.add(solid, Coat::new(Tissue::grained(levels.cortical, 40.0, 5.0)));
    sketch.add(solid, Coat::new(Tissue::grained(levels.spongy, 28.0, 4.0)).inset(shell));
}

fn draw_vertebra(sketch: &mut Sketch<'_>, z: f32) {
    let build = sketch.build;
    let drum = |z: f32, height: f32, wider: f32, waist: f32| -> Solid {
        let [x, y, z] = build.at([0.0, SPINE_Y, z]);
        let [a, b, half] = build.at([22.5 + wider, 17.0 + wider, height / 2.0]);
        Arc::new(Column { centre: [x, y], semi: [a, b], span: [z - half, z + half], waist })
    };
    let disc = Tissue::grained(sketch.levels.disc, 5.0, 8.0);
    sketch.add(&drum(z + PITCH / 2.0, PITCH - BODY + 2.0, 0.7, 1.0), Coat::new(disc));
    add_bone(sketch, &drum(z, BODY, 0.0, 1.1), 1.5);
    let (back, tip) = (SPINE_Y + 40.0, SPINE_Y + 57.0);
    let mut add = |nodes: &[[f32; 4]]| {
        for side in [-1.0, 1.0] {
            let nodes: Vec<Node> = nodes
                .iter()
                .map(|&[x, y, up, radius]| {
                    let [x, y, z] = build.at([side * x, y, z + up]);
                    node(x, y, z, build.length(radius))
                })
                .collect();
            let bone: Solid = Arc::new(Tube::new(&nodes));
            add_bone(sketch, &bone, 1.4);
        }
    };
    add(&[[14.0, SPINE_Y + 12.0, 5.0, 5.0], [16.0, SPINE_Y + 26.0, 5.0, 5.5]]);
    add(&[[17.0, SPINE_Y + 28.0, 8.0, 6.5], [16.0, SPINE_Y + 29.0, -12.0, 6.0]]);
    add(&[[16.0, SPINE_Y + 28.0, 3.0, 4.0], [0.0, back, -6.0, 4.0]]);
    add(&[[16.0, SPINE_Y + 26.0, 5.0, 4.0], [40.0, SPINE_Y + 32.0, 5.0, 3.2]]);
    add(&[[0.0, back, -5.0, 3.5], [0.0, tip, -10.0, 4.5]]);
}

/// The rib that begins at a height, on both sides; the twelfth is number 0.
fn draw_rib(sketch: &mut Sketch<'_>, z: f32, number: i32) {
    let build = sketch.build;
    let turn = match number {
        0 => 0.9,
        1 => 1.7,
        _ => 2.5,
    };
    for side in [-1.0, 1.0] {
        let nodes: Vec<Node> = (0..=20)
            .map(|step| {
                let part = step as f32 / 20.0;
                let angle = 0.32 + part * turn;
                let down = 62.0 * (angle - 0.3) / 1.6 - if angle > 1.9 { 45.0 * (angle - 1.9) } else { 0.0 };
                let (sin, cos) = angle.sin_cos();
                let squared = |v: f32| v.signum() * v.abs().powf(0.83);
                let [x, y, z] = build.at([side * 133.5 * squared(sin), -6.0 + 92.0 * squared(cos), z - down]);
                node(x, y, z, 4.6)
            })
            .collect();
        let rib: Solid = Arc::new(Tube::new(&nodes));
        add_bone(sketch, &rib, 1.6);
    }
}
