//! The pancreas, its duct and the common bile duct.

use super::super::build::Build;
use super::super::dice::{Dice, Subject};
use super::super::layer::{Coat, Tissue, label};
use super::super::point::{Point, length, sub};
use super::super::shape::{Ellipsoid, Node, Solid, Tube, joined, rough, spline};
use super::pathology::Pathology;
use super::{SMOOTH, Sketch};
use std::sync::Arc;

/// From the head's lower end over the neck to the tail.
const COURSE: [[f32; 4]; 10] = [
    [-26.0, 4.0, -38.0, 9.0],
    [-28.0, 1.0, -24.0, 13.0],
    [-27.0, -3.0, -8.0, 14.5],
    [-22.0, -10.0, 4.0, 13.0],
    [-9.0, -24.0, 9.0, 10.0],
    [9.0, -29.0, 12.0, 10.5],
    [29.0, -22.0, 15.0, 11.5],
    [48.0, -7.0, 19.0, 11.5],
    [66.0, 8.0, 25.0, 11.0],
    [80.0, 20.0, 32.0, 9.0],
];
/// Pieces between one node of the course and the next.
const STEPS: usize = 6;
/// Number of the course's node at the neck.
const NECK: usize = 4;
/// Where both ducts open into the duodenum.
const PAPILLA: Point = [-43.0, 5.0, -20.0];

/// The gland as it would be without a lesion.
pub struct Gland {
    /// Its axis from head to tail.
    pub axis: Vec<Node>,
    /// Number of the axis' node in the neck.
    pub neck: usize,
    /// How many times thinner it is from front to back than from head to foot.
    pub flatness: f32,
    /// Share of fat between the lobules where there is most.
    pub fat_share: f32,
    /// Distance of the lobules, mm.
    pub lobule: f32,
    /// The duct's radius in mm where nothing widens it.
    pub duct: f32,
    /// The bile duct's radius in mm where nothing widens it.
    pub bile_duct: f32,
    /// Centres and radii in mm of cysts.
    pub cysts: Vec<Node>,
    /// Where there is more fat between the lobules than elsewhere, and how much more of it.
    pub focal_fat: Option<(Node, f32)>,
}

impl Gland {
    /// The gland of a seed.
    pub fn new(seed: u64, build: &Build) -> Self {
        let mut dice = Dice::new(seed, Subject::Pancreas);
        let size = dice.between(0.88, 1.14);
        let (tail_up, arch, hook) = (dice.between(-16.0, 22.0), dice.normal(4.0), dice.normal(4.0));
        let mut nodes = build.nodes(COURSE);
        for (number, n) in nodes.iter_mut().enumerate() {
            let beyond = number.saturating_sub(NECK) as f32 / (COURSE.len() - 1 - NECK) as f32;
            let middle = beyond * (1.0 - beyond) * 4.0;
            n.at[2] += tail_up * beyond + hook * middle + dice.normal(0.8);
            n.at[1] += arch * middle + dice.normal(0.8);
            n.radius *= size * dice.between(0.92, 1.08);
        }
        let axis = spline(&nodes, STEPS);
        let fat_share = 0.4 * dice.between(0.0, 1.0).powf(1.5);
        let wide = dice.chance(0.15);
        let duct = if wide { dice.between(1.5, 2.3) } else { dice.between(0.75, 1.3) };
        let cysts = if dice.chance(0.15) { cysts(&axis, &mut dice) } else { Vec::new() };
        let fatty = dice.chance(0.12).then(|| {
            let inside = axis[STEPS * 2 + dice.below(STEPS)].at;
            let at = dice.near(inside, 3.0);
            (Node { at, radius: dice.between(6.0, 14.0) }, dice.between(0.2, 0.6))
        });
        Self {
            axis,
            neck: NECK * STEPS,
            flatness: dice.between(1.2, 1.4),
            fat_share,
            lobule: dice.between(4.0, 8.0),
            duct,
            bile_duct: dice.between(1.6, 3.2),
            cysts,
            focal_fat: fatty,
        }
    }

    /// Position along the axis from 0 (head) to 1 (tail) of the node nearest to a point.
    pub fn along(&self, p: Point) -> f32 {
        let away = |n: &Node| length(sub(n.at, p));
        let nearest =
            (0..self.axis.len()).min_by(|&a, &b| away(&self.axis[a]).total_cmp(&away(&self.axis[b])));
        nearest.unwrap_or(0) as f32 / (self.axis.len() - 1) as f32
    }

    /// The axis' node at a position from 0 (head) to 1 (tail).
    pub fn node_at(&self, along: f32) -> Node {
        self.axis[(along * (self.axis.len() - 1) as f32).round() as usize]
    }

    /// The duct from the papilla to the tail with its radii.
    fn duct_tube(&self, build: &Build, pathology: &Pathology) -> Vec<Node> {
        let mut course = self.duct_course(build);
        let last = course.len() as f32;
        for (number, n) in course.iter_mut().enumerate() {
            let narrowing = 1.0 - 0.35 * number as f32 / last;
            n.radius = pathology.duct_radius(self.along(n.at), self.duct) * narrowing;
        }
        course
    }

    /// Diameter of the duct at its widest, mm.
    pub fn widest_duct(&self, build: &Build, pathology: &Pathology) -> f32 {
        2.0 * self.duct_tube(build, pathology).iter().map(|n| n.radius).fold(0.0, f32::max)
    }

    /// Course of the duct from the papilla to the tail.
    fn duct_course(&self, build: &Build) -> Vec<Node> {
        let head =
            [PAPILLA, [-33.0, 1.0, -12.0], [-24.0, -8.0, 0.0]].map(|p| Node { at: build.at(p), radius: 0.0 });
        let body = self.axis[self.neck - 1..].iter().step_by(3);
        let mut nodes: Vec<Node> = head.into_iter().chain(body.copied()).collect();
        if nodes.len() > 5 {
            nodes.pop();
        }
        spline(&nodes, 4)
    }
}

fn cysts(axis: &[Node], dice: &mut Dice) -> Vec<Node> {
    (0..1 + dice.below(3))
        .map(|_| {
            let n = axis[dice.below(axis.len())];
            Node { at: dice.near(n.at, 0.35 * n.radius), radius: dice.between(2.0, 5.0) }
        })
        .collect()
}

/// Paints the gland with its ducts, and the lesion.
pub fn draw(sketch: &mut Sketch<'_>, gland: &Gland, pathology: &Pathology) {
    let mut dice = sketch.dice(Subject::Pancreas);
    let (build, levels) = (*sketch.build, *sketch.levels);
    let solid = outline(&build, gland, pathology, &mut dice);
    sketch.add_gap(&solid, 1.8);
    let tissue = Tissue::Lobular {
        hu: levels.parenchyma,
        fat: levels.fat,
        share: gland.fat_share,
        lobule: gland.lobule,
    };
    sketch.add(&solid, Coat::new(tissue).labelled(label::PARENCHYMA));
    if let Some((n, more)) = gland.focal_fat {
        let spot: Solid = Arc::new(Ellipsoid::new(n.at, [n.radius, 0.8 * n.radius, 1.2 * n.radius]));
        let spot = super::super::shape::within(rough(spot, &mut dice, 1.5, 12.0), &solid, 0.0);
        let tissue = Tissue::Lobular {
            hu: levels.parenchyma,
            fat: levels.fat,
            share: (gland.fat_share + more).min(1.0),
            lobule: gland.lobule,
        };
        sketch.add(&spot, Coat::new(tissue).soft(4.0).labelled(label::PARENCHYMA));
    }
    for cyst in &gland.cysts {
        let cyst: Solid = Arc::new(Ellipsoid::new(cyst.at, [cyst.radius; 3]));
        sketch.add(&cyst, Coat::new(Tissue::even(levels.bile)).labelled(label::PARENCHYMA));
    }
    draw_ducts(sketch, gland, pathology);
    pathology.draw_lesion(sketch);
}

/// Head with its hook, neck, body and tail.
fn outline(build: &Build, gland: &Gland, pathology: &Pathology, dice: &mut Dice) -> Solid {
    let last = (gland.axis.len() - 1) as f32;
    let thinned = gland
        .axis
        .iter()
        .enumerate()
        .map(|(number, n)| Node { radius: n.radius * pathology.thickness(number as f32 / last), ..*n });
    let main = Tube::flat(&thinned.collect::<Vec<_>>(), gland.flatness);
    let size = gland.axis[STEPS].radius / 13.0;
    let head = build.at([-27.0, 0.0, -17.0]);
    let head = Ellipsoid::new(head, [14.5 * size, 13.5 * size, 24.0 * size]);
    let hook = build.nodes([[-24.0, 4.0, -26.0, 9.0], [-14.0, 5.0, -28.0, 7.0], [-6.0, 2.0, -29.0, 4.5]]);
    let whole = joined(vec![Arc::new(main), Arc::new(head), Arc::new(Tube::new(&hook))], 6.0);
    let uneven = rough(whole, dice, 1.0, 28.0);
    let lobes = 0.5 + 0.9 * gland.fat_share;
    rough(uneven, dice, lobes, 1.6 * gland.lobule)
}

fn draw_ducts(sketch: &mut Sketch<'_>, gland: &Gland, pathology: &Pathology) {
    let build = *sketch.build;
    let fluid = Tissue::Plain { hu: sketch.levels.bile, grain: SMOOTH };
    let duct: Solid = Arc::new(Tube::new(&gland.duct_tube(&build, pathology)));
    sketch.add(&duct, Coat::new(fluid).labelled(label::DUCT));
    let radius = pathology.bile_duct_radius(gland.bile_duct);
    let bile = build.nodes([
        [-47.0, -18.0, 46.0, 1.0],
        [-38.0, -12.0, 34.0, 1.0],
        [-34.0, -2.0, 18.0, 1.0],
        [-35.0, 6.0, 2.0, 0.95],
        [-37.0, 7.0, -10.0, 0.8],
        [PAPILLA[0], PAPILLA[1], PAPILLA[2], 0.5],
    ]);
    let bile = bile.map(|n| Node { radius: radius * n.radius, ..n });
    let wall: Solid = Arc::new(Tube::smooth(&bile));
    sketch.add(&wall, Coat::new(Tissue::even(sketch.levels.muscle + 15.0)).inset(-0.8));
    sketch.add(&wall, Coat::new(fluid).labelled(label::BILE_DUCT));
}
